"""Config, weights on disk, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from axon_core.config import ModelConfig, from_dict, load_preset, preset_names
from axon_core.errors import ConfigError, ModelError
from axon_core.model import PARTS, WEIGHTS, AxonModel, ModelCard, available_models, describe, inspect


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = AxonModel.from_preset("tiny")
    for parameter in model.coarse.net.out.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "tiny", dataclasses.replace(model.card, licence="CC0"), torch.float32)
    return model, tmp_path / "tiny"


@pytest.mark.parametrize("name", preset_names())
def test_config_survives_json(name):
    config = load_preset(name)
    assert from_dict(ModelConfig, json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"colour": 1}, "config.unknown-key"),
        ({"bridge": {"sigmo": 1.0}}, "config.unknown-key"),
        ({"size": "big"}, "config.type"),
        ({"encoder": {"widths": 16}}, "config.type"),
        ({"size": 17}, "config.film-size"),
        ({"window": "bright"}, "config.window"),
        ({"encoder": {}}, "config.missing-key"),
    ],
)
def test_bad_config_is_named(change, code):
    with pytest.raises(ConfigError) as caught:
        from_dict(ModelConfig, {**load_preset("tiny").to_dict(), **change})
    assert caught.value.code == code
    assert caught.value.advice


def test_unknown_preset_lists_the_known():
    with pytest.raises(ConfigError, match="tiny"):
        load_preset("huge")


def test_weights_come_back_with_their_config_and_card(saved):
    model, folder = saved
    again = AxonModel.from_pretrained(folder)
    assert again.config == model.config
    assert again.card.licence == "CC0"
    assert again.card.stages == tuple(PARTS)
    assert again.sha256 == inspect(folder).sha256
    x, m, y = torch.randn(1, 1, 16, 16, 16), torch.full((1, 1, 1, 1, 1), 0.4), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again.bridge_x0(x, m, y), model.coarse.eval() and model.bridge_x0(x, m, y))
    assert describe(again) == describe(model)


def test_half_precision_is_stored_and_close(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path / "half", model.card)
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.6 * (tmp_path / "tiny" / WEIGHTS).stat().st_size
    films = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        film_to_volume = AxonModel.from_pretrained(tmp_path / "half").film_to_volume
        torch.testing.assert_close(film_to_volume(films), model.film_to_volume.eval()(films), atol=5e-3, rtol=1e-2)


def test_damaged_weights_are_refused(saved):
    _, folder = saved
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-100] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError) as caught:
        AxonModel.from_pretrained(folder)
    assert caught.value.code == "model.damaged"


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x08\0\0\0\0\0\0\0{}      "])
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        AxonModel.from_pretrained(tmp_path)
    assert caught.value.code == "model.format"


def test_a_model_of_another_version_hides_no_other(saved, tmp_path, monkeypatch):
    model, _ = saved
    resources = tmp_path / "resources"
    model.save_pretrained(resources / "Models" / "good", model.card)
    future = dataclasses.replace(model.config, window="wide")
    object.__setattr__(future, "window", "of-tomorrow")
    with pytest.raises(ModelError):  # what was written is read again
        dataclasses.replace(model, config=future).save_pretrained(resources / "Models" / "future", model.card)
    monkeypatch.setenv("AXON_RESOURCES", str(resources))
    assert [info.name for info in available_models()] == ["good"]
    with pytest.raises(ModelError) as caught:
        AxonModel.from_pretrained("future")
    assert caught.value.code == "model.format"


def test_super_resolution_of_a_constant_has_no_rim():
    """Whatever the weights, every voxel of a constant cube sees the same: also those at its edges."""
    torch.manual_seed(0)
    model = AxonModel.from_preset("tiny")
    torch.nn.init.normal_(model.sr.join.weight, std=0.1)
    with torch.no_grad():
        fine = model.super_resolve(torch.full((1, 1, 16, 16, 16), -1.0))
    centre = fine[..., 16:18, 16:18, 16:18]
    assert fine.shape[-1] == 32
    assert float((fine[..., :2, 16:18, 16:18] - centre).abs().max()) < 0.1 * float((centre + 1).abs().max())


def test_missing_model_is_named_with_advice():
    with pytest.raises(ModelError, match="no-such-model"):
        AxonModel.from_pretrained("no-such-model")


def test_a_model_runs_only_the_stages_of_its_card(tmp_path):
    model = AxonModel.from_preset("tiny")
    model.save_pretrained(tmp_path / "part", ModelCard(stages=("endpoint",), default_stages=("endpoint",)))
    part = AxonModel.from_pretrained(tmp_path / "part")
    assert part.has("endpoint") and not part.has("fine")
    with pytest.raises(ModelError):
        part.prior  # noqa: B018


def test_bundled_models_open():
    for info in available_models():
        assert info.card.licence and info.card.data
        assert info.size_bytes <= 25_000_000
        AxonModel.from_pretrained(info.folder)


def test_paper_parametrisation_predicts_the_state_when_the_network_is_silent():
    """With a zero network, BBDM's x0 = x - f is x; the preconditioned one is the best linear estimate."""
    config = dataclasses.replace(load_preset("tiny"), bridge=dataclasses.replace(load_preset("paper").bridge))
    x, m, y = torch.randn(1, 1, 16, 16, 16), torch.ones(1, 1, 1, 1, 1), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(AxonModel(config).bridge_x0(x, m, y), x)
        torch.testing.assert_close(AxonModel.from_preset("tiny").bridge_x0(x, m, y), y)

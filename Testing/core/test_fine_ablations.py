"""FineDiff as the paper's ablations have it: a second bridge in its place, a global encoder beside the hint."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from axon_core.baselines.predict import predict
from axon_core.cli import app
from axon_core.config import DiffusionConfig
from axon_core.diffusion.sampling import SeededNoise
from axon_core.errors import ConfigError, ModelError
from axon_core.evaluation.methods import ModelMethod
from axon_core.evaluation.suites import rows_of
from axon_core.job_plan import _cost
from axon_core.model import AxonModel, Hint, ModelCard, describe, parameter_count
from axon_core.nets.encoder import GlobalEncoder
from axon_core.pipeline import COARSE, FINE, PRESETS, reconstruct
from axon_core.radiograph import Radiograph
from axon_core.training import chain, run, stages
from axon_core.training.distill import EVERY
from axon_core.training.draws import Draws
from axon_core.training.settings import load_settings
from axon_core.training.start import copy_start
from axon_core.walks import Quality, fine_times, walk_fine

sys.path.insert(0, str(Path(__file__).parent))
from training_data import batch_of, few, films, model_with, settings, stage_of, train, write_pairs

N = 16
BRIDGE, GLOBAL = {"process": "bridge"}, {"global_encoder": True}


def draws(seed: int, count: int = 2) -> Draws:
    return Draws(seed, 0, range(count), count)


def volume(seed: int = 3) -> torch.Tensor:
    return torch.rand(2, 1, N, N, N, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def presets(tmp_path: Path) -> dict[str, str]:
    """Preset "tiny" with each ablation, as the documentation tells to write it."""
    text = (Path(run.__file__).parents[1] / "presets" / "tiny.toml").read_text()
    made = {}
    for name, line in {"bridge": 'process = "bridge"', "global": "global_encoder = true"}.items():
        (tmp_path / f"{name}.toml").write_text(text.replace("[diffusion]\n", f"[diffusion]\n{line}\n"))
        made[name] = str(tmp_path / f"{name}.toml")
    return made


# --- a second bridge -------------------------------------------------------------------------------------------------


def test_the_second_bridge_is_the_first_with_other_weights():
    model = model_with(**BRIDGE)
    model.fine_bridge.load_state_dict(model.coarse.state_dict())
    x, y, m = volume(1), volume(2), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        made = model.fine_x0(x, m, Hint(y))
        torch.testing.assert_close(made, model.bridge_x0(x, m.view(-1, 1, 1, 1, 1), y))
        nn.init.zeros_(model.fine_bridge.net.out[-1].conv.weight)
        assert not torch.allclose(model.fine_x0(x, m, Hint(y)), made)


def test_it_walks_from_the_coarse_volume_to_what_it_predicts():
    model, truth, seen = model_with(**BRIDGE), volume(1), []
    model.fine_x0 = lambda x, t, hint: seen.append((x, float(t[0]))) or truth
    coarse, times = volume(2), fine_times(model, Quality(fine_steps=6))
    made = walk_fine(model, Hint(coarse), times, SeededNoise([5, 6]))
    assert torch.equal(made, truth) and len(seen) == 6
    assert torch.equal(seen[0][0], coarse) and seen[0][1] == 1.0
    between, m = seen[3][0], times[3]
    spread = (2 * model.config.bridge.s * (m - m * m)) ** 0.5
    torch.testing.assert_close((between - (1 - m) * truth - m * coarse).std(), torch.tensor(spread), rtol=0.05, atol=0)


def test_its_volume_follows_from_the_bridge_before_it_and_from_the_seed():
    model, other = model_with(**BRIDGE), model_with(**BRIDGE)
    vars(other).update(film_to_volume=model.film_to_volume)
    with torch.no_grad():
        for parameter in other.coarse.parameters():
            parameter.add_(0.1)
    made = predict(model, films(), 3, stages=(COARSE, FINE))
    assert torch.equal(made, predict(model, films(), 3, stages=(COARSE, FINE)))
    assert not torch.equal(made, predict(model, films(), 4, stages=(COARSE, FINE)))
    assert not torch.equal(made, predict(other, films(), 3, stages=(COARSE, FINE)))
    assert torch.equal(predict(model, films(), 3, stages=(FINE,)), predict(other, films(), 3, stages=(FINE,)))
    assert not {"prior", "control"} & set(vars(model))  # never built


def test_the_pipeline_runs_it_and_says_so(film_png: Path):
    model = model_with(**BRIDGE)
    model.card = dataclasses.replace(model.card, default_stages=("endpoint", "coarse", "fine"))
    made = reconstruct(Radiograph.load(film_png), model=model, seeds=(4,), device="cpu")
    film = torch.from_numpy(made.films["frontal"].image)[None, None]
    same = model.config.hu_window.decode(predict(model, film, 4, stages=(COARSE, FINE)))[0, 0]
    np.testing.assert_allclose(made.final.hu, same.numpy(), atol=0.5)
    assert made.provenance["process"] == {FINE: "bridge"}
    assert made.provenance["eta"] == {COARSE: 1.0, FINE: 1.0}
    assert made.provenance["steps"][FINE] == PRESETS["fast"].fine_steps


def test_it_learns_alone_from_what_is_offered_as_a_hint(tmp_path):
    model, ends = model_with(**BRIDGE), []
    stage, data = stage_of("fine-bridge", model, steps=15, lr=2e-2, warmup=3), few()
    for name in ("film_to_volume", "coarse"):
        getattr(model, name).requires_grad_(True)
    whole = stage.end
    stage.end = lambda films, draws: ends.append(whole(films, draws)) or ends[-1]

    def loss() -> torch.Tensor:
        return sum(stage(batch_of(data), draws(k)).values.mean() for k in range(4)) / 4

    before = loss()
    before.backward()
    assert all(p.grad is None for name in ("film_to_volume", "coarse") for p in getattr(model, name).parameters())
    assert all(p.grad is not None for p in model.fine_bridge.parameters())
    for k, end in enumerate(ends):
        with torch.no_grad():
            assert torch.equal(end, stages.offered_hint(model, batch_of(data)[0], draws(k)).volume)
    train(stage, data, tmp_path, save_every=1e9)
    with torch.no_grad():
        assert loss() < 0.9 * before
        assert stage.volume(batch_of(data), draws(0)).shape == (2, 1, N, N, N)


def test_it_follows_its_model_to_another_device(monkeypatch):
    """On the "meta" device nothing is computed, but tensors left behind on the CPU are refused as on a GPU."""
    monkeypatch.setattr(stages.bridge, "times", lambda *_: [1.0, 0.5])
    model = model_with(**BRIDGE)
    stage = stage_of("fine-bridge", model)
    _ = model.film_to_volume
    model.to("meta")
    batch = tuple(torch.empty(2, *shape, device="meta") for shape in ((2, 32, 32), (1, N, N, N), (1, N, N, N)))
    for seed in range(3):
        assert stage(batch, draws(seed)).values.device.type == "meta"
        assert stage.volume(batch, draws(seed)).shape == (2, 1, N, N, N)


def test_commands_train_export_and_run_it(presets, tmp_path, film_png):
    pairs, cli = write_pairs(tmp_path / "pairs", 4), CliRunner()
    for command in ("coarse", "fine-bridge"):
        asked = ["train", command, str(pairs), "-o", str(tmp_path / "run"), "--preset", presets["bridge"]]
        result = cli.invoke(app, [*asked, "--steps", "2", "--device", "cpu"])
        assert result.exit_code == 0, result.output
    result = cli.invoke(app, ["train", "export", str(tmp_path / "run"), "-o", str(tmp_path / "m"), "--default", "fine"])
    assert result.exit_code == 0, result.output
    model = AxonModel.from_pretrained(tmp_path / "m")
    assert model.card.stages == ("endpoint", "coarse", "fine") and model.card.default_stages == ("fine",)
    assert "second bridge" in (tmp_path / "m" / "README.md").read_text()
    made = reconstruct(Radiograph.load(film_png), model=model, preset="fast", device="cpu")
    assert list(made.stages) == ["F(x)", FINE] and np.isfinite(made.final.hu).all()
    state = run.open_run(presets["bridge"], tmp_path / "run").fine_bridge.state_dict()
    for key, value in model.fine_bridge.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=2e-3, atol=2e-3)  # half precision
    with pytest.raises(ModelError, match="second bridge"):
        copy_start(tmp_path / "m", tmp_path / "other", presets["bridge"])


def test_each_preset_trains_its_own_kind_and_says_which(presets, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 2)
    for stage, preset, advice in (("control", presets["bridge"], "fine-bridge"), ("fine-bridge", "tiny", "process")):
        config = AxonModel.from_preset(preset).config
        data = chain.RunData(pairs / "not there", config)  # refused before any data are opened
        with pytest.raises(ConfigError) as caught:
            chain.begin_chain({stage: load_settings(preset, stage)}, data, tmp_path / "run", preset)
        assert caught.value.code == "training.process" and advice in caught.value.advice
        with pytest.raises(ConfigError, match="FineDiff of this preset"):
            EVERY[stage](AxonModel.from_preset(preset), settings())
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="endpoint"):
        run.train_stage("fine-bridge", presets["bridge"], tmp_path / "run", few(), settings(), None)


@pytest.mark.parametrize("other", [{"hint": "films"}, {"global_encoder": True}])
def test_a_bridge_has_neither_repeated_films_nor_a_control_net(other):
    with pytest.raises(ConfigError) as caught:
        DiffusionConfig(process="bridge", **other)
    assert caught.value.code == "config.fine-bridge"
    with pytest.raises(ConfigError) as caught:
        DiffusionConfig(process="flow")
    assert caught.value.code == "config.process" and "bridge" in caught.value.advice


def test_tables_and_costs_count_its_own_network(tmp_path):
    model = model_with(**BRIDGE)
    first = {"endpoint": parameter_count(model.film_to_volume), "coarse": parameter_count(model.coarse)}
    own = parameter_count(model.fine_bridge)
    assert describe(model) == {**first, "fine": own, "super-resolution": parameter_count(model.sr)}
    facts = ModelMethod(model, "BBDM", (COARSE, FINE)).facts
    assert facts["parameters"] == sum(first.values()) + own
    assert facts["eta"] == "coarse 1, fine 1" and facts["stages"] == "F(x) + coarse + fine"
    assert _cost(model, "fine").each > 0
    model.save_pretrained(tmp_path / "m", model.card)
    [row], failures = rows_of("table4", [f"bbdm-fine={tmp_path / 'm'}"])
    assert row.stages == (COARSE, FINE) and not failures


# --- a global encoder ------------------------------------------------------------------------------------------------


def test_the_global_encoder_is_silent_at_first():
    """FineDiff is what it was without: the vector that is added is zero."""
    model = model_with(**GLOBAL)
    fresh = AxonModel(model.config).control.net.class_embedding
    assert isinstance(fresh, GlobalEncoder)
    assert torch.equal(fresh(films()), torch.zeros(2, model.control.time_channels))
    x, t, hint = volume(1), torch.tensor([400, 400]), model.fine_hint(films(), volume(2))
    with torch.no_grad():
        model.control.net.class_embedding = fresh
        silent = model.fine_x0(x, t, hint)
        model.control.net.num_class_embeds = None  # as a ControlNet without an encoder
        torch.testing.assert_close(model.fine_x0(x, t, Hint(hint.volume)), silent)


def test_the_loss_reaches_every_layer_of_the_global_encoder():
    model = model_with(**GLOBAL)
    stage_of("control", model)(batch_of(few()), draws(0)).values.mean().backward()
    encoder = model.control.net.class_embedding
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_its_vector_tells_the_films_the_views_and_nothing_of_the_batch():
    model = model_with(**GLOBAL)
    with torch.no_grad():
        encoder = model.control.net.class_embedding
        both, one = encoder(films()), encoder(films()[:, :1])
        assert both.shape == one.shape == (2, model.control.time_channels)
        assert not torch.allclose(both, one) and not torch.allclose(both[0], both[1])
        torch.testing.assert_close(encoder(films()[1:]), both[1:])


def test_films_steer_beside_the_coarse_volume():
    """The same coarse volume, other films: another answer, and none without an encoder."""
    for diffusion, differs in ((GLOBAL, True), ({}, False)):
        model, coarse = model_with(**diffusion), volume(2)
        x, t = volume(1), torch.tensor([400, 400])
        with torch.no_grad():
            a, b = (model.fine_x0(x, t, model.fine_hint(shown, coarse)) for shown in (films(), films().flip(-1)))
        assert torch.equal(a, b) != differs


@pytest.mark.parametrize("views", [1, 2])
def test_it_travels_with_the_weights_through_the_pipeline(views, tmp_path):
    model = model_with(**GLOBAL)
    info = model.save_pretrained(tmp_path / "m", model.card, torch.float32)
    again = AxonModel.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(
        predict(again, films(views), 1, stages=(FINE,)), predict(model, films(views), 1, stages=(FINE,))
    )
    assert "global encoder" in info.config.diffusion.described() and _cost(again, "fine").each > 0


def test_commands_train_and_export_it(presets, tmp_path):
    pairs, cli = write_pairs(tmp_path / "pairs", 4), CliRunner()
    for command in ("coarse", "prior", "fine"):
        asked = ["train", command, str(pairs), "-o", str(tmp_path / "run"), "--preset", presets["global"]]
        result = cli.invoke(app, [*asked, "--steps", "2", "--device", "cpu"])
        assert result.exit_code == 0, result.output
    run.export_run(tmp_path / "run", tmp_path / "m", ModelCard())
    model = AxonModel.from_pretrained(tmp_path / "m")
    assert model.card.stages == ("endpoint", "coarse", "fine") and model.config.diffusion.global_encoder
    assert model.control.net.class_embedding.out.weight.abs().max().item() > 0

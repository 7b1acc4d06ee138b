"""Runs that start with a model's weights."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from axon_core import cli
from axon_core.config import load_preset
from axon_core.errors import AxonError
from axon_core.model import AxonModel, ModelCard
from axon_core.training import run
from axon_core.training.chain import check_needs
from axon_core.training.start import START, is_trained
from axon_core.training.trainer import make_fabric

sys.path.insert(0, str(Path(__file__).parent))
from training_data import few, settings

pytestmark = pytest.mark.usefixtures("plain_convolutions")
ALL = ("endpoint", "coarse", "fine", "super-resolution")
NETWORKS = ("film_to_volume", "coarse", "prior", "control", "sr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of preset tiny, of weights that no seed of a run gives."""
    torch.manual_seed(77)
    made = AxonModel.from_preset("tiny")
    for name in NETWORKS:
        for weight in getattr(made, name).parameters():
            weight.data = torch.randn_like(weight).mul(0.05).half().float()
    folder = tmp_path_factory.mktemp("models") / "ours"
    made.save_pretrained(folder, ModelCard("Ours", stages=ALL))
    return folder


@pytest.fixture
def begun(model: Path, tmp_path: Path) -> Path:
    run.begin_run_from(model, tmp_path / "run")
    return tmp_path / "run"


def weights(model: AxonModel, name: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in getattr(model, name).state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def further(where: Path, stage: str, steps: int = 2) -> None:
    run.train_stage(stage, "tiny", where, few(), settings(steps=steps), make_fabric("32", "cpu"))


def test_what_was_not_trained_further_is_exported_as_it_came(model, begun, tmp_path):
    info = run.export_run(begun, tmp_path / "again", ModelCard(notes="Mine."))
    before, after = AxonModel.from_pretrained(model), AxonModel.from_pretrained(tmp_path / "again")
    assert all(equal(weights(before, name), weights(after, name)) for name in NETWORKS)
    assert info.card.stages == ALL
    assert info.card.notes == f"Trained on from ours, sha256 {before.sha256}. Mine."


@pytest.mark.parametrize(
    ("stage", "name"),
    [("endpoint", "film_to_volume"), ("coarse", "coarse"), ("control", "control"), ("super-resolution", "sr")],
)
def test_a_stage_goes_on_from_the_weights_of_the_model(model, begun, stage, name):
    """Two steps at a small rate move each weight by little; new weights would be elsewhere."""
    came = weights(AxonModel.from_pretrained(model), name)
    data = few(size=2 * load_preset("tiny").size) if stage == "super-resolution" else few()
    run.train_stage(stage, "tiny", begun, data, settings(steps=2, lr=1e-4), make_fabric("32", "cpu"))
    trained = run.open_run("tiny", begun)
    now = weights(trained, name)
    assert not equal(came, now)
    assert max(float((now[key] - came[key]).abs().max()) for key in came) < 1e-3
    others = [other for other in NETWORKS if other != name]
    start = AxonModel.from_pretrained(model)
    assert all(equal(weights(start, other), weights(trained, other)) for other in others)


def test_a_student_learns_from_the_model_as_its_teacher(begun, tmp_path):
    check_needs(begun, ["distill-coarse"])
    further(begun, "distill-coarse")
    info = run.export_run(begun, tmp_path / "fast", ModelCard(), distilled=True)
    assert len(info.config.bridge.times) == settings(steps=2).student_steps


def test_the_spread_of_the_bridge_comes_with_the_model(tmp_path):
    made = AxonModel.from_preset("tiny")
    made.config = dataclasses.replace(made.config, bridge=dataclasses.replace(made.config.bridge, sigma=0.31, s=0.1922))
    made.save_pretrained(tmp_path / "model", ModelCard(stages=("endpoint", "coarse")))
    run.begin_run_from(tmp_path / "model", tmp_path / "run")
    further(tmp_path / "run", "coarse")  # would measure it anew
    bridge = run.open_run("tiny", tmp_path / "run").config.bridge
    assert (bridge.sigma, round(bridge.s, 4)) == (0.31, 0.1922)
    assert not is_trained(tmp_path / "run", "prior")


def test_without_a_bridge_its_spread_is_measured_on_the_models_endpoint(model, tmp_path, monkeypatch):
    made = AxonModel.from_pretrained(model)
    made.save_pretrained(tmp_path / "model", ModelCard(stages=("endpoint",)))
    monkeypatch.setattr(run, "residual_sd", lambda *_: 0.47)
    run.begin_run_from(tmp_path / "model", tmp_path / "run")
    further(tmp_path / "run", "coarse")
    assert run.open_run("tiny", tmp_path / "run").config.bridge.sigma == 0.47


def test_what_an_interrupted_begin_has_left_is_replaced(model, tmp_path):
    where = tmp_path / "run"
    (where / START).mkdir(parents=True)
    (where / START / "model.safetensors").write_bytes(b"old")
    (where / ".partial-new-1-1-start").mkdir()
    run.begin_run_from(model, where)
    assert (where / START / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_all_that_a_run_learned_from_is_noted_once(begun):
    for facts in ({"kind": "pairs", "count": 3}, {"kind": "pairs", "count": 3}, {"kind": "pairs", "count": 4}):
        run.begin_run(begun, "tiny", [facts], 0)
    data = json.loads((begun / "run.json").read_text())["data"]
    assert [facts["kind"] for facts in data] == ["model", "pairs", "pairs"]
    assert data[0]["name"] == "ours" and len(data[0]["sha256"]) == 64


def test_what_no_run_can_start_from_is_refused_and_leaves_nothing(model, begun, tmp_path):
    further(begun, "distill-coarse")
    run.export_run(begun, tmp_path / "fast", ModelCard(), distilled=True)
    for source, preset, code in (
        (tmp_path / "fast", None, "training.start"),
        (model, "small", "training.other-preset"),
        (tmp_path / "nothing", None, "model.not-found"),
    ):
        with pytest.raises(AxonError) as caught:
            run.begin_run_from(source, tmp_path / "new", preset)
        assert caught.value.code == code and caught.value.advice
        assert not (tmp_path / "new").exists()
    with pytest.raises(AxonError) as caught:
        run.begin_run_from(model, begun)
    assert caught.value.code == "training.begun"


def test_the_command_begins_a_run(model, tmp_path):
    done = CliRunner().invoke(cli.app, ["train", "begin", str(model), "-o", str(tmp_path / "run"), "--json"])
    told = json.loads(done.output)
    assert done.exit_code == 0 and told["model"] == "ours" and told["stages"] == list(ALL)
    assert (tmp_path / "run" / START / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    again = CliRunner().invoke(cli.app, ["train", "begin", str(model), "-o", str(tmp_path / "run")])
    assert again.exit_code != 0 and "begun already" in again.output + again.stderr

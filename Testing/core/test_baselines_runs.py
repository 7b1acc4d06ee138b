"""Baselines from data to files: trained, stopped and resumed, exported, and run by the same commands as AXON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from axon_core import cli
from axon_core.baselines.models import open_model
from axon_core.baselines.predict import predict
from axon_core.baselines.run import (
    begin_baseline,
    export_baseline,
    open_baseline_run,
    run_baseline,
    stage_settings,
    train_baseline,
    train_baseline_stage,
)
from axon_core.errors import ConfigError, ModelError
from axon_core.model import ModelCard
from axon_core.training.run import begin_run
from axon_core.training.settings import changed
from axon_core.training.trainer import Stopped, make_fabric

sys.path.insert(0, str(Path(__file__).parent))
from training_data import few, write_pairs


def run_command(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def trained(name: str, run: Path, steps: int, **options: Any) -> None:
    settings = {key: changed(own, steps=steps) for key, own in stage_settings(name, "tiny").items()}
    begin_baseline(run, name, "tiny", [], 0)
    train_baseline(name, "tiny", run, few(), settings, make_fabric("32", "cpu"), **options)


@pytest.mark.parametrize(("name", "steps"), [("repeat-concat", 60), ("x2ct-gan", 120), ("xray2ctpa", 60)])
def test_two_chests_are_learnt_and_exported(name: str, steps: int, tmp_path: Path):
    """Each from its own films, one or two; the exported model predicts what the run does."""
    films, target, weight = torch.utils.data.default_collate(few().items)
    trained(name, tmp_path / "run", steps)
    model = open_baseline_run(name, "tiny", tmp_path / "run")
    for views in (1, 2):
        volume = predict(model, films[:, :views])
        assert ((volume - target) ** 2 * weight).mean() < 0.4 * target.var()
        differences = torch.stack([(made[0] - made[1]).flatten() for made in (volume, target)])
        assert torch.corrcoef(differences)[0, 1] > 0.1
    info = export_baseline(tmp_path / "run", tmp_path / "model", ModelCard(title="two chests"))
    assert (info.card.title, info.card.default_stages) == ("two chests", ("endpoint",))
    assert f"| method | {name} |" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    torch.testing.assert_close(predict(open_model(tmp_path / "model"), films), predict(model, films))


def test_a_stopped_gan_goes_on_as_if_never_stopped(tmp_path: Path, plain_convolutions: None):
    trained("x2ct-gan", tmp_path / "whole", 6)
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        trained("x2ct-gan", tmp_path / "parts", 6, stop=lambda: next(asked))
    trained("x2ct-gan", tmp_path / "parts", 6)
    whole, parts = (open_baseline_run("x2ct-gan", "tiny", tmp_path / folder) for folder in ("whole", "parts"))
    for one, other in zip(whole.film_to_volume.parameters(), parts.film_to_volume.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_is_of_one_method_and_trains_in_order(tmp_path: Path):
    begin_baseline(tmp_path / "gan", "x2ct-gan", "tiny", [], 0)
    begin_baseline(tmp_path / "gan", "x2ct-gan", "tiny", [], 0)
    begin_run(tmp_path / "axon", "tiny", [], 0)
    assert (run_baseline(tmp_path / "gan"), run_baseline(tmp_path / "axon")) == ("x2ct-gan", "")
    for begin in (
        lambda: begin_baseline(tmp_path / "gan", "xray2ctpa", "tiny", [], 0),
        lambda: begin_run(tmp_path / "gan", "tiny", [], 0),
        lambda: begin_baseline(tmp_path / "axon", "x2ct-gan", "tiny", [], 0),
    ):
        with pytest.raises(ConfigError, match="begun for"):
            begin()
    with pytest.raises(ModelError, match="no trained"):
        export_baseline(tmp_path / "gan", tmp_path / "model", ModelCard())
    own = stage_settings("xray2ctpa", "tiny")["xray2ctpa-latent"]
    with pytest.raises(ModelError, match="builds on"):
        train_baseline_stage(
            "xray2ctpa", "xray2ctpa-latent", "tiny", tmp_path / "no", few(), own, make_fabric("32", "cpu")
        )


def test_from_pairs_to_a_reconstruction_by_commands(tmp_path: Path, film_png: Path):
    """X-ray2CTPA: two stages, a sample for each seed, and its name in the provenance."""
    pairs = write_pairs(tmp_path / "pairs", 3)
    command = ("train", "baseline", "xray2ctpa", pairs, "-o", tmp_path / "run", "--preset", "tiny")
    made = run_command(*command, "--dry-run", "--json")
    assert made.exit_code == 0, made.output
    assert [each["stage"] for each in json.loads(made.stdout)["stages"]] == list(stage_settings("xray2ctpa", "tiny"))
    made = run_command(*command, "--steps", 3, "--held-out", pairs)
    assert made.exit_code == 0, made.output
    made = run_command("train", "export", tmp_path / "run", "-o", tmp_path / "model", "--json")
    assert made.exit_code == 0, made.output
    assert (tmp_path / "model" / "curves.png").stat().st_size > 1000
    made = run_command(
        "reconstruct", film_png, "-o", tmp_path / "out", "--model", tmp_path / "model", "--seeds", 2, "--device", "cpu"
    )
    assert made.exit_code == 0, made.output
    told = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))
    assert (told["method"], told["baseline"]["name"], told["seeds"]) == ("xray2ctpa", "xray2ctpa", [0, 1])
    assert (tmp_path / "out" / "uncertainty.nrrd").exists()


def test_a_fitted_baseline_by_commands(tmp_path: Path, film_png: Path):
    pairs = write_pairs(tmp_path / "pairs", 3)
    command = ("train", "baseline", "nearest", pairs, "-o", tmp_path / "run", "--preset", "tiny")
    assert json.loads(run_command(*command, "--dry-run", "--json").stdout)["parameters"] == 0
    assert not (tmp_path / "run").exists()
    for made in (
        run_command(*command),
        run_command("train", "export", tmp_path / "run", "-o", tmp_path / "model"),
        run_command("reconstruct", film_png, "-o", tmp_path / "out", "--model", tmp_path / "model", "--device", "cpu"),
    ):
        assert made.exit_code == 0, made.output
    assert "curves.png" not in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    info = run_command("info", tmp_path / "model", "--json")
    assert json.loads(info.stdout)["baseline"] == "nearest"

"""Models of the paper's ablations: the edge loss, FineDiff from the films themselves, clamped steps."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from axon_core.baselines.predict import predict
from axon_core.cli_info import model_facts
from axon_core.config import ModelConfig, from_dict, load_preset
from axon_core.errors import ConfigError
from axon_core.evaluation.methods import ModelMethod
from axon_core.model import AxonModel, ModelCard, inspect, parameter_count
from axon_core.nets.rays import mean_of_repeated, repeat_along_ray
from axon_core.pipeline import COARSE, FINE, PRESETS, reconstruct
from axon_core.radiograph import Radiograph
from axon_core.training import run, stages
from axon_core.training.distill import STUDENTS
from axon_core.training.draws import Draws
from axon_core.training.settings import load_settings
from axon_core.walks import Quality, fine_times

sys.path.insert(0, str(Path(__file__).parent))
from training_data import batch_of, few, films, model_with, settings, stage_of, tiny, train


def draws(seed: int, count: int = 2) -> Draws:
    return Draws(seed, 0, range(count), count)


# --- the edge loss ---------------------------------------------------------------------------------------------------


def ramp(slopes: tuple[float, float, float]) -> torch.Tensor:
    n = torch.arange(6.0)
    a, b, c = slopes
    return (a * n.view(-1, 1, 1) + b * n.view(1, -1, 1) + c * n)[None, None]


def test_edge_error_of_ramps_is_their_mean_slope():
    error = torch.cat([ramp((0.3, 0.0, 0.0)), ramp((-0.1, 0.2, 0.6)), torch.full_like(ramp((0, 0, 0)), 5.0)])
    assert stages.edge_error(error, torch.ones_like(error)).tolist() == pytest.approx([0.1, 0.3, 0.0], abs=1e-6)


def test_edges_beside_voxels_without_weight_do_not_count():
    error, weight = ramp((0.3, 0.3, 0.3)), torch.ones(1, 1, 6, 6, 6)
    error[..., :2, :, :], weight[..., :2, :, :] = 100.0, 0.0
    assert stages.edge_error(error, weight).item() == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("edge", [0.0, 2.0])
def test_the_bridge_adds_the_edges_of_x0_in_its_own_units(edge):
    """Whatever m is drawn, and however the squared error is scaled there."""
    model, x0 = tiny(), torch.zeros(2, 1, 6, 6, 6)
    model.endpoint = lambda films: torch.zeros_like(x0)
    batch = (torch.zeros(2, 2, 32, 32), x0, torch.ones_like(x0))
    for seed in range(4):
        for error, expected in ((ramp((0.3, 0.0, 0.0)), 0.1), (torch.ones(1, 1, 6, 6, 6), 0.0)):
            model.bridge_x0 = lambda x, m, y, network, error=error: x0 + error
            plain, other = (stage_of("coarse", model, edge=e)(batch, draws(seed)).values for e in (0.0, edge))
            torch.testing.assert_close(other - plain, torch.full((2,), edge * expected), rtol=1e-3, atol=1e-4)


def test_the_edge_weight_is_read_from_a_preset_and_not_negative(tmp_path):
    path = tmp_path / "edges.toml"
    path.write_text("[training]\nsteps = 5\n[training.coarse]\nedge = 0.5\n[training.prior]\n")
    assert load_settings(str(path), "coarse").edge == 0.5
    assert load_settings(str(path), "prior").edge == 0.0 == load_settings("paper", "coarse").edge
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="edge"):
            settings(edge=wrong)


# --- FineDiff from the films -----------------------------------------------------------------------------------------


def test_two_repeated_films_are_their_mean():
    both = films()
    frontal, lateral = (
        repeat_along_ray(nn.functional.avg_pool2d(both[:, k : k + 1], 2), lateral=bool(k)) for k in (0, 1)
    )
    torch.testing.assert_close(mean_of_repeated(both, 16), (frontal + lateral) / 2)
    torch.testing.assert_close(mean_of_repeated(both[:, :1], 16), frontal)


@pytest.mark.parametrize("name", ["control", "distill-fine"])
def test_fine_stages_learn_from_the_hint_that_is_used(name):
    """The films as they are: neither F(x) nor the bridge has a part in it, and nothing is blurred."""
    model, seen = model_with(hint="films"), []
    kinds = {**stages.STAGES, **STUDENTS}
    model.endpoint = lambda films: pytest.fail("F(x) was asked")
    stage, data = kinds[name](model, settings()), batch_of(few())
    watched = model if name == "control" else stage.student
    watched.control.register_forward_pre_hook(lambda net, args: seen.append(args[2]))
    for seed in range(6):
        values = stage(data, draws(seed)).values
        assert torch.isfinite(values).all()
    hints = [mean_of_repeated(data[0][:, :views], 16) for views in (1, 2)]
    which = {next(k for k, hint in enumerate(hints) if torch.equal(hint, shown)) for shown in seen}
    assert which == {0, 1}
    values.mean().backward()
    assert all(p.grad is not None for p in watched.control.net.controlnet_cond_embedding.parameters())


def test_fine_from_films_learns(tmp_path):
    model = tiny(trained=("endpoint",))
    model.config = dataclasses.replace(model.config, diffusion=model_with(hint="films").config.diffusion)
    torch.manual_seed(7)
    for parameter in model.prior.net.out.parameters():
        nn.init.normal_(parameter, std=0.1)
    stage, data = stage_of("control", model, steps=30, lr=2e-2, warmup=5), few()

    @torch.no_grad()
    def loss() -> float:
        return sum(float(stage(batch_of(data), draws(k)).values.mean()) for k in range(6)) / 6

    before = loss()
    train(stage, data, tmp_path, save_every=1e9)
    assert loss() < 0.99 * before
    assert stage.volume(batch_of(data), draws(0)).shape == (2, 1, 16, 16, 16)


def test_fine_from_films_starts_from_noise_alone():
    """Its volume follows from films and seed: with other weights of F(x) and the bridge it is the same."""
    model, other = model_with(hint="films"), model_with(hint="films")
    with torch.no_grad():
        for network in (other.film_to_volume, other.coarse):
            for parameter in network.parameters():
                parameter.add_(0.1)
    for chosen in ((FINE,), (COARSE, FINE)):
        made = predict(model, films(), 3, stages=chosen)
        assert torch.equal(made, predict(other, films(), 3, stages=chosen))
        assert not torch.equal(made, predict(model, films(), 4, stages=chosen))
        assert not torch.equal(made, predict(model, films().flip(-1), 3, stages=chosen))
        assert not torch.equal(made, predict(model, films(views=1), 3, stages=chosen))
    assert fine_times(model, PRESETS["fast"])[0] == 999
    assert fine_times(model_with(), PRESETS["fast"])[0] == 400
    student = STUDENTS["distill-fine"](model, settings(student_steps=2))
    assert student.times == (999, 500)


@pytest.mark.parametrize("name", ["control", "distill-fine"])
def test_validation_starts_from_noise_alone(name):
    model = model_with(hint="films")
    stage, first = {**stages.STAGES, **STUDENTS}[name](model, settings()), []
    (model if name == "control" else stage.student).control.register_forward_pre_hook(
        lambda net, args: first.append((args[0], float(args[1][0])))
    )
    with torch.no_grad():
        stage.volume(batch_of(few()), draws(0))
    torch.testing.assert_close(first[0][0], draws(0).noise(torch.empty(2, 1, 16, 16, 16)))
    assert first[0][1] == 999


def test_the_pipeline_and_its_provenance_say_what_steered(film_png: Path):
    for hint in ("films", "coarse"):
        model = model_with(hint=hint)
        model.card = dataclasses.replace(model.card, default_stages=("endpoint", "fine"))
        made = reconstruct(Radiograph.load(film_png), model=model, seeds=(4,), device="cpu")
        film = torch.from_numpy(made.films["frontal"].image)[None, None]
        volume = model.config.hu_window.decode(predict(model, film, 4, stages=(FINE,)))[0, 0]
        np.testing.assert_allclose(made.final.hu, volume.numpy(), atol=0.5)
        assert made.provenance["hint"] == {FINE: hint}
    assert reconstruct(Radiograph.load(film_png), model=model, preset="preview", device="cpu").provenance["hint"] == {}


def test_a_table_counts_only_what_had_a_part():
    model = model_with(hint="films")
    facts = ModelMethod(model, "R&C", (FINE,)).facts
    assert facts["stages"] == "films + fine" == ModelMethod(model, "both", (COARSE, FINE)).facts["stages"]
    assert facts["parameters"] == parameter_count(model.prior) + parameter_count(model.control)
    assert facts["steps"].startswith("fine ") and ModelMethod(model, "F(x)", ()).facts["stages"] == "F(x)"
    assert ModelMethod(model_with(), "image", (FINE,)).facts["stages"] == "F(x) + fine"


# --- clamping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clamp", [False, True])
def test_every_step_is_clamped_if_asked(clamp):
    """A prior that answers far too much is held back at every step, not only at the end."""
    model, seen = model_with(clamp=clamp), []
    unbound = model.fine_x0
    model.prior.forward = lambda x, time, control: torch.full_like(x, -3.0)
    model.fine_x0 = lambda *args: seen.append(unbound(*args)) or seen[-1]
    made = predict(model, films(), 3, stages=(FINE,), quality=Quality(fine_steps=4, fine_start=1.0))
    assert len(seen) == 4 and float(made.abs().max()) <= 1
    assert [float(x0.abs().max()) <= 1 for x0 in seen] == [clamp] * 4


# --- a model's own account -------------------------------------------------------------------------------------------


def test_hint_and_clamp_travel_with_the_weights(tmp_path):
    model = model_with(hint="films", clamp=True)
    info = model.save_pretrained(tmp_path / "m", model.card, torch.float32)
    again = AxonModel.from_pretrained(tmp_path / "m")
    assert again.config == model.config and inspect(tmp_path / "m").config.diffusion.clamp
    torch.testing.assert_close(predict(again, films(), 1, stages=(FINE,)), predict(model, films(), 1, stages=(FINE,)))
    told = model_facts(info)["fine"]
    run.write_card(info, curves=False)
    assert "repeated films" in told and "clamped" in told and told in (info.folder / "README.md").read_text()
    endpoint = dataclasses.replace(info, card=ModelCard(stages=("endpoint",)))
    assert model_facts(endpoint)["fine"] == ""


def test_configs_from_before_are_the_papers_choice():
    values = load_preset("tiny").to_dict()
    for name in ("hint", "clamp", "process", "global_encoder"):
        del values["diffusion"][name]
    assert from_dict(ModelConfig, values) == load_preset("tiny")
    values["diffusion"]["hint"] = "lungs"
    with pytest.raises(ConfigError) as caught:
        from_dict(ModelConfig, values)
    assert caught.value.code == "config.hint" and "films" in caught.value.advice

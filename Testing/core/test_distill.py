"""Distillation: the target is the teacher's walk, with exact teachers it is an analytic one; runs, export, command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from axon_core import cli
from axon_core.diffusion import bridge, gaussian
from axon_core.errors import ConfigError, ModelError
from axon_core.model import AxonModel, ModelCard
from axon_core.pipeline import PRESETS, evaluations
from axon_core.training import distill, run
from axon_core.training.checkpoint import read_state
from axon_core.training.distill import STUDENTS, landing
from axon_core.training.draws import Draws
from axon_core.training.estimate import estimate
from axon_core.training.events import read_log
from axon_core.training.trainer import Stopped, make_fabric
from axon_core.walks import coarse_eta, coarse_times, fine_times

sys.path.insert(0, str(Path(__file__).parent))
from training_data import batch_of, few, settings, tiny, train, write_pairs

NAMES = list(STUDENTS)
S, SIGMA = 0.1, 0.25  # of the analytic bridge
ALPHAS = gaussian.alpha_bars(zero_terminal=True)
Field = torch.Tensor


def draws(seed: int, count: int = 2) -> Draws:
    return Draws(seed, 0, range(count), count)


def teacher(answering: float = 0.05) -> AxonModel:
    """Networks as if trained: the U-Nets, which start silent, answer something; the control steers."""
    model = tiny(trained=("endpoint", "coarse", "fine"))
    torch.manual_seed(7)
    for network in (model.coarse.net.out, model.prior.net.out, model.control.net.controlnet_mid_block):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=answering)
    return model


def student_of(name: str, model: AxonModel | None = None, **values: Any) -> distill.Student:
    return STUDENTS[name](model or teacher(), settings(**values))


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- the target, with exact teachers ---------------------------------------------------------------------------------


def field(seed: int) -> Field:
    return torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bridge_parts(y: Field, noise: Field) -> tuple[Callable[..., Field], Callable[..., Field]]:
    """The exact denoiser of x0 = y + N(0, SIGMA^2) in each voxel, and the stride between times."""

    def denoise(x: Field, m: float) -> Field:
        return y + bridge.preconditioning(torch.tensor(m, dtype=torch.float64), S, SIGMA)[0] * (x - y)

    return denoise, lambda x0, x, m, r: bridge.step(x0, y, x, m, r, S, 0.0, noise)


def gaussian_parts(spread: float) -> tuple[Callable[..., Field], Callable[..., Field]]:
    """The same of x0 = N(0, spread^2) under the Gaussian diffusion, with times that are shares of a = 1."""

    def denoise(x: Field, alpha: float) -> Field:
        return alpha**0.5 * spread**2 / (alpha * spread**2 + 1 - alpha) * x

    return denoise, lambda x0, x, a, b: gaussian.step(x0, x, a, b, 0.0, torch.zeros_like(x))


@pytest.mark.parametrize("end", [0.0, 0.3])
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_one_stride_with_the_target_lands_where_the_teachers_walk_lands(start, end):
    y, noise = field(0), field(1)
    denoise, stride = bridge_parts(y, noise)
    x = y if start == 1 else bridge.forward(y + SIGMA * field(2), y, torch.tensor(start), S, noise)
    times = [end + (start - end) * part for part in bridge.times(5)] + [end]
    target = landing(denoise, stride, x, times)
    state = x
    for now, after in pairwise(times):
        state = stride(denoise(state, now), state, now, after)
    torch.testing.assert_close(stride(target, x, start, end), state)
    assert float((target - denoise(x, start)).abs().max()) > 0.01  # a walk is more than the teacher's first prediction


def test_walks_of_one_step_end_at_the_teachers_prediction():
    y, noise = field(0), field(1)
    denoise, stride = bridge_parts(y, noise)
    x = bridge.forward(field(2), y, torch.tensor(0.5), S, noise)
    torch.testing.assert_close(landing(denoise, stride, x, [0.5, 0.2]), denoise(x, 0.5))


def test_long_walks_of_an_exact_bridge_end_at_the_flows_map():
    """The deterministic walk keeps each marginal: from sd_m to SIGMA along x - y, whatever m it starts at."""
    y, noise = field(0), field(1)
    denoise, stride = bridge_parts(y, noise)
    for m in (0.2, 0.5, 0.9):
        x = bridge.forward(y + SIGMA * field(2), y, torch.tensor(m, dtype=torch.float64), S, noise)
        times = [m * part for part in bridge.times(400)] + [0.0]
        sd = math.sqrt((1 - m) ** 2 * SIGMA**2 + 2 * S * (m - m * m))
        torch.testing.assert_close(landing(denoise, stride, x, times), y + SIGMA / sd * (x - y), rtol=0.02, atol=2e-3)


def test_long_walks_of_an_exact_gaussian_end_at_the_flows_map():
    denoise, stride = gaussian_parts(0.3)
    first = float(ALPHAS[400])
    x = field(3)
    times = [float(ALPHAS[t]) for t in range(400, 0, -1)] + [1.0]
    sd = math.sqrt(first * 0.3**2 + 1 - first)
    torch.testing.assert_close(landing(denoise, stride, x, times), 0.3 / sd * x, rtol=0.02, atol=2e-3)


def test_the_bridges_network_answers_where_sampling_starts_as_just_before():
    """At m = 1 noise and signal both vanish; their ratio does not."""
    model, y = teacher(), torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        at, before = (model.bridge_x0(y, torch.full((1, 1, 1, 1, 1), m), y) for m in (1.0, 0.9999))
    torch.testing.assert_close(at, before, rtol=0, atol=2e-3)
    assert float((at - y).abs().mean()) > 0.005


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_student_that_equals_its_target_has_no_loss(name, steps):
    """A walk of one step in each stretch is the teacher's own prediction, and the student starts as its teacher."""
    stage = student_of(name, student_steps=steps, teacher_steps=steps)
    longer = student_of(name, student_steps=steps, teacher_steps=4 * steps)
    for seed in range(4):
        with torch.no_grad():
            assert float(stage(batch_of(few()), draws(seed)).values.max()) < 1e-10
            assert float(longer(batch_of(few()), draws(seed)).values.min()) > 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_losses_sit_at_the_students_times(name):
    stage, end = student_of(name, student_steps=3), 1.0 if name == "distill-coarse" else 1000.0
    with torch.no_grad():
        seen = {float(stage(batch_of(few()), draws(seed)).time[0]) for seed in range(16)}
    assert sorted(seen, reverse=True) == pytest.approx([t / end for t in stage.times])


@pytest.mark.parametrize("name", NAMES)
def test_each_step_ends_where_the_next_begins(name):
    stage = student_of(name, student_steps=3)
    seen = {stage.stretch(draws(seed)) for seed in range(32)}
    assert sorted(seen) == list(zip(range(3), stage.times, (*stage.times[1:], 0), strict=True))


def test_fine_students_start_at_the_noised_hint_and_weigh_x0_as_v():
    """A teacher that always answers one volume is followed in a single step; a silent student is off by all of it."""
    model, seen = tiny(trained=("endpoint",)), {}
    half = torch.linspace(-1, 1, 16).sign()
    pattern, other = (half.view(shape).expand(2, 1, 16, 16, 16) for shape in ((16, 1, 1), (16, 1)))
    model.endpoint = lambda films: pattern
    stage = STUDENTS["distill-fine"](model, settings(student_steps=2, teacher_steps=6))
    answer = 0.3 * torch.ones_like(other)

    def teacher_answers(x: Field, t: Field, hint: Field) -> Field:
        seen.setdefault(int(t[0]), x)
        return answer

    stage.model.fine_x0, stage.student.fine_x0 = teacher_answers, lambda x, t, hint: torch.zeros_like(x)
    batch = (torch.zeros(2, 2, 32, 32), other, torch.ones_like(other))
    losses = {round(1000 * float(loss.time[0])): loss.values for loss in (stage(batch, draws(k)) for k in range(8))}
    for t, clean, wrong in ((400, pattern, other), (200, other, pattern)):
        alpha = float(model.alphas[t])
        assert losses[t].tolist() == pytest.approx([0.3**2 / (1 - alpha)] * 2, rel=1e-3)
        nearer, farther = (float((seen[t] * volume).mean()) for volume in (clean, wrong))
        assert nearer > 0.2 and abs(farther) < 0.05


def test_the_loss_of_a_silent_teachers_student_is_its_formula():
    """A silent bridge is the exact denoiser of a normal residual; a silent student is off by a known factor."""
    model = tiny()
    c = model.config.bridge
    model.endpoint = lambda films: torch.zeros(2, 1, 16, 16, 16)
    x0 = c.sigma * torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    stage = STUDENTS["distill-coarse"](model, settings(student_steps=2, teacher_steps=32))
    batch = (torch.zeros(2, 2, 32, 32), x0, torch.ones_like(x0))
    with torch.no_grad():
        losses = {round(float(loss.time[0]), 3): loss.values for loss in (stage(batch, draws(k)) for k in range(8))}
    m = 0.5
    variance = (1 - m) ** 2 * c.sigma**2 + 2 * c.s * (m - m * m)
    linear = (1 - m) * c.sigma**2 / variance
    flow = c.sigma / math.sqrt(variance)
    c_out = bridge.preconditioning(torch.tensor(m), c.s, c.sigma)[1]
    expected = float((flow - linear) ** 2 * variance / c_out**2)
    assert losses[0.5].tolist() == pytest.approx([expected] * 2, rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_a_samples_loss_does_not_depend_on_the_batch_around_it(name):
    stage = student_of(name)
    films, target, weight = batch_of(few())
    with torch.no_grad():
        for step in range(3):
            whole = stage((films, target, weight), Draws(3, step, [0, 1], 2)).values
            parts = [
                stage((films[i : i + 1], target[i : i + 1], weight[i : i + 1]), Draws(3, step, [i], 2)).values
                for i in range(2)
            ]
            torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_student_learns_and_it_comes_nearer_to_the_walk(name, tmp_path):
    model = teacher()
    before = {key: weights(getattr(model, key)) for key in ("film_to_volume", "coarse", "prior", "control")}
    stage, data = student_of(name, model, steps=30, lr=5e-3, warmup=5, teacher_steps=8), few()
    assert all(equal(weights(stage.trained[key]), before[key]) for key in stage.parts)

    @torch.no_grad()
    def loss() -> float:
        return sum(float(stage(batch_of(data), draws(k)).values.mean()) for k in range(6)) / 6

    first = loss()
    train(stage, data, tmp_path, save_every=1e9)
    assert loss() < 0.8 * first
    assert all(equal(weights(getattr(model, key)), before[key]) for key in before)
    assert not any(equal(weights(stage.trained[key]), before[key]) for key in stage.parts)


def test_the_estimate_counts_the_teachers_walk():
    walks = [settings(student_steps=1, teacher_steps=k) for k in (1, 2, 3)]
    costs = [estimate("distill-coarse", tiny().config, walk, 4, rate=1e9).flop for walk in walks]
    assert costs[2] - costs[1] == pytest.approx(costs[1] - costs[0], rel=1e-6) and costs[1] > costs[0]


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which every teacher has made a step."""
    folder = tmp_path_factory.mktemp("distill") / "run"
    fabric, data = make_fabric("32", "cpu"), few()
    run.begin_run(folder, "tiny", [], 0)
    (folder / run.SIGMA).write_text("0.2000\n")
    for stage in ("endpoint", "coarse", "prior", "control"):
        run.train_stage(stage, "tiny", folder, data, settings(steps=1), fabric)
    return folder


def distilled(name: str, folder: Path, **options: Any) -> None:
    values = {"steps": 5, "student_steps": 2, "teacher_steps": 4}
    run.train_stage(name, "tiny", folder, few(), settings(**values), make_fabric("32", "cpu"), **options)


def copied(folder: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_student_goes_on_as_if_never_stopped(name, trained, tmp_path):
    one, two = copied(trained, tmp_path / "one"), copied(trained, tmp_path / "two")
    distilled(name, one)
    asked: list[int] = []
    with pytest.raises(Stopped):
        distilled(name, two, stop=lambda: asked.append(1) or len(asked) == 2)
    distilled(name, two)
    networks = STUDENTS[name].networks(tiny())
    states = [read_state(folder / name, networks) for folder in (one, two)]
    for part in ("trained", "ema"):
        found = [state[part] if part == "trained" else state[part]["average"] for state in states]
        assert equal(*found)
    losses = [[event["loss"] for event in read_log(folder / name)] for folder in (one, two)]
    assert losses[0] == losses[1] and losses[0]
    for stage in ("endpoint", "coarse", "prior", "control"):
        assert (one / stage / "state.pt").read_bytes() == (trained / stage / "state.pt").read_bytes()


def test_students_are_exported_in_their_teachers_places(trained, tmp_path):
    folder = copied(trained, tmp_path / "run")
    card = ModelCard("student", default_stages=("endpoint", "coarse", "fine"))
    with pytest.raises(ModelError, match="no distilled student"):
        run.export_run(folder, tmp_path / "none", card, distilled=True)
    for name in NAMES:
        distilled(name, folder)
    plain = run.export_run(folder, tmp_path / "plain", card)
    assert plain.config.bridge.times == () and plain.config.diffusion.times == ()
    fast = run.export_run(folder, tmp_path / "fast", card, distilled=True)
    assert fast.size_bytes == pytest.approx(plain.size_bytes, rel=0.01)
    model = AxonModel.from_pretrained(tmp_path / "fast")
    assert model.config.bridge.times == (1.0, 0.5) and model.config.diffusion.times == (400, 200)
    for quality in (PRESETS["fast"], PRESETS["paper"]):
        counts = evaluations(model, quality, 3)
        assert counts["coarse"] == counts["fine"] == 6
        assert coarse_times(model, quality) == [1.0, 0.5] and fine_times(model, quality) == [400, 200]
    assert coarse_eta(model) == 0 and coarse_eta(AxonModel.from_pretrained(tmp_path / "plain")) == 1
    for name in NAMES:
        networks = STUDENTS[name].networks(model)
        average = read_state(folder / name, networks)["ema"]["average"]
        for key, value in networks.state_dict().items():
            torch.testing.assert_close(value, average[key], rtol=1e-3, atol=1e-4)


def test_a_student_keeps_its_number_of_steps(trained, tmp_path):
    folder = copied(trained, tmp_path / "run")
    distilled("distill-coarse", folder)
    with pytest.raises(ConfigError, match="student of 2 steps"):
        run.train_stage("distill-coarse", "tiny", folder, few(), settings(student_steps=3), make_fabric("32", "cpu"))


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_student_without_a_teacher(name, trained, tmp_path):
    folder = copied(trained, tmp_path / "run")
    missing = STUDENTS[name].needs[-1]
    for file in (folder / missing).iterdir():
        file.unlink()
    with pytest.raises(ModelError) as caught:
        distilled(name, folder)
    assert caught.value.code == "training.needs" and missing in caught.value.title


def axon(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


def test_the_command_distils_exports_and_reconstructs(trained, tmp_path, film_png):
    folder, pairs = copied(trained, tmp_path / "run"), write_pairs(tmp_path / "pairs", 2)
    options = [pairs, "-o", folder, "--device", "cpu", "--steps", 2]
    told = json.loads(axon("distill", *options, "--dry-run", "--json").stdout)
    assert [stage["stage"] for stage in told["stages"]] == ["distill-coarse"]
    for of, steps in (("coarse", 1), ("fine", 2)):
        done = axon("distill", *options, "--of", of, "--steps-student", steps, "--json")
        assert done.exit_code == 0 and json.loads(done.stdout.splitlines()[-1])["stages"] == [f"distill-{of}"]
    done = axon("export", folder, "-o", tmp_path / "fast", "--distilled", "--default", "coarse")
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    arguments = ["reconstruct", film_png, "-o", out, "--model", tmp_path / "fast", "--device", "cpu", "--seeds", "2"]
    made = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert made.exit_code == 0, made.output
    found = json.loads((out / "provenance.json").read_text())
    assert found["steps"] == {"coarse": 1} and found["eta"] == {"coarse": 0.0}
    assert found["seeds"] == []  # one evaluation draws nothing
    wrong = axon("distill", *options, "--of", "sr")
    assert wrong.exit_code == 2 and "no teacher 'sr'" in wrong.output
    shown = " ".join(axon("distill", "--help").stdout.split())
    assert "Examples" in shown and "axon train distill" in shown and "Exit status" in shown

"""Losses with known values, every stage learning, and runs that go on as if never stopped."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from axon_core.config import load_preset
from axon_core.data import pairs
from axon_core.data.pairs import PairDataset, make_pair, save_pair
from axon_core.errors import ModelError
from axon_core.model import PARTS, AxonModel, ModelCard
from axon_core.training import recipe, stages
from axon_core.training.ema import EMA
from axon_core.training.trainer import TrainOptions, learning_rate, read_state, train


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(seed: int = 0, trained: tuple[str, ...] = ()) -> AxonModel:
    """Networks of preset "tiny", of which the `trained` stages may be used by later ones."""
    torch.manual_seed(seed)
    return AxonModel(load_preset("tiny"), ModelCard(stages=trained))


class Few(torch.utils.data.Dataset):
    """The same few items for every index."""

    def __init__(self, items: list[tuple[torch.Tensor, ...]]) -> None:
        self.items = items
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        self.asked.append(index)
        return self.items[index % len(self.items)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two phantoms' pairs for preset "tiny", with volumes of 16 and of 32 voxels; films from 32 voxels."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "RENDER_SIZE", 32)
        for size in (16, 32):
            made[size] = tmp_path_factory.mktemp("pairs")
            for seed in (1, 2):
                save_pair(make_pair([], seed, size, 32, phantom_share=1.0), made[size] / f"{seed}.npz")
    return made


@pytest.fixture(scope="module")
def data(folders) -> dict[int, Few]:
    window = load_preset("tiny").hu_window
    return {size: Few([PairDataset(folder, window)[i] for i in range(2)]) for size, folder in folders.items()}


def batch_of(few: Few) -> list[torch.Tensor]:
    return torch.utils.data.default_collate(few.items)


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory) -> dict[str, tuple[float, float, Path]]:
    """Every stage trained on two chests, each on top of those before: (loss before, loss after, folder)."""
    model = tiny(trained=tuple(PARTS))
    losses = {}
    for name, steps in (("endpoint", 50), ("coarse", 40), ("prior", 50), ("control", 40), ("super-resolution", 20)):
        stage = recipe.STAGES[name](model)
        few = data[32 if name == "super-resolution" else 16]

        def loss(stage: nn.Module = stage, few: Few = few) -> float:
            with torch.no_grad():
                return sum(float(stage(batch_of(few), seeded(k))) for k in range(8)) / 8

        before = loss()
        folder = tmp_path_factory.mktemp("run") / name
        train(
            stage,
            few,
            TrainOptions(steps, 2, 2e-2 if name == "control" else 5e-3, warmup=5, ema=0.9, precision="32-true"),
            folder,
        )
        losses[name] = (before, loss(), folder)
    return losses


@pytest.mark.parametrize(
    ("name", "left"),
    [("endpoint", 0.6), ("coarse", 0.8), ("prior", 0.6), ("control", 0.99), ("super-resolution", 0.97)],
)
def test_the_loss_of_every_stage_falls(learned, name, left):
    before, after, _ = learned[name]
    assert after < left * before


def test_the_log_tells_step_loss_and_rate(learned):
    lines = [json.loads(line) for line in (learned["endpoint"][2] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [25, 50]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert lines[1]["lr"] < lines[0]["lr"] and lines[1]["seconds"] >= lines[0]["seconds"] >= 0


def test_mixed_precision_learns_and_keeps_full_weights(data, tmp_path):
    model = tiny()
    train(stages.EndpointStage(model), data[16], TrainOptions(2, 2, precision="bf16-mixed"), tmp_path)
    state = read_state(tmp_path / "state.pt", model.film_to_volume)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state["trained"].values())


# --- losses ----------------------------------------------------------------------------------------------------------


def test_weighted_mean_leaves_out_what_weighs_nothing():
    error, weight = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([1.0, 1.0, 0.0])
    assert float(stages.weighted_mean(error, weight)) == 2.0
    assert float(stages.weighted_mean(error, 2 * weight)) == 2.0


def test_stratified_draws_once_in_each_stratum():
    for seed in range(20):
        assert (stages.stratified(8, seeded(seed)) * 8).floor().tolist() == list(range(8))


def test_the_lateral_film_is_left_out_two_times_of_three():
    films = torch.randn(3, 2, 4, 4)
    views = [stages.drop_views(films, seeded(seed)).shape[1] for seed in range(200)]
    assert set(views) == {1, 2} and 110 < views.count(1) < 150
    one = stages.drop_views(films, seeded(0), probability=1.0)
    assert torch.equal(one, films[:, :1])  # it is the frontal film that stays


@pytest.mark.parametrize("name", ["endpoint", "coarse", "control", "super-resolution"])
def test_every_stage_that_sees_films_sees_one_and_two(name, data):
    model = tiny(trained=("endpoint",))
    seen = []
    model.endpoint = lambda films: seen.append(films.shape[1]) or model.film_to_volume(films)
    stage = recipe.STAGES[name](model)
    with torch.no_grad():
        for seed in range(12):
            stage(batch_of(data[32 if name == "super-resolution" else 16]), seeded(seed))
    assert set(seen) == {1, 2}


def test_endpoint_loss_is_its_formula():
    model = tiny()
    model.endpoint = lambda films: torch.full((2, 1, 16, 16, 16), 0.5)
    batch = (torch.zeros(2, 2, 32, 32), torch.full((2, 1, 16, 16, 16), 0.3), torch.ones(2, 1, 16, 16, 16))
    assert float(stages.EndpointStage(model)(batch, seeded(0))) == pytest.approx(0.2**2 + 0.1 * 0.2, rel=1e-5)


def test_bridge_loss_of_a_silent_network_is_one_at_every_time():
    """Residuals with the config's sigma make a target of unit variance, whatever m is drawn."""
    model = tiny()
    model.endpoint = lambda films: torch.zeros(4, 1, 16, 16, 16)
    x0 = model.config.bridge.sigma * torch.randn(4, 1, 16, 16, 16, generator=seeded(0))
    for seed in range(4):
        loss = stages.BridgeStage(model)((torch.zeros(4, 2, 32, 32), x0, torch.ones_like(x0)), seeded(seed))
        assert loss.item() == pytest.approx(1.0, rel=0.06)


def test_bridge_loss_of_a_perfect_network_is_zero():
    model = tiny()
    x0 = torch.randn(2, 1, 16, 16, 16)
    model.bridge_x0 = lambda x, m, y: x0
    assert float(stages.BridgeStage(model)((torch.zeros(2, 2, 32, 32), x0, torch.ones_like(x0)), seeded(0))) == 0.0


def test_prior_loss_of_a_silent_network_is_one():
    """v of unit-variance volumes has unit variance at every time."""
    x0 = torch.randn(4, 1, 16, 16, 16, generator=seeded(0))
    loss = stages.PriorStage(tiny())((torch.zeros(4, 2, 32, 32), x0, torch.ones_like(x0)), seeded(0))
    assert loss.item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("block", [10, 24])
def test_super_resolution_compares_the_same_place(monkeypatch, block):
    """The untrained network is trilinear interpolation, which is exact on ramps: any misplaced block would cost 1."""
    n = torch.arange(40.0)
    ramp = (n.view(-1, 1, 1) + 2 * n.view(1, -1, 1) + 3 * n)[None, None]
    monkeypatch.setattr(stages, "coarse_volume", lambda model, films, generator: F.avg_pool3d(ramp, 2))
    stage = stages.SuperResolutionStage(tiny(), block)
    for seed in range(8):
        loss = stage((torch.zeros(1, 2, 32, 32), ramp, torch.ones_like(ramp)), seeded(seed))
        assert loss.item() < (0.05 if block == 10 else 0.5)  # blocks at the volume's faces feel the blur's edge


# --- who learns ------------------------------------------------------------------------------------------------------


def test_control_learns_and_the_frozen_prior_does_not(data):
    model = tiny(trained=("endpoint",))
    for parameter in model.prior.parameters():
        nn.init.normal_(parameter, std=0.1)  # a prior that answers
    stage = stages.ControlStage(model)
    control, prior = (
        {key: value.clone() for key, value in network.net.state_dict().items()}
        for network in (model.control, model.prior)
    )
    shared = [key for key in control if key in prior and control[key].shape == prior[key].shape]
    assert any(key.startswith("down_blocks") for key in shared)
    assert all(torch.equal(control[key], prior[key]) for key in shared)  # it starts as the prior's encoder
    stage(batch_of(data[16]), seeded(0)).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.prior.parameters())
    assert all(p.grad is None for p in model.film_to_volume.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.control.parameters())
    assert list(stage.parameters()) == list(model.control.parameters())  # all that an optimiser is given


@pytest.mark.parametrize("name", list(recipe.STAGES))
def test_only_the_stage_in_training_gets_gradients(name, data):
    model = tiny(trained=tuple(PARTS))
    stage = recipe.STAGES[name](model)
    networks = {attribute: getattr(model, attribute) for attribute in recipe.TRAINED.values()}
    for out in (model.coarse.net.out, model.prior.net.out):
        for parameter in out.parameters():
            nn.init.normal_(parameter, std=0.1)
    for seed in range(4):
        stage(batch_of(data[32 if name == "super-resolution" else 16]), seeded(seed)).backward()
    learning = [a for a, network in networks.items() if any(p.grad is not None for p in network.parameters())]
    assert learning == [recipe.TRAINED[name]]


@pytest.mark.parametrize("name", list(recipe.STAGES))
def test_stages_follow_their_model_to_another_device(name):
    """On the "meta" device nothing is computed, but tensors left behind on the CPU are refused as on a GPU."""
    model = tiny(trained=tuple(PARTS))
    stage = recipe.STAGES[name](model)
    for attribute in recipe.TRAINED.values():
        getattr(model, attribute)
    model.to("meta")
    n = 32 if name == "super-resolution" else 16
    volumes = (torch.empty(2, 1, n, n, n, device="meta") for _ in range(2))
    for seed in range(4):
        assert stage((torch.empty(2, 2, 32, 32, device="meta"), *volumes), seeded(seed)).device.type == "meta"
        volumes = (torch.empty(2, 1, n, n, n, device="meta") for _ in range(2))


# --- EMA and schedule ------------------------------------------------------------------------------------------------


def test_ema_follows_its_law():
    layer = nn.Linear(1, 1, bias=False)
    layer.register_buffer("count", torch.tensor(0))
    layer.weight.data.fill_(0.0)
    ema, expected = EMA(layer, 0.6), 0.0
    for n in range(1, 30):
        layer.weight.data.fill_(math.sin(n))
        layer.count.fill_(n)
        ema.update(layer)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * math.sin(n)
        assert float(ema.average["weight"]) == pytest.approx(expected, abs=1e-6)
    assert int(ema.average["count"]) == 29
    again = EMA(nn.Linear(1, 1, bias=False), 0.6)
    again.average["count"] = torch.tensor(0)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 29 and torch.equal(again.average["weight"], ema.average["weight"])


def test_rate_warms_up_and_falls_to_three_percent():
    options = TrainOptions(steps=1000, lr=2.0, warmup=50)
    rates = [learning_rate(step, options) for step in range(1001)]
    assert rates[0] == pytest.approx(2.0 / 50, rel=1e-3)
    assert rates[24] == pytest.approx(1.0, rel=0.01)
    assert max(rates) == pytest.approx(2.0, rel=0.01) and 45 <= rates.index(max(rates)) <= 55
    assert all(later < earlier for earlier, later in pairwise(rates[50:]))
    assert rates[500] == pytest.approx(2.0 * (0.03 + 0.97 / 2), rel=1e-6)
    assert rates[1000] == pytest.approx(0.06)


# --- stopping and going on -------------------------------------------------------------------------------------------

OPTIONS = TrainOptions(steps=6, batch=2, lr=1e-3, warmup=2, ema=0.9, precision="32-true", seed=3, save_every=0)


class Stop(Exception):
    """The user's Ctrl-C."""


def endpoint_run(few: Few, folder: Path) -> AxonModel:
    """Train F(x) of fresh networks for six steps, or for those that are left."""
    model = tiny()
    train(stages.EndpointStage(model), few, OPTIONS, folder)
    return model


def same(one: object, other: object) -> bool:
    """Equality of nested states, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)  # type: ignore[attr-defined,index]
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    return one == other


@pytest.fixture(scope="module")
def one_go(data, tmp_path_factory) -> tuple[AxonModel, dict, list[int]]:
    """Six steps without interruption: the model, the last state, and the indices drawn."""
    few, folder = Few(data[16].items), tmp_path_factory.mktemp("one-go")
    model = endpoint_run(few, folder)
    assert len(set(few.asked)) == 12  # every step draws other samples
    return model, read_state(folder / "state.pt", model.film_to_volume), few.asked


def assert_same_run(model: AxonModel, folder: Path, one_go: tuple[AxonModel, dict, list[int]]) -> None:
    assert same(model.film_to_volume.state_dict(), one_go[0].film_to_volume.state_dict())
    assert same(read_state(folder / "state.pt", model.film_to_volume), one_go[1])


def test_a_stopped_run_goes_on_as_if_never_stopped(data, tmp_path, one_go):
    class Interrupted(Few):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            if len(self.asked) == 7:  # in the fourth step
                raise Stop
            return super().__getitem__(index)

    with pytest.raises(Stop):
        endpoint_run(Interrupted(data[16].items), tmp_path)
    rest = Few(data[16].items)
    model = endpoint_run(rest, tmp_path)
    assert rest.asked == one_go[2][6:]
    assert_same_run(model, tmp_path, one_go)


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(int(sys.argv[4]))
import test_training as t
from pathlib import Path
items = torch.load(sys.argv[2])
real, calls = torch.save, []
def save(state, path):
    calls.append(path)
    if len(calls) == 4:
        Path(path).write_bytes(b"half a state")
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    real(state, path)
torch.save = save
t.endpoint_run(t.Few(items), Path(sys.argv[3]))
"""


def test_a_run_killed_while_saving_goes_on_as_if_never_stopped(data, tmp_path, one_go):
    torch.save(data[16].items, tmp_path / "items.pt")
    folder = tmp_path / "run"
    here, threads = str(Path(__file__).parent), str(torch.get_num_threads())
    arguments = [sys.executable, "-c", KILLED, here, str(tmp_path / "items.pt"), str(folder), threads]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -getattr(signal, "SIGKILL", -1), done.stderr[-2000:]
    assert read_state(folder / "state.pt", tiny().film_to_volume)["step"] == 3
    assert_same_run(endpoint_run(Few(data[16].items), folder), folder, one_go)


def test_a_finished_run_only_gives_its_average(data, tmp_path):
    first = endpoint_run(Few(data[16].items), tmp_path)
    few = Few(data[16].items)
    again = endpoint_run(few, tmp_path)
    assert few.asked == []
    assert same(again.film_to_volume.state_dict(), first.film_to_volume.state_dict())
    state = read_state(tmp_path / "state.pt", again.film_to_volume)
    assert same(state["ema"]["average"], dict(again.film_to_volume.state_dict()))
    assert not same(state["ema"]["average"], state["trained"])


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "other network"])
def test_a_damaged_state_is_told(data, tmp_path, damage):
    path = tmp_path / "endpoint" / "state.pt"
    path.parent.mkdir()
    model = tiny()
    good = {"trained": model.film_to_volume.state_dict(), "step": 1}
    if damage == "other network":
        good = {"trained": model.sr.state_dict()}
    torch.save(["what"] if damage == "foreign" else good, path)
    if damage in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "truncated" else 0])
    code = "training.other-network" if damage == "other network" else "training.state"
    for use in (
        lambda: train(stages.EndpointStage(model), data[16], OPTIONS, path.parent),
        lambda: recipe.open_run("tiny", tmp_path),
    ):
        with pytest.raises(ModelError) as caught:
            use()
        assert caught.value.code == code
        assert caught.value.advice


# --- recipe ----------------------------------------------------------------------------------------------------------


def test_an_empty_run_is_untrained(tmp_path):
    model = recipe.open_run("tiny", tmp_path / "nothing")
    assert model.card.stages == ()
    assert model.config == load_preset("tiny")
    assert not (tmp_path / "nothing").exists()


def test_residual_sd_counts_known_voxels_of_one_and_two_views():
    seen = []

    class Fake:
        def endpoint(self, films: torch.Tensor) -> torch.Tensor:
            seen.append(films.shape[1])
            return torch.full((1, 1, 16, 16, 16), 0.1)

    class Drawn:
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            target = 0.1 + 0.25 * torch.randn(1, 16, 16, 16, generator=seeded(index))
            weight = torch.ones(1, 16, 16, 16)
            weight[:, :6] = 0.1
            target[:, :6] = 50.0
            return torch.zeros(2, 32, 32), target, weight

    assert recipe.residual_sd(Fake(), Drawn(), count=10) == pytest.approx(0.25, rel=0.02)
    assert seen == [1, 2] * 5


def train_arguments(stage: str, made: Path, run: Path, preset: str = "tiny") -> list[str]:
    """Arguments for a single step."""
    folders = ["--pairs", str(made), "--run", str(run)]
    return [
        "train",
        stage,
        *folders,
        "--preset",
        preset,
        *f"--steps 1 --batch 1 --threads {torch.get_num_threads()}".split(),
    ]


def test_the_recipe_makes_pairs_and_trains_stage_after_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RENDER_SIZE", 32)
    made, run = tmp_path / "made", tmp_path / "run"
    make = ["pairs", "--out", str(made), "--count", "2", "--phantoms", "1", "--preset", "tiny", "--seed", "5"]
    recipe.main(make)
    assert sorted(path.name for path in made.iterdir()) == ["00000005.npz", "00000006.npz"]
    before = (made / "00000005.npz").stat().st_mtime_ns
    (made / "00000006.npz").unlink()
    recipe.main(make)
    assert (made / "00000005.npz").stat().st_mtime_ns == before and (made / "00000006.npz").exists()

    for stage in ("endpoint", "coarse", "prior", "control"):
        recipe.main(train_arguments(stage, made, run))
    model = recipe.open_run("tiny", run)
    assert model.card.stages == ("endpoint", "coarse", "fine")
    average = read_state(run / "endpoint" / "state.pt", model.film_to_volume)["ema"]["average"]
    assert same(dict(model.film_to_volume.state_dict()), average)
    sigma = float((run / "sigma.txt").read_text())
    assert model.config.bridge.sigma == sigma and model.config.bridge.s == pytest.approx(2 * sigma**2)
    fresh = PairDataset(made, model.config.hu_window)
    assert sigma == pytest.approx(recipe.residual_sd(model, fresh), abs=1e-4)


def test_the_papers_bridge_keeps_its_own_settings(tmp_path, monkeypatch):
    """sigma 0 asks for the plain target of the paper; training must not put a measured value in its place."""
    monkeypatch.setattr(recipe, "train", lambda *arguments: None)
    monkeypatch.setattr(recipe, "PairDataset", lambda *arguments, **options: None)
    preset = tmp_path / "plain.toml"
    text = (Path(recipe.__file__).parents[1] / "presets" / "tiny.toml").read_text()
    preset.write_text(text.replace("s = 0.1\nsigma = 0.2", "s = 1.0\nsigma = 0.0"))
    recipe.main(train_arguments("coarse", tmp_path, tmp_path, str(preset)))
    assert not (tmp_path / "sigma.txt").exists()


def test_the_recipe_tells_errors_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        recipe.main(train_arguments("endpoint", tmp_path, tmp_path))
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "no pairs" in told

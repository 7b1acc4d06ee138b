"""Runs on disk: exact after every kind of kill, the same over two processes, stopped with one line of advice."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from axon_core import cli
from axon_core.config import load_preset
from axon_core.data import pairs
from axon_core.data.pairs import PairDataset
from axon_core.errors import AxonError, ConfigError, DeviceError, ModelError, OutputError
from axon_core.model import AxonModel, ModelCard
from axon_core.training import recipe, run, sources, trainer, validate
from axon_core.training.checkpoint import PREVIOUS, STATE, read_state, save_state
from axon_core.training.events import Log, read_log
from axon_core.training.plot import plot_curves

sys.path.insert(0, str(Path(__file__).parent))
import training_data
from training_data import Few, few, settings, stage_of, tiny, train, write_pairs

WEIGHTS = {"endpoint": "film_to_volume", "prior": "prior"}


def same(one: Any, other: Any) -> bool:
    """Equality of nested states, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def curve(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock and the place."""
    clock = {"seconds", "step_s", "eta_s", "picture"}
    return [{key: value for key, value in event.items() if key not in clock} for event in read_log(folder)]


def state_of(folder: Path, name: str = "prior") -> dict[str, Any]:
    state = read_state(folder, getattr(tiny(), WEIGHTS[name]))
    return {key: value for key, value in state.items() if key != "seconds"}


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts functions of `training_data` in processes of their own, which are forked from one with torch loaded."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("no forkserver on this system")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "lightning_fabric", "monai.networks.nets.controlnet", "training_data"])

    def start(target: Any, *arguments: Any) -> Any:
        process = context.Process(target=target, args=(*arguments, torch.get_num_threads()))
        process.start()
        return process

    return start


# --- stopping and going on -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the prior without interruption."""
    folder = tmp_path_factory.mktemp("one-go") / "prior"
    training_data.prior_run(folder)
    assert [e["step"] for e in read_log(folder) if e["type"] == "progress"] == [10, 20, 23]
    assert [e["step"] for e in read_log(folder) if e["type"] == "validation"] == [10, 20, 23]
    return folder


@pytest.mark.parametrize(
    ("when", "step"),
    [("in a step", 12), ("while writing", 12), ("between renames", 12), ("long after a save", 15)],
)
def test_a_killed_run_goes_on_as_if_never_killed(when, step, processes, one_go, tmp_path):
    folder = tmp_path / "prior"
    child = processes(training_data.killed_run, folder, when)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert (folder / STATE).exists() == (when != "between renames")
    assert read_state(folder, tiny().prior)["step"] == step
    stage = training_data.prior_run(folder)
    assert curve(folder) == curve(one_go)
    assert same(state_of(folder), state_of(one_go))
    assert same(dict(stage.trained.state_dict()), state_of(one_go)["ema"]["average"])
    assert not list(folder.glob(".partial-*state.pt"))


def test_a_run_stopped_by_its_owner_goes_on_and_a_finished_one_only_gives_its_average(one_go, tmp_path):
    stage, asked = stage_of("prior", tiny(), steps=training_data.STEPS, micro=1, validate=10), []
    data = few()
    with pytest.raises(trainer.Stopped) as caught:
        train(stage, data, tmp_path / "prior", cases=data.items[:1], stop=lambda: asked.append(1) or len(asked) == 5)
    assert caught.value.exit_code == 130 and "step 5 of 23" in caught.value.title
    assert read_state(tmp_path / "prior", tiny().prior)["step"] == 5
    training_data.prior_run(tmp_path / "prior")
    assert curve(tmp_path / "prior") == curve(one_go)
    assert same(state_of(tmp_path / "prior"), state_of(one_go))
    before = (tmp_path / "prior" / STATE).stat().st_mtime_ns
    again = training_data.prior_run(tmp_path / "prior")
    assert (tmp_path / "prior" / STATE).stat().st_mtime_ns == before
    average = state_of(one_go)["ema"]["average"]
    assert same(dict(again.trained.state_dict()), average) and not same(average, state_of(one_go)["trained"])
    assert not any(p.requires_grad for p in again.trained.parameters())


def test_every_sample_of_a_run_is_another_one(tmp_path):
    data = few(3)
    train(stage_of("endpoint"), data, tmp_path)
    asked = [index for index in data.asked if index][-12:]
    assert len(set(asked)) == len(asked) >= 11


def test_validation_shows_the_averaged_weights_and_leaves_no_trace(tmp_path):
    data, told = few(), []
    plain, watched = stage_of("endpoint"), stage_of("endpoint")
    train(plain, data, tmp_path / "plain")
    validating = stage_of("endpoint", validate=2)
    train(validating, data, tmp_path / "watched", cases=data.items, tell=told.append)
    assert same(state_of(tmp_path / "plain", "endpoint"), state_of(tmp_path / "watched", "endpoint"))
    checks = [event for event in told if event["type"] == "validation"]
    assert [event["step"] for event in checks] == [2, 4, 6]
    with Image.open(checks[-1]["picture"]) as picture:
        assert picture.size == (6 * 16, 2 * 16)
    watched.trained.load_state_dict(state_of(tmp_path / "plain", "endpoint")["ema"]["average"])
    with torch.no_grad():
        volume = watched.volume(training_data.batch_of(data), None)
    _, target, weight = training_data.batch_of(data)
    errors = [float(((v - t)[w == 1].abs() / 2).mean()) for v, t, w in zip(volume, target, weight, strict=True)]
    assert checks[-1]["mae"] == pytest.approx(sum(errors) / 2, abs=1e-4)


def test_the_cases_are_kept_in_hu_as_the_picture_shows_them(tmp_path, monkeypatch):
    stage, data = stage_of("endpoint"), few()
    found = validate.validate(stage, data.items, torch.device("cpu"), tmp_path)
    window = load_preset("tiny").hu_window
    with np.load(tmp_path / validate.VOLUMES) as file:
        made, truth, affine = file["made"], file["truth"], file["affine"]
    _, target, _ = training_data.batch_of(data)
    assert made.dtype == truth.dtype == np.int16
    assert np.abs(truth - window.decode(target[:, 0]).numpy()).max() <= 0.5
    with Image.open(found["picture"]) as picture:
        shown = np.asarray(picture).reshape(2, 16, 6, 16).swapaxes(1, 2)
    grey = window.encode(made[:, :, 8].astype(float)) * 127.5 + 127.5
    assert np.abs(shown[:, 0] - grey[:, ::-1]).max() <= 1, "coronal, head up"
    np.testing.assert_allclose(affine @ [7.5, 7.5, 7.5, 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(np.diag(affine), [360 / 16] * 3 + [1])
    (tmp_path / validate.VOLUMES).unlink()
    monkeypatch.setattr(validate, "LARGEST", 15)
    validate.validate(stage, data.items, torch.device("cpu"), tmp_path)
    assert not (tmp_path / validate.VOLUMES).exists()


def test_mixed_precision_learns_and_keeps_full_weights(tmp_path):
    train(stage_of("endpoint", steps=2, precision="bf16"), few(), tmp_path)
    trained = state_of(tmp_path, "endpoint")["trained"]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in trained.values())


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "pickle"])
def test_a_damaged_state_is_passed_over_for_the_previous_one(tmp_path, damage):
    network = tiny().film_to_volume
    for step in (1, 2):
        save_state(tmp_path, {"trained": network.state_dict(), "step": step})
    path, ran = tmp_path / STATE, tmp_path / "ran"
    if damage == "foreign":
        torch.save(["what"], path)
    elif damage == "pickle":

        class Evil:
            def __reduce__(self) -> Any:
                return Path.touch, (ran,)

        torch.save({"trained": network.state_dict(), "step": Evil()}, path)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "truncated" else 0])
    assert read_state(tmp_path, network)["step"] == 1 and path.exists()
    assert read_state(tmp_path, network, repair=True)["step"] == 1 and not path.exists()
    assert not ran.exists()  # nothing in a file is executed
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        read_state(tmp_path, network)
    assert caught.value.code == "training.state" and caught.value.advice


def test_a_state_of_the_old_format_goes_on(tmp_path):
    """Runs from before states had records, seconds and a scaler, and logs had types."""
    stage = stage_of("endpoint", steps=3)
    train(stage, few(), tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    old = {key: state[key] for key in ("trained", "optimizer", "ema", "step")}
    torch.save(old, tmp_path / STATE)
    (tmp_path / "log.jsonl").write_text(
        '{"step": 3, "loss": 0.5, "lr": 0.1, "seconds": 2.0}\n{"step": 50, "loss": 1}\n'
    )
    train(stage_of("endpoint", steps=6), few(), tmp_path)
    assert read_state(tmp_path, tiny().film_to_volume)["step"] == 6
    assert [event["step"] for event in read_log(tmp_path)] == [3, 6]


def test_a_cut_line_of_the_log_is_left_out(tmp_path):
    log = Log(tmp_path, 0)
    for step in (10, 20):
        log({"type": "progress", "step": step})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"type": "progr')
    Log(tmp_path, 10).close()
    assert [event["step"] for event in read_log(tmp_path)] == [10]


# --- several processes -----------------------------------------------------------------------------------------------


def test_two_processes_take_the_step_of_one(processes, tmp_path):
    """After one step, Adam's first moment is a tenth of the averaged gradient."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [processes(training_data.process_of_two, rank, port, tmp_path / "two") for rank in range(2)]
    fabric = trainer.make_fabric("32", "cpu")
    for name, seed in training_data.JOBS:
        training_data.one_step(name, seed, tmp_path / "one", fabric)
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    for name, seed in training_data.JOBS:
        one, two = (torch.load(tmp_path / way / f"{name}-{seed}" / STATE, weights_only=True) for way in ("one", "two"))
        moments = [{k: s["exp_avg"] for k, s in state["optimizer"]["state"].items()} for state in (one, two)]
        assert moments[0].keys() == moments[1].keys()
        largest = max(float(m.abs().max()) for m in moments[0].values())
        assert largest > 0
        for key, value in moments[0].items():
            torch.testing.assert_close(moments[1][key], value, rtol=1e-4, atol=1e-5 * largest)
        losses = [read_log(tmp_path / way / f"{name}-{seed}")[0]["loss"] for way in ("one", "two")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path):
    for micro in (0, 1):
        fabric = trainer.make_fabric("32", "cpu")
        training_data.one_step("endpoint", 0, tmp_path / str(micro), fabric, micro=micro)
    one, two = (torch.load(tmp_path / str(m) / "endpoint-0" / STATE, weights_only=True)["optimizer"] for m in (0, 1))
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key]["exp_avg"], value["exp_avg"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("batch", [1, 4, 8, 12])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [0, 1, 3])
def test_the_shares_of_a_batch_make_the_batch(batch, world, micro):
    try:
        shares = [trainer.share(batch, micro, rank, world) for rank in range(world)]
    except ConfigError as error:
        assert error.code == "training.batch" and (batch % world or (batch // world) % min(micro, batch // world))
        return
    assert sorted(sample for parts in shares for part in parts for sample in part) == list(range(batch))
    assert all(len(part) <= (micro or batch) for parts in shares for part in parts)
    assert len({len(part) for parts in shares for part in parts}) == 1  # so that means of means are means


# --- bad input -------------------------------------------------------------------------------------------------------


def refused(kind: type[AxonError], code: str, stage: Any, data: Any, folder: Path, **options: Any) -> AxonError:
    with pytest.raises(kind) as caught:
        train(stage, data, folder, **options)
    assert caught.value.code == code and caught.value.title and caught.value.advice
    return caught.value


def test_one_case_is_too_few(tmp_path):
    refused(ConfigError, "training.one-case", stage_of("endpoint"), few(1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_of_other_sizes_are_told(tmp_path):
    error = refused(ConfigError, "training.other-size", stage_of("endpoint"), few(2, 32), tmp_path)
    assert "32" in error.title and "16" in error.title
    refused(ConfigError, "training.other-size", stage_of("super-resolution"), few(2, 16), tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_good_weights(tmp_path):
    class Poisoned(Few):
        def __getitem__(self, index: int) -> Any:
            films, target, weight = super().__getitem__(index)
            return films, target * (float("nan") if len(self.asked) > 7 else 1), weight

    error = refused(AxonError, "training.diverged", stage_of("endpoint"), Poisoned(few().items), tmp_path)
    assert "after step 3" in error.title
    assert state_of(tmp_path, "endpoint")["step"] == 3
    train(stage_of("endpoint", steps=3), few(), tmp_path / "good")
    train(stage_of("endpoint"), few(), tmp_path)  # with good data it goes on
    assert state_of(tmp_path, "endpoint")["step"] == 6


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, monkeypatch):
    stage = stage_of("endpoint")
    update = trainer.EMA.update

    def spoil(self: Any, module: Any) -> None:
        update(self, module)
        if self.updates == 4:
            next(module.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(trainer.EMA, "update", spoil)
    refused(AxonError, "training.diverged", stage, few(), tmp_path)
    assert state_of(tmp_path, "endpoint")["step"] == 3


def test_a_full_disk_is_told_and_the_last_state_stays(tmp_path, monkeypatch):
    real, calls = torch.save, []

    def full(state: Any, file: Any) -> None:
        calls.append(file)
        if len(calls) == 4:
            file.write(b"as much as fits")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    error = refused(OutputError, "output.cannot-write", stage_of("endpoint"), few(), tmp_path)
    assert "No space" in error.title
    assert state_of(tmp_path, "endpoint")["step"] == 3
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_does_not_suffice_is_told(tmp_path, monkeypatch, error):
    stage = stage_of("endpoint")

    def forward(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(stage.model.film_to_volume, "forward", forward)
    assert "--micro 1" in refused(DeviceError, "training.memory", stage, few(), tmp_path).advice


def test_a_state_of_another_network_is_told(tmp_path):
    save_state(tmp_path, {"trained": tiny().sr.state_dict(), "step": 1})
    refused(ModelError, "training.other-network", stage_of("endpoint"), few(), tmp_path)


def test_damaged_training_data_are_told(tmp_path):
    folder = write_pairs(tmp_path / "pairs", 3)
    (folder / "1.npz").write_bytes((folder / "1.npz").read_bytes()[:500])
    data = PairDataset(folder, load_preset("tiny").hu_window)
    refused(ConfigError, "training.data", stage_of("endpoint"), data, tmp_path / "run")


def test_a_cache_for_another_preset_is_refused(tmp_path, monkeypatch):
    class Plan:
        def check(self, config: Any) -> None:
            raise ConfigError("plan.other-preset", f"Made for another than {config.name}.", "Prepare it again.")

    monkeypatch.setattr(sources, "read_plan", lambda where: Plan())
    with pytest.raises(ConfigError, match="another than tiny"):
        sources.open_source(tmp_path, load_preset("tiny"))
    with pytest.raises(ConfigError, match="no folder"):
        sources.open_source(tmp_path / "nowhere", load_preset("tiny"))


# --- the run's folder ------------------------------------------------------------------------------------------------


def test_an_empty_run_is_untrained(tmp_path):
    model = run.open_run("tiny", tmp_path / "nothing")
    assert model.card.stages == () and model.config == load_preset("tiny")
    assert not (tmp_path / "nothing").exists()


def test_a_run_goes_on_with_its_own_preset_only(tmp_path):
    run.begin_run(tmp_path, "tiny", [], 0)
    run.begin_run(tmp_path, "tiny", [], 0)
    assert run.run_preset(tmp_path) == "tiny"
    with pytest.raises(ConfigError) as caught:
        run.begin_run(tmp_path, "small", [], 0)
    assert caught.value.code == "training.other-preset" and "--preset tiny" in caught.value.advice


def test_a_run_without_a_record_is_not_taken_for_one_of_another_preset(tmp_path):
    train(stage_of("endpoint", steps=1), few(), tmp_path / "endpoint")
    with pytest.raises(ModelError):
        run.begin_run(tmp_path, "small", [], 0)
    run.begin_run(tmp_path, "tiny", [], 0)
    assert run.run_preset(tmp_path) == "tiny"


def test_new_weights_follow_from_the_seed_whatever_happened_before(tmp_path):
    first = run.open_stage("prior", "tiny", tmp_path, settings(), seed=4)
    torch.randn(7)
    again, other = (run.open_stage("prior", "tiny", tmp_path, settings(), seed=seed) for seed in (4, 5))
    assert same(dict(first.trained.state_dict()), dict(again.trained.state_dict()))
    assert not same(dict(first.trained.state_dict()), dict(other.trained.state_dict()))


@pytest.mark.parametrize("name", ["coarse", "control", "super-resolution"])
def test_stages_are_trained_in_order(name, tmp_path):
    with pytest.raises(ModelError) as caught:
        run.open_stage(name, "tiny", tmp_path, settings())
    assert caught.value.code == "training.needs"


def test_residual_sd_counts_known_voxels_of_one_and_two_views():
    seen = []

    class Fake:
        def to(self, device):
            return self

        def endpoint(self, films: torch.Tensor) -> torch.Tensor:
            seen.append(films.shape[1])
            return torch.full((1, 1, 16, 16, 16), 0.1)

    class Drawn:
        def __getitem__(self, index: int) -> Any:
            target = 0.1 + 0.25 * torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(index))
            weight = torch.ones(1, 16, 16, 16)
            weight[:, :6] = 0.1
            target[:, :6] = 50.0
            return torch.zeros(2, 32, 32), target, weight

    assert run.residual_sd(Fake(), Drawn(), count=10) == pytest.approx(0.25, rel=0.02)
    assert seen == [1, 2] * 5


def test_the_papers_bridge_keeps_its_own_settings(tmp_path, monkeypatch):
    """sigma 0 asks for the plain target of the paper; training must not put a measured value in its place."""
    monkeypatch.setattr(run, "train", lambda *arguments, **options: None)
    monkeypatch.setattr(run, "open_stage", lambda *arguments: None)
    preset = tmp_path / "plain.toml"
    text = (Path(run.__file__).parents[1] / "presets" / "tiny.toml").read_text(encoding="utf-8")
    preset.write_text(text.replace("s = 0.1\nsigma = 0.2", "s = 1.0\nsigma = 0.0"))
    (tmp_path / "endpoint").mkdir()
    save_state(tmp_path / "endpoint", {"trained": tiny().film_to_volume.state_dict(), "step": 1})
    run.train_stage("coarse", str(preset), tmp_path, few(), settings(), trainer.make_fabric("32", "cpu"))
    assert not (tmp_path / "sigma.txt").exists()


# --- commands --------------------------------------------------------------------------------------------------------


def axon(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["train", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("data")
    return {
        "pairs": write_pairs(made / "pairs", 3),
        "fine": write_pairs(made / "fine", 2, size=32),
        "held": write_pairs(made / "held", 1, first=50),
    }


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """`axon train all`, two steps of each stage, as a program sees it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    options = ["--preset", "tiny", "--steps", 2, "--sr-data", folders["fine"], "--held-out", folders["held"]]
    done = axon("all", folders["pairs"], "-o", folder, *options, "--device", "cpu", "--tensorboard", "--json")
    assert done.exit_code == 0, done.output
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def test_train_all_tells_programs_every_stage(trained):
    folder, lines = trained
    assert [line["stage"] for line in lines if line["type"] == "progress"] == list(run.STAGES)
    assert [line["stage"] for line in lines if line["type"] == "validation"] == list(run.STAGES)[:4]
    assert lines[-1] == {"type": "result", "run": str(folder), "stages": list(run.STAGES)}
    sigma = float((folder / "sigma.txt").read_text())
    model = run.open_run("tiny", folder)
    assert model.card.stages == ("endpoint", "coarse", "fine", "super-resolution")
    assert model.config.bridge.sigma == sigma and model.config.bridge.s == pytest.approx(2 * sigma**2)


def test_tensorboard_has_losses_and_pictures(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"endpoint/progress/loss", "coarse/progress/lr", "endpoint/validation/psnr"} <= set(tags["scalars"])
    assert any("/progress/t" in tag for tag in tags["scalars"]) and "coarse/cases" in tags["images"]


def test_the_curves_are_drawn(trained, tmp_path):
    done = axon("watch", trained[0], "-o", tmp_path / "curves.png")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1500
        dark = sum(picture.convert("L").histogram()[:128])
    assert dark > 1000
    with pytest.raises(ConfigError, match="nothing to draw"):
        plot_curves(tmp_path, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_an_exported_run_reconstructs(trained, tmp_path, film_png):
    done = axon("export", trained[0], "-o", tmp_path / "mine", "--title", "My chests", "--default", "coarse")
    assert done.exit_code == 0, done.output
    model = AxonModel.from_pretrained(tmp_path / "mine")
    assert model.card.title == "My chests" and model.card.default_stages == ("coarse",)
    average = read_state(trained[0] / "endpoint", tiny().film_to_volume)["ema"]["average"]
    for key, value in model.film_to_volume.state_dict().items():
        torch.testing.assert_close(value, average[key], rtol=1e-3, atol=1e-4)
    assert "My chests" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "mine" / "curves.png").exists()
    arguments = ["reconstruct", film_png, "-o", tmp_path / "out", "--model", tmp_path / "mine", "--device", "cpu"]
    made = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert made.exit_code == 0 and (tmp_path / "out" / "volume.nrrd").exists(), made.output
    assert axon("export", trained[0], "-o", tmp_path / "mine").exit_code == 6  # it is there already
    assert axon("export", tmp_path, "-o", tmp_path / "other").exit_code == 5  # no run
    assert axon("export", trained[0], "-o", tmp_path / "other", "--default", "what").exit_code == 2


def test_sigterm_saves_and_the_same_command_goes_on(folders, tmp_path, monkeypatch):
    command = ["prior", folders["pairs"], "-o", tmp_path / "run", "--preset", "tiny", "--steps", 5, "--device", "cpu"]
    advance = trainer._Training._advance

    def terminated(self: Any, stop: Any) -> Any:
        if self.step == 2:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # clusters and launchers both pass it on
                os.kill(os.getpid(), number)
        return advance(self, stop)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_advance", terminated)
        done = axon(*command, "--json")
    assert done.exit_code == 130
    assert json.loads(done.stdout.splitlines()[-1])["code"] == "training.stopped"
    assert signal.getsignal(signal.SIGTERM) == handler
    assert read_state(tmp_path / "run" / "prior", tiny().prior)["step"] == 3
    assert axon(*command).exit_code == 0
    assert read_state(tmp_path / "run" / "prior", tiny().prior)["step"] == 5


def test_a_dry_run_tells_and_starts_nothing(folders, tmp_path):
    command = ["coarse", folders["pairs"], "-o", tmp_path / "run", "--preset", "tiny", "--dry-run", "--device", "cpu"]
    told = json.loads(axon(*command, "--json").stdout)
    assert [stage["stage"] for stage in told["stages"]] == ["endpoint", "coarse"]
    assert all(stage[key] > 0 for stage in told["stages"] for key in ("parameters", "flop", "memory", "seconds"))
    shown = axon(*command)
    assert shown.exit_code == 0 and "MiB" in shown.stdout and not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["coarse", "prior", "fine", "sr", "all", "watch", "export"])
def test_every_training_help_has_examples_and_exit_codes(command):
    text = " ".join(axon(command, "--help").stdout.split())
    assert "Examples" in text and f"axon train {command}" in text.replace("axon_core", "axon") and "Exit status" in text


def test_errors_of_training_are_one_line(tmp_path):
    told = axon("coarse", tmp_path / "nowhere", "-o", tmp_path / "run", "--json")
    assert told.exit_code == 2 and json.loads(told.stdout)["type"] == "error"
    shown = axon("coarse", tmp_path / "nowhere", "-o", tmp_path / "run")
    assert shown.exit_code == 2 and shown.output.count("\n") == 1


# --- recipe ----------------------------------------------------------------------------------------------------------


def test_the_recipe_makes_pairs_and_trains_stage_after_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RENDER_SIZE", 32)
    made, folder = tmp_path / "made", tmp_path / "run"
    make = ["pairs", "--out", str(made), "--count", "2", "--phantoms", "1", "--preset", "tiny", "--seed", "5"]
    recipe.main(make)
    assert sorted(path.name for path in made.iterdir()) == ["00000005.npz", "00000006.npz"]
    before = (made / "00000005.npz").stat().st_mtime_ns
    (made / "00000006.npz").unlink()
    recipe.main(make)
    assert (made / "00000005.npz").stat().st_mtime_ns == before and (made / "00000006.npz").exists()
    for stage in ("endpoint", "coarse"):
        sizes = f"--preset tiny --steps 1 --batch 1 --threads {torch.get_num_threads()}".split()
        recipe.main(["train", stage, "--pairs", str(made), "--run", str(folder), *sizes])
    recipe.main(
        ["ship", "--run", str(folder), "--out", str(tmp_path / "out"), "--default", "endpoint", "--preset", "tiny"]
    )
    assert AxonModel.from_pretrained(tmp_path / "out").card == ModelCard(
        stages=("endpoint", "coarse"), default_stages=("endpoint",)
    )


def test_the_recipe_tells_errors_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        recipe.main(["train", "endpoint", "--pairs", str(tmp_path), "--run", str(tmp_path), "--steps", "1"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "no prepared cache" in told

"""Preparing, training and exporting as jobs of the worker: what they tell, refuse, keep, and go on from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import chest_files
import training_data

from axon_core import job_train, selfcheck, worker
from axon_core.config import load_preset
from axon_core.errors import AxonError, ConfigError, DeviceError, ModelError, OutputError
from axon_core.job_export import ExportJob, better_stages
from axon_core.job_prepare import PrepareJob
from axon_core.job_train import TrainJob
from axon_core.model import WEIGHTS, ModelCard, inspect
from axon_core.selfcheck import MODEL_KEYS, report
from axon_core.training import chain, run, trainer
from axon_core.training.chain import RunData, begin_chain
from axon_core.training.checkpoint import read_state
from axon_core.training.estimate import Estimate
from axon_core.training.events import read_log
from axon_core.training.run import open_run
from axon_core.training.settings import StageSettings
from axon_core.training.sources import Source


def done(job: Any, events: list[Any] | None = None, staging: Any = None) -> dict[str, Any]:
    """The values of a job's result line; what it told on the way is appended to `events`."""

    def told(event: Any) -> bool:
        if events is not None:
            events.append(event)
        return True

    values: dict[str, Any] = job.run(staging or job.staging(), told).to_dict()
    json.dumps(values, allow_nan=False)
    return values


def training(folder: Path, **values: Any) -> TrainJob:
    """F(x) and bridge of the tiny preset on pairs, with few steps."""
    choices: dict[str, Any] = {"parts": ["coarse"], "preset": "tiny", "steps": 4, "device": "cpu"}
    places = {"data": str(folder / "pairs"), "output": str(folder / "run")}
    return TrainJob.from_dict({**choices, **places, **values})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spread on which the bridge is built is given, not measured."""
    monkeypatch.setattr(run, "residual_sd", lambda *_: 0.2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_data.write_pairs(tmp_path_factory.mktemp("data") / "pairs", 3)


@pytest.fixture
def here(pairs: Path, tmp_path: Path) -> Path:
    """A folder with pairs."""
    shutil.copytree(pairs, tmp_path / "pairs")
    return tmp_path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Any]]:
    """Two drawn chests and a file that is none, prepared; the result and the events."""
    folder = tmp_path_factory.mktemp("prepared")
    for seed in range(2):
        chest_files.save(folder / "in" / f"{seed}.nrrd", seed=seed)
    (folder / "in" / "broken.nrrd").write_bytes(b"NRRD0004\nno more")
    events: list[Any] = []
    values = {"source": str(folder / "in"), "output": str(folder / "cache"), "preset": "tiny", "split": [100, 0, 0]}
    return folder / "cache", done(PrepareJob.from_dict({**values, "workers": 1}), events), events


# ---- preparing


def test_every_case_is_told_with_its_picture_or_the_reason(cache):
    folder, result, events = cache
    cases = {event["name"]: event for event in events if isinstance(event, dict)}
    assert set(cases) == {"0", "1", "broken"} and all(event["type"] == "case" for event in cases.values())
    assert all(Path(cases[name]["picture"]).is_file() and not cases[name]["skipped"] for name in "01")
    assert cases["broken"]["picture"] is None and cases["broken"]["skipped"] == result["skipped"][0]["reason"]
    fractions = [event.fraction for event in events if not isinstance(event, dict)]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert result["counts"] == {"train": 2, "val": 0, "test": 0, "films": 0} and "val" in result["warnings"][0]
    assert Path(result["sheet"]).is_file() and not list(folder.parent.glob(".partial-*"))


def test_a_folder_without_cases_and_a_single_patient_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    values = {"source": str(tmp_path / "in"), "output": str(tmp_path / "cache"), "preset": "tiny", "workers": 1}
    with pytest.raises(ConfigError) as empty:
        done(PrepareJob.from_dict(values))
    assert empty.value.code == "manifest.empty"
    chest_files.save(tmp_path / "in" / "a.nrrd")
    with pytest.raises(ConfigError) as single:
        done(PrepareJob.from_dict(values))
    assert single.value.code == "prepare.one-patient" and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("source", ""), ("output", ""), ("split", [1, 2]), ("seed", -1), ("workers", -1)]
)
def test_wrong_values_of_a_preparation_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        PrepareJob.from_dict({"source": "s", "output": "o", key: value})


# ---- training


def test_progress_counts_all_stages_together(here):
    events: list[Any] = []
    result = done(training(here, steps=10), events)
    assert result["stages"] == ["endpoint", "coarse"] and result["run"] == str(here / "run")
    told = [(e["stage"], e["step"], e["fraction"]) for e in events if e["type"] == "progress"]
    assert told == [("endpoint", 10, 0.5), ("coarse", 10, 1.0)]


@pytest.mark.parametrize("way", ["signal", "file", "deaf"])
def test_a_training_that_is_asked_to_stop_saves_and_goes_on(here, way):
    """By a signal to the worker, by a file, and when nobody listens any more."""
    job = training(here, parts=["prior"], steps=20, stop_file=str(here / "stop"))
    staging, told = job.staging(), []

    def hear(event: dict[str, Any]) -> bool:
        told.append(event)
        if way == "signal":
            assert staging.claim() is False, "the worker must not end the process"
        elif way == "file":
            (here / "stop").touch()
        return way != "deaf"

    with pytest.raises(trainer.Stopped) as stopped:
        job.run(staging, hear)
    assert stopped.value.code == "training.stopped" and told[0]["step"] == 10
    step = read_state(here / "run" / "prior", open_run("tiny", here / "run").prior)["step"]
    assert 10 <= step <= 11
    if way == "signal":
        done(job)
        assert [e["step"] for e in read_log(here / "run" / "prior") if e["type"] == "progress"] == [10, 20]


def test_minutes_become_steps_once_and_stay_the_same(here, monkeypatch):
    monkeypatch.setattr(job_train, "TRIAL_S", 0.0)
    job = training(here, parts=["prior"], steps=None, minutes=0.02)
    done(job)
    budget = json.loads((here / "run" / "budget.json").read_text())["prior"]
    assert budget["steps"] == max(1, int(60 * 0.02 / budget["step_s"])) and budget["step_s"] > 0
    assert read_state(here / "run" / "prior", open_run("tiny", here / "run").prior)["step"] == budget["steps"]
    monkeypatch.setattr(trainer, "train", None)  # no second trial
    events: list[Any] = []
    done(job, events)
    assert events == [] and json.loads((here / "run" / "budget.json").read_text())["prior"] == budget
    assert not list(here.glob("axon-trial-*"))


def test_a_plan_counts_the_steps_that_were_asked_for_and_writes_nothing(here):
    plan = done(training(here, parts=["prior"], steps=50, dry_run=True))
    [stage] = plan["stages"]
    assert plan["cases"] == 3 and plan["device"] == "cpu" and not (here / "run").exists()
    assert stage["steps"] == 50 and stage["parameters"] > 1000 and stage["memory"] > 1e6 and stage["seconds"] > 0


def test_minutes_are_shared_and_a_plan_says_how_many_steps_fit():
    stages = (Estimate("endpoint", 1, 1.0, 1, 60, 30.0), Estimate("coarse", 1, 1.0, 1, 60, 600.0))
    plan = job_train.TrainingPlan("cpu", 3, 4.0, stages).to_dict()
    assert [(stage["steps"], stage["seconds"]) for stage in plan["stages"]] == [(240, 120.0), (12, 120.0)]


def test_chosen_lengths_are_validated_about_ten_times(here):
    settings = training(here, steps=150)._stages()
    assert {name: s.validate for name, s in settings.items()} == {"endpoint": 15, "coarse": 15}
    assert training(here, steps=30)._stages()["coarse"].validate == 10, "samples of a bridge take longer than steps"
    assert training(here, steps=9000)._stages()["coarse"].validate == 20, "as the preset says"


def refused(kind: type[AxonError], code: str, job: TrainJob) -> None:
    with pytest.raises(kind) as error:
        done(job)
    assert error.value.code == code and error.value.title and error.value.advice


def test_a_new_run_starts_with_the_weights_of_a_model_and_goes_on_with_its_own(here):
    done(training(here))
    info = run.export_run(here / "run", here / "model", ModelCard())
    other = {"output": str(here / "other"), "start": str(here / "model"), "parts": ["distill-coarse"], "steps": 2}
    done(training(here, **other))  # its teacher is the model's bridge
    assert (here / "other" / "start" / "model.safetensors").read_bytes() == (info.folder / WEIGHTS).read_bytes()
    shutil.rmtree(here / "model")
    done(training(here, **other))  # begun: the model is not asked for again


def test_what_cannot_be_trained_is_refused_before_it_begins(here, cache, monkeypatch):
    prepared = str(cache[0])
    refused(ConfigError, "training.no-data", training(here, data=str(here / "nowhere")))
    refused(ConfigError, "plan.missing", training(here, data=str(here)))
    refused(ConfigError, "plan.other-preset", training(here, data=prepared, preset="small"))
    refused(ConfigError, "plan.other-preset", training(here, data=prepared, preset="small", dry_run=True))
    refused(DeviceError, "device.missing", training(here, device="cuda"))
    assert not (here / "run").exists()
    for path in sorted((here / "pairs").iterdir())[1:]:
        path.unlink()
    refused(ConfigError, "training.one-case", training(here))
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    refused(ConfigError, "package.missing", training(here))


def test_a_student_learns_from_the_teacher_that_the_same_job_trains(here):
    events: list[Any] = []
    job = training(here, parts=["distill-coarse", "coarse"], steps=2, student_steps=1, teacher_steps=3)
    assert {name: (s.student_steps, s.teacher_steps) for name, s in job._stages().items()}["distill-coarse"] == (1, 3)
    assert done(job, events)["stages"] == ["endpoint", "coarse", "distill-coarse"]
    assert json.loads((here / "run" / "distill-coarse" / "times.json").read_text()) == [1.0]
    assert events[-1]["stage"] == "distill-coarse" and events[-1]["fraction"] == 1.0
    again = training(here, parts=["distill-coarse"], steps=3, student_steps=1)
    assert done(again)["stages"] == ["distill-coarse"], "its teacher is in the run"
    values = {"source": str(here / "run"), "output": str(here / "fast"), "distilled": True}
    assert done(ExportJob.from_dict(values))["stages"] == ["endpoint", "coarse"]
    assert inspect(here / "fast").config.bridge.times == (1.0,)


@pytest.mark.parametrize(
    ("parts", "missing"), [(["prior", "distill-fine"], "endpoint"), (["coarse", "prior", "distill-fine"], "control")]
)
def test_a_student_without_teacher_is_refused_before_anything_begins(here, parts, missing):
    with pytest.raises(ModelError) as error:
        done(training(here, parts=parts))
    assert error.value.code == "training.needs" and f"{missing!r}" in error.value.title
    assert not (here / "run").exists()


def test_the_data_are_varied_as_the_job_says(here, cache):
    """Phantoms and findings are told in the run; shapes of other CTs are refused before it begins."""
    choices = {"data": str(cache[0]), "parts": ["prior"], "steps": 1, "kept": 2}
    done(training(here, **choices, phantoms=0.25, findings=True))
    [facts] = json.loads((here / "run" / "run.json").read_text())["data"]
    assert (facts["phantoms"], facts["findings"], facts["kept"]) == (0.25, True, 2)
    job = {**choices, "output": str(here / "other"), "anatomy": str(here / "shapes.safetensors")}
    for dry_run in (True, False):
        refused(ModelError, "anatomy.missing", training(here, **job, dry_run=dry_run))
    assert not (here / "other").exists()


def test_stages_of_the_same_grid_share_their_data(cache):
    data = RunData(cache[0], load_preset("tiny"), kept=2)
    opened = data.open(["endpoint", "coarse", "super-resolution", "distill-fine"])
    assert opened["endpoint"] is opened["coarse"] is opened["distill-fine"]
    assert opened["super-resolution"].dataset.size == 2 * opened["endpoint"].dataset.size
    assert [data.cases(stage) for stage in opened] == [2, 2, 2, 2]


def test_an_epoch_is_a_pass_over_the_cases_not_over_what_was_drawn_from_them(here, monkeypatch):
    """A GPU holds more chests than there are cases."""
    drawn = Source(range(100), [], {"cases": 10})
    monkeypatch.setattr(chain, "open_source", lambda *_: drawn)
    [link] = begin_chain({"prior": StageSettings(epochs=3, batch=4)}, RunData(here, load_preset("tiny")), here, "tiny")
    assert (link.settings.steps, link.settings.epochs) == (8, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", ""),
        ("output", ""),
        ("parts", []),
        ("parts", ["coarse", "coarse"]),
        ("parts", ["endpoint"]),
        ("steps", 0),
        ("steps", True),
        ("minutes", -1),
        ("minutes", "5"),
        ("lr", 0),
        ("lr", float("nan")),
        ("micro", -1),
        ("recompute", "yes"),
        ("precision", 32),
        ("kept", -1),
        ("phantoms", 1.5),
        ("phantoms", "half"),
        ("anatomy", ""),
        ("start", ""),
        ("findings", 1),
        ("student_steps", 17),
        ("teacher_steps", 0),
        ("stop_file", 1),
    ],
)
def test_wrong_values_of_a_training_are_refused(key, value):
    with pytest.raises(ConfigError) as error:
        TrainJob.from_dict({"data": "d", "output": "o", key: value})
    assert error.value.code == f"job.{key.replace('_', '-')}" or key in error.value.title
    with pytest.raises(ConfigError):
        TrainJob.from_dict({"data": "d", "output": "o", "steps": 1, "minutes": 1.0})


# ---- export


def write_log(run: Path, stage: str, *psnr: float | None) -> None:
    (run / stage).mkdir(parents=True)
    lines = [
        {"type": "validation", "step": k, "loss": 1.0, **({} if p is None else {"psnr": p})} for k, p in enumerate(psnr)
    ]
    (run / stage / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("coarse", "fine", "chosen"),
    [
        (21.0, 22.0, ("endpoint", "coarse", "fine", "super-resolution")),
        (19.0, 19.5, ("endpoint", "super-resolution")),
        (21.0, 20.5, ("endpoint", "coarse", "super-resolution")),
        (None, None, ("endpoint", "super-resolution")),
    ],
)
def test_stages_run_by_default_where_they_were_better(tmp_path, coarse, fine, chosen):
    write_log(tmp_path, "endpoint", 10.0, 20.0)
    write_log(tmp_path, "coarse", 30.0, coarse)
    write_log(tmp_path, "control", fine)
    expected = ("endpoint", "coarse", "super-resolution") if coarse is None else chosen
    assert better_stages(tmp_path) == expected


def test_students_are_judged_in_their_teachers_places(tmp_path):
    write_log(tmp_path, "endpoint", 20.0)
    write_log(tmp_path, "coarse", 21.0)
    write_log(tmp_path, "distill-coarse", 19.0)
    (tmp_path / "distill-coarse" / "state.pt").touch()
    assert better_stages(tmp_path) == ("endpoint", "coarse", "super-resolution")
    assert better_stages(tmp_path, distilled=True) == ("endpoint", "super-resolution")


def test_an_exported_run_is_a_model_and_replaces_another_only_when_allowed(here, monkeypatch):
    done(training(here, steps=2))
    (here / "model").mkdir()
    (here / "model" / "mine.txt").write_text("stays")
    values = {"source": str(here / "run"), "output": str(here / "model"), "title": "Ours", "data": "drawn"}
    made = done(ExportJob.from_dict(values))
    assert made["stages"] == ["endpoint", "coarse"] and made["sha256"] == inspect(here / "model").sha256
    names = {"README.md", "curves.png", "mine.txt", "model.safetensors", "model.safetensors.sha256"}
    assert {path.name for path in (here / "model").iterdir()} == names
    assert not list(here.glob(".partial-*"))
    with pytest.raises(OutputError) as error:
        done(ExportJob.from_dict(values))
    assert error.value.code == "output.exists"
    again = done(ExportJob.from_dict({**values, "title": "Ours again", "overwrite": True}))
    assert again["title"] == "Ours again" and "# Ours again" in (here / "model" / "README.md").read_text()
    monkeypatch.setattr(selfcheck, "TRAINING_PACKAGES", {"no_such_module": "no-such-package"})
    told = report([str(here / "model"), str(here / "none")])
    assert told["problems"] == [] and "no-such-package" in told["training"][0]["title"], "only training lacks it"
    found = {model["name"]: model for model in told["models"]}
    assert found[str(here / "model")]["problem"] is None and found[str(here / "model")]["checksum_ok"] is True
    assert found[str(here / "none")]["problem"]["code"] == "model.not-found"
    assert all(set(model) == set(MODEL_KEYS) for model in found.values())


def test_nothing_to_export_is_told_and_writes_nothing(tmp_path):
    with pytest.raises(ModelError) as error:
        done(ExportJob.from_dict({"source": str(tmp_path / "run"), "output": str(tmp_path / "model")}))
    assert error.value.code == "training.nothing" and not list(tmp_path.iterdir())


# ---- the worker


class Stream:
    """A parent that reads some lines and then closes the pipe."""

    def __init__(self, lines: int) -> None:
        self.left, self.text = lines, ""

    def write(self, text: str) -> None:
        if not self.left:
            raise BrokenPipeError
        self.left -= 1
        self.text += text

    def flush(self) -> None:
        pass


def test_events_are_lines_and_a_closed_pipe_is_noticed():
    stream = Stream(1)
    watcher = worker.Watcher(worker.Lines(stream), None)  # type: ignore[arg-type]
    assert watcher({"type": "progress", "stage": "prior", "step": 3}) is True
    assert json.loads(stream.text) == {"type": "progress", "stage": "prior", "step": 3}
    assert watcher({"type": "note", "text": "?"}) is False

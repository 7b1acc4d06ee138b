"""`axon reproduce`: the whole chain on drawn chests, gone on with after a stop, and what is told before and after."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from axon_core import cli
from axon_core.config import load_preset
from axon_core.data import lidc
from axon_core.data.plan import Layout
from axon_core.errors import AxonError, Cancelled, ConfigError
from axon_core.model import AxonModel, inspect
from axon_core.reproduction.cost import Cost, Data, costs, training_flop
from axon_core.reproduction.job import Job
from axon_core.reproduction.record import RECORD, Record, Step, Watch, followers, walk
from axon_core.reproduction.steps import reproduce, steps

sys.path.insert(0, str(Path(__file__).parent))
import chest_files

PARTS = ("train", "train", "val", "test")
REAL = Path(__file__).parents[3] / "shared" / "data" / "ct"


def axon(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["reproduce", *map(str, arguments)])


@pytest.fixture(scope="module")
def cts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chests and which part each belongs to."""
    folder = tmp_path_factory.mktemp("cts")
    lines = ["patient,ct,split"]
    for number, part in enumerate(PARTS):
        chest_files.save(folder / f"{number}.nii.gz", seed=number, slices=60)
        lines.append(f"P{number},{number}.nii.gz,{part}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def chests(cts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with real CTs, where the checkout has them beside it."""
    real = [REAL / f"lidc-idri-{number:04d}.nii.gz" for number in (1, 5, 6, 9)]
    if not all(path.is_file() for path in real):
        return cts
    folder = tmp_path_factory.mktemp("real")
    lines = [f"P{number},{number}.nii.gz,{part}" for number, part in enumerate(PARTS)]
    (folder / "manifest.csv").write_text("\n".join(["patient,ct,split", *lines]) + "\n")
    for number, path in enumerate(real):
        (folder / f"{number}.nii.gz").write_bytes(path.read_bytes())
    return folder


def options(cts: Path, **changes: Any) -> list[object]:
    """Of a run of seconds: four steps of each stage on two drawn chests."""
    values = {"data": cts, "preset": "tiny", "steps": 4, "kept": 2, "seeds": 1, "tables": "table1", "pictures": 0}
    values |= {"baselines": "nearest,regression", "workers": 1, "device": "cpu", **changes}
    return [part for name, value in values.items() for part in (f"--{name}", value)]


# --- the chain -------------------------------------------------------------------------------------------------------


def test_from_cts_to_tables_in_one_command_and_the_same_command_goes_on(chests, tmp_path):
    out = tmp_path / "out"
    plan = axon("-o", out, *options(chests), "--dry-run")
    assert plan.exit_code == 0 and "train coarse" in plan.stdout and "4 CTs" in plan.stdout and not out.exists()
    refused = CliRunner().invoke(cli.app, ["reproduce", "-o", str(out), *map(str, options(chests))], input="n\n")
    assert refused.exit_code == 0 and not out.exists()

    events = [json.loads(line) for line in axon("-o", out, *options(chests), "--json").stdout.splitlines()]
    assert events[0]["type"] == "plan" and events[-1] == {"type": "result", "report": str(out / "REPORT.md")}
    done = [event["step"] for event in events if event["type"] == "finished"]
    assert done == [step["step"] for step in events[0]["steps"]] and done[0] == "prepare" and done[-1] == "report"
    report = (out / "REPORT.md").read_text()
    for link in ("tables/table1/report.md", "models/axon/curves.png", "models/regression/curves.png"):
        assert link in report and (out / link).is_file()
    for label in ("AXON CoarseDiff", "AXON in few steps", "Regression F(x)", "Nearest film", "mean volume"):
        assert label in (out / "tables/table1/report.md").read_text()

    models = {name: inspect(out / "models" / name) for name in ("axon", "axon-few-steps", "axon-without-synthetic")}
    assert models["axon-few-steps"].config.bridge.times == (1.0,)
    assert models["axon-few-steps"].config.diffusion.times == (400, 200)
    assert models["axon"].card.default_stages == ("endpoint", "coarse", "fine", "super-resolution")
    assert "Training FLOP" in models["axon"].card.notes
    sharp = [AxonModel.from_pretrained(out / "models" / name).sr.state_dict() for name in models]
    assert all((sharp[0][key] == sharp[1][key]).all() for key in sharp[0])
    assert not all((sharp[0][key] == sharp[2][key]).all() for key in sharp[0])

    (out / "models/axon/model.safetensors").unlink()  # nothing is done again, so nobody misses it
    again = [json.loads(line) for line in axon("-o", out, *options(chests), "--json").stdout.splitlines()]
    assert all(step["done"] for step in again[0]["steps"])
    assert all(event["seconds"] is None for event in again if event["type"] == "finished")
    shown = axon("-o", out, *options(chests), "--yes")
    assert shown.exit_code == 0 and f"{len(done)}/{len(done)} report: REPORT.md (done before)" in shown.stdout


def test_a_stopped_run_keeps_what_it_has_and_goes_on(cts, tmp_path):
    job = Job(tmp_path / "out", cts, "tiny", baselines=(), distill=False, tables=(), steps=3, kept=2, device="cpu")
    told: list[str] = []
    with pytest.raises(AxonError) as caught:
        reproduce(job, watch=Watch(told.append, lambda: any("of 3" in text for text in told) or len(told) > 5))
    assert caught.value.exit_code == 130 and caught.value.title.startswith("train endpoint: Stopped after step 1")
    assert "Done: prepare." in caught.value.advice and list(Record.of(job.output).steps) == ["prepare"]
    seen: list[tuple[str, float | None]] = []

    def finished(number: int, count: int, name: str, line: str, seconds: float | None) -> None:
        seen.append((name, seconds))
        if name == "train endpoint":
            raise Cancelled

    with pytest.raises(Cancelled):
        reproduce(job, finished)
    assert [name for name, _ in seen] == ["prepare", "train endpoint"] and seen[0][1] is None and seen[1][1] is not None


# --- steps -----------------------------------------------------------------------------------------------------------


def plan_of(calls: list[str], asked: int = 1, failing: str = "") -> list[Step]:
    """a, b on a, c, d on b."""

    def work(name: str, watch: Watch) -> str:
        if name == failing:
            raise ConfigError("test.failed", "It broke.", "Mend it.")
        calls.append(name)
        return f"did {name}"

    from functools import partial

    after = {"a": (), "b": ("a",), "c": (), "d": ("b",)}
    return [Step(n, {"asked": asked if n == "a" else 0}, after[n], partial(work, n)) for n in after]


def test_a_step_is_done_again_when_what_is_asked_changes_and_so_is_what_builds_on_it(tmp_path):
    calls: list[str] = []
    for asked, expected in ((1, "abcd"), (1, ""), (2, "abd"), (2, "")):
        calls.clear()
        walk(plan_of(calls, asked), Record.of(tmp_path), lambda *_: None, Watch())
        assert "".join(calls) == expected
    assert followers(plan_of([]), "a") == ["a", "b", "d"] and followers(plan_of([]), "c") == ["c"]


def test_what_builds_on_a_step_that_is_begun_again_is_not_done_even_if_it_fails(tmp_path):
    calls: list[str] = []
    walk(plan_of(calls), Record.of(tmp_path), lambda *_: None, Watch())
    with pytest.raises(ConfigError) as caught:
        walk(plan_of(calls, 2, failing="b"), Record.of(tmp_path), lambda *_: None, Watch())
    assert caught.value.code == "test.failed" and caught.value.title == "b: It broke."
    assert caught.value.advice == "Mend it. Done: a. The same command goes on."
    assert sorted(Record.of(tmp_path).steps) == ["a", "c"]
    calls.clear()
    walk(plan_of(calls, 2), Record.of(tmp_path), lambda *_: None, Watch())
    assert "".join(calls) == "bd"


def test_other_folders_and_damaged_records_are_told(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other things"):
        Record.of(tmp_path)
    (tmp_path / RECORD).write_text("{half")
    with pytest.raises(ConfigError, match="damaged"):
        Record.of(tmp_path)


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_costs_name_every_step_and_grow_with_what_is_asked(tmp_path):
    job = Job(tmp_path, tmp_path, "tiny", baselines=("x2ct-gan",), workers=2)
    found = costs(job, Data(100), 1e9)
    assert set(found) == {step.name for step in steps(job)} - {"report"}
    assert all(cost.seconds > 0 and cost.bytes > 0 for cost in found.values())
    slower = costs(job, Data(100), 0.5e9)
    assert slower["train coarse"].seconds == pytest.approx(2 * found["train coarse"].seconds)
    assert slower["prepare"] == found["prepare"]
    volume = 2 * Layout.of("tiny").render ** 3 + 4 * load_preset("tiny").film_size ** 2
    assert found["prepare"].bytes == 100 * volume
    twice = costs(job, Data(200), 1e9)
    assert twice["prepare"] == Cost(2 * found["prepare"].seconds, 2 * found["prepare"].bytes)
    fetched = costs(Job(tmp_path, None, "tiny", baselines=()), Data(1, 5e9), 1e9)["download"]
    assert fetched.bytes == 5e9 and fetched.seconds > 60
    assert training_flop(job, "axon-few-steps", 10) > training_flop(job, "axon", 10) > 0


def test_the_papers_settings_are_those_of_the_paper_in_its_window(tmp_path):
    job = Job(tmp_path, None, "axon-paper", baselines=())
    assert job.config.window == "axon-paper" and job.config.size == 128 and job.quality == "paper"
    assert job.settings("prior").epochs == 320 and job.settings("distill-coarse").student_steps == 1
    assert Layout.of("axon-paper").model == job.config
    names = [step.name for step in steps(job)]
    assert names[:2] == ["download", "prepare"] and names[-1] == "report"


def test_the_paper_preset_becomes_a_file_that_trains_the_same_networks(tmp_path):
    from axon_core.reproduction.steps import _write_paper_preset

    job = Job(tmp_path, None, "axon-paper", baselines=())
    _write_paper_preset(job)
    assert load_preset(job.training) == job.config


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"baselines": "magic"}, "no baseline 'magic'"),
        ({"tables": "table9"}, "No table 'table9'"),
        ({"split": "a,b"}, "not three numbers"),
    ],
)
def test_wrong_options_are_one_line(cts, tmp_path, changes, told):
    shown = axon("-o", tmp_path / "out", *options(cts, **changes))
    assert shown.exit_code == 2 and told in shown.output and shown.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_that_leave_nothing_to_judge_by_are_told(cts, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.nii.gz").write_bytes((cts / f"{number}.nii.gz").read_bytes())
    (tmp_path / "manifest.csv").write_text("patient,ct,split\nA,0.nii.gz,train\nB,1.nii.gz,train\n")
    told = json.loads(axon("-o", tmp_path / "out", *options(tmp_path), "--json").stdout.splitlines()[-1])
    assert told["code"] == "reproduce.no-case" and "'test'" in told["title"] and "split" in told["advice"]


def test_the_plan_of_a_download_needs_no_network(tmp_path, monkeypatch):
    from test_lidc import EVERY, Client

    monkeypatch.setattr(lidc, "open_index", Client)
    monkeypatch.setattr(lidc, "read_series", lambda client: EVERY)
    shown = axon("-o", tmp_path / "out", "--preset", "tiny", "--dry-run", "--device", "cpu", "--baselines", "none")
    assert shown.exit_code == 0 and "download" in shown.stdout and "2 CTs" in shown.stdout
    help_ = " ".join(axon("--help").stdout.split())
    assert "axon reproduce -o reproduction" in help_ and "Exit status" in help_

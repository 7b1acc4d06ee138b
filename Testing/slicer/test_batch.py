"""The batch script as a process of its own: many cases, exit statuses, resumed and cancelled."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "AXONReconstruction" / "Scripts" / "axon_batch.py"
FILM = next((ROOT / "Resources" / "Samples").glob("hannover_fff13f3a*.png"))
QUICK = ("--preset", "preview", "--device", "cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def batch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=ENVIRONMENT, timeout=300)


def manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "cases.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("axon_batch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["axon_batch"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with a good case and one whose film is none, done once."""
    folder = tmp_path_factory.mktemp("batch") / "Ä b"
    folder.mkdir()
    (folder / "good.png").write_bytes(FILM.read_bytes())
    (folder / "bad.png").write_text("no film")
    manifest(folder, "frontal,lateral,output\ngood.png,,out/good\nbad.png,,out/bad\n")
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> subprocess.CompletedProcess[str]:
    return batch("--manifest", folder / "cases.csv", *QUICK)


# ---- many cases


def test_one_bad_case_does_not_stop_the_others(folder: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 1, first.stderr
    assert (folder / "out" / "good" / "volume.nrrd").exists() and not (folder / "out" / "bad").exists()
    lines = first.stdout.splitlines()
    assert "2 cases: 1 done, 1 failed" in lines and lines[-1].strip() == str(folder / "out" / "bad")
    good = [line for line in lines if line.startswith("[1/2]")]
    assert any("F(x)" in line and "%" in line for line in good) and "done" in good[-1]
    assert any(line.startswith("[2/2]") and "FAILED" in line and "bad.png" in line for line in lines)


def test_the_same_command_continues_where_it_stopped(folder: Path, first) -> None:
    volume = folder / "out" / "good" / "volume.nrrd"
    before = volume.stat().st_mtime_ns
    (folder / "bad.png").write_bytes(FILM.read_bytes())
    again = batch("--manifest", folder / "cases.csv", *QUICK)
    assert again.returncode == 0, again.stdout
    assert "skipped" in again.stdout and volume.stat().st_mtime_ns == before
    assert (folder / "out" / "bad" / "volume.nrrd").exists()


def test_another_request_is_not_mistaken_for_the_same(folder: Path, first, script: ModuleType) -> None:
    output = folder / "out" / "good"
    case = script.Case(folder / "good.png", None, output)
    choices = json.loads((output / "request.json").read_text())
    choices = {name: choices[name] for name in ("model", "preset", "seeds", "device", "format")}
    assert script.isDone(output, script.identity(case, choices))
    assert not script.isDone(output, script.identity(case, {**choices, "seeds": [1]}))
    other = script.Case(folder / "good.png", folder / "good.png", output)
    assert not script.isDone(output, script.identity(other, choices))
    assert script.identity(script.Case(folder / "gone.png", None, output), choices) is None
    assert not script.isDone(folder, script.identity(case, choices))


def test_a_result_written_since_by_somebody_else_is_not_ours(folder: Path, first, script: ModuleType) -> None:
    output = folder / "out" / "good"
    wanted = json.loads((output / "request.json").read_text())
    del wanted["created"]
    provenance = output / "provenance.json"
    text = provenance.read_text(encoding="utf-8")
    assert script.isDone(output, wanted)
    try:
        provenance.write_text(json.dumps({**json.loads(text), "created": "later"}))
        assert not script.isDone(output, wanted)
    finally:
        provenance.write_text(text, encoding="utf-8")
    (output / "volume.nrrd").rename(output / "kept")
    try:
        assert not script.isDone(output, wanted)
    finally:
        (output / "kept").rename(output / "volume.nrrd")


def test_an_earlier_result_is_replaced_only_by_force(folder: Path, first) -> None:
    arguments = ("--frontal", folder / "good.png", "--output", folder / "out" / "good", *QUICK, "--format", "mha")
    refused = batch(*arguments)
    assert refused.returncode == 6 and "earlier result" in refused.stdout and "--force" in refused.stdout
    forced = batch(*arguments, "--force")
    assert forced.returncode == 0, forced.stdout
    assert {p.name for p in (folder / "out" / "good").glob("volume.*")} == {"volume.mha"}
    assert "skipped" in batch(*arguments).stdout and "skipped" not in batch(*arguments, "--force").stdout


# ---- one case


def test_a_single_case_ends_with_the_worker_s_status(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_text("no film")
    done = batch("--frontal", tmp_path / "f.png", "--output", tmp_path / "out")
    assert done.returncode == 3 and "FAILED" in done.stdout and not (tmp_path / "out").exists()


def children(parent: int) -> list[Path]:
    """The folders in /proc of a process's children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(status.parent)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_cancel_ends_the_child_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    arguments = ["--frontal", FILM, "--output", tmp_path / "out", "--preset", "paper", "--seeds", *range(64)]
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=ENVIRONMENT)
    workers: list[Path] = []
    try:
        while "coarse" not in (line := process.stdout.readline()):
            assert line, "it ended by itself"
        workers = children(process.pid)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 130 and "Cancelled" in rest
        assert workers and not list(tmp_path.iterdir())
        end = time.monotonic() + 60
        while any(worker.exists() for worker in workers):
            assert time.monotonic() < end, "the worker lives"
            time.sleep(0.05)
    finally:
        process.kill()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker.name), signal.SIGKILL)


def test_progress_is_told_by_stages_and_tenths(script: ModuleType, capsys: pytest.CaptureFixture) -> None:
    def progress(stage: str, fraction: float, eta: float | None = None) -> dict:
        return {"type": "progress", "stage": stage, "fraction": fraction, "eta_s": eta}

    class Worker:
        rounds = iter(
            [
                [progress("model", 0.0), progress("model", 0.04), {"type": "preview"}, {"type": "log", "text": "?"}],
                [progress("F(x)", 0.04, 59.6), progress("F(x)", 0.31), progress("F(x)", 0.39)],
                [{"type": "warning", "text": "crooked"}, {"type": "result"}],
            ]
        )

        def events(self) -> list[dict]:
            return next(self.rounds)

    assert script.follow(Worker(), "[1/1] o", False) == {"type": "result"}
    assert capsys.readouterr().out.splitlines() == [
        "[1/1] o: model 0 %",
        "[1/1] o: F(x) 0 %, about 60 s left",
        "[1/1] o: F(x) 30 %",
        "[1/1] o: note: crooked",
    ]


# ---- the command line


def test_help_shows_examples_in_letters_every_system_reads() -> None:
    done = batch("--", "--help")
    assert done.returncode == 0 and "Slicer --no-main-window --python-script" in done.stdout
    assert "cases.csv" in done.stdout and "not for diagnosis" in done.stdout
    SCRIPT.read_bytes().decode("ascii")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--frontal"),
        (("--frontal", "a.png"), "--output"),
        (("--manifest", "c.csv", "--output", "o"), "takes the place"),
        (("--manifest", "nowhere.csv"), "cannot be read"),
        (("--frontal", "a", "--output", "o", "--seeds", "x"), "seeds"),
        (("--preset", "best"), "preset"),
    ],
)
def test_a_wrong_command_line_is_told(script: ModuleType, capsys: pytest.CaptureFixture, arguments, word: str) -> None:
    assert script.main(list(arguments)) == 2
    assert word in capsys.readouterr().err


def test_a_manifest_as_spreadsheets_write_it(script: ModuleType, tmp_path: Path) -> None:
    text = 'output , frontal,lateral\r\n"o, 1",a b.png,\r\n\r\n/abs/o,/abs/f.png, l.png \r\n'
    cases = script.readManifest(manifest(tmp_path, text, "utf-8-sig"))
    assert cases == [
        script.Case(tmp_path / "a b.png", None, tmp_path / "o, 1"),
        script.Case(Path("/abs/f.png"), tmp_path / "l.png", Path("/abs/o")),
    ]
    assert script.readManifest(manifest(tmp_path, "frontal,output\nf.png,o\n"))[0].lateral is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "none"),
        ("frontal,lateral,output\n", "no case"),
        ("frontal;lateral;output\na;b;c\n", "columns"),
        ("frontal,output,colour\na,b,red\n", "columns"),
        ("frontal,lateral,output\n,l,o\n", "line 2"),
        ("frontal,lateral,output\na,l,o\nf,l\n", "line 3"),
        ("frontal,lateral,output\na,l,o,more\n", "line 2"),
        ("frontal,lateral,output\na,,o\nb,,x/../o\n", "same output"),
        ("frontal,lateral,output\na,,\udcff\n", "cannot be read"),
    ],
)
def test_a_wrong_manifest_is_told(script: ModuleType, tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(script.UsageError, match=word):
        script.readManifest(path)


# ---- in Slicer


def test_as_slicer_runs_it(tmp_path: Path) -> None:
    """Slicer executes the text in __main__ with its arguments behind the script's name, and is to be left by its own
    exit: an exception SystemExit would not end it."""
    (tmp_path / "f.png").write_text("no film")
    arguments = [str(SCRIPT), "--frontal", str(tmp_path / "f.png"), "--output", str(tmp_path / "out")]
    program = f"""
import sys, types
slicer = types.ModuleType("slicer")
slicer.app = object()
slicer.util = types.SimpleNamespace(exit=lambda status: print("left with", status))
sys.modules["slicer"] = slicer
sys.argv = {arguments!r}
__file__ = {os.path.relpath(SCRIPT, tmp_path)!r}
exec(open(__file__).read(), globals())
print("and goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, timeout=300
    )
    assert done.stdout.splitlines()[-2:] == ["left with 3", "and goes on"], done.stderr

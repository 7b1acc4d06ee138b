"""A worker process: every line arrives, its end is told once, and nothing of it outlives it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AXONReconstruction"))
from axon_core.errors import AxonError
from AXONLib.process import LAST, LOG_LINES, WorkerProcess, startWorker
from AXONLib.request import reconstructionRequest
from AXONLib.signal import Signal

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds until a test gives up; nothing here should come near it
GRANDCHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
say({"type": "pid", "pid": child.pid})
"""


class Child:
    """A Python script run as a worker; `say` prints a JSON line."""

    def __init__(self, folder: Path, program: str) -> None:
        script = folder / "Ä b.py"
        script.write_text(f"import json\ndef say(event): print(json.dumps(event), flush=True)\n{program}", "utf-8")
        self.process = WorkerProcess([sys.executable, script])
        self.events: list[dict] = []

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.events[-3:]
            self.events += self.process.events()
            time.sleep(0.01)

    def last(self) -> dict:
        self.until(lambda: bool(self.events) and self.events[-1]["type"] in LAST)
        assert self.process.returnCode is not None
        return self.events[-1]

    def pids(self, count: int = 1) -> list[int]:
        """Process numbers that the child has told."""
        self.until(lambda: sum(event["type"] == "pid" for event in self.events) >= count)
        return [event["pid"] for event in self.events if event["type"] == "pid"]


@pytest.fixture
def run(tmp_path: Path):
    children: list[Child] = []

    def start(program: str) -> Child:
        children.append(Child(tmp_path, program))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()


def lives(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def assert_gone(*pids: int) -> None:
    end = time.monotonic() + PATIENCE
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < end, "still there"
        time.sleep(0.01)


# ---- lines


def test_lines_arrive_in_order_and_the_last_one_ends_it(run) -> None:
    child = run('for i in range(50): say({"type": "progress", "i": i})\nsay({"type": "result", "output": "Ä"})')
    assert child.last() == {"type": "result", "output": "Ä"}
    assert [event["i"] for event in child.events[:-1]] == list(range(50))
    assert child.process.returnCode == 0 and child.process.events() == []


def test_long_lines_arrive_whole(run) -> None:
    child = run('for i in range(400): say({"type": "progress", "i": i, "pad": "x" * 20000})\nsay({"type": "result"})')
    child.last()
    assert [event["i"] for event in child.events[:-1]] == list(range(400))
    assert all(len(event["pad"]) == 20000 for event in child.events[:-1])


def test_what_is_no_json_line_is_told_as_log(run) -> None:
    child = run('print("hello")\nprint("[1]")\nprint(json.dumps({"stage": 1}))\nsay({"type": "result"})')
    child.last()
    assert [event["text"] for event in child.events[:-1]] == ["hello", "[1]", '{"stage": 1}']


def test_standard_error_is_kept_apart_and_bounded(run) -> None:
    child = run('import sys\nfor i in range(1000): print("é", i, file=sys.stderr)\nsay({"type": "result"})')
    child.last()
    assert len(child.events) == 1
    assert child.process.log.splitlines() == [f"é {i}" for i in range(1000 - LOG_LINES, 1000)]


def test_an_error_line_is_handed_on(run) -> None:
    child = run('say({"type": "error", "code": "film.black", "title": "T", "advice": "A"})\nraise SystemExit(3)')
    assert child.last()["code"] == "film.black" and child.process.returnCode == 3


def test_only_the_first_last_line_counts(run) -> None:
    child = run('say({"type": "result", "n": 1})\nsay({"type": "error", "n": 2})')
    assert child.last()["n"] == 1 and len(child.events) == 1


# ---- ends


def test_a_worker_that_says_nothing_is_an_error(run) -> None:
    child = run('import sys\nprint("why", file=sys.stderr)\nsys.exit(9)')
    last = child.last()
    assert last["code"] == "worker.ended" and "9" in last["title"] and last["advice"]
    assert child.process.log == "why"


def test_a_worker_that_says_nothing_leaves_no_grandchild(run) -> None:
    child = run(GRANDCHILD)
    assert child.last()["code"] == "worker.ended"
    assert_gone(*child.pids())


def test_a_worker_that_is_killed_is_an_error(run) -> None:
    child = run('import time\nsay({"type": "pid", "pid": 1})\ntime.sleep(600)')
    child.pids()
    os.kill(child.process.pid, signal.SIGKILL)
    last = child.last()
    assert last["code"] == "worker.killed" and "9" in last["title"] and last["advice"]


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AxonError) as caught:
        WorkerProcess([tmp_path / "no python"])
    assert caught.value.code == "worker.start" and "no python" in caught.value.advice


def test_the_end_of_the_process_ends_it_although_a_grandchild_holds_its_output(run) -> None:
    child = run(GRANDCHILD + 'say({"type": "result"})')
    assert child.last()["type"] == "result"
    assert_gone(*child.pids())


def test_a_grandchild_that_left_the_group_does_not_delay_the_end(run) -> None:
    child = run(GRANDCHILD.replace("])", "], start_new_session=True)") + 'say({"type": "result"})')
    assert child.last()["type"] == "result"
    os.kill(child.pids()[0], signal.SIGKILL)


def test_a_worker_that_stays_after_its_last_line_is_ended(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("AXONLib.process.EXIT_SECONDS", 0.2)
    child = run('import time\nsay({"type": "result"})\ntime.sleep(600)')
    assert child.last()["type"] == "result"
    assert_gone(child.process.pid)


# ---- cancel


def test_a_cancelled_worker_has_its_say(run) -> None:
    child = run(
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        '    say({"type": "error", "code": "cancelled", "title": "mine", "advice": ""})\n'
        "    os._exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        'say({"type": "pid", "pid": os.getpid()})\n'
        "while True: time.sleep(1)"
    )
    child.pids()
    child.process.cancel()
    assert child.last()["title"] == "mine" and child.process.returnCode == 130


def test_cancel_ends_the_whole_tree(run) -> None:
    child = run(GRANDCHILD + "import time\ntime.sleep(600)")
    pids = child.pids()
    child.process.cancel()
    assert child.last()["code"] == "cancelled"
    assert_gone(child.process.pid, *pids)


def test_cancel_ends_a_tree_that_does_not_listen(run) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"  # children inherit it
    child = run(f"{deaf}\n{GRANDCHILD}\nimport time\ntime.sleep(600)")
    pids = child.pids()
    child.process.cancel(graceSeconds=0.1)
    assert child.last()["code"] == "cancelled" and child.process.returnCode == -signal.SIGKILL
    assert_gone(child.process.pid, *pids)


def test_behind_a_launcher_the_worker_keeps_its_grace(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher dies of the signal at once; the worker, its child, still tidies up and says so."""
    monkeypatch.setattr("AXONLib.process.DRAIN_SECONDS", 0.01)
    worker = (
        "import json, os, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(0.3)\n"
        "    print(json.dumps({'type': 'error', 'code': 'cancelled', 'title': 'tidy', 'advice': ''}), flush=True)\n"
        "    os._exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print(json.dumps({'type': 'pid', 'pid': os.getpid()}), flush=True)\n"
        "while True: time.sleep(1)"
    )
    child = run(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {worker!r}])")
    pids = child.pids()
    child.process.cancel(graceSeconds=PATIENCE)
    assert child.last()["title"] == "tidy" and child.process.returnCode == -signal.SIGTERM
    assert_gone(*pids)


def test_kill_ends_the_tree_at_once(run) -> None:
    child = run(GRANDCHILD + "import time\ntime.sleep(600)")
    pids = child.pids()
    child.process.kill()
    assert child.process.returnCode is not None
    assert_gone(child.process.pid, *pids)
    assert child.last()["code"] == "cancelled"


# ---- the real worker


def test_a_film_is_reconstructed(tmp_path: Path) -> None:
    folder = tmp_path / "Ä b"
    film = next((ROOT / "Resources" / "Samples").glob("hannover_*.png"))
    request = reconstructionRequest(
        film, None, folder / "out", preset="preview", seeds=[0], device="cpu", previews=True, view=None
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = Child.__new__(Child)
    child.process, child.events = startWorker(request, folder, sys.executable, environment), []
    last = child.last()
    assert last["type"] == "result", (last, child.process.log)
    assert json.loads((folder / "job.json").read_text("utf-8")) == request and "view" not in request
    assert Path(last["files"]["volume"]).parent == folder / "out"
    assert {event["type"] for event in child.events} >= {"progress", "preview"}


# ---- signals


def test_a_failing_handler_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []
    told = Signal()
    for handler in (heard.append, lambda _: 1 / 0, lambda x: heard.append(-x)):
        told.connect(handler)
    with caplog.at_level(logging.ERROR):
        told.emit(5)
    assert heard == [5, -5] and "ZeroDivisionError" in caplog.text


def test_disconnected_handlers_are_not_called_not_even_in_the_same_round() -> None:
    heard: list[str] = []
    told = Signal()

    def first() -> None:
        heard.append("first")
        told.disconnectAll()

    told.connect(first)
    told.connect(first)
    told.connect(lambda: heard.append("second"))
    told.emit()
    told.emit()
    assert heard == ["first"]
    told.disconnect(first)

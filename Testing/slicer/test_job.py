"""A job in the event loop: its lines arrive there, its end is told once, and it can be cancelled, stopped or left."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AXONReconstruction"))
from AXONLib.process import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
SAY = "import json, time\ndef say(**event): print(json.dumps(event), flush=True)\n"
ENDLESS = 'say(type="progress")\nwhile True: time.sleep(1)'


class Listener:
    """A job of a little Python program, and what it told."""

    def __init__(self, program: str) -> None:
        from AXONLib.job import Job

        self.job = Job(WorkerProcess([sys.executable, "-c", SAY + program]))
        self.events: list[dict] = []
        self.ends: list[dict] = []
        self.job.event.connect(self.events.append)
        self.job.finished.connect(self.ends.append)


@pytest.fixture
def listen(hosted):
    listeners: list[Listener] = []

    def start(program: str) -> Listener:
        listeners.append(Listener(program))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.job.stop()


def until(condition: Callable[[], object]) -> None:
    """Turn the event loop."""
    import slicer

    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        slicer.app.processEvents()
        time.sleep(0.005)


def rest() -> None:
    """Turn the event loop for more than one poll."""
    end = time.monotonic() + 0.3
    until(lambda: time.monotonic() > end)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_lines_and_the_end_arrive_in_the_event_loop(listen) -> None:
    told = listen('say(type="progress", n=1)\nsay(type="preview", n=2)\nsay(type="result", n=3)')
    assert told.job.running() and not told.events
    until(lambda: told.ends)
    assert [event["n"] for event in told.events] == [1, 2]
    assert told.ends == [{"type": "result", "n": 3}] and not told.job.running()
    rest()
    assert len(told.ends) == 1


def test_it_is_over_when_the_end_is_told(listen) -> None:
    told, running = listen('say(type="result")'), []
    told.job.finished.connect(lambda _: running.append(told.job.running()))
    until(lambda: running)
    assert running == [False]


def test_a_failing_handler_loses_neither_lines_nor_the_end(listen) -> None:
    told = listen('for i in range(3): say(type="progress", i=i)\nsay(type="result")')
    told.job.event.disconnectAll()
    told.job.event.connect(lambda event: 1 / 0)
    told.job.event.connect(told.events.append)
    until(lambda: told.ends)
    assert len(told.events) == 3


def test_cancel(listen) -> None:
    told = listen(ENDLESS)
    until(lambda: told.events)
    told.job.cancel()
    until(lambda: told.ends)
    assert told.ends[0]["code"] == "cancelled" and not told.job.running()


def test_stop_kills_and_tells_nobody(listen) -> None:
    told = listen(ENDLESS)
    until(lambda: told.events)
    count, pid = len(told.events), told.job._worker.pid
    told.job.stop()
    assert gone(pid) and not told.job.running()
    rest()
    assert not told.ends and len(told.events) == count
    told.job.stop()


def test_stop_from_within_a_handler(listen) -> None:
    told = listen('say(type="progress", i=0)\nsay(type="progress", i=1)\nsay(type="result")')
    while told.job._worker.returnCode is None:  # without the event loop: all lines then come at one poll
        time.sleep(0.01)
    told.job.event.disconnectAll()
    told.job.event.connect(lambda event: (told.events.append(event), told.job.stop()))
    until(lambda: told.events)
    rest()
    assert len(told.events) == 1 and not told.ends


def test_a_job_lives_without_being_held_and_through_a_scene_close(hosted) -> None:
    import slicer

    from AXONLib.job import Job

    ends: list[dict] = []
    Job(WorkerProcess([sys.executable, "-c", SAY + 'time.sleep(0.3)\nsay(type="result")'])).finished.connect(
        ends.append
    )
    slicer.mrmlScene.Clear(0)
    until(lambda: ends)
    assert ends == [{"type": "result"}]


def test_a_job_that_is_over_is_let_go(hosted) -> None:
    def run() -> weakref.ref:
        told = Listener('say(type="result")')
        until(lambda: told.ends)
        return weakref.ref(told.job)

    job = run()
    gc.collect()
    assert job() is None


def test_the_worker_is_asked_and_answers(hosted, tmp_path: Path) -> None:
    from AXONLib.job import startWorker

    folder = tmp_path / "Ä b"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job, ends = startWorker({"task": "dance"}, folder, sys.executable, environment), []
    job.finished.connect(ends.append)
    until(lambda: ends)
    assert ends[0]["type"] == "error" and ends[0]["code"].startswith("job.") and (folder / "job.json").exists()

"""A child process that speaks JSON lines, alone in its process group so that it can be ended with all its children.

No Qt and no MRML: a panel polls it from a timer, a script from a loop.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import axon_core
from axon_core.errors import AxonError, Cancelled
from axon_core.files import atomic_file

LAST = ("result", "error")  # the types of a last line
LOG_LINES = 200
EXIT_SECONDS = 5.0  # for a worker to go after its last line
DRAIN_SECONDS = 1.0  # for the last lines to arrive after the process has ended
WINDOWS = os.name == "nt"


def pythonExecutable() -> str:
    """The Python for child processes: PythonSlicer, which Slicer puts on its path; elsewhere the one that runs this."""
    return shutil.which("PythonSlicer") or sys.executable


def workerEnvironment() -> dict[str, str]:
    """The environment in which a child finds axon_core where this process found it."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(axon_core.__file__)))
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def startWorker(request: Mapping, folder: str | os.PathLike, executable: str, environment: Mapping) -> "WorkerProcess":
    """Start ``axon_core.worker`` on one request.

    Args:
        request: the job, see `AXONLib.request`.
        folder: gets ``job.json``.
        executable: a Python that has what axon_core needs.
        environment: of the child, all of it.

    Raises:
        AxonError: the job cannot be written or the process cannot be started.
    """
    job = Path(folder) / "job.json"
    with atomic_file(job, overwrite=True) as temporary:
        temporary.write_text(json.dumps(request, indent=2), encoding="utf-8")
    return WorkerProcess([executable, "-m", "axon_core.worker", str(job)], environment)


class WorkerProcess:
    """Ask `events` again and again until it hands out a last line, one whose type is in `LAST`.

    The last line comes when nothing is left running: when the process has ended, whether or not somebody still holds
    its output, and what it left behind in its group has been killed. One that did not say how it ended gets an "error"
    line in its name. The process that was started may be a launcher (PythonSlicer is one) that dies of a signal while
    the worker behind it still cleans up; therefore a group that was asked to end keeps its grace.
    """

    def __init__(self, arguments: Sequence[str | os.PathLike], environment: Mapping[str, str] | None = None) -> None:
        """Start it; AxonError if that is not possible."""
        environment = {**(os.environ if environment is None else environment)}
        # unbuffered lines; and no module of the folder that Slicer was started in may hide a library's
        environment.update(PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8", PYTHONSAFEPATH="1")
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW if WINDOWS else 0
        try:
            self._process = subprocess.Popen(
                [os.fspath(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                encoding="utf-8",
                errors="replace",
                creationflags=flags,
                start_new_session=not WINDOWS,
            )
        except OSError as error:
            raise AxonError(
                "worker.start",
                f"The worker could not be started: {error.strerror}.",
                f"Check that {os.fspath(arguments[0])} is there and may be run.",
            ) from error
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._reader = _started(self._process.stdout, self._lines.put)
        self._logReader = _started(self._process.stderr, self._log.append)
        self._last: dict | None = None
        self._cancelled = self._finished = self._killed = False
        self._killAt: float | None = None  # when what is left of the group is killed
        self._endedAt: float | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returnCode(self) -> int | None:
        """Exit status of the process, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """The last lines of standard error."""
        return "\n".join(list(self._log))

    def events(self) -> list[dict]:
        """The JSON lines that arrived since the last call; a line that is none comes as type "log" with its "text".

        The last line is the last event that is ever returned.
        """
        if self._finished:
            return []
        # looked at before the lines are taken: what was written before the end is then among them
        ended = self._hasEnded()
        events = []
        for _ in range(self._lines.qsize()):  # not more, or a worker that never stops talking would hold us here
            event = _parsed(self._lines.get())
            if event["type"] not in LAST:
                events.append(event)
            elif self._last is None:
                self._last = event
                self._killAt = self._killAt or time.monotonic() + EXIT_SECONDS
        if ended:
            self._finished = True
            events.append(self._last or self._obituary())
        return events

    def cancel(self, graceSeconds: float = 1.0) -> None:
        """Ask the whole group to end; what is still there after the grace is killed by the next `events`."""
        if not self._finished and not self._cancelled:
            self._cancelled = True
            self._killAt = time.monotonic() + graceSeconds
            self._signal(signal.CTRL_BREAK_EVENT if WINDOWS else signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group now, without asking."""
        self._cancelled = True
        self._kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that hangs in a driver dies when it can
            self._process.wait(timeout=EXIT_SECONDS)

    def _hasEnded(self) -> bool:
        """Whether the process and its group are gone and their output has been read; kills what is late."""
        now = time.monotonic()
        ended = self._process.poll() is not None
        if ended and not self._cancelled:
            self._killAt = now
        if self._killAt is not None and now >= self._killAt:
            self._kill()
        if not ended or not (self._killed or self._groupIsEmpty()):
            return False
        self._endedAt = self._endedAt or now
        reading = self._reader.is_alive() or self._logReader.is_alive()
        return not reading or now - self._endedAt > DRAIN_SECONDS

    def _kill(self) -> None:
        if self._killed:
            return
        self._killed = True
        if not WINDOWS:
            self._signal(signal.SIGKILL)
        elif self._process.poll() is None:
            command = ["taskkill", "/F", "/T", "/PID", str(self.pid)]
            subprocess.run(command, capture_output=True, check=False, creationflags=subprocess.CREATE_NO_WINDOW)

    def _groupIsEmpty(self) -> bool:
        return WINDOWS or not self._signal(0)

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False if there is nobody."""
        try:
            if WINDOWS:
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)  # of a new session the leader's number is the group's, too
        except OSError:  # gone; on Windows also: no console in common, so that the grace passes in vain
            return False
        return True

    def _obituary(self) -> dict:
        """The last line of a process that did not say one."""
        code = self.returnCode
        if self._cancelled:
            error = Cancelled()
        elif code is None or code < 0:
            error = AxonError(
                "worker.killed",
                f"The worker was ended from outside (signal {-(code or 0)}).",
                "Often memory had run out: close other programs, or choose a smaller model or fewer seeds.",
            )
        else:
            error = AxonError(
                "worker.ended",
                f"The worker ended without a result (exit status {code}).",
                "The details say what it printed last.",
            )
        return {"type": "error", **error.to_dict()}


def _started(stream, put) -> threading.Thread:
    """A thread that hands on a stream's lines."""

    def read() -> None:
        for line in stream:
            put(line.rstrip("\n"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _parsed(line: str) -> dict:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else {"type": "log", "text": line}

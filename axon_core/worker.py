"""The door for programs: one JSON job in, JSON lines out.

``python -m axon_core.worker job.json`` (or ``-`` for standard input). The job's ``task`` says what to do, its other
keys are the attributes of a class:

- ``reconstruct`` (also without ``task``): `job.ReconstructJob`, films -> CT volume;
- ``register``: `job_register.RegisterJob`, CT and films -> pose;
- ``compare``: `job_compare.CompareJob`, reconstruction and true CT -> difference and metrics;
- ``plan``: `job_plan.PlanJob`, how long reconstructions will take;
- ``prepare``: `job_prepare.PrepareJob`, CTs and films -> a cache for training;
- ``train``: `job_train.TrainJob`, a cache -> trained stages, or what that will cost;
- ``export``: `job_export.ExportJob`, trained stages -> a model's folder.

A film is a file's name, or an object with the attributes of `film_choice.FilmChoice`. Unknown keys are errors.

Every line of standard output is one JSON object, by its ``type``:

- ``progress``: stage, fraction in [0, 1], eta_s (seconds or null);
- ``preview``: stage, path of an .npz with ``hu`` (z, y, x) int16 and ``affine`` (4, 4), index (x, y, z, 1) -> LPS mm;
  of ``reconstruct`` alone, if its ``previews`` is true;
- ``warning``: text;
- ``case``: of ``prepare``, see `PrepareJob.run`;
- ``progress`` of ``train`` has the keys of `training.events` beside its own, which count all stages; there are also its
  ``validation`` and ``note``;
- ``result``: the last line of a job that went well. All have warnings, all but ``plan`` and dry runs of ``train``
  output or the folder's name; besides, ``reconstruct``: files, ncc, timings (`job.Result`); ``register``: record
  (`RegisterResult.to_dict`); ``compare``: files, metrics (`job_compare.Comparison`); ``plan``: device, reason, basis,
  seconds (`job_plan.Plan`); those of training data and training: `Prepared`, `Trained`, `TrainingPlan`, `Exported`;
- ``error``: code, title, advice. The last line of any other job.

``python -m axon_core.worker --selfcheck [MODEL ...]`` writes one line, of type ``result`` or, when there are problems,
``error`` with the first problem's code, title and advice; besides, what `selfcheck.report` tells, also of the models in
the folders named. It needs no library to work.

SIGTERM or SIGINT cancels at once, even inside a long computation, and leaves nothing behind; ``train`` alone finishes
its step, saves its state, and ends with the error ``training.stopped``. Whatever libraries print
goes to standard error. The exit status is 0, or the error's `exit_code`. On Windows, where SIGTERM ends a process
without asking it, Ctrl-Break takes its place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from axon_core.errors import AxonError, Cancelled, ConfigError
from axon_core.files import atomic_file

if TYPE_CHECKING:
    from axon_core.pipeline import Progress
    from axon_core.staging import Staging

TASKS = {  # imported when asked for, because the self-check must run where libraries fail
    "reconstruct": ("job", "ReconstructJob"),
    "register": ("job_register", "RegisterJob"),
    "compare": ("job_compare", "CompareJob"),
    "plan": ("job_plan", "PlanJob"),
    "prepare": ("job_prepare", "PrepareJob"),
    "train": ("job_train", "TrainJob"),
    "export": ("job_export", "ExportJob"),
}
CANCEL_WITHIN_S = 1.0
PREVIEW_PAUSE_S = 0.5  # between two previews of one stage
_USAGE = "usage: python -m axon_core.worker JOB.json  (or - for standard input, or --selfcheck [MODEL ...])"


class Outcome(Protocol):
    """What a job has made."""

    def to_dict(self) -> dict[str, Any]:
        """The values of the result line, ``warnings`` among them."""


class Job(Protocol):
    """What the classes of `TASKS` have in common."""

    def staging(self) -> Staging:
        """Where it writes."""

    def run(self, staging: Any, callback: Callable[[Any], bool]) -> Outcome:
        """Do it; AxonError for whatever a user can cause."""


class Lines:
    """JSON lines for the parent process, each written whole; nothing follows the last one."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.lock = threading.RLock()
        self.closed = False

    def emit(self, kind: str, *, last: bool = False, **values: Any) -> None:
        with self.lock:
            if self.closed:
                return
            self.closed = last
            try:
                self.stream.write(json.dumps({"type": kind, **values}, allow_nan=False) + "\n")
                self.stream.flush()
            except BrokenPipeError:
                self.closed = True  # the parent is gone; it can still cancel by a signal

    def error(self, error: AxonError) -> None:
        self.emit("error", last=True, **error.to_dict())


class Watcher:
    """Turns the pipeline's progress into lines and preview files."""

    def __init__(self, lines: Lines, previews: Callable[[], Path] | None) -> None:
        """`previews` gives the folder for previews; None if there are to be none."""
        self.lines, self.previews = lines, previews
        self.count, self.shown = 0, ("", 0.0)

    def __call__(self, progress: Progress | dict[str, Any]) -> bool:
        """Tell it; False once the parent has closed our output."""
        if isinstance(progress, dict):  # an event of training or its data, which is a line already
            self.lines.emit(**{"kind" if key == "type" else key: value for key, value in progress.items()})
            return not self.lines.closed
        self.lines.emit("progress", stage=progress.stage, fraction=progress.fraction, eta_s=progress.eta_s)
        if self.previews is not None and progress.preview is not None and progress.grid is not None:
            stage, at = self.shown
            if stage != progress.stage or time.monotonic() - at > PREVIEW_PAUSE_S:
                self._preview(progress, self.previews())
                self.shown = (progress.stage, time.monotonic())
        return not self.lines.closed

    def _preview(self, progress: Progress, folder: Path) -> None:
        import numpy as np

        assert progress.preview is not None and progress.grid is not None
        self.count += 1
        path = folder / f"preview-{self.count:04d}.npz"
        hu = np.clip(np.rint(progress.preview), -32768, 32767).astype(np.int16)
        with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, hu=hu, affine=progress.grid.affine)
        self.lines.emit("preview", stage=progress.stage, path=str(path))


def read_job(source: str) -> Job:
    """A job from a file or, for "-", from standard input; ConfigError if it is not one."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        values = json.loads(text)
    except OSError as error:
        raise ConfigError("job.unreadable", f"Cannot read the job: {error.strerror}.", _USAGE) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("job.json", "The job is not valid JSON.", str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError("job.json", "The job is not a JSON object.", "Give an object with 'task' and its keys.")
    task = values.pop("task", "reconstruct")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError("job.task", f"Unknown task {task!r}.", f"Use one of {', '.join(TASKS)}.")
    module, name = TASKS[task]
    return getattr(import_module(f"axon_core.{module}"), name).from_dict(values)


def told(error: BaseException) -> AxonError:
    """Any failure as the error that is told to the user; what is not one of ours goes to the log."""
    if isinstance(error, AxonError):
        return error
    traceback.print_exc()
    if isinstance(error, ImportError):
        name = (error.name or "").split(".")[0] or "a library"
        return AxonError(
            "package.missing", f"The Python package {name} cannot be imported.", "Install it, or install it again."
        )
    return AxonError("internal", f"Internal error: {type(error).__name__}.", "The log has the details.")


def work(job: Job, staging: Any, lines: Lines) -> int:
    """Do one job and tell about it; returns the exit status."""
    lines.emit("progress", stage="starting", fraction=0.0, eta_s=None)  # signals are answered from here on
    try:
        made = job.run(staging, Watcher(lines, staging.previews if getattr(job, "previews", False) else None))
        values = made.to_dict()
    except BaseException as error:
        # of a cancelled job the folder is gone: what its computation stumbles over then is not the reason
        failure = Cancelled() if staging.state == "cancelled" else told(error)
        lines.error(failure)
        return failure.exit_code
    for text in values["warnings"]:
        lines.emit("warning", text=text)
    lines.emit("result", last=True, **values)
    return 0


def check_self(lines: Lines, models: list[str]) -> int:
    """Tell what this installation has, and of models in other folders; returns the exit status."""
    from axon_core.selfcheck import report

    found = report(models)
    if found["problems"]:
        lines.emit("error", last=True, **found["problems"][0], **found)
        return AxonError.exit_code
    lines.emit("result", last=True, **found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one job in a thread, so that this one is free to answer signals while the other computes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    lines = Lines(_claim_stdout())
    try:
        if arguments[:1] == ["--selfcheck"]:
            return check_self(lines, arguments[1:])
        if len(arguments) != 1:
            raise ConfigError("job.usage", "One job is needed.", _USAGE)
        job = read_job(arguments[0])
        staging = job.staging()
    except Exception as error:
        failure = told(error)
        lines.error(failure)
        return failure.exit_code

    def cancel(*_: object) -> None:
        if staging.claim():
            late = threading.Timer(CANCEL_WITHIN_S, os._exit, (Cancelled.exit_code,))  # should nobody read our lines
            late.daemon = True
            late.start()
            staging.remove()
            lines.error(Cancelled())
            staging.remove()  # what the computing thread may have made in between
            os._exit(Cancelled.exit_code)

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), cancel)
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(work(job, staging, lines)), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # with a limit, because on Windows a wait without one cannot be interrupted
    return status[0]


def _claim_stdout() -> IO[str]:
    """Keep standard output for us; what anything else prints, from C too, goes to standard error."""
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return ours


if __name__ == "__main__":
    sys.exit(main())

"""What a run's folder tells without opening its weights: stages, their last figures, when they were saved. No Qt."""

import pathlib
from dataclasses import dataclass

from axon_core.training.events import read_log
from AXONTrainingLib.request import STAGES, TEACHERS

ORDER = tuple(stage for stages in STAGES.values() for stage in stages)
STATES = ("state.pt", "previous.pt")


@dataclass(frozen=True)
class Checkpoint:
    """The saved state of one stage.

    Attributes:
        stage: name of its folder.
        step, steps: how far it has come; 0 before the first line of the log.
        saved: seconds since the epoch.
        loss: on the cases it learns from, mean of the last steps; None before the first line of the log.
        heldOut, mae, psnr: of the averaged weights on the held-out cases; None if there are none.
        picture: path of the held-out cases' middle slices, or None.
    """

    stage: str
    step: int
    steps: int
    saved: float
    loss: float | None = None
    heldOut: float | None = None
    mae: float | None = None
    psnr: float | None = None
    picture: pathlib.Path | None = None


def folderOf(text):
    """A path, or None for an empty text."""
    return pathlib.Path(text) if text.strip() else None


def isRun(folder):
    """Whether a training has begun here."""
    return folder is not None and (folder / "run.json").is_file()


def startsWithModel(run):
    """Whether a run began with the weights of a model, on which all that is missing may build."""
    return run is not None and (run / "start").is_dir()


def logs(run):
    """Stage -> its events, of those that have any."""
    found = {stage: read_log(run / stage) for stage in ORDER}
    return {stage: events for stage, events in found.items() if events}


def checkpoints(run):
    """The saved stages of a run, in the order of training."""
    if run is None:
        return []
    found = [_checkpoint(run / stage) for stage in ORDER]
    return [each for each in found if each is not None]


def saved(run):
    """Names of the stages of which something is saved, in the order of training."""
    return [] if run is None else [stage for stage in ORDER if _savedAt(run / stage) is not None]


def students(run):
    """Those among them that are students."""
    return [stage for stage in saved(run) if stage in TEACHERS]


def _savedAt(folder):
    return next((path.stat().st_mtime for name in STATES if (path := folder / name).is_file()), None)


def _checkpoint(folder):
    at = _savedAt(folder)
    if at is None:
        return None
    events = read_log(folder)
    progress = _last(events, "progress")
    validation = _last(events, "validation")
    picture = folder / "cases.png"
    return Checkpoint(
        folder.name,
        progress.get("step", 0),
        progress.get("steps", 0),
        at,
        progress.get("loss"),
        validation.get("loss"),
        validation.get("mae"),
        validation.get("psnr"),
        picture if picture.is_file() else None,
    )


def _last(events, kind):
    return next((event for event in reversed(events) if event.get("type") == kind), {})

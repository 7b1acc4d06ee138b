"""Steps that are done once: what each is, which are done, and the walk through them.

``reproduce.json`` holds for every step what was asked of it, the seconds that it took and one line of its result. A
step is done again if other things are asked of it, or if one on which it builds was done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axon_core import __version__
from axon_core.errors import AxonError, Cancelled, ConfigError
from axon_core.files import atomic_file

RECORD = "reproduce.json"


@dataclass(frozen=True)
class Watch:
    """Who is told what happens, and who may stop it.

    Attributes:
        tell: called with a few words on how far the step is.
        stop: True ends the run; what was done is kept.
    """

    tell: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False

    def count(self, done: int, of: int) -> None:
        """Tell a number of things done; Cancelled if somebody asked to stop."""
        self.tell(f"{done} of {of}")
        if self.stop():
            raise Cancelled

    def event(self, event: dict[str, Any]) -> None:
        """Tell an event of training; see `training.events`."""
        if event["type"] == "progress":
            where = f"{event['stage']} {event['step']} of {event['steps']}"
            self.tell(f"{where}, loss {event['loss']:.4g}, {event['eta_s']:.0f} s left")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: unique.
        asked: plain values from which it follows.
        after: steps on whose results it builds.
        work: does it, or goes on with it; returns one line that tells what came out.
    """

    name: str
    asked: dict[str, Any]
    after: tuple[str, ...]
    work: Callable[[Watch], str]


@dataclass
class Record:
    """``reproduce.json``: step -> "asked", "seconds", "told"."""

    path: Path
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, output: Path) -> Record:
        """That of a folder, empty if the folder is.

        Errors:
            ConfigError: the folder holds other things, or the record is damaged.
        """
        path = output / RECORD
        if not path.is_file():
            if output.is_dir() and any(output.iterdir()):
                raise ConfigError("reproduce.foreign", f"{output.name} holds other things.", "Choose a new folder.")
            return cls(path)
        try:
            return cls(path, dict(json.loads(path.read_text(encoding="utf-8"))["steps"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                "reproduce.damaged",
                f"{RECORD} of {output.name} is damaged.",
                "Put {} in its place: work that is done is found again.".replace("{}", '{"steps": {}}'),
            ) from error

    def done(self, step: Step) -> bool:
        """Whether it was finished as it is asked for now."""
        return step.name in self.steps and self.steps[step.name]["asked"] == step.asked

    def mark(self, step: Step, seconds: float, told: str) -> None:
        """Note that it is finished."""
        self.steps[step.name] = {"asked": step.asked, "seconds": round(seconds, 1), "told": told}
        self._write()

    def forget(self, names: Sequence[str]) -> None:
        """Note that they are no longer done."""
        for name in names:
            self.steps.pop(name, None)
        self._write()

    def _write(self) -> None:
        with atomic_file(self.path, overwrite=True) as temporary:
            text = json.dumps({"version": __version__, "steps": self.steps}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")


Finished = Callable[[int, int, str, str, float | None], None]


def walk(plan: Sequence[Step], record: Record, finished: Finished, watch: Watch) -> None:
    """Do every step that is not done.

    Args:
        plan: in order.
        record: of the folder.
        finished: called after each step with its number, how many there are, its name, its line, and the seconds that
            it took, None where it was done before.
        watch: see `Watch`.

    Errors:
        The AxonError of the step that failed, with its name and what is done. What is done stays done.
    """
    for number, step in enumerate(plan, 1):
        if record.done(step):
            finished(number, len(plan), step.name, record.steps[step.name]["told"], None)
            continue
        record.forget(followers(plan, step.name))
        watch.tell("")
        started = time.monotonic()
        try:
            told = step.work(watch)
        except AxonError as error:
            raise _named(error, step, plan[: number - 1]) from error
        seconds = time.monotonic() - started
        record.mark(step, seconds, told)
        finished(number, len(plan), step.name, told, seconds)


def followers(plan: Sequence[Step], name: str) -> list[str]:
    """The step and all that build on it."""
    found = [name]
    for step in plan:
        if set(step.after) & set(found):
            found.append(step.name)
    return found


def _named(error: AxonError, step: Step, before: Sequence[Step]) -> AxonError:
    """The same error, with the step that failed and those that are done."""
    done = ", ".join(one.name for one in before) or "nothing yet"
    advice = "" if isinstance(error, Cancelled) else error.advice
    named = type(error).__new__(type(error))  # some kinds make their texts themselves
    AxonError.__init__(
        named, error.code, f"{step.name}: {error.title}", f"{advice} Done: {done}. The same command goes on.".strip()
    )
    return named

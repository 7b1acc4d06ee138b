"""Training as a job: a cache -> the stages of a model, or what they will cost. The same job again goes on.

A run lives in its folder (`training.run`), state by state, so that there is nothing to move into place at the end. To
cancel is to ask: the training finishes its step, saves its state, and ends with "training.stopped".
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.job import check, job_from_dict
from axon_core.staging import Staging

if TYPE_CHECKING:
    from axon_core.training.chain import Link, RunData
    from axon_core.training.estimate import Estimate
    from axon_core.training.settings import StageSettings

NETWORKS = ("coarse", "prior", "fine", "sr")  # see `training.run.COMMANDS`
STUDENTS = ("distill-coarse", "distill-fine")  # see `training.distill`; each needs its teacher in the run
PARTS = (*NETWORKS, *STUDENTS)  # what people choose among, in the order of training
BUDGET = "budget.json"  # in the run: the steps that minutes were turned into
TRIAL_S = 2.0  # of steps that are timed before a stage with a budget of minutes begins
VALIDATIONS, APART = 10, 10  # about so many in a stage whose length was chosen; so many steps from one to the next


class RunFolder(Staging):
    """A run's folder, written in place. `asked` tells whether to stop; nothing is ever removed."""

    asked = False

    def claim(self) -> bool:
        self.asked = True
        return False


@dataclass(frozen=True)
class TrainJob:
    """What to train, how long, and where.

    Attributes:
        data: cache of `axon prepare`, or folder of pairs.
        output: folder of the run; goes on with what is there.
        parts: among `PARTS`. A student learns from a teacher that is trained in the run, before or by the same job.
        preset: "tiny", "small", "base", "paper", or a TOML file.
        start: name or folder of a model with whose weights a new run starts (see `training.start`), or None.
        steps: optimiser steps of each stage; None for the preset's. Never together with `minutes`.
        minutes: for all stages together, each gets the same share. How many steps fit is measured when a stage begins
            and kept in the run, so that the schedule of the learning rate ends with the time.
        kept: of a cache: draw so many chests once and keep them; 0 draws one for each sample.
        phantoms: of a cache: share of drawn phantoms among the chests, 0 to 1.
        anatomy: of a cache: file of `axon data anatomy` with other shapes of its CTs, or None.
        findings: of a cache: paint nodules, effusions and the like into its CTs.
        student_steps: evaluations of a student for all its way, 1 to 16, None for the preset's.
        teacher_steps: of the walk of its teacher that a student learns, None for the preset's.
        lr: learning rate, None for the preset's.
        micro: samples computed at a time, None for the preset's.
        recompute: trade time for memory, None for the preset's choice.
        precision: "32", "bf16", "16", "auto", None for the preset's.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        stop_file: the training stops, as by a signal, once this file exists; for systems without SIGTERM.
        dry_run: only tell what it will cost.
    """

    data: str
    output: str
    parts: tuple[str, ...] = NETWORKS
    preset: str = "small"
    start: str | None = None
    steps: int | None = None
    minutes: float | None = None
    kept: int = 0
    phantoms: float = 0.0
    anatomy: str | None = None
    findings: bool = False
    student_steps: int | None = None
    teacher_steps: int | None = None
    lr: float | None = None
    micro: int | None = None
    recompute: bool | None = None
    precision: str | None = None
    seed: int = 0
    device: str = "auto"
    stop_file: str | None = None
    dry_run: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, values)

    def __post_init__(self) -> None:
        check("data", self.data != "", "a folder of prepared data")
        check("output", self.output != "", "a folder for the run")
        good = len(self.parts) > 0 and len(set(self.parts)) == len(self.parts) and set(self.parts) <= set(PARTS)
        check("parts", good, f"some of {', '.join(PARTS)}")
        check("start", self.start is None or bool(self.start), "the name or folder of a model, or null")
        check("steps", _whole(self.steps), "a whole number from 1")
        check("minutes", _positive(self.minutes), "a number above 0")
        check("minutes", None in (self.steps, self.minutes), "either steps or minutes")
        check("kept", self.kept >= 0, "a whole number from 0")
        check("phantoms", _number(self.phantoms) and 0 <= self.phantoms <= 1, "a share from 0 to 1")
        check("anatomy", self.anatomy is None or bool(self.anatomy), "the name of a file, or null")
        check("findings", isinstance(self.findings, bool), "true or false")
        check("student_steps", _whole(self.student_steps, 16), "a whole number from 1 to 16, or null")
        check("teacher_steps", _whole(self.teacher_steps), "a whole number from 1, or null")
        check("lr", _positive(self.lr), "a number above 0")
        check("micro", self.micro is None or (type(self.micro) is int and self.micro >= 0), "a whole number from 0")
        check("recompute", isinstance(self.recompute, bool | None), "true, false, or null")
        check("precision", isinstance(self.precision, str | None), "32, bf16, 16 or auto")
        check("seed", self.seed >= 0, "a whole number from 0")
        check("stop_file", isinstance(self.stop_file, str | None), "the name of a file, or null")

    def staging(self) -> RunFolder:
        """For `run`."""
        return RunFolder(self.output)

    def run(self, staging: RunFolder, callback: Callable[[Any], object]) -> Trained | TrainingPlan:
        """Do the job.

        Args:
            staging: what `staging()` gave.
            callback: told of every event of `training.events`, to progress of which fraction and eta_s, of all stages
                together, are added. False stops the training: nobody listens any more.

        Raises:
            AxonError: whatever a user can cause; "training.stopped" when it was asked to stop.
        """
        from axon_core.config import load_preset
        from axon_core.devices import resolve_device

        stages, config = self._stages(), load_preset(self.preset)
        device = resolve_device(self.device)
        if not self.dry_run:
            _check_fabric()

        from axon_core.training.chain import RunData, begin_chain
        from axon_core.training.run import RECORD, begin_run_from

        where, anatomy = Path(self.data), None if self.anatomy is None else Path(self.anatomy)
        data = RunData(where, config, device, self.seed, self.kept, self.phantoms, anatomy, self.findings)
        if self.dry_run:
            return self._plan(stages, data)
        if self.start and not (Path(self.output) / RECORD).is_file():
            begin_run_from(self.start, Path(self.output), self.preset, self.seed)
        links = begin_chain(stages, data, Path(self.output), self.preset)
        for number, link in enumerate(links):
            self._train(link, (number, len(links)), staging, callback)
        return Trained(Path(self.output), tuple(stages))

    # ---- the pieces

    def _stages(self) -> dict[str, StageSettings]:
        """The stages of the chosen parts in the order of training, with their settings."""
        from axon_core.training.run import COMMANDS
        from axon_core.training.settings import changed, load_settings

        keys = ("steps", "lr", "micro", "recompute", "precision", "student_steps", "teacher_steps")
        changes = {key: getattr(self, key) for key in keys}
        names = [stage for part in PARTS if part in self.parts for stage in COMMANDS.get(part, (part,))]
        return {stage: _often_validated(changed(load_settings(self.preset, stage), **changes)) for stage in names}

    def _train(self, link: Link, place: tuple[int, int], staging: RunFolder, callback: Callable[[Any], object]) -> None:
        """Train one stage, the `place[0]`-th of `place[1]`."""
        from axon_core.training.settings import changed

        if self.minutes is not None:
            steps = self._steps_in_time(link, place[1])
            link = replace(link, settings=_often_validated(changed(link.settings, steps=steps)))

        def tell(event: dict[str, Any]) -> None:
            if event["type"] == "progress":
                done = event["step"] / event["steps"]
                event = {**event, "fraction": (place[0] + done) / place[1]}
            if callback({key: _plain(value) for key, value in event.items()}) is False:
                staging.claim()

        def stop() -> bool:
            return staging.asked or (self.stop_file is not None and os.path.exists(self.stop_file))

        link.train(Path(self.output), self.preset, self.seed, tell=tell, stop=stop)

    def _steps_in_time(self, link: Link, stages: int) -> int:
        """Steps that fit into a stage's share of the minutes: measured once, then as the run says."""
        from axon_core.training.run import open_stage
        from axon_core.training.trainer import Stopped, train

        run, stage = Path(self.output), link.stage
        known = _read_budget(run / BUDGET)
        asked = [self.minutes, stages]
        if (found := known.get(stage)) and found["asked"] == asked:
            return int(found["steps"])
        times: list[float] = []

        def enough() -> bool:
            times.append(time.monotonic())
            return len(times) > 2 and times[-1] - times[0] > TRIAL_S

        trial = open_stage(stage, self.preset, run, link.settings, self.seed)
        with tempfile.TemporaryDirectory(prefix="axon-trial-") as folder, contextlib.suppress(Stopped):
            data, place = link.source.dataset, Path(folder) / stage
            train(trial, data, place, link.fabric, seed=self.seed, stop=enough, save_every=1e9)
        step_s = (times[-1] - times[0]) / max(1, len(times) - 1)
        share_s = 60 * float(self.minutes or 0) / stages
        steps = max(1, int(share_s / max(step_s, 1e-4)))
        with atomic_file(run / BUDGET, overwrite=True) as temporary:
            text = json.dumps({**known, stage: {"asked": asked, "steps": steps, "step_s": round(step_s, 5)}}, indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
        return steps

    def _plan(self, stages: dict[str, StageSettings], data: RunData) -> TrainingPlan:
        import torch

        from axon_core.training.chain import estimates

        _rate, found = estimates(stages, data, torch.device(data.device))
        return TrainingPlan(data.device, data.cases(next(iter(stages))), self.minutes, tuple(found))


@dataclass(frozen=True)
class Trained:
    """A run's folder, and the stages that were trained."""

    folder: Path
    stages: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"run": str(self.folder), "stages": list(self.stages), "warnings": []}


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will cost.

    Attributes:
        device: where it would run.
        cases: to learn from.
        minutes: asked for, or None.
        stages: see `training.estimate.Estimate`.
    """

    device: str
    cases: int
    minutes: float | None
    stages: tuple[Estimate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; with a budget of minutes, seconds are each stage's share, and steps at most."""
        stages = [asdict(stage) for stage in self.stages]
        for stage in stages if self.minutes is not None else ():
            share = 60 * float(self.minutes or 0) / len(stages)
            stage["steps"] = max(1, int(share * stage["steps"] / max(stage["seconds"], 1e-9)))
            stage["seconds"] = share
        return {"device": self.device, "cases": self.cases, "stages": stages, "warnings": []}


def _check_fabric() -> None:
    try:
        import lightning_fabric  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "package.missing",
            "Training needs the Python package lightning-fabric.",
            "Install it: python -m pip install lightning-fabric.",
        ) from error


def _often_validated(settings: StageSettings) -> StageSettings:
    from axon_core.training.settings import changed

    often = max(APART, settings.steps // VALIDATIONS)
    return changed(settings, validate=min(settings.validate, often)) if settings.steps else settings


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: float | None) -> bool:
    return value is None or (_number(value) and value > 0)


def _whole(value: object, most: float = math.inf) -> bool:
    return value is None or (type(value) is int and 1 <= value <= most)


def _plain(value: Any) -> Any:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_budget(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}

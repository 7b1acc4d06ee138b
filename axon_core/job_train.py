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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.job import check, job_from_dict
from axon_core.staging import Staging

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from axon_core.config import ModelConfig
    from axon_core.training.estimate import Estimate
    from axon_core.training.settings import StageSettings
    from axon_core.training.sources import Source

PARTS = ("coarse", "prior", "fine", "sr")  # what people choose among; see `training.run.COMMANDS`
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
        parts: among `PARTS`.
        preset: "tiny", "small", "base", "paper", or a TOML file.
        steps: optimiser steps of each stage; None for the preset's. Never together with `minutes`.
        minutes: for all stages together, each gets the same share. How many steps fit is measured when a stage begins
            and kept in the run, so that the schedule of the learning rate ends with the time.
        kept: of a cache: draw so many chests once and keep them; 0 draws one for each sample.
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
    parts: tuple[str, ...] = PARTS
    preset: str = "small"
    steps: int | None = None
    minutes: float | None = None
    kept: int = 0
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
        check("steps", self.steps is None or (type(self.steps) is int and self.steps >= 1), "a whole number from 1")
        check("minutes", _positive(self.minutes), "a number above 0")
        check("minutes", None in (self.steps, self.minutes), "either steps or minutes")
        check("kept", self.kept >= 0, "a whole number from 0")
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
        if self.dry_run:
            return self._plan(stages, config, device)
        _check_fabric()

        from axon_core.training.run import begin_run
        from axon_core.training.trainer import make_fabric

        run, sources = Path(self.output), self._sources(config, list(stages))
        fabrics = {settings.precision: make_fabric(settings.precision, device) for settings in stages.values()}
        begin_run(run, self.preset, [sources[stage].facts for stage in stages], self.seed)
        for number, (stage, settings) in enumerate(stages.items()):
            self._train(
                stage, settings, sources[stage], fabrics[settings.precision], (number, len(stages)), staging, callback
            )
        return Trained(run, tuple(stages))

    # ---- the pieces

    def _stages(self) -> dict[str, StageSettings]:
        """The stages of the chosen parts in the order of training, with their settings."""
        from axon_core.training.run import COMMANDS
        from axon_core.training.settings import changed, load_settings

        changes = {key: getattr(self, key) for key in ("steps", "lr", "micro", "recompute", "precision")}
        names = [stage for part in PARTS if part in self.parts for stage in COMMANDS[part]]
        return {stage: _often_validated(changed(load_settings(self.preset, stage), **changes)) for stage in names}

    def _sources(self, config: ModelConfig, stages: list[str]) -> dict[str, Source]:
        """The data of each stage; all are refused before the first stage is begun."""
        from axon_core.training.sources import open_source
        from axon_core.training.stages import STAGES

        enlarged = {stage: STAGES[stage].enlarges for stage in stages}
        opened = {n: open_source(Path(self.data), config, n, self.seed, self.kept) for n in set(enlarged.values())}
        return {stage: opened[enlarges] for stage, enlarges in enlarged.items()}

    def _train(
        self,
        stage: str,
        settings: StageSettings,
        source: Source,
        fabric: Fabric,
        place: tuple[int, int],
        staging: RunFolder,
        callback: Callable[[Any], object],
    ) -> None:
        """Train one stage, the `place[0]`-th of `place[1]`."""
        from axon_core.training.run import train_stage
        from axon_core.training.settings import changed

        run = Path(self.output)
        if self.minutes is not None:
            steps = self._steps_in_time(stage, settings, source, fabric, place[1])
            settings = _often_validated(changed(settings, steps=steps))

        def tell(event: dict[str, Any]) -> None:
            if event["type"] == "progress":
                done = event["step"] / event["steps"]
                event = {**event, "fraction": (place[0] + done) / place[1]}
            if callback({key: _plain(value) for key, value in event.items()}) is False:
                staging.claim()

        def stop() -> bool:
            return staging.asked or (self.stop_file is not None and os.path.exists(self.stop_file))

        train_stage(
            stage, self.preset, run, source.dataset, settings, fabric,
            seed=self.seed, cases=source.cases, tell=tell, stop=stop,
        )  # fmt: skip

    def _steps_in_time(self, stage: str, settings: StageSettings, source: Source, fabric: Fabric, stages: int) -> int:
        """Steps that fit into a stage's share of the minutes: measured once, then as the run says."""
        from axon_core.training.run import open_stage
        from axon_core.training.trainer import Stopped, train

        run = Path(self.output)
        known = _read_budget(run / BUDGET)
        asked = [self.minutes, stages]
        if (found := known.get(stage)) and found["asked"] == asked:
            return int(found["steps"])
        times: list[float] = []

        def enough() -> bool:
            times.append(time.monotonic())
            return len(times) > 2 and times[-1] - times[0] > TRIAL_S

        trial = open_stage(stage, self.preset, run, settings, self.seed)
        with tempfile.TemporaryDirectory(prefix="axon-trial-") as folder, contextlib.suppress(Stopped):
            train(trial, source.dataset, Path(folder) / stage, fabric, seed=self.seed, stop=enough, save_every=1e9)
        step_s = (times[-1] - times[0]) / max(1, len(times) - 1)
        share_s = 60 * float(self.minutes or 0) / stages
        steps = max(1, int(share_s / max(step_s, 1e-4)))
        with atomic_file(run / BUDGET, overwrite=True) as temporary:
            text = json.dumps({**known, stage: {"asked": asked, "steps": steps, "step_s": round(step_s, 5)}}, indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
        return steps

    def _plan(self, stages: dict[str, StageSettings], config: ModelConfig, device: str) -> TrainingPlan:
        import torch

        from axon_core.training.estimate import estimate, training_rate

        cases = self._cases(config)
        rates = {s.precision: training_rate(torch.device(device), s.precision) for s in stages.values()}
        found = [estimate(name, config, s, cases, rates[s.precision]) for name, s in stages.items()]
        return TrainingPlan(device, cases, self.minutes, tuple(found))

    def _cases(self, config: ModelConfig) -> int:
        """Cases to learn from, counted without opening them."""
        from axon_core.data.cache import CacheDataset
        from axon_core.data.plan import PLAN_FILE, read_plan
        from axon_core.training.sources import open_source

        where = Path(self.data)
        if not (where / PLAN_FILE).is_file():
            return len(open_source(where, config, 1, self.seed).dataset)
        read_plan(where).check(config)
        return len(CacheDataset(where))


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


def _positive(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _plain(value: Any) -> Any:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_budget(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}

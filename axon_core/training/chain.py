"""Stages of a run one after the other: what stands before their training, for whoever asks for it.

Whatever can be refused is refused before the first stage is begun, which may take days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from axon_core.config import ModelConfig
from axon_core.data.anatomy import AnatomyModel
from axon_core.data.cache import CacheDataset
from axon_core.data.plan import PLAN_FILE, read_plan
from axon_core.errors import ModelError
from axon_core.training.distill import EVERY
from axon_core.training.estimate import Estimate, estimate, training_rate
from axon_core.training.run import begin_run, train_stage
from axon_core.training.settings import StageSettings, changed
from axon_core.training.sources import Source, open_source
from axon_core.training.start import is_trained
from axon_core.training.trainer import make_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class RunData:
    """What all stages of a run learn from, see `sources.open_source`.

    Attributes:
        where: a cache, or a folder of pairs.
        config: of the model.
        device: "cpu", "cuda" or "mps", on which is trained.
        seed: of everything random, also in training.
        kept, phantoms, anatomy, findings: of a cache.
        held_out: pairs for validation.
        finer: pairs for super-resolution; None for the same place.
    """

    where: Path
    config: ModelConfig
    device: str = "cpu"
    seed: int = 0
    kept: int = 0
    phantoms: float = 0.0
    anatomy: Path | None = None
    findings: bool = False
    held_out: Path | None = None
    finer: Path | None = None

    def open(self, stages: Iterable[str]) -> dict[str, Source]:
        """The source of each stage; stages whose volumes are as fine share one."""
        stages = list(stages)
        opened = {n: self._open(n) for n in sorted({enlarges(stage) for stage in stages})}
        return {stage: opened[enlarges(stage)] for stage in stages}

    def cases(self, stage: str) -> int:
        """How many cases a stage learns from, counted without drawing chests."""
        where = self._place(enlarges(stage))
        if not (where / PLAN_FILE).is_file():
            return len(self._open(enlarges(stage)).dataset)
        read_plan(where).check(self.config)
        return len(CacheDataset(where))

    def _place(self, n: int) -> Path:
        return self.finer if n > 1 and self.finer else self.where

    def _open(self, n: int) -> Source:
        return open_source(
            self._place(n), self.config, n, self.seed, self.kept, None if n > 1 else self.held_out,
            self.phantoms, self.anatomy, self.findings, self.device,
        )  # fmt: skip


def enlarges(stage: str) -> int:
    """How much finer than the model's grid the volumes of a stage are; those of baselines never are."""
    return EVERY[stage].enlarges if stage in EVERY else 1


@dataclass(frozen=True)
class Link:
    """A stage that is ready to be trained."""

    stage: str
    settings: StageSettings
    source: Source
    fabric: Fabric

    def train(
        self, run: Path, preset: str, seed: int, train: Callable[..., None] = train_stage, **options: Any
    ) -> None:
        """Train it, or go on with it; `train` and its `options` are as `run.train_stage`."""
        data, cases = self.source.dataset, self.source.cases
        train(self.stage, preset, run, data, self.settings, self.fabric, seed=seed, cases=cases, **options)


def begin_chain(
    stages: Mapping[str, StageSettings], data: RunData, run: Path, preset: str, begin: Callable[..., None] = begin_run
) -> list[Link]:
    """Open the data of all stages and begin the run, or go on with it; `begin` is as `run.begin_run`.

    Errors:
        ConfigError: the model has no such stage. ModelError: a stage builds on one that is neither trained nor among
        those before it. And whatever `open_source`, `make_fabric` and `begin` refuse.
    """
    for stage in stages:
        if stage in EVERY:
            EVERY[stage].check(data.config)
    check_needs(run, stages)
    sources = data.open(stages)
    fabrics = {settings.precision: make_fabric(settings.precision, data.device) for settings in stages.values()}
    links = [
        Link(stage, _in_steps(settings, sources[stage]), sources[stage], fabrics[settings.precision])
        for stage, settings in stages.items()
    ]
    if links[0].fabric.is_global_zero:
        begin(run, preset=preset, data=[link.source.facts for link in links], seed=data.seed)
    return links


def check_needs(run: Path, stages: Iterable[str]) -> None:
    """Refuse a stage of AXON that builds on one which is neither trained in the run nor among those before it."""
    before: set[str] = set()
    for stage in stages:
        for needed in EVERY[stage].needs if stage in EVERY else ():
            if needed not in before and not is_trained(run, needed):
                raise ModelError(
                    "training.needs",
                    f"Stage {stage!r} builds on {needed!r}, which this run has not trained.",
                    "Train the stages in order: coarse, prior, fine, sr; or `axon train all`. Students come last.",
                )
        before.add(stage)


def _in_steps(settings: StageSettings, source: Source) -> StageSettings:
    """Epochs are passes over the cases, however many chests are drawn from them."""
    return changed(settings, steps=settings.total(source.facts.get("cases", len(source.dataset))))


def estimates(
    stages: Mapping[str, StageSettings],
    data: RunData,
    place: torch.device,
    world: int = 1,
    count: Callable[..., Estimate] = estimate,
) -> tuple[float, list[Estimate]]:
    """What the stages will cost each of `world` processes on a device like `place`, and the rate of the slowest.

    `count` is as `estimate.estimate`.
    """
    if data.anatomy:
        AnatomyModel.load(data.anatomy)  # refused now, not when training begins
    rates = {s.precision: training_rate(place, s.precision) for s in stages.values()}
    counted = partial(count, config=data.config, world=world)
    found = [
        counted(stage, settings=s, cases=data.cases(stage), rate=rates[s.precision]) for stage, s in stages.items()
    ]
    return min(rates.values()), found

"""What to reproduce, and where everything lies.

OUT/lidc                 the downloaded patients, where no data were named
OUT/cache                what `axon prepare` made of them
OUT/run                  AXON's stages and students
OUT/run-without-synthetic  the same stages, with another super-resolution (Table 3)
OUT/baselines/NAME       the other methods
OUT/models/NAME          every model, for `axon reconstruct --model`
OUT/tables/tableN        what `axon evaluate` wrote
OUT/REPORT.md            what was done, how long it took, where the tables are
OUT/reproduce.json       which steps are done, and what was asked of each
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from axon_core.baselines.registry import find
from axon_core.config import ModelConfig, load_preset
from axon_core.data.plan import PAPER_PRESET, PLAN_FILE, read_plan
from axon_core.errors import ConfigError
from axon_core.training.settings import StageSettings, changed, load_settings
from axon_core.training.stages import STAGES

TABLES = ("table1", "table2", "table3")
BASELINES = ("nearest", "regression", "repeat-concat", "x2ct-gan", "xray2ctpa")  # tables have constant and mean anyway
STUDENTS = {"distill-coarse": 1, "distill-fine": 2}  # stage -> network evaluations
AXON, FEW, PLAIN = "axon", "axon-few-steps", "axon-without-synthetic"  # models beside the baselines


@dataclass(frozen=True)
class Job:
    """What to reproduce.

    Attributes:
        output: folder; one that an earlier run has begun is gone on with.
        data: CTs, as for `axon prepare`: a manifest or a folder; None downloads LIDC-IDRI.
        preset: of `config.load_preset`, or "axon-paper".
        patients: of LIDC-IDRI; empty for all that have a CT and films.
        percent: of the patients in train, val and test.
        baselines: names of other methods.
        distill: whether to train few-step students too.
        tables: some of TABLES.
        pictures: cases that are drawn for each table.
        seeds: samples of random methods in the tables.
        seed: of the division, and of everything random in training.
        kept: see `data.cache.CacheDataset`.
        steps: optimiser steps of every stage; 0 for the preset's.
        workers: processes that prepare.
        device: "auto", "cpu", "cuda" or "mps".

    Errors:
        ConfigError: there is no such preset, baseline or table.
    """

    output: Path
    data: Path | None = None
    preset: str = "small"
    patients: tuple[str, ...] = ()
    percent: tuple[float, float, float] = (85.0, 5.0, 10.0)
    baselines: tuple[str, ...] = BASELINES
    distill: bool = True
    tables: tuple[str, ...] = TABLES
    pictures: int = 1
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    seed: int = 0
    kept: int = 0
    steps: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in self.baselines:
            find(name)
        if unknown := set(self.tables) - set(TABLES):
            raise ConfigError(
                "reproduce.table", f"No table {min(unknown)!r} here.", f"Use some of {', '.join(TABLES)}."
            )
        for model in self.models:
            for stage in self.stages_of(model):
                self.settings(stage)

    @property
    def config(self) -> ModelConfig:
        """Of the networks."""
        if self.preset == PAPER_PRESET:
            return dataclasses.replace(load_preset("paper"), name=PAPER_PRESET, window=PAPER_PRESET)
        return load_preset(self.preset)

    @property
    def sizes(self) -> str:
        """The preset that holds sizes and settings."""
        return "paper" if self.preset == PAPER_PRESET else self.preset

    @property
    def training(self) -> str:
        """The preset for training: "axon-paper" is "paper" in another HU window, which a file in OUT tells."""
        return str(self.output / f"{PAPER_PRESET}.toml") if self.preset == PAPER_PRESET else self.preset

    @property
    def quality(self) -> str:
        """Steps of AXON's stages in the tables: the paper's for networks of the paper's size."""
        return "paper" if self.sizes == "paper" else "fast"

    def settings(self, stage: str) -> StageSettings:
        """How a stage is trained."""
        return changed(load_settings(self.sizes, stage), steps=self.steps or None, student_steps=STUDENTS.get(stage))

    # ---- models

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models."""
        return (AXON, *([FEW] if self.distill else []), PLAIN, *self.baselines)

    def stages_of(self, model: str) -> tuple[str, ...]:
        """Which stages a model's training is made of; none for baselines that are fitted."""
        if model in self.baselines:
            return tuple(find(model).stages)
        return (*STAGES, *STUDENTS) if model == FEW else tuple(STAGES)

    def compared(self, table: str) -> list[str]:
        """The models of a table, as `axon evaluate --models` names them."""
        if table == "table3":
            others = [str(self.model("x2ct-gan"))] if "x2ct-gan" in self.baselines else []
            return [*others, f"with-syn={self.model(AXON)}", f"without-syn={self.model(PLAIN)}"]
        few = [f"AXON in few steps={self.model(FEW)}"] if self.distill else []
        return [str(self.model(AXON)), *few, *(str(self.model(name)) for name in self.baselines)]

    # ---- places

    @property
    def lidc(self) -> Path:
        return self.output / "lidc"

    @property
    def cache(self) -> Path:
        return self.output / "cache"

    def run(self, model: str = AXON) -> Path:
        """Where a model is trained."""
        if model in self.baselines:
            return self.output / "baselines" / model
        return self.output / ("run-without-synthetic" if model == PLAIN else "run")

    def model(self, name: str) -> Path:
        """Folder of an exported model."""
        return self.output / "models" / name

    def table(self, name: str) -> Path:
        return self.output / "tables" / name

    def training_cases(self) -> int | None:
        """How many cases train, once the data are prepared."""
        return len(read_plan(self.cache).split("train")) if (self.cache / PLAN_FILE).is_file() else None

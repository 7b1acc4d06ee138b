"""Preparation of training data as a job: CTs and films of a folder or table -> a cache; see `data.prepare`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon_core.job import check, job_from_dict
from axon_core.staging import Staging

if TYPE_CHECKING:
    from axon_core.data.plan import Plan
    from axon_core.data.prepare import Outcome

STRIP = "strip.jpg"  # in a case's folder: its slices and films side by side


@dataclass(frozen=True)
class PrepareJob:
    """What to prepare, and where.

    Attributes:
        source: manifest (CSV: patient, ct, frontal, lateral), or a folder.
        output: folder of the cache, new or begun by an earlier job; finished cases are kept whatever happens.
        preset: "tiny", "small", "base", "paper", "axon-paper", or a TOML file.
        split: percent of the patients in train, val and test.
        seed: of the division.
        workers: processes; 0 for one per core.
    """

    source: str
    output: str
    preset: str = "small"
    split: tuple[float, ...] = (85.0, 5.0, 10.0)
    seed: int = 0
    workers: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrepareJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, values)

    def __post_init__(self) -> None:
        check("source", self.source != "", "a folder with CTs, or a manifest")
        check("output", self.output != "", "a folder for the prepared data")
        check("split", len(self.split) == 3, "three percentages")
        check("seed", self.seed >= 0, "a whole number from 0")
        check("workers", self.workers >= 0, "a whole number from 0")

    def staging(self) -> Staging:
        """For `run`; the cache itself is written case by case."""
        return Staging(self.output)

    def run(self, staging: Staging, callback: Callable[[Any], object]) -> Prepared:
        """Do the job.

        Args:
            staging: what `staging()` gave, not entered yet.
            callback: told of the progress, and of every case by a dict: type "case", name, picture (JPEG, or None),
                warnings, skipped (the reason, or "").

        Raises:
            AxonError: whatever a user can cause.
        """
        with staging:
            from axon_core.data.cache import case_folder
            from axon_core.data.plan import Skipped
            from axon_core.data.prepare import PrepareOptions, default_workers, prepare, sheet
            from axon_core.pipeline import Progress

            cache = Path(self.output)
            train, val, test = self.split
            options = PrepareOptions(
                self.preset, (train, val, test), self.seed, workers=self.workers or default_workers()
            )
            started = time.perf_counter()

            def told(done: int, count: int, outcome: Outcome) -> None:
                if isinstance(outcome, Skipped):
                    callback(_case(outcome.name, skipped=outcome.reason))
                else:
                    picture = case_folder(cache, outcome.key) / STRIP
                    callback(_case(outcome.name, str(picture), outcome.warnings))
                left = (time.perf_counter() - started) * (count - done) / done
                callback(Progress("preparing", done / count, left))

            callback(Progress("preparing", 0.0))
            plan = prepare(Path(self.source), cache, options, told)
        return Prepared(cache, sheet(cache), plan)


def _case(name: str, picture: str | None = None, warnings: tuple[str, ...] = (), skipped: str = "") -> dict[str, Any]:
    return {"type": "case", "name": name, "picture": picture, "warnings": list(warnings), "skipped": skipped}


@dataclass(frozen=True)
class Prepared:
    """A cache, its contact sheet and its plan."""

    cache: Path
    sheet: Path
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: cache, sheet, preset, counts of each part, skipped, warnings."""
        from axon_core.data.plan import SPLITS

        counts = {part: len(self.plan.split(part)) for part in (*SPLITS, "films")}
        empty = [part for part in ("train", "val") if not counts[part]]
        warnings = [f"No case fell to {part}: add patients, or divide otherwise." for part in empty]
        return {
            "cache": str(self.cache),
            "sheet": str(self.sheet),
            "preset": self.plan.preset,
            "counts": counts,
            "skipped": [{"name": case.name, "reason": case.reason} for case in self.plan.skipped],
            "warnings": warnings,
        }

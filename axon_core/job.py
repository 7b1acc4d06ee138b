"""One reconstruction from files to files: what the command line and the worker both do; and what all jobs share.

A job is checked before anything is computed. What it makes appears at the end, whole (see `staging`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from axon_core.config import from_dict
from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.film_choice import FilmChoice
from axon_core.staging import Product, StagedFolder

if TYPE_CHECKING:
    from axon_core.pipeline import Progress, Reconstruction

T = TypeVar("T")

FORMATS = ("nrrd", "nii.gz", "mha", "dicom")
PRODUCT = Product(
    "provenance.json",
    (
        *(f"{name}.{ending}" for name in ("volume", "uncertainty") for ending in FORMATS[:3]),
        "report.html",
        "report.png",
        "projections.png",
        "provenance.json",
    ),
    {"dicom": ".dcm", "previews": ".npz"},
)


def job_from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """A job from plain JSON values; unknown or missing keys and wrong types are ConfigErrors.

    The films, `frontal` and `lateral`, may be given by their file's name alone.
    """
    films: dict[str, Any] = {
        key: FilmChoice.of(values[key], f"job.{key}")
        for key in ("frontal", "lateral")
        if values.get(key) is not None and key in cls.__annotations__
    }
    return from_dict(cls, {**values, **films}, "job")


def check(key: str, good: bool, expected: str) -> None:
    """ConfigError about one key of a job, unless `good`."""
    if not good:
        raise ConfigError(f"job.{key.replace('_', '-')}", f"Wrong value for {key}.", f"Give {expected}.")


@dataclass(frozen=True)
class ReconstructJob:
    """What to reconstruct, how, and where to write it.

    Attributes:
        frontal: film, PA or AP.
        output: folder for the results; made if missing.
        lateral: film of the same patient, or None.
        model: name of an installed model, or a model's folder.
        preset: "preview", "fast", "quality" or "paper".
        seeds: one volume is drawn for each; with several, their spread is written too.
        device: "auto", "cpu", "cuda" or "mps".
        align: turn, scale and shift a single frontal film to where the networks saw chests, if it lies far off.
        format: of the volume, one of `FORMATS`.
        overwrite: replace an earlier result in `output`; other files there are never touched.
        previews: write intermediate volumes to ``output/previews``.
    """

    frontal: FilmChoice
    output: str
    lateral: FilmChoice | None = None
    model: str = "axon-small"
    preset: str = "fast"
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    align: bool = False
    format: str = "nrrd"
    overwrite: bool = False
    previews: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReconstructJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, values)

    def __post_init__(self) -> None:
        check("align", isinstance(self.align, bool), "true or false")
        check("format", self.format in FORMATS, f"one of {', '.join(FORMATS)}")
        seeds = self.seeds if isinstance(self.seeds, tuple) else ()
        good = len(seeds) > 0 and len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
        check("seeds", good, "a list of different whole numbers from 0")

    def staging(self) -> StagedFolder:
        """For `run`."""
        return StagedFolder(self.output, PRODUCT, self.overwrite)

    def run(self, staging: StagedFolder, callback: Callable[[Progress], None]) -> Result:
        """Do the job; its files appear in ``output`` when it returns.

        Args:
            staging: what `staging()` gave, not entered yet.
            callback: told of every stage; may raise `Cancelled`.

        Raises:
            AxonError: whatever a user can cause; nothing is written then.
        """
        with staging:
            frontal = self.frontal.load()
            lateral = None if self.lateral is None else self.lateral.load()

            from axon_core.baselines.models import open_model  # torch takes seconds: a wrong file is told before
            from axon_core.pipeline import Progress, reconstruct

            callback(Progress("model", 0.0))
            model = open_model(self.model)
            made = reconstruct(
                frontal,
                lateral,
                model=model,
                preset=self.preset,
                seeds=self.seeds,
                device=self.device,
                align=self.align,
                callback=callback,
            )
            callback(Progress("writing", 1.0))
            files = write_results(made, staging.folder, self.format)
        placed = {kind: staging.output / path.name for kind, path in files.items()}
        return Result(staging.output, placed, made.ncc, made.timings, made.warnings)


@dataclass(frozen=True)
class Result:
    """What a job made.

    Attributes:
        output: the folder.
        files: kind ("volume", "uncertainty", "report", "picture", "projections", "provenance") -> path.
        ncc: agreement of film and re-projection for each view.
        timings: seconds of each stage.
        warnings: what the user should know.
    """

    output: Path
    files: dict[str, Path]
    ncc: dict[str, float]
    timings: dict[str, float]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "output": str(self.output),
            "files": {kind: str(path) for kind, path in self.files.items()},
            "ncc": {view: float(value) if math.isfinite(value) else None for view, value in self.ncc.items()},
            "timings": {stage: float(seconds) for stage, seconds in self.timings.items()},
            "warnings": list(self.warnings),
        }


def volume_of(path: Path) -> Path:
    """The volume in a result's folder; any other path as it is."""
    names = [*(f"volume.{ending}" for ending in FORMATS[:3]), "dicom"]
    return next((path / name for name in names if os.path.exists(path / name)), path)


def write_results(made: Reconstruction, folder: Path, format: str) -> dict[str, Path]:
    """Write volume, uncertainty, report and provenance; returns kind -> path."""
    from axon_core.evaluation.report import write_report

    files: dict[str, Path] = {}
    if format == "dicom":
        files["volume"] = folder / "dicom"
        films = [film.source for film in made.films.values()]
        made.final.save_dicom(files["volume"], provenance=made.provenance, film=films)
    else:
        files["volume"] = made.final.save(folder / f"volume.{format}", made.provenance)
    if made.std is not None:  # a spread is no CT: never as DICOM
        ending = "nrrd" if format == "dicom" else format
        files["uncertainty"] = made.std.save(folder / f"uncertainty.{ending}", made.provenance)
    files.update(write_report(made, folder))
    files["provenance"] = folder / "provenance.json"
    facts = {**made.provenance, "ncc": made.ncc, "timings": made.timings, "warnings": list(made.warnings)}
    with atomic_file(files["provenance"]) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files

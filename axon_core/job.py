"""One reconstruction from files to files: what the command line and the worker both do.

A job is checked before anything is computed. Its files are written into a hidden folder beside the output and moved
into place at the end, so that a failed, cancelled or killed job leaves what was there before (of an earlier result that
is to be overwritten, only the previews go at once).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from axon_core import SYNTHETIC_NOTICE
from axon_core.config import from_dict
from axon_core.errors import Cancelled, ConfigError, OutputError
from axon_core.files import atomic_file

if TYPE_CHECKING:
    from axon_core.pipeline import Progress, Reconstruction

FORMATS = ("nrrd", "nii.gz", "mha", "dicom")
FILES = (
    *(f"{name}.{ending}" for name in ("volume", "uncertainty") for ending in FORMATS[:3]),
    "report.html",
    "report.png",
    "provenance.json",
)
FOLDERS = {"dicom": ".dcm", "previews": ".npz"}  # and the only kind of file that lies in each


@dataclass(frozen=True)
class ReconstructJob:
    """What to reconstruct, how, and where to write it.

    Attributes:
        frontal: film file, PA or AP.
        output: folder for the results; made if missing.
        lateral: film file of the same patient, or None.
        model: name of an installed model, or a model's folder.
        preset: "preview", "fast", "quality" or "paper".
        seeds: one volume is drawn for each; with several, their spread is written too.
        device: "auto", "cpu", "cuda" or "mps".
        view: "PA" or "AP" where the frontal film's file is wrong or silent.
        invert: True or False where the automatic choice of bone-bright is wrong, of both films.
        pixel_size_mm: at the detector, of both films, whatever their files say.
        align: turn, scale and shift a single frontal film to where the networks saw chests, if it lies far off.
        format: of the volume, one of `FORMATS`.
        overwrite: replace an earlier result in `output`; other files there are never touched.
        previews: write intermediate volumes to ``output/previews``.
        task: "reconstruct".
    """

    frontal: str
    output: str
    lateral: str | None = None
    model: str = "axon-small"
    preset: str = "fast"
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    view: str | None = None
    invert: bool | None = None
    pixel_size_mm: float | None = None
    align: bool = False
    format: str = "nrrd"
    overwrite: bool = False
    previews: bool = False
    task: str = "reconstruct"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReconstructJob:
        """A job from plain JSON values; unknown or missing keys and wrong types are ConfigErrors."""
        return from_dict(cls, values, "job")

    def __post_init__(self) -> None:
        if self.task != "reconstruct":
            raise ConfigError("job.task", f"Unknown task {self.task!r}.", "The only task is 'reconstruct'.")
        _check("view", self.view in (None, "PA", "AP"), "PA, AP or null")
        _check("invert", self.invert is None or isinstance(self.invert, bool), "true, false or null")
        _check("align", isinstance(self.align, bool), "true or false")
        _check("lateral", self.lateral is None or isinstance(self.lateral, str), "a file name or null")
        _check("format", self.format in FORMATS, f"one of {', '.join(FORMATS)}")
        seeds = self.seeds if isinstance(self.seeds, tuple) else ()
        good = len(seeds) > 0 and len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
        _check("seeds", good, "a list of different whole numbers from 0")
        size = self.pixel_size_mm
        known = isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < 10
        _check("pixel_size_mm", size is None or known, "millimetres between 0 and 10, or null")

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """(row, column) for `Radiograph.load`."""
        return None if self.pixel_size_mm is None else (float(self.pixel_size_mm),) * 2


def _check(key: str, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"job.{key.replace('_', '-')}", f"Wrong value for {key}.", f"Give {expected}.")


@dataclass(frozen=True)
class Result:
    """What a job made.

    Attributes:
        files: kind ("volume", "uncertainty", "report", "picture", "provenance") -> path.
        ncc: agreement of film and re-projection for each view.
        timings: seconds of each stage.
        warnings: what the user should know.
    """

    files: dict[str, Path]
    ncc: dict[str, float]
    timings: dict[str, float]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "files": {kind: str(path) for kind, path in self.files.items()},
            "ncc": {view: float(value) if math.isfinite(value) else None for view, value in self.ncc.items()},
            "timings": {stage: float(seconds) for stage, seconds in self.timings.items()},
            "warnings": list(self.warnings),
        }


@dataclass
class Staging:
    """A hidden folder beside the output, whose content moves into place when the block ends well.

    To cancel from another thread: `claim`, and if that is granted, `remove` and end the process.
    """

    output: Path
    overwrite: bool = False
    folder: Path = field(init=False)
    state: str = field(default="open", init=False)  # then "moving" or "cancelled"
    made_output: bool = field(default=False, init=False)
    made_previews: bool = field(default=False, init=False)
    lock: threading.RLock = field(default_factory=threading.RLock, init=False)  # a signal may interrupt a signal

    def __post_init__(self) -> None:
        self.output = Path(os.path.abspath(self.output))
        self.folder = self.output.parent / f".partial-new-{os.getpid()}-{self.output.name[-120:]}"

    def __enter__(self) -> Staging:
        check_output(self.output, self.overwrite)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise _cannot_write(self.output, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.remove()
            return
        self._enter_state("moving")
        try:
            self._move()
        except OSError as failure:
            raise _cannot_write(self.output, failure) from failure
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def claim(self) -> bool:
        """Stop the result from being moved into place; False when that has already begun."""
        with self.lock:
            if self.state == "open":
                self.state = "cancelled"
            return self.state == "cancelled"

    def remove(self) -> None:
        """Remove everything this job has written."""
        _remove(self.folder)
        if self.made_previews:
            _remove(self.output / "previews")
        if self.made_output:
            _remove(self.output)

    def previews(self) -> Path:
        """The folder ``output/previews``, made on the first call; its files are seen while the job runs."""
        self._enter_state("open")
        folder = self.output / "previews"
        if not self.made_previews:
            self.made_output = not self.output.exists()
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            self.made_previews = True
        return folder

    def _enter_state(self, state: str) -> None:
        with self.lock:
            if self.state == "cancelled":
                raise Cancelled
            self.state = state

    def _move(self) -> None:
        """Each file replaces its predecessor in one step; what an earlier result has left over goes last."""
        self.output.mkdir(parents=True, exist_ok=True)
        made = {entry.name for entry in self.folder.iterdir()} | ({"previews"} if self.made_previews else set())
        for entry in self.folder.iterdir():
            target = self.output / entry.name
            if entry.is_dir() and target.exists():
                shutil.rmtree(target)
            os.replace(entry, target)
        for name in FILES:
            if name not in made:
                (self.output / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if name not in made and (self.output / name).is_dir():
                shutil.rmtree(self.output / name)


def _remove(folder: Path) -> None:
    """Remove a folder into which another thread may still be writing."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def check_output(output: Path, overwrite: bool) -> None:
    """OutputError if results cannot go to `output` without harming what is there."""
    if os.path.exists(output) and not output.is_dir():
        raise OutputError("output.is-file", f"{output.name} is a file.", "Give the name of a folder.")
    earlier = [name for name in (*FILES, *FOLDERS) if os.path.exists(output / name)]
    if earlier and not overwrite:
        raise OutputError(
            "output.exists",
            f"{output.name} holds an earlier result ({earlier[0]}).",
            "Choose another folder, or allow overwriting (--force).",
        )
    for name, ending in FOLDERS.items():
        folder = output / name
        if os.path.exists(folder) and not (
            folder.is_dir() and all(entry.name.endswith(ending) for entry in folder.iterdir())
        ):
            raise OutputError(
                "output.foreign-folder",
                f"{output.name}/{name} holds other things than *{ending} files and is left alone.",
                "Choose another folder.",
            )
    if earlier and not _is_result(output, earlier):
        raise OutputError(
            "output.foreign",
            f"{output.name}/{earlier[0]} does not come from AXON and is left alone.",
            "Choose another folder.",
        )


def _is_result(output: Path, found: list[str]) -> bool:
    """Whether what was found in a folder is ours: its provenance says so, or a killed job has left only previews."""
    if found == ["previews"]:
        return True
    try:
        provenance = json.loads((output / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(provenance, dict) and provenance.get("notice") == SYNTHETIC_NOTICE


def volume_of(path: Path) -> Path:
    """The volume in a result's folder; any other path as it is."""
    names = [*(f"volume.{ending}" for ending in FORMATS[:3]), "dicom"]
    return next((path / name for name in names if os.path.exists(path / name)), path)


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(
        "output.cannot-write",
        f"{output.name} cannot be written: {error.strerror or 'the disk refused'}.",
        "Check the folder's permissions and the free space on the disk.",
    )


def run(job: ReconstructJob, staging: Staging, callback: Callable[[Progress], None]) -> Result:
    """Do the job; its files appear in ``job.output`` when it returns.

    Args:
        job: what to do.
        staging: for ``job.output``; not entered yet.
        callback: told of every stage; may raise `Cancelled`.

    Raises:
        AxonError: whatever a user can cause; nothing is written then.
    """
    with staging:
        from axon_core.radiograph import Radiograph

        options: dict[str, Any] = {"invert": job.invert, "spacing_mm": job.spacing_mm}
        frontal = Radiograph.load(job.frontal, view=job.view, **options)
        lateral = None if job.lateral is None else Radiograph.load(job.lateral, **options)

        from axon_core.model import AxonModel  # torch takes seconds: a wrong file is told before
        from axon_core.pipeline import Progress, reconstruct

        callback(Progress("model", 0.0))
        model = AxonModel.from_pretrained(job.model)
        made = reconstruct(
            frontal,
            lateral,
            model=model,
            preset=job.preset,
            seeds=job.seeds,
            device=job.device,
            align=job.align,
            callback=callback,
        )
        callback(Progress("writing", 1.0))
        files = write_results(made, staging.folder, job.format)
    return Result(
        {kind: staging.output / path.name for kind, path in files.items()}, made.ncc, made.timings, made.warnings
    )


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
    files["report"], files["picture"] = write_report(made, folder)
    files["provenance"] = folder / "provenance.json"
    facts = {**made.provenance, "ncc": made.ncc, "timings": made.timings, "warnings": list(made.warnings)}
    with atomic_file(files["provenance"]) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files

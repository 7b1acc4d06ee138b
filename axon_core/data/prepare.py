"""From a manifest or a folder to a cache: every CT on the canonical cube, every real film tied to its CT.

A case's folder is named by a hash of its files and of what was asked, so a second run finds what the first has made,
whatever stopped it. A case that cannot be used is skipped with one line; only a disk that refuses stops the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from axon_core.config import from_dict
from axon_core.ctvolume import AIR_HU, CTVolume
from axon_core.data.cache import FILM_SCALE, VIEWS, before_the_films, case_folder
from axon_core.data.cases import place_case
from axon_core.data.contact_sheet import SHEET_FILE, strip, write_sheet
from axon_core.data.manifest import Row, read_source
from axon_core.data.pairs import expose_pair
from axon_core.data.plan import (
    FORMAT,
    PAPER_PRESET,
    PLAN_FILE,
    CaseEntry,
    Layout,
    Plan,
    Skipped,
    paper_parts,
    part_of,
    read_plan,
)
from axon_core.data.real_films import LEAST_SIMILARITY, RealFilms, real_films
from axon_core.dicom_patient import check_same_patient
from axon_core.dicom_write import as_axial
from axon_core.drr.appearance import clinic_look
from axon_core.drr.film import simulate
from axon_core.drr.prepare import body_mask
from axon_core.errors import AxonError, ConfigError, OutputError, VolumeError
from axon_core.files import atomic_folder
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView

LEAST_LUNG_ML = 300.0  # less deep lung than this is no chest, or not in Hounsfield units
LUNG_HU = (-980.0, -500.0)
SHEET_PIXELS = 256  # of the films drawn for the contact sheet
PICTURE_BYTES = 60_000  # of a strip, about


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare.

    Attributes:
        preset: a model's preset, or "axon-paper".
        percent: of the patients in train, val and test; the axon-paper preset has the paper's own.
        seed: of the division.
        least_similarity: below which a real film is left out.
        workers: processes.
    """

    preset: str = "small"
    percent: tuple[float, float, float] = (85.0, 5.0, 10.0)
    seed: int = 0
    least_similarity: float = LEAST_SIMILARITY
    workers: int = 1

    def __post_init__(self) -> None:
        if min(self.percent) < 0 or abs(sum(self.percent) - 100.0) > 0.01:
            raise ConfigError("prepare.split", "The parts do not add up to 100 %.", "Give train,val,test: 85,5,10.")


Outcome = CaseEntry | Skipped
Told = Callable[[int, int, Outcome], None]  # done, of how many, the case that is


def prepare(source: Path, cache: Path, options: PrepareOptions, told: Told = lambda *_: None) -> Plan:
    """Make or complete a cache, its plan and its contact sheet.

    Args:
        source: a manifest (CSV), or a folder; see `axon_core.data.manifest`.
        cache: a new folder, or one that an earlier run has begun.
        options: see `PrepareOptions`.
        told: called after each case; whatever it raises ends the run, and the next one goes on from there.

    Errors:
        ConfigError: unusable source or options, one patient only, or a cache of another preset.
        VolumeError: no case is usable. OutputError: the disk refuses.
    """
    layout = Layout.of(options.preset)
    rows = read_source(source)
    patients = {row.patient for row in rows if row.ct is not None}
    if len(patients) == 1 and options.percent[0] < 100 and not any(row.split for row in rows):
        raise ConfigError(
            "prepare.one-patient",
            "There is a single patient: none is left to judge by what is learned.",
            "Add patients, or give --split 100,0,0 to train on this one alone.",
        )
    _check_cache(cache, layout)
    _check_space(cache, layout, len(rows))
    found: dict[str, Outcome] = {}
    for row, outcome in _worked(rows, layout, cache, options):
        found[row.name] = outcome
        told(len(found), len(rows), outcome)
    outcomes = [found[row.name] for row in rows]
    cases = [outcome for outcome in outcomes if isinstance(outcome, CaseEntry)]
    skipped = tuple(outcome for outcome in outcomes if isinstance(outcome, Skipped))
    if not cases:
        raise VolumeError(
            "prepare.no-case",
            f"None of {len(rows)} cases can be used. {skipped[0].name}: {skipped[0].reason}",
            "Correct or replace the files.",
        )
    plan = Plan(layout, _divided(cases, rows, options), skipped).write(cache)
    write_sheet(cache, plan, {case.name: case_folder(cache, case.key) / "strip.jpg" for case in plan.cases})
    return plan


def sheet(cache: Path) -> Path:
    """The contact sheet of a cache."""
    return cache / SHEET_FILE


def _divided(cases: Sequence[CaseEntry], rows: Sequence[Row], options: PrepareOptions) -> tuple[CaseEntry, ...]:
    """Each patient in one part: the one that the manifest asks for, or the one of the label's hash."""
    with_ct = [case for case in cases if case.spacing_mm]
    if options.preset == PAPER_PRESET:
        parts = paper_parts(with_ct, options.seed)
    else:
        parts = {case.patient: part_of(case.patient, options.percent, options.seed) for case in with_ct}
    parts |= {row.patient: row.split for row in rows if row.split}
    return tuple(dataclasses.replace(case, split=parts[case.patient] if case.spacing_mm else "films") for case in cases)


# --- before the work -------------------------------------------------------------------------------------------------


def _check_cache(cache: Path, layout: Layout) -> None:
    if cache.exists() and not cache.is_dir():
        raise OutputError("output.is-file", f"{cache.name} is a file.", "Give the name of a folder.")
    if (cache / PLAN_FILE).exists():
        try:
            earlier = read_plan(cache)
        except ConfigError:  # a damaged plan is written anew
            return
        if (earlier.preset, earlier.layout.form) != (layout.model.name, layout.form):
            raise ConfigError(
                "prepare.other-preset",
                f"{cache.name} holds data for preset {earlier.preset}, not {layout.model.name}.",
                f"Choose another folder, or --preset {earlier.preset}.",
            )
    elif cache.is_dir() and any(entry.name != "cases" and not entry.name.startswith(".") for entry in cache.iterdir()):
        raise OutputError("output.foreign-folder", f"{cache.name} holds other things.", "Choose a new or empty folder.")


def _check_space(cache: Path, layout: Layout, count: int) -> None:
    """OutputError if the disk cannot hold the cases that are missing."""
    place = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    done = sum(1 for _ in (cache / "cases").glob("[!.]*")) if cache.is_dir() else 0
    one = 2 * layout.render**3 + 4 * layout.model.film_size**2 + PICTURE_BYTES
    needed, free = max(0, count - done) * one, shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            "prepare.space",
            f"{count} cases take {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left.",
            "Choose another disk, or fewer cases.",
        )


# --- the work --------------------------------------------------------------------------------------------------------


def _worked(rows: Sequence[Row], layout: Layout, cache: Path, options: PrepareOptions) -> Iterator[tuple[Row, Outcome]]:
    """Each row with its outcome, as they come."""
    least, workers = options.least_similarity, min(options.workers, len(rows))
    if workers <= 1:
        for row in rows:
            yield row, prepare_case(row, layout, cache, least)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start)
    try:
        tasks = {pool.submit(prepare_case, row, layout, cache, least): row for row in rows}
        for task in as_completed(tasks):
            yield tasks[task], task.result()
    except BrokenProcessPool as error:
        raise OutputError(
            "prepare.killed",
            "A process was killed from outside, probably because memory ran out.",
            f"Run again with fewer --workers than {workers}: finished cases are kept.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    torch.set_num_threads(1)  # the processes share the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too, but it is the parent that answers
    threading.Thread(target=_follow, args=(parent_process(),), daemon=True).start()


def _follow(parent: Any) -> None:
    """A killed parent leaves no process behind."""
    parent.join()
    os._exit(1)


def prepare_case(row: Row, layout: Layout, cache: Path, least: float = LEAST_SIMILARITY) -> Outcome:
    """Prepare one row, or find it prepared.

    Errors:
        OutputError: it cannot be written. Anything else that goes wrong is the reason in `Skipped`.
    """
    try:
        key = _address(row, layout, least)
        earlier = _found(case_folder(cache, key))
        case = earlier or _made(row, layout, cache, key, least)
        return dataclasses.replace(case, name=row.name, patient=row.patient)
    except OutputError as error:
        raise OutputError(
            error.code, f"Case {row.name}: {error.title}", f"{error.advice} Then run again: finished cases are kept."
        ) from error
    except AxonError as error:
        return Skipped(row.name, error.title)
    except MemoryError:
        return Skipped(row.name, "It does not fit into memory.")
    except Exception as error:  # one odd file must not cost the others their night
        return Skipped(row.name, f"Internal error: {type(error).__name__}.")


def _address(row: Row, layout: Layout, least: float) -> str:
    """Hash of everything that the arrays follow from."""
    digest = hashlib.sha256(json.dumps([FORMAT, layout.form, least if row.films else 0]).encode())
    for role, path in (("ct", row.ct), *row.films.items()):
        if path is None:
            continue
        if not path.exists():
            raise VolumeError("volume.missing", f"{path.name} does not exist.", "Check the path.")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            digest.update(f"{role}:{file.relative_to(path.parent).as_posix()}:{file.stat().st_size}".encode())
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:20]


def _found(folder: Path) -> CaseEntry | None:
    """What an earlier run has made, if it is whole."""
    try:
        case = from_dict(CaseEntry, json.loads((folder / "case.json").read_text(encoding="utf-8")))
        wanted = ["strip.jpg", *(["hu.npy"] if case.spacing_mm else []), *(["films.npy"] if case.films else [])]
        for name in wanted[1:]:
            np.load(folder / name, mmap_mode="r", allow_pickle=False)  # fails where bytes are missing
        return case if (folder / wanted[0]).is_file() else None
    except (OSError, ValueError, EOFError, ConfigError):
        return None


def _made(row: Row, layout: Layout, cache: Path, key: str, least: float) -> CaseEntry:
    check_same_patient([path for path in (row.ct, *row.films.values()) if path is not None])
    pixels = layout.model.film_size
    volume = None if row.ct is None else CTVolume.load(row.ct)
    films = real_films(volume, row.films, pixels, onto_drr=layout.stretched, least=least)
    if volume is None:
        if not films.images:
            raise VolumeError("prepare.no-film", " ".join(films.warnings), "Use other films.")
        case = CaseEntry(row.name, row.patient, key, films=dict.fromkeys(films.images, "real"), warnings=films.warnings)
        _write(case_folder(cache, key), case, None, films.images, strip(None, {}, films.images))
        return case
    if layout.stretched:
        case, hu = _stretched(row, volume, films, layout, key)
        drrs = {view: _drr(volume, beam, pixels) for view, beam in zip(VIEWS, (XrayView.PA, XrayView.LAT), strict=True)}
        stored, seen = {**drrs, **films.images}, hu
    else:
        case, hu = _placed(row, volume, films, layout, key)
        stored, seen = films.images, before_the_films(torch.from_numpy(hu), case)[0].numpy()
        log_films = expose_pair(torch.from_numpy(seen), CanonicalGrid(layout.render), SHEET_PIXELS)
        drrs = {view: clinic_look(film).numpy() for view, film in zip(VIEWS, log_films, strict=True)}
    _write(case_folder(cache, key), case, hu, stored, strip(seen, drrs, films.images))
    return case


def _placed(row: Row, volume: CTVolume, films: RealFilms, layout: Layout, key: str) -> tuple[CaseEntry, np.ndarray]:
    """On the canonical cube around the body."""
    placed = place_case(volume, row.name, layout.render)
    spacing = placed.grid.spacing_mm
    _check_chest(placed.hu, spacing**3)
    known = np.nonzero(placed.known)[0]
    case = CaseEntry(
        row.name,
        row.patient,
        key,
        known=(int(known[0]), int(known[-1]) + 1),
        films=dict.fromkeys(films.images, "real"),
        film_frame=films.frame(placed.grid) if films.images else (),
        spacing_mm=(spacing,) * 3,
        warnings=films.warnings,
        notes=volume.notes,
    )
    return case, placed.hu


def _stretched(row: Row, volume: CTVolume, films: RealFilms, layout: Layout, key: str) -> tuple[CaseEntry, np.ndarray]:
    """The whole CT at 1 mm, without its couch, rescaled to the cube axis by axis; films where none is real are DRRs."""
    hu, affine = as_axial(volume.hu, volume.affine)
    body = body_mask(hu, np.linalg.norm(affine[:3, :3], axis=0))
    clean = CTVolume(np.where(body, hu, AIR_HU).astype(np.float32), affine)
    extent = np.asarray(clean.spacing_mm) * clean.hu.shape[::-1]
    for counts in (np.maximum(1, np.rint(extent)).astype(int), np.full(3, layout.render)):
        clean = _over_the_same_box(clean, counts)
    spacing = np.asarray(clean.spacing_mm)
    _check_chest(clean.hu, float(spacing.prod()))
    case = CaseEntry(
        row.name,
        row.patient,
        key,
        known=(0, layout.render),
        films={view: "real" if view in films.images else "drr" for view in VIEWS},
        spacing_mm=tuple(round(float(value), 5) for value in spacing),
        warnings=films.warnings,
        notes=volume.notes,
    )
    return case, clean.hu


def _over_the_same_box(volume: CTVolume, counts: np.ndarray) -> CTVolume:
    """Resampled to (x, y, z) `counts` voxels that fill the same box."""
    factor = volume.hu.shape[::-1] / counts
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ (0.5 * (factor - 1))
    affine[:3, :3] = volume.affine[:3, :3] * factor
    return volume.resampled(affine, counts[::-1].tolist())


def _drr(volume: CTVolume, view: XrayView, pixels: int) -> np.ndarray:
    """(p, p) in [-1, 1]: the film of a CT at rest, of the plain look."""
    return 2 * simulate(volume, XrayGeometry(view, pixels))[0] - 1


def _check_chest(hu: np.ndarray, voxel_mm3: float) -> None:
    """VolumeError unless there is lung, more than the rim between skin and air would feign."""
    lung = ndimage.binary_erosion((hu > LUNG_HU[0]) & (hu < LUNG_HU[1]))
    if lung.sum() * voxel_mm3 < 1000 * LEAST_LUNG_ML:
        raise VolumeError(
            "prepare.no-lung",
            "It shows hardly any lung: no chest CT, or not in Hounsfield units.",
            "Leave it out, or convert its values.",
        )


def _write(folder: Path, case: CaseEntry, hu: np.ndarray | None, films: dict[str, np.ndarray], picture: bytes) -> None:
    if folder.exists():  # damaged: see `_found`
        shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as part:
        if hu is not None:
            np.save(part / "hu.npy", np.rint(hu).clip(-1024, 3071).astype(np.int16))
        if films:
            blank = np.full_like(next(iter(films.values())), -1.0)
            both = np.stack([films.get(view, blank) for view in VIEWS])
            np.save(part / "films.npy", np.rint(FILM_SCALE * both.clip(-1, 1)).astype(np.int16))
        (part / "strip.jpg").write_bytes(picture)
        text = json.dumps(dataclasses.asdict(dataclasses.replace(case, split="")), indent=1)
        (part / "case.json").write_text(text + "\n", encoding="utf-8")


def default_workers() -> int:
    """One process for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""The cases on which methods are compared: films, the CT, and which of its slices are known. Opened one at a time.

A case comes from a cache of `axon prepare`, or straight from a CT file; films that it lacks are drawn by X-ray physics.
Cases themselves hold no arrays, so that a list of them costs nothing and travels between processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.data.cache import VIEWS, before_the_films, read_films, read_hu
from axon_core.data.cases import load_case
from axon_core.data.plan import FORMAT, CaseEntry, Plan, read_plan
from axon_core.drr.film import clinic_film
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.model import file_sha256

BEAMS = {"frontal": XrayView.PA, "lateral": XrayView.LAT}
RENDER = 128  # voxels along the cube of a CT file, from which its films are drawn, as long as no method has more


@dataclass(eq=False)
class Chest:
    """An opened case.

    Attributes:
        hu: (n, n, n) float32 HU, ``[z, y, x]``, as fine as it is known.
        covered: (n,) bool along z: slices that the CT covers.
        spacing_mm: (x, y, z) of these voxels.
        given: view -> (p, p) film in [-1, 1] that came with the case; the others are drawn.
        origin: "frontal" and "lateral" -> "real" or "drawn".
        cube: whether it lies on the cube of the films' geometry, so that it can be projected.
    """

    hu: torch.Tensor
    covered: torch.Tensor
    spacing_mm: tuple[float, float, float]
    given: dict[str, torch.Tensor]
    origin: dict[str, str]
    cube: bool = True

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edges of the cube, (x, y, z)."""
        x, y, z = (len(self.hu) * step for step in self.spacing_mm)
        return x, y, z

    def truth(self, size: int) -> torch.Tensor:
        """(size, size, size) HU, averaged over blocks; ConfigError if it does not divide the volume."""
        factor = self._factor(size)
        return F.avg_pool3d(self.hu[None, None], factor)[0, 0]

    def known(self, size: int) -> np.ndarray:
        """(size,) bool: slices that are known altogether."""
        return self.covered.view(size, self._factor(size)).all(1).numpy()

    def films(self, pixels: int) -> torch.Tensor:
        """(2, pixels, pixels) in [-1, 1], frontal and lateral."""
        grid = CanonicalGrid(len(self.hu), self.extent_mm[0])
        films = {view: _resized(film, pixels) for view, film in self.given.items()}
        for view in VIEWS:
            if view not in films:
                films[view] = clinic_film(self.hu, grid.affine, XrayGeometry(BEAMS[view], pixels))
        return torch.stack([films[view] for view in VIEWS])

    def _factor(self, size: int) -> int:
        if len(self.hu) % size:
            raise ConfigError(
                "evaluate.size",
                f"Volumes of {size} voxels cannot be judged by a CT of {len(self.hu)}.",
                "Prepare the data for the model's preset, or evaluate on CT files.",
            )
        return len(self.hu) // size


class EvalCase(Protocol):
    """A case that has not been opened yet.

    Attributes:
        name: in tables.
        patient: label by which patients are told apart.
    """

    @property
    def name(self) -> str: ...

    @property
    def patient(self) -> str: ...

    def key(self) -> str:
        """Hash of everything that it holds."""

    def open(self) -> Chest:
        """Read it."""


@dataclass(frozen=True)
class CtCase:
    """A CT file, laid on the cube as `data.cases` does; the films of both views are drawn from it."""

    path: Path
    render: int = RENDER

    @property
    def name(self) -> str:
        return self.path.name.split(".")[0]

    @property
    def patient(self) -> str:
        return self.name

    def key(self) -> str:
        """Of the file's content, or of the files of a folder."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file()) if self.path.is_dir() else [self.path]
        return _digest("ct", self.render, *(file_sha256(file) for file in files))

    def open(self) -> Chest:
        """Read the CT; VolumeError if it is no usable chest."""
        case = load_case(str(self.path), self.render)
        spacing = case.grid.spacing_mm
        origin = dict.fromkeys(VIEWS, "drawn")
        return Chest(torch.from_numpy(case.hu), torch.from_numpy(case.known), (spacing,) * 3, {}, origin)


@dataclass(frozen=True)
class CacheCase:
    """A case of a cache, as `data.cache.validation_cases` shows it."""

    folder: Path
    entry: CaseEntry
    stretched: bool

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def patient(self) -> str:
        return self.entry.patient

    def key(self) -> str:
        """Of its prepared arrays' key and of the pose in which its films see it."""
        return _digest(
            "cache", FORMAT, self.entry.key, self.entry.known, self.entry.film_frame, sorted(self.entry.films.items())
        )

    def open(self) -> Chest:
        """Read it; ConfigError if its arrays are damaged."""
        hu, known = before_the_films(read_hu(self.folder, self.entry), self.entry)
        x, y, z = self.entry.spacing_mm
        kinds = self.entry.films
        stored = dict(zip(VIEWS, read_films(self.folder, self.entry), strict=True)) if kinds else {}
        given = {view: film for view, film in stored.items() if view in kinds}
        origin = {view: "real" if kinds.get(view) == "real" else "drawn" for view in VIEWS}
        covered = (known > 0.5).flatten(1).all(1)
        return Chest(hu, covered, (x, y, z), given, origin, cube=not self.stretched)


def cache_cases(where: str | Path, split: str = "test") -> list[CacheCase]:
    """The cases of one part of a cache.

    Errors:
        ConfigError: no cache, or no case in this part.
    """
    plan, folder = _plan(where)
    cases = [CacheCase(folder, entry, plan.layout.stretched) for entry in plan.split(split)]
    if not cases:
        raise ConfigError(
            "evaluate.no-case",
            f"No case of {folder.name} is in its part {split!r}.",
            "Choose another --split, or divide the data otherwise (`axon prepare --split`).",
        )
    return cases


def ct_cases(paths: Iterable[str | Path], largest: int = 0) -> list[CtCase]:
    """CT files as cases.

    Args:
        paths: files or DICOM folders.
        largest: voxels along an edge of the finest volume that will be judged.

    Errors:
        ConfigError: a file is missing, or two have the same name.
    """
    cases = [CtCase(Path(path), RENDER * -(-max(largest, 1) // RENDER)) for path in paths]
    for case in cases:
        if not case.path.exists():
            raise ConfigError("evaluate.no-ct", f"There is no {case.path.name}.", "Check the path.")
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ConfigError("evaluate.same-name", "Two CTs have the same name.", "Rename one.")
    return cases


def mean_volume(cases: Sequence[EvalCase], size: int) -> np.ndarray:
    """(size, size, size) float32: the mean HU of cases, read one at a time."""
    total = torch.zeros((size,) * 3, dtype=torch.float64)
    for case in cases:
        total += case.open().truth(size)
    return (total / len(cases)).float().numpy()


def same_patients(train: Sequence[EvalCase], test: Sequence[EvalCase]) -> list[str]:
    """Patients that stand in both."""
    return sorted({case.patient for case in train} & {case.patient for case in test})


def _plan(where: str | Path) -> tuple[Plan, Path]:
    path = Path(where)
    return read_plan(path), path if path.is_dir() else path.parent


def _resized(film: torch.Tensor, pixels: int) -> torch.Tensor:
    size = (pixels, pixels)
    if film.shape == size:
        return film
    return F.interpolate(film[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()

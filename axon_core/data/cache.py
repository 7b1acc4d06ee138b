"""Prepared cases on disk, and the endless training samples that are drawn from them.

Each case is a folder ``cases/<key>`` of a cache: ``hu.npy`` (n, n, n) int16 HU, ``films.npy`` (2, p, p) int16 of its
films, where it has some, ``case.json`` and a picture. The arrays are memory-mapped: hundreds of cases cost no memory,
and all processes of a machine share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.ctvolume import AIR_HU
from axon_core.data.anatomy import AnatomyModel
from axon_core.data.augment import centred_in_depth, warp
from axon_core.data.cases import Case
from axon_core.data.findings import Lungs
from axon_core.data.pairs import (
    Item,
    Pair,
    as_item,
    expose_pair,
    known_after,
    load_pair,
    make_pair,
    pooled,
    random_exposures,
    save_pair,
)
from axon_core.data.plan import FORMAT, CaseEntry, Plan, read_plan
from axon_core.drr.appearance import Look, random_look
from axon_core.drr.exposure import USUAL
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid

VIEWS = ("frontal", "lateral")
FILM_SCALE = 32767.0  # what 1 is stored as
REAL_SHARE = 0.5  # of the draws of a patient with real films that show them; the others deform its CT


@dataclass(frozen=True)
class FixedCase:
    """A case as it is, for validation; shapes as of `PairDataset`'s items."""

    name: str
    films: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


class CacheDataset(torch.utils.data.Dataset):
    """Training samples from a cache: items (films, target, weight) as `PairDataset` gives them, without end.

    A sample is a deformed CT, or a phantom, with films drawn from it; of patients with real films half of the samples
    show those and their CT as it is. Caches of a stretched layout hold their films: every sample is a case as it is.

    Item i follows from the plan, the arguments and i alone, whoever asks and in whatever order; any i from 0 on names
    one. The length is the number of cases.

    Args:
        where: the cache folder, or its ``plan.json``.
        split: "train", "val" or "test".
        seed: of everything random.
        size: edge of the target; None for the model's. Twice that for the super-resolution stage.
        phantom_share: of the samples that are phantoms.
        anatomy: shapes of the cases, to draw others from; without it they are deformed at random alone.
        findings: vary densities from place to place and paint findings into the CTs (see `findings.vary`).
        unknown_weight: of voxels beyond the CT's ends.
        kept: 0 draws every chest anew. k draws k chests once, keeps them in the cache and uses them again with other
            looks: drawing a chest takes longer than training on it where there are few cores.

    Errors:
        ConfigError: no cache, no case in this part of it, or a size that was not prepared.
    """

    def __init__(
        self,
        where: str | Path,
        split: str = "train",
        *,
        seed: int = 0,
        size: int | None = None,
        phantom_share: float = 0.0,
        anatomy: AnatomyModel | None = None,
        findings: bool = False,
        unknown_weight: float = 0.1,
        kept: int = 0,
    ) -> None:
        self.plan = read_plan(where)
        self.folder = _folder(where)
        self.cases = self.plan.split(split)
        if not self.cases:
            raise ConfigError(
                "cache.empty-split",
                f"No case of {self.folder.name} is in its part {split!r}.",
                "Add patients and prepare again, or divide them otherwise (--split, or a column split).",
            )
        self.size = _checked_size(self.plan, size)
        self.seed, self.phantom_share, self.unknown_weight, self.kept = seed, phantom_share, unknown_weight, kept
        self.anatomy, self.findings = anatomy, findings
        self.lungs: dict[str, Lungs] = {}
        self.real = [case for case in self.cases if case.real]
        told: list[Any] = [
            FORMAT,
            self.plan.layout.model.film_size,
            self.plan.layout.render,
            self.size,
            seed,
            phantom_share,
        ]
        if anatomy:
            told.append(anatomy.digest)
        if findings:
            told.append("findings")
        address = hashlib.sha256(json.dumps([*told, [case.key for case in self.cases]]).encode())
        self.drawn = self.folder / "drawn" / address.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Item:
        layout = self.plan.layout
        generator = torch.Generator().manual_seed(_seed(self.seed, "item", index))
        choice, which = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if layout.stretched:
            case = self.cases[int(which * len(self.cases))]
            return as_item(*_at_rest(self.folder, self.plan, case, self.size, None), layout.model.hu_window, 1.0)
        if choice < REAL_SHARE * (1 - self.phantom_share) * len(self.real) / len(self.cases):
            case = self.real[int(which * len(self.real))]
            films, pair = _at_rest(self.folder, self.plan, case, self.size, generator)
        else:
            pair = self._kept_pair(index % self.kept) if self.kept else self._drawn(_seed(self.seed, "chest", index))
            films = torch.stack([random_look(generator).apply(film) for film in pair.log_films])
        return as_item(films, pair, layout.model.hu_window, self.unknown_weight)

    def _drawn(self, seed: int) -> Pair:
        layout = self.plan.layout
        return make_pair(
            self.chests, seed, self.size, layout.model.film_size, self.phantom_share, layout.render, self.anatomy,
            self._lungs_of if self.findings else None,
        )  # fmt: skip

    def _lungs_of(self, case: Case) -> Lungs:
        if case.name not in self.lungs:
            self.lungs[case.name] = Lungs.of(case.hu)
        return self.lungs[case.name]

    @property
    def chests(self) -> Sequence[Case]:
        """The cases' CTs, each read when it is asked for."""
        return _Cases(self.folder, self.cases, self.plan.layout.render)

    def _kept_pair(self, number: int) -> Pair:
        path = self.drawn / f"{number:07d}.npz"
        if not path.is_file():
            save_pair(self._drawn(_seed(self.seed, "kept", number)), path)
        return load_pair(path)


def validation_cases(where: str | Path, split: str = "val", size: int | None = None) -> list[FixedCase]:
    """The cases of a part, as they are: real films where there are some, else films of the plain look.

    Args:
        where: the cache folder, or its ``plan.json``.
        split: "train", "val" or "test".
        size: edge of the target; None for the model's.

    Errors:
        ConfigError: no cache, or a size that was not prepared.
    """
    plan, folder = read_plan(where), _folder(where)
    size, unknown = _checked_size(plan, size), 1.0 if plan.layout.stretched else 0.0
    window = plan.layout.model.hu_window
    return [
        FixedCase(case.name, *as_item(*_at_rest(folder, plan, case, size, None), window, unknown))
        for case in plan.split(split)
    ]


def lone_films(where: str | Path) -> dict[str, torch.Tensor]:
    """Name -> (1 or 2, p, p) real films, frontal first, of the cases without CT: there is nothing to compare with."""
    plan, folder = read_plan(where), _folder(where)
    return {
        case.name: torch.stack([read_films(folder, case)[k] for k, view in enumerate(VIEWS) if view in case.films])
        for case in plan.split("films")
        if "frontal" in case.films
    }


# --- one case --------------------------------------------------------------------------------------------------------


def case_folder(folder: Path, key: str) -> Path:
    """Where a cache keeps the arrays of a case."""
    return folder / "cases" / key


def read_hu(folder: Path, case: CaseEntry) -> torch.Tensor:
    """(n, n, n) float32 HU."""
    return torch.from_numpy(_array(folder, case, "hu.npy").astype(np.float32))


def read_films(folder: Path, case: CaseEntry) -> torch.Tensor:
    """(2, p, p) float32 in [-1, 1], frontal and lateral; a view that the case has no film of is -1."""
    return torch.from_numpy(_array(folder, case, "films.npy").astype(np.float32) / FILM_SCALE)


def _array(folder: Path, case: CaseEntry, name: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(case_folder(folder, case.key) / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            "cache.damaged",
            f"{name} of case {case.name} is missing or damaged.",
            "Run `axon prepare` again with the same arguments: it makes what is missing.",
        ) from error
    return array


def before_the_films(hu: torch.Tensor, case: CaseEntry) -> tuple[torch.Tensor, torch.Tensor]:
    """The CT in the pose in which it casts its real films, and what is known of it, (n, n, n) each.

    A single frontal film cannot tell the depth: the body then lies as everywhere in training.
    """
    size = hu.shape[0]
    known = torch.zeros(size)
    known[case.known[0] : case.known[1]] = 1.0
    if not case.film_frame:
        return hu, known[:, None, None].expand(size, size, size)
    frame = F.affine_grid(torch.tensor(case.film_frame)[None], [1, 1, size, size, size], align_corners=False)
    if case.films.get("lateral") != "real":
        frame = centred_in_depth(frame, hu)
    return warp(hu, frame, AIR_HU), known_after(frame, known)


def _at_rest(
    folder: Path, plan: Plan, case: CaseEntry, size: int, generator: torch.Generator | None
) -> tuple[torch.Tensor, Pair]:
    """Films and pair of an undeformed case; films that it lacks are drawn; without a generator, in the plain look."""
    pixels = plan.layout.model.film_size
    hu, known = before_the_films(read_hu(folder, case), case)
    films = read_films(folder, case) if case.films else torch.empty(2, pixels, pixels)
    drawn = torch.zeros(2, pixels, pixels)
    lacking = [k for k, view in enumerate(VIEWS) if view not in case.films]
    if lacking:
        exposures = (USUAL, USUAL) if generator is None else random_exposures(generator)
        grid = CanonicalGrid(hu.shape[0], plan.layout.model.extent_mm)
        drawn = expose_pair(hu, grid, pixels, exposures=exposures)
        for k in lacking:
            look = Look() if generator is None else random_look(generator)
            films[k] = look.apply(drawn[k])
    return films, pooled(hu, known, drawn, size)


class _Cases(Sequence[Case]):
    """Cases that are read when they are drawn."""

    def __init__(self, folder: Path, cases: Sequence[CaseEntry], render: int) -> None:
        self.folder, self.cases, self.grid = folder, cases, CanonicalGrid(render)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:  # type: ignore[override]  # no slices are asked for
        case = self.cases[index]
        known = np.zeros(self.grid.size, bool)
        known[case.known[0] : case.known[1]] = True
        return Case(case.name, read_hu(self.folder, case).numpy(), known, self.grid)


def _folder(where: str | Path) -> Path:
    path = Path(where)
    return path if path.is_dir() else path.parent


def _checked_size(plan: Plan, size: int | None) -> int:
    size = size or plan.layout.model.size
    if plan.layout.render % size:
        raise ConfigError(
            "cache.size",
            f"The cache holds volumes of {plan.layout.render} voxels; {size} does not divide that.",
            "Prepare the data for the preset that is trained.",
        )
    return size


def _seed(*parts: object) -> int:
    """Far apart for neighbouring indices, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")

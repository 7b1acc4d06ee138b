"""Endless pairs of films and volumes: deformed CTs and phantoms, with the films that they would cast.

Making a pair costs more than a training step on it, so pairs are made ahead, by any number of processes, one file
each; the look of the films is drawn anew each time a pair is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.data.anatomy import AnatomyModel, sampling_grid
from axon_core.data.augment import centred_in_depth, density_jitter, random_deformation, warp
from axon_core.data.cases import AIR_HU, Case
from axon_core.data.findings import Lungs, vary
from axon_core.data.phantom import thorax
from axon_core.drr.appearance import random_look
from axon_core.drr.exposure import USUAL, Exposure, random_exposure
from axon_core.drr.film import log_film, material_densities
from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.intensity import HuWindow

RENDER_SIZE = 128  # voxels along the cube from which films are rendered (2.8 mm)


Item = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # films, target, weight: see `PairDataset`


@dataclass(frozen=True)
class Pair:
    """One chest and its frontal and lateral film.

    Attributes:
        hu: (n, n, n) float32 HU on the canonical grid.
        known: (n, n, n) bool, where the volume is truth rather than continuation.
        log_films: (2, h, w) float32 logarithmic films by X-ray physics, before any look: frontal, lateral.
    """

    hu: torch.Tensor
    known: torch.Tensor
    log_films: torch.Tensor


def expose_pair(
    hu: torch.Tensor,
    grid: CanonicalGrid,
    pixels: int,
    frontal: XrayView = XrayView.PA,
    exposures: Sequence[Exposure] = (USUAL, USUAL),
) -> torch.Tensor:
    """(z, y, x) HU on a grid centred on the isocentre -> (2, pixels, pixels) logarithmic films, frontal and lateral."""
    materials, affine = material_densities(hu), CanonicalGrid(grid.size, grid.extent_mm).affine
    films = [
        log_film(materials, affine, XrayGeometry(view, pixels), exposure=exposure)
        for view, exposure in zip((frontal, XrayView.LAT), exposures, strict=True)
    ]
    return torch.stack(films)


def drawn_shape(anatomy: AnatomyModel | None, name: str, generator: torch.Generator) -> torch.Tensor | None:
    """A shape for the CT of this name, for `draw_chest`."""
    return None if anatomy is None else anatomy.shape(anatomy.index(name), generator)


def draw_chest(
    source: torch.Tensor,
    known: torch.Tensor,
    generator: torch.Generator,
    shape: torch.Tensor | None = None,
    lungs: Lungs | None = None,
) -> tuple[torch.Tensor, torch.Tensor, XrayView]:
    """A chest like `source` (n, n, n) HU, of which the slices `known` (n,) in {0, 1} are truth, and how it is filmed.

    Args:
        shape: (3, m, m, m) of `AnatomyModel.shape`, which is then deformed further at random; None for the source's.
        lungs: of the source, to vary its densities from place to place and to paint findings; None for a plain jitter.

    Returns:
        (n, n, n) HU; (n, n, n) in {0, 1}, which voxels are known; PA, or in 15 % AP.
    """
    deformation = random_deformation(len(source), generator, device=source.device)
    if shape is not None:
        deformation = sampling_grid(shape[None], deformation)
    deformation = centred_in_depth(deformation, source)
    if lungs is None:
        hu = density_jitter(warp(source, deformation, AIR_HU), generator)
    else:
        hu = warp(vary(source, lungs, generator), deformation, AIR_HU)
    frontal = XrayView.AP if float(torch.rand((), generator=generator)) < 0.15 else XrayView.PA
    return hu, known_after(deformation, known), frontal


def make_pair(
    cases: Sequence[Case],
    seed: int,
    size: int,
    pixels: int,
    phantom_share: float = 0.35,
    render: int | None = None,
    anatomy: AnatomyModel | None = None,
    lungs_of: Callable[[Case], Lungs] | None = None,
) -> Pair:
    """Draw a chest (a deformed CT, or a deformed phantom with probability `phantom_share`) and take its films.

    Args:
        cases: CTs on a grid of `render` voxels; may be empty when phantom_share is 1.
        seed: everything random follows from it.
        size: edge of the returned volume.
        pixels: edge of the returned films.
        render: voxels along the cube from which the films are rendered; RENDER_SIZE when None.
        anatomy: shapes of the CTs, to draw others from; without it they are deformed at random alone.
        lungs_of: finds the lungs of a CT, to paint findings into it; without it densities are jittered alone.

    Errors:
        ConfigError: no CT to draw from, or a size that does not divide `render`.
    """
    render = render or RENDER_SIZE
    if not cases and phantom_share < 1:
        raise ConfigError(
            "pairs.no-ct", "No CT was given to make pairs from.", "Name CTs, or draw phantoms only (share 1)."
        )
    if render % size:
        raise ConfigError("pairs.size", f"Volumes of {size} voxels are not made.", f"Use a divisor of {render}.")
    generator = torch.Generator().manual_seed(seed)
    grid, shape, lungs = CanonicalGrid(render), None, None
    if float(torch.rand((), generator=generator)) < phantom_share:
        source = torch.from_numpy(thorax(seed, grid))
        known = torch.ones(render)
    else:
        case = cases[int(torch.randint(len(cases), (), generator=generator))]
        source = torch.from_numpy(case.hu)
        known = torch.from_numpy(case.known).float()
        shape = drawn_shape(anatomy, case.name, generator)
        lungs = lungs_of(case) if lungs_of else None
    hu, share, frontal = draw_chest(source, known, generator, shape, lungs)
    return pooled(hu, share, expose_pair(hu, grid, pixels, frontal, random_exposures(generator)), size)


def random_exposures(generator: torch.Generator) -> list[Exposure]:
    """Of a frontal and a lateral film."""
    return [random_exposure(generator) for _ in range(2)]


def known_after(deformation: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Which voxels come from known slices of the CT: (n,) in {0, 1} along z -> (n, n, n)."""
    size = len(known)
    z = deformation[0, ..., 2].add(1).mul(size / 2).floor().long()  # which slice of the CT each voxel comes from
    return torch.where((z >= 0) & (z < size), known[z.clamp(0, size - 1)], known.new_zeros(()))


def pooled(hu: torch.Tensor, known: torch.Tensor, log_films: torch.Tensor, size: int) -> Pair:
    """A pair of `size` voxels from a finer volume and the share of it that is known, (n, n, n) each."""
    factor = hu.shape[0] // size
    hu, known = (F.avg_pool3d(volume[None, None], factor)[0, 0] for volume in (hu, known))
    return Pair(hu, known > 0.5, log_films)


def save_pair(pair: Pair, path: Path) -> None:
    """Write a pair as an uncompressed .npz (int16 HU, packed mask, float16 films), atomically."""
    with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            hu=pair.hu.round().clamp(-1024, 3071).short().numpy(),
            known=np.packbits(pair.known.numpy()),
            log_films=pair.log_films.half().numpy(),
        )


def load_pair(path: Path) -> Pair:
    """Read a pair written by `save_pair`; ConfigError if an earlier version wrote it."""
    with np.load(path, allow_pickle=False) as file:
        if "log_films" not in file:
            raise ConfigError("pairs.format", f"{path.name} was made by another version.", "Make the pairs again.")
        hu = torch.from_numpy(file["hu"].astype(np.float32))
        known = torch.from_numpy(np.unpackbits(file["known"], count=hu.numel()).astype(bool)).view(hu.shape)
        return Pair(hu, known, torch.from_numpy(file["log_films"].astype(np.float32)))


class PairDataset(torch.utils.data.Dataset):
    """Pairs of a folder, with fresh looks.

    Each item is (films (2, h, w) in [-1, 1], target (1, n, n, n) in [-1, 1], weight (1, n, n, n)): weight is 1 where
    the volume is known and `unknown_weight` where the body was continued beyond the CT.
    """

    def __init__(self, folder: Path, window: HuWindow, seed: int = 0, unknown_weight: float = 0.1) -> None:
        self.paths = sorted(folder.glob("[!.]*.npz"))
        if not self.paths:
            raise ConfigError(
                "pairs.none", f"There are no pairs in {folder.name}.", "Make them first, or name their folder."
            )
        self.window = window
        self.seed = seed
        self.unknown_weight = unknown_weight

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        """`index` may exceed the number of files: it then names the same pair with another look."""
        pair = load_pair(self.paths[index % len(self.paths)])
        generator = torch.Generator().manual_seed(self.seed + index)
        films = torch.stack([random_look(generator).apply(film) for film in pair.log_films])
        return as_item(films, pair, self.window, self.unknown_weight)


def as_item(films: torch.Tensor, pair: Pair, window: HuWindow, unknown_weight: float) -> Item:
    """What networks are trained on, from films (2, h, w) in [-1, 1] and their pair."""
    return films, window.encode(pair.hu)[None], torch.where(pair.known, 1.0, unknown_weight)[None]

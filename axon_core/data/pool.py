"""Many chests drawn on an accelerator and kept in its memory, each shown with ever new looks.

A GPU draws some hundred chests a second and trains on more: there the data must not come from the CPU. A chest follows
from its seed as in `pairs.make_pair`, whatever the device; phantoms alone are drawn once and deformed again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from axon_core.data.anatomy import AnatomyModel
from axon_core.data.cases import Case
from axon_core.data.findings import Lungs
from axon_core.data.pairs import Item, Pair, as_item, draw_chest, drawn_shape, expose_pair, pooled, random_exposures
from axon_core.drr.appearance import apply_looks, random_look
from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid
from axon_core.intensity import HuWindow


class PairPool(torch.utils.data.Dataset):
    """Items (films, target, weight) as `PairDataset` gives them, on `device`.

    Args:
        cases: CTs on cubes of the same size, a multiple of `size`; may be empty when phantom_share is 1.
        count: chests.
        size: edge of the targets.
        pixels: edge of the films.
        window: HU <-> [-1, 1].
        anatomy: shapes of `cases`; without it they are deformed at random alone.
        findings: vary densities from place to place and paint findings into the CTs (see `findings.vary`).
        phantoms: as `cases`, drawn from with probability `phantom_share`.
        seed: of everything random.
        unknown_weight: of voxels beyond the CT's ends.
        told: called with the number of chests drawn so far.

    Errors:
        ConfigError: nothing to draw from, or a size that does not divide the cubes'.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        count: int,
        size: int,
        pixels: int,
        window: HuWindow,
        device: torch.device | str,
        *,
        anatomy: AnatomyModel | None = None,
        findings: bool = False,
        phantoms: Sequence[Case] = (),
        phantom_share: float = 0.0,
        seed: int = 0,
        unknown_weight: float = 0.1,
        told: Callable[[int], None] = lambda done: None,
    ) -> None:
        if not (cases if phantom_share < 1 else phantoms) or (phantom_share > 0 and not phantoms):
            raise ConfigError("pool.none", "There is no chest to draw from.", "Name CTs or phantoms.")
        self.grid = CanonicalGrid(len([*cases, *phantoms][0].hu))
        if self.grid.size % size:
            raise ConfigError(
                "pool.size", f"Volumes of {size} voxels are not made.", f"Use a divisor of {self.grid.size}."
            )
        self.device, self.seed, self.window, self.unknown_weight = torch.device(device), seed, window, unknown_weight
        self.anatomy = anatomy.to(self.device) if anatomy else None
        self.lungs = [Lungs.of(case.hu, self.device) if findings else None for case in cases]
        self.names = [case.name for case in cases]
        self.cases, self.phantoms = self._held(cases), self._held(phantoms)
        self.phantom_share, self.size, self.pixels = phantom_share, size, pixels
        self.hu = torch.empty(count, size, size, size, dtype=torch.int16, device=self.device)
        self.known = torch.empty(count, size, size, size, dtype=torch.bool, device=self.device)
        self.log_films = torch.empty(count, 2, pixels, pixels, dtype=torch.float16, device=self.device)
        for number in range(count):
            self._draw(number)
            told(number + 1)

    def _held(self, cases: Sequence[Case]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.from_numpy(np.asarray(case.hu, np.float32)).to(self.device),
                torch.from_numpy(case.known.astype(np.float32)).to(self.device),
            )
            for case in cases
        ]

    @torch.no_grad()
    def _draw(self, number: int) -> None:
        generator = torch.Generator().manual_seed(self.seed + number)
        kind, which = torch.rand(2, generator=generator).tolist()
        if kind < self.phantom_share:
            hu, known, frontal = draw_chest(*self.phantoms[int(which * len(self.phantoms))], generator)
        else:
            index = int(which * len(self.cases))
            shape = drawn_shape(self.anatomy, self.names[index], generator)
            hu, known, frontal = draw_chest(*self.cases[index], generator, shape, self.lungs[index])
        films = expose_pair(hu, self.grid, self.pixels, frontal, random_exposures(generator))
        pair = pooled(hu, known, films, self.size)
        self.hu[number] = pair.hu.round().clamp(-1024, 3071).short()
        self.known[number] = pair.known
        self.log_films[number] = films

    def save(self, path: Path) -> None:
        """Write the chests as safetensors, for `load`."""
        from safetensors.torch import save_file

        chests = {"hu": self.hu, "known": self.known, "log_films": self.log_films}
        with atomic_file(path, overwrite=True) as temporary:
            save_file({key: value.cpu() for key, value in chests.items()}, str(temporary))

    @classmethod
    def load(
        cls, path: Path, window: HuWindow, device: torch.device | str, seed: int = 0, unknown_weight: float = 0.1
    ) -> PairPool:
        """The chests that `save` wrote, with looks of `seed`."""
        from safetensors.torch import load_file

        pool = cls.__new__(cls)
        chests = load_file(str(path), device=str(device))
        pool.hu, pool.known, pool.log_films = chests["hu"], chests["known"], chests["log_films"]
        pool.device, pool.window = torch.device(device), window
        pool.seed, pool.unknown_weight = seed, unknown_weight
        return pool

    def __len__(self) -> int:
        return len(self.hu)

    def __getitem__(self, index: int) -> Item:
        """`index` may exceed the number of chests: it then names the same chest with another look."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several items at once."""
        looks = []
        for index in indices:
            generator = torch.Generator().manual_seed(self.seed + index)
            looks += [random_look(generator), random_look(generator)]
        at = torch.tensor([index % len(self) for index in indices], device=self.device)
        films = apply_looks(looks, self.log_films[at].float().flatten(0, 1)).unflatten(0, (-1, 2))
        return [
            as_item(film, Pair(hu, known, film), self.window, self.unknown_weight)
            for film, hu, known in zip(films, self.hu[at].float(), self.known[at], strict=True)
        ]

"""Does one frontal film tell how deep a body is? CTs made deeper or flatter, filmed, and the depth that F(x) finds.

    python benchmarks/depth.py --ct CT... [--model axon-small]

A CT is stretched front to back about the place where bodies are laid, filmed by X-ray physics and given to F(x), which
never learns the factor. Depth is the mean distance from front to back of the body over the middle half of its width, in
the slices that the CT covers. A model that guesses finds the same depth every time; one that reads it follows. A second
table films the CT as it is from other distances, with the same magnification of its middle: what is read from
perspective then changes with the distance, though the body is the same.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.ctvolume import AIR_HU
from axon_core.data.augment import warp
from axon_core.data.cases import BEHIND_MIDDLE_MM, BODY_HU, Case, load_case
from axon_core.drr.film import clinic_film
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.model import AxonModel

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2)
DISTANCES = (0.8, 0.9, 1.0, 1.1, 1.25, 2.0, 5.0)  # of the usual


def stretched(case: Case, factor: float) -> torch.Tensor:
    """(n, n, n) HU of a body that is `factor` times as deep."""
    size, middle = len(case.hu), 2 * BEHIND_MIDDLE_MM / case.grid.extent_mm
    matrix = torch.tensor([[1, 0, 0, 0], [0, 1 / factor, 0, middle * (1 - 1 / factor)], [0, 0, 1, 0]])
    grid = F.affine_grid(matrix[None], [1, 1, size, size, size], align_corners=False)
    return warp(torch.from_numpy(case.hu), grid, AIR_HU)


def depth_mm(hu: torch.Tensor, known: torch.Tensor, extent_mm: float) -> float:
    """Of a (z, y, x) body, in the slices `known` (z,)."""
    size, body = len(hu), hu > BODY_HU
    enclosed = body.cummax(1).values & body.flip(1).cummax(1).values.flip(1)
    middle = slice(size // 4, -(size // 4))
    return float(enclosed.sum(1)[known][:, middle].float().mean()) * extent_mm / size


class Reader:
    """Films bodies and finds their depth by F(x)."""

    def __init__(self, model: AxonModel, case: Case) -> None:
        self.model, self.case, self.extent = model, case, case.grid.extent_mm
        self.known = torch.from_numpy(case.known)

    @torch.inference_mode()
    def found(self, hu: torch.Tensor, distance: float = 1.0) -> float:
        """Depth in mm by one film from `distance` times the usual one."""
        config, usual = self.model.config, XrayGeometry()
        geometry = XrayGeometry(
            XrayView.PA, config.film_size, distance * usual.sdd_mm, distance * usual.isocentre_to_detector_mm
        )
        film = clinic_film(hu, CanonicalGrid(len(hu)).affine, geometry)
        volume = config.hu_window.decode(self.model.film_to_volume(film[None, None])[0, 0])
        return depth_mm(volume, self.known.view(config.size, -1).all(1), self.extent)

    def stretched(self) -> str:
        """A row: true / found depth for every factor, and the slope of the second over the first."""
        bodies = [stretched(self.case, factor) for factor in FACTORS]
        true = np.array([depth_mm(hu, self.known, self.extent) for hu in bodies])
        found = np.array([self.found(hu) for hu in bodies])
        pairs = " | ".join(f"{a:.0f} / {b:.0f}" for a, b in zip(true, found, strict=True))
        return f"| {self.case.name} | {pairs} | {np.polyfit(true, found, 1)[0]:.2f} |"

    def moved(self) -> str:
        """A row: found depth from every distance."""
        hu = torch.from_numpy(self.case.hu)
        return f"| {self.case.name} | " + " | ".join(f"{self.found(hu, distance):.0f}" for distance in DISTANCES) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", nargs="+", required=True)
    parser.add_argument("--model", default="axon-small")
    args = parser.parse_args()
    model = AxonModel.from_pretrained(args.model)
    readers = [Reader(model, load_case(path)) for path in args.ct]
    print(f"| depth, mm: true / found | {' | '.join(f'x {factor:g}' for factor in FACTORS)} | found per true |")
    print("|---|" + "---|" * (len(FACTORS) + 1))
    for reader in readers:
        print(reader.stretched(), flush=True)
    metres = [XrayGeometry().sdd_mm * distance / 1000 for distance in DISTANCES]
    print(f"\n| found, mm, from | {' | '.join(f'{distance:.2f} m' for distance in metres)} |")
    print("|---|" + "---|" * len(DISTANCES))
    for reader in readers:
        print(reader.moved(), flush=True)


if __name__ == "__main__":
    main()

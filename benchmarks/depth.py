"""Does one frontal film tell how deep a body is? CTs made deeper or flatter, filmed, and the depth that F(x) finds.

    python benchmarks/depth.py --ct CT... [--model axon-small]

A CT is stretched front to back about the place where bodies are laid, filmed by X-ray physics and given to F(x), which
never learns the factor. Depth is the mean distance from front to back of the body over the middle half of its width, in
the slices that the CT covers. A model that guesses finds the same depth every time; one that reads it follows.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from axon_core.ctvolume import AIR_HU
from axon_core.data.augment import warp
from axon_core.data.cases import BEHIND_MIDDLE_MM, BODY_HU, Case, load_case
from axon_core.drr.film import clinic_film
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.model import AxonModel

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2)


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


@torch.inference_mode()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", nargs="+", required=True)
    parser.add_argument("--model", default="axon-small")
    args = parser.parse_args()
    model = AxonModel.from_pretrained(args.model)
    config = model.config
    print(f"| depth, mm: true / found | {' | '.join(f'x {factor:g}' for factor in FACTORS)} | found per true |")
    print("|---|" + "---|" * (len(FACTORS) + 1))
    for case in map(load_case, args.ct):
        extent, known = case.grid.extent_mm, torch.from_numpy(case.known)
        coarse = known.view(config.size, -1).all(1)
        depths = []
        for factor in FACTORS:
            hu = stretched(case, factor)
            film = clinic_film(hu, CanonicalGrid(len(hu)).affine, XrayGeometry(XrayView.PA, config.film_size))
            found = config.hu_window.decode(model.film_to_volume(film[None, None])[0, 0])
            depths.append((depth_mm(hu, known, extent), depth_mm(found, coarse, extent)))
        true, found = torch.tensor(depths).T
        slope = float(((true - true.mean()) * found).sum() / ((true - true.mean()) ** 2).sum())
        cells = " | ".join(f"{a:.0f} / {b:.0f}" for a, b in depths)
        print(f"| {case.name} | {cells} | {slope:.2f} |", flush=True)


if __name__ == "__main__":
    main()

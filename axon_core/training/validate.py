"""How good a stage is on fixed cases that it does not learn from: loss, MAE and PSNR of what it makes, and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon_core.files import atomic_file
from axon_core.training.draws import Draws
from axon_core.training.stages import Stage

PICTURE = "cases.png"


@torch.no_grad()
def validate(stage: Stage, cases: Sequence[Any], device: torch.device, folder: Path) -> dict[str, Any]:
    """Measure the stage as it is.

    Every call draws the same times and noise, so that only the weights make a difference.

    Args:
        cases: items of a data set: (films (2, p, p), target (1, n, n, n), weight (1, n, n, n)).
        folder: where the picture is put: one row for each case, middle slices from the front, the side and above, first
            of the stage's volume, then of the target.

    Returns:
        loss; mae and psnr on [0, 1] where the stage aims at the target (known voxels); picture, its path.
    """
    losses, errors, rows = [], [], []
    for number, item in enumerate(cases):
        batch = tuple(part[None].to(device) for part in item)
        losses.append(float(stage(batch, Draws(0, 0, [number], len(cases))).values))
        volume = stage.volume(batch, Draws(0, 1, [number], len(cases))).clamp(-1, 1).cpu()
        _, target, weight = (part.cpu() for part in batch)
        known = weight == weight.max()
        errors.append(((volume - target)[known] / 2).double())
        rows.append(np.concatenate([middle_slices(volume[0, 0]), middle_slices(target[0, 0])], 1))
    found: dict[str, Any] = {"loss": round(sum(losses) / len(losses), 6)}
    if stage.conditional:
        found["mae"] = round(float(np.mean([float(e.abs().mean()) for e in errors])), 5)
        found["psnr"] = round(float(np.mean([-10 * math.log10(float((e**2).mean()) + 1e-12) for e in errors])), 3)
    return {**found, "picture": _draw(np.concatenate(rows), folder / PICTURE)}


def middle_slices(volume: torch.Tensor) -> np.ndarray:
    """(n, n, n) in [-1, 1], [z, y, x] -> (n, 3 n) uint8: coronal and sagittal (head up), axial."""
    n = len(volume) // 2
    slices = torch.cat([volume[:, n].flip(0), volume[:, :, n].flip(0), volume[n]], 1)
    return ((slices + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def _draw(picture: np.ndarray, path: Path) -> str:
    from PIL import Image

    with atomic_file(path, overwrite=True) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
    return str(path)

"""How good a stage is on fixed cases that it does not learn from: loss, MAE and PSNR of what it makes, and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon_core.config import ModelConfig
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid
from axon_core.training.draws import Draws
from axon_core.training.stages import Stage

PICTURE, VOLUMES = "cases.png", "cases.npz"
LARGEST = 128  # voxels along an edge of the volumes that are kept: six pairs of finer ones would take 400 MB


@torch.no_grad()
def validate(stage: Stage, cases: Sequence[Any], device: torch.device, folder: Path) -> dict[str, Any]:
    """Measure the stage as it is.

    Every call draws the same times and noise, so that only the weights make a difference.

    Args:
        cases: items of a data set: (films (2, p, p), target (1, n, n, n), weight (1, n, n, n)).
        folder: where the picture is put: one row for each case, middle slices from the front, the side and above, first
            of the stage's volume, then of the target; and beside it both volumes of each case in HU, see `_keep`.

    Returns:
        loss; mae and psnr on [0, 1] where the stage aims at the target (known voxels); picture, its path.
    """
    losses, errors, made, truth = [], [], [], []
    for number, item in enumerate(cases):
        batch = tuple(part[None].to(device) for part in item)
        losses.append(float(stage(batch, Draws(0, 0, [number], len(cases))).values))
        volume = stage.volume(batch, Draws(0, 1, [number], len(cases))).clamp(-1, 1).cpu()
        _, target, weight = (part.cpu() for part in batch)
        known = weight == weight.max()
        errors.append(((volume - target)[known] / 2).double())
        made.append(volume[0, 0].float())
        truth.append(target[0, 0].float())
    found: dict[str, Any] = {"loss": round(sum(losses) / len(losses), 6)}
    if stage.conditional:
        found["mae"] = round(float(np.mean([float(e.abs().mean()) for e in errors])), 5)
        found["psnr"] = round(float(np.mean([-10 * math.log10(float((e**2).mean()) + 1e-12) for e in errors])), 3)
    if len(made[0]) <= LARGEST:
        _keep(stage.model.config, made, truth, folder / VOLUMES)
    rows = [np.concatenate([middle_slices(m), middle_slices(t)], 1) for m, t in zip(made, truth, strict=True)]
    return {**found, "picture": _draw(np.concatenate(rows), folder / PICTURE)}


def middle_slices(volume: torch.Tensor) -> np.ndarray:
    """(n, n, n) in [-1, 1], [z, y, x] -> (n, 3 n) uint8: coronal and sagittal (head up), axial."""
    n = len(volume) // 2
    slices = torch.cat([volume[:, n].flip(0), volume[:, :, n].flip(0), volume[n]], 1)
    return ((slices + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def _keep(config: ModelConfig, made: list[torch.Tensor], truth: list[torch.Tensor], path: Path) -> None:
    """Write `made` and `truth` (cases, z, y, x) as int16 HU, with `affine` index (x, y, z, 1) -> LPS mm."""
    volumes = {
        name: np.rint(config.hu_window.decode(torch.stack(cases)).numpy()).astype(np.int16)
        for name, cases in (("made", made), ("truth", truth))
    }
    with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
        np.savez(file, **volumes, affine=CanonicalGrid(len(made[0]), config.extent_mm).affine)


def _draw(picture: np.ndarray, path: Path) -> str:
    from PIL import Image

    with atomic_file(path, overwrite=True) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
    return str(path)

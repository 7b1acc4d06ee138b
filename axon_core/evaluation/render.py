"""A chest in three dimensions as a picture: bones and lungs, seen from the front and a little from the side.

Rays are parallel. Each sample of a ray emits a shaded colour and hides what lies behind it (Max, IEEE TVCG 1 (1995)
99). Bone is opaque from some HU on, of the lungs only their surface is seen, through which bone shines.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.evaluation.tissue import tissues

BONE, LUNG = (0.96, 0.91, 0.80), (0.86, 0.52, 0.50)
BONE_HU = (120.0, 350.0)  # from clear to opaque
LUNG_OPACITY = 0.25  # of the lung's surface, for each sample
STEPS = 128  # samples along a ray


def render(hu: Any, spacing_mm: float, azimuth_deg: float = 25.0, pixels: int = 224) -> np.ndarray:
    """Draw a volume.

    Args:
        hu: (n, n, n) HU, ``[z, y, x]`` in LPS: x grows to the left, y to the back, z to the head.
        spacing_mm: edge of a voxel.
        azimuth_deg: how far to the patient's left the viewer stands.
        pixels: edge of the picture.

    Returns:
        (pixels, pixels, 3) float32 in [0, 1], on black: head up, the patient's right on the left.
    """
    array = np.asarray(hu, np.float32)
    found = tissues(array, spacing_mm)
    bone = torch.from_numpy(np.where(found.body, array, -1000.0).astype(np.float32))
    lung = torch.from_numpy(found.lung.astype(np.float32))
    seen = _turned(torch.stack([bone + 1000.0, lung]), math.radians(azimuth_deg), pixels)
    seen[0] -= 1000.0  # beyond the cube there is air
    bone_alpha = ((seen[0] - BONE_HU[0]) / (BONE_HU[1] - BONE_HU[0])).clamp(0, 1)
    lung_surface, lung_light = _shade(seen[1])
    _, bone_light = _shade(seen[0].clamp(-200, 1000))
    lung_alpha = LUNG_OPACITY * (lung_surface / lung_surface.max().clamp_min(1e-6)).clamp(0, 1)
    alpha = 1 - (1 - bone_alpha) * (1 - lung_alpha)
    colour = bone_alpha[..., None] * bone_light[..., None] * torch.tensor(BONE) + ((1 - bone_alpha) * lung_alpha)[
        ..., None
    ] * lung_light[..., None] * torch.tensor(LUNG)
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], 1), 1)
    return (through[..., None] * colour).sum(1).flip(0).clamp(0, 1).numpy()


def _turned(volumes: torch.Tensor, azimuth: float, pixels: int) -> torch.Tensor:
    """(k, z, y, x) -> (k, pixels, STEPS, pixels): the viewer looks along the second of the three axes."""
    cos, sin = math.cos(azimuth), math.sin(azimuth)
    matrix = torch.tensor([[[cos, -sin, 0.0, 0.0], [sin, cos, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]])
    grid = F.affine_grid(matrix, [1, len(volumes), pixels, STEPS, pixels], align_corners=False)
    return F.grid_sample(volumes[None], grid, mode="bilinear", align_corners=False)[0]


def _shade(volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Length of the gradient, and how bright a surface across it is: light from the viewer, above and to the left."""
    z, y, x = torch.gradient(volume)
    length = (z * z + y * y + x * x).sqrt()
    facing = (0.35 * z - 0.85 * y - 0.4 * x).abs() / length.clamp_min(1e-6)
    return length, 0.25 + 0.75 * facing.clamp(0, 1)

"""Random anatomy from few anatomies: affine and elastic deformation, tissue density jitter.

The deformation acts on the volume before any film is rendered from it, so film and volume always agree. Left and
right are never swapped: the heart stays on its side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from axon_core.ctvolume import AIR_HU
from axon_core.data.cases import BEHIND_MIDDLE_MM, BODY_HU, depth_centre

EXTENT_MM = 360.0


def random_affine(generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """(3, 4) matrix for `affine_grid` (x, y, z order, unit cube [-1, 1]): scale, shear-free rotation, shift.

    At strength 1: log scale sd 0.08 in common, 0.10 front to back (chests differ most in depth) and 0.05 along the
    other axes; rotations sd 5 degrees for tilt (about x), 3 for lean (about y) and 4 about the long axis; shifts sd
    12 mm.
    """

    def normal(n: int) -> torch.Tensor:
        return strength * torch.randn(n, generator=generator)

    scale = torch.exp(0.08 * normal(1) + torch.tensor([0.05, 0.10, 0.05]) * normal(3))
    ax, ay, az = (torch.tensor([5.0, 3.0, 4.0]).deg2rad() * normal(3)).tolist()
    rx = torch.tensor([[1, 0, 0], [0, math.cos(ax), -math.sin(ax)], [0, math.sin(ax), math.cos(ax)]])
    ry = torch.tensor([[math.cos(ay), 0, math.sin(ay)], [0, 1, 0], [-math.sin(ay), 0, math.cos(ay)]])
    rz = torch.tensor([[math.cos(az), -math.sin(az), 0], [math.sin(az), math.cos(az), 0], [0, 0, 1]])
    shift = 12.0 * normal(3) / (EXTENT_MM / 2)
    return torch.cat([(rz @ ry @ rx) * scale, shift[:, None]], 1)


def random_deformation(
    size: int, generator: torch.Generator, strength: float = 1.0, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """(1, size, size, size, 3) sampling grid for `grid_sample`: `random_affine` and a smooth elastic field.

    The elastic field has control points 72 mm apart and displacements of sd 4 mm at strength 1, tapering nowhere. The
    grid is made on `device`; the random numbers are the generator's, on the CPU.
    """
    matrix = random_affine(generator, strength)[None].to(device)
    grid = F.affine_grid(matrix, [1, 1, size, size, size], align_corners=False)
    control = torch.randn(1, 3, 6, 6, 6, generator=generator).to(device) * (strength * 7.0 / (EXTENT_MM / 2))
    smooth = F.avg_pool3d(
        F.interpolate(control, size=12, mode="trilinear", align_corners=True), 3, 1, 1, count_include_pad=False
    )
    field = F.interpolate(smooth, size=size, mode="trilinear", align_corners=True)
    return grid + 1.6 * field.permute(0, 2, 3, 4, 1)  # 1.6 gives back a part of the spread that smoothing takes


def centred_in_depth(deformation: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
    """Shift a deformation along y so that the deformed body lies front to back where `cases.place_case` puts a CT.

    A frontal film cannot tell otherwise: any other place in training would only blur what is predicted from one view.
    """
    step = max(1, volume.shape[0] // 32)
    body = warp(volume, deformation[:, ::step, :, ::step], AIR_HU) > BODY_HU
    if not body.any():
        return deformation
    middle = (2 * depth_centre(body) + 1) / volume.shape[0] - 1 - 2 * BEHIND_MIDDLE_MM / EXTENT_MM  # in [-1, 1]
    along = 0.5 * (deformation[:, :, -1:] - deformation[:, :, :1]).mean((0, 1, 2, 3))  # source moved per unit of y
    return deformation + middle * along


def warp(volume: torch.Tensor, grid: torch.Tensor, fill: float) -> torch.Tensor:
    """Sample (z, y, x) at a deformation's grid, trilinear.

    Beyond the ends of the volume the body goes on in z (end slices repeated); in x and y there is `fill`.
    """
    outside = (grid[..., :2].abs() > 1).any(-1)[0]
    warped = F.grid_sample(volume[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    return warped.masked_fill(outside, fill)


def density_jitter(hu: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Vary inflation of the lung, soft tissue and bone density; air outside stays air.

    Lung (-950 to -500 HU) shifts by sd 35 HU, everything above -200 HU by sd 10 HU, bone (> 150 HU) scales by sd 12 %.
    """
    lung, soft, bone = torch.randn(3, generator=generator).tolist()
    in_lung = torch.clamp((hu + 980) / 60, 0, 1) * torch.clamp((-400 - hu) / 200, 0, 1)
    hu = hu + in_lung * (35 * lung)
    hu = hu + torch.clamp((hu + 300) / 100, 0, 1) * (10 * soft)
    return hu + torch.clamp(hu - 150, min=0) * (0.12 * bone)

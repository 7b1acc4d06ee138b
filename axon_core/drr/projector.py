"""Cone-beam line integrals through a volume: perspective shear-warp in plain torch.

After Lacroute and Levoy (SIGGRAPH 1994) with Joseph's weights (IEEE TMI 1982). Seen from the source, every slab of
voxels across the beam maps onto one middle plane by a scale and a shift, which are separable. So the whole projection
is two gathers of contiguous rows (columns of the volume, then rows, summed over depth) and one small 2D warp from the
middle plane onto the detector. All of it runs in the volume's own index space, so any affine (anisotropic, oblique,
flipped) works alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.errors import ConfigError, VolumeError
from axon_core.geometry import RigidPose, XrayGeometry

NEAREST = 0.05  # of the way from the source to the middle of the volume: nothing of the patient may be nearer
CHUNK_BYTES = 2**22  # of sheared slabs worked on at a time: they stay in the processor's cache


class Projector:
    """Line integrals of a volume for any X-ray geometry and pose whose beam stays near the given one.

    Args:
        volume: (z, y, x) or (C, z, y, x) tensor of linear attenuation [1/mm], or of C material densities. The device
            is the projector's; float64 is computed in float64, all else in float32.
        affine: (4, 4) voxel index (x, y, z, 1) -> LPS millimetres.
        beam: (3,) rough direction of the beam in LPS; the volume is cut into slabs across its nearest axis.
        slab: voxels averaged along the beam; 1 is exact, 2 to 8 trade little accuracy for speed.
        table: number format in which the slabs are kept; float16 halves the memory traffic.

    Differentiable with respect to `volume` and to the pose.

    Errors:
        ConfigError: impossible slab. VolumeError: not a volume, empty, not finite, or a singular affine.
    """

    def __init__(
        self,
        volume: torch.Tensor,
        affine: np.ndarray,
        beam: np.ndarray,
        slab: int = 1,
        table: torch.dtype | None = None,
    ) -> None:
        volume = _checked(volume, affine, slab)
        self.compute = torch.float64 if volume.dtype == torch.float64 else torch.float32
        self.to_index = torch.from_numpy(np.linalg.inv(affine))
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        depth = int(np.argmax(np.abs(beam @ axes)))  # index axis (0 = x, 1 = y, 2 = z) nearest the beam
        u, v = (axis for axis in range(3) if axis != depth)
        slabs = _averaged(volume, 3 - depth, slab, self.compute).permute(3 - depth, 3 - u, 3 - v, 0)
        if not bool(torch.isfinite(slabs.detach().sum())):
            raise VolumeError("drr.not-finite", "The volume holds values that are not finite.", "Repair the file.")
        planes = torch.arange(len(slabs), dtype=torch.float64) * slab + (slab - 1) / 2  # depth index of each slab
        if not volume.requires_grad:  # the empty slabs in front and behind need not be gone through
            occupied = slabs.abs().amax((1, 2, 3)).nonzero().flatten().tolist() or [0]
            used = slice(occupied[0], occupied[-1] + 1)
            slabs, planes = slabs[used], planes[used]
        self.axes, self.slab, self.planes, self.middle = (depth, u, v), slab, planes, float(planes.mean())
        self.n_slabs, self.n_u, self.n_v, self.channels = slabs.shape
        self.table = slabs.reshape(self.n_slabs, self.n_u, self.n_v * self.channels).to(table or self.compute)
        self.table = self.table.contiguous()

    def __call__(self, geometry: XrayGeometry, pose: RigidPose | torch.Tensor | None = None) -> torch.Tensor:
        """Integrals along every ray from source to pixel centre.

        Args:
            geometry: source and detector; isocentre at the LPS origin.
            pose: motion of the patient about the isocentre; also as (4, 4) matrix LPS -> LPS, or a batch (B, 4, 4) of
                them, through which gradients flow.

        Returns:
            (C, pixels, pixels), or (B, C, pixels, pixels) for a batch, of the volume's unit times millimetres.

        Errors:
            ConfigError: the beam runs along the slabs.
        """
        if isinstance(pose, torch.Tensor) and pose.ndim == 3:
            if len(pose) == 0:
                raise ConfigError("drr.no-pose", "There is no pose in the batch.", "Give at least one.")
            return torch.stack([self(geometry, matrix) for matrix in pose])
        matrix = torch.from_numpy((pose or RigidPose()).matrix) if not isinstance(pose, torch.Tensor) else pose
        to_index = self.to_index @ torch.linalg.inv(matrix.cpu().double())
        rays = _Rays.of(geometry, to_index, self.axes, self.middle)
        plane, grid_u, grid_v = self._middle_plane(rays)

        def unit(hit: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
            return 2 * (hit - grid[0]) / (grid[-1] - grid[0]) - 1

        hit_u, hit_v, step = rays.on_detector(self.compute, plane.device)
        warp = torch.stack([unit(hit_u, grid_u), unit(hit_v, grid_v)], -1)
        film = F.grid_sample(plane[None], warp[None], mode="bilinear", align_corners=True)[0]
        return film * (self.slab * step)

    def _middle_plane(self, rays: _Rays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sum of all slabs as seen from the source on the middle plane: (C, v, u), and the positions of its u and v."""
        _, u, v = self.axes
        source_u, source_v = rays.source[u], rays.source[v]
        scale = (self.planes - rays.source[self.axes[0]]) / (self.middle - rays.source[self.axes[0]])  # magnification
        if bool((scale < NEAREST).any()):
            raise ConfigError("drr.beam", "The source stands inside the patient.", "Move it away: raise the SDD.")
        grid_u = _plane_grid(rays.bounds[0], rays.pitch[0], source_u, self.n_u, scale[[0, -1]])
        grid_v = _plane_grid(rays.bounds[1], rays.pitch[1], source_v, self.n_v, scale[[0, -1]])
        row_u, weight_u = self._taps(grid_u, source_u, scale, self.n_u)
        row_v, weight_v = self._taps(grid_v, source_v, scale, self.n_v)
        n, m, channels = len(grid_u), len(grid_v), self.channels
        plane = torch.zeros(m, n * channels, dtype=self.compute, device=self.table.device)
        chunk = max(1, CHUNK_BYTES // (n * self.n_v * channels * self.table.element_size()))
        for first in range(0, self.n_slabs, chunk):
            slabs = slice(first, first + chunk)
            count = len(self.planes[slabs])
            sheared = _gather(self.table[slabs].flatten(0, 1), row_u[slabs], weight_u[slabs], self.n_u)
            sheared = sheared.view(count, n, self.n_v, channels).transpose(1, 2)
            sheared = sheared.reshape(count * self.n_v, n * channels)
            plane += _gather(sheared, row_v[slabs], weight_v[slabs], self.n_v, summed=True)
        return plane.view(m, n, channels).permute(2, 0, 1), grid_u, grid_v

    def _taps(
        self, grid: torch.Tensor, source: torch.Tensor, scale: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Linear interpolation at `grid` in every slab: rows and weights, (slabs, grid, 2); zero outside the volume."""
        position = (source + (grid - source) * scale[:, None]).to(self.compute)
        below = position.detach().floor()
        above = position - below
        row = below.to(torch.int32)[..., None] + torch.tensor([0, 1], dtype=torch.int32)
        weight = torch.stack([1 - above, above], -1) * ((row >= 0) & (row < count))
        device = self.table.device
        return row.clamp_(0, count - 1).to(device), weight.to(device, self.table.dtype)


@dataclass(frozen=True)
class _Rays:
    """A cone beam in a volume's index space.

    Attributes:
        source: (3,) index coordinates.
        corner, row, column: (3,) from the source to the first pixel's centre, and from pixel to pixel.
        axes: index axes (depth, u, v).
        middle: depth of the middle plane.
        geometry: in millimetres, for lengths.
        bounds: (2, 2), of u and of v, between which the rays meet the middle plane.
        pitch: (2,), of u and of v, between neighbouring rays there.
    """

    source: torch.Tensor
    corner: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    axes: tuple[int, int, int]
    middle: float
    geometry: XrayGeometry
    bounds: torch.Tensor
    pitch: torch.Tensor

    @classmethod
    def of(cls, geometry: XrayGeometry, to_index: torch.Tensor, axes: tuple[int, int, int], middle: float) -> _Rays:
        turn, shift = to_index[:3, :3], to_index[:3, 3]
        to_corner, to_row, to_column = (torch.from_numpy(vector) for vector in geometry.rays())
        source = turn @ torch.from_numpy(geometry.source) + shift
        corner, row, column = turn @ to_corner, turn @ to_row, turn @ to_column
        last = geometry.pixels - 1
        corners = torch.stack([corner + r * row + c * column for r in (0, last) for c in (0, last)])
        depth, u, v = axes
        reach, far = corners[:, depth], middle - source[depth]
        with torch.no_grad():
            slanted = reach.abs() < 0.25 * corners.norm(dim=1)  # under 14 degrees between ray and slabs
            if bool((far * reach <= 0).any()) or bool(slanted.any()):
                raise ConfigError(
                    "drr.beam",
                    "The beam runs along the slabs, or the patient is not between source and detector.",
                    "Build the projector for this view, or correct the pose.",
                )
        hits = source[[u, v]] + corners[:, [u, v]] * (far / reach)[:, None]
        bounds = torch.stack([hits.amin(0), hits.amax(0)], 1)
        return cls(source, corner, row, column, axes, middle, geometry, bounds, (bounds[:, 1] - bounds[:, 0]) / last)

    def on_detector(self, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Per pixel: u and v where its ray meets the middle plane, and millimetres of ray per unit of depth."""
        pixel = torch.arange(self.geometry.pixels, dtype=dtype, device=device)

        def along(axis: int) -> torch.Tensor:
            corner, row, column = (part[axis].to(device, dtype) for part in (self.corner, self.row, self.column))
            return (corner + pixel * row)[:, None] + (pixel * column)[None]

        depth, u, v = self.axes
        inverse = 1 / along(depth)
        source = self.source.to(device, dtype)
        far = self.middle - source[depth]
        offset = (pixel - 0.5 * (self.geometry.pixels - 1)) * self.geometry.pitch_mm
        length = (self.geometry.sdd_mm**2 + offset[:, None] ** 2 + offset[None] ** 2).sqrt()
        return source[u] + far * along(u) * inverse, source[v] + far * along(v) * inverse, length * inverse.abs()


def _checked(volume: torch.Tensor, affine: np.ndarray, slab: int) -> torch.Tensor:
    """The volume as (C, z, y, x) of floating point, or an error."""
    if volume.ndim == 3:
        volume = volume[None]
    if volume.ndim != 4 or volume.numel() == 0:
        raise VolumeError(
            "drr.volume",
            f"The projector got a volume of shape {tuple(volume.shape)}.",
            "Give (z, y, x) or (C, z, y, x) with at least one voxel.",
        )
    if slab < 1:
        raise ConfigError("drr.slab", f"A slab of {slab} voxels is impossible.", "Give a slab of at least 1.")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise VolumeError(
            "drr.affine",
            "The volume's geometry is singular: its axes do not span space.",
            "Check the spacing and direction in the file.",
        )
    return volume if volume.is_floating_point() else volume.float()


def _averaged(volume: torch.Tensor, axis: int, slab: int, dtype: torch.dtype) -> torch.Tensor:
    """Mean of every `slab` voxels along an axis, in `dtype`; the last may be fewer, as if filled up with air."""
    if slab == 1:
        return volume.to(dtype)
    whole = volume.shape[axis] // slab * slab
    first, *others = volume.narrow(axis, 0, whole).unflatten(axis, (-1, slab)).unbind(axis + 1)
    total = first.to(dtype, copy=True)
    for part in others:  # far quicker than mean() for half precision
        total += part
    if whole < volume.shape[axis]:
        rest = volume.narrow(axis, whole, volume.shape[axis] - whole).sum(axis, keepdim=True, dtype=dtype)
        total = torch.cat([total, rest], axis)
    return total / slab


def _plane_grid(
    bounds: torch.Tensor, pitch: torch.Tensor, source: torch.Tensor, count: int, scale: torch.Tensor
) -> torch.Tensor:
    """Positions along one axis of the middle plane: detector pitch, covering the rays inside the volume's shadow.

    They are the rays' own positions where detector and slabs are parallel, so that nothing is interpolated twice.
    """
    edges = torch.tensor([-1.0, float(count)], dtype=scale.dtype)
    shadow = source + (edges - source)[:, None] / scale
    low, high = torch.maximum(bounds[0], shadow.min()), torch.minimum(bounds[1], shadow.max())
    first, last = (float((end - bounds[0]).detach() / pitch.detach()) for end in (low, high))
    steps = torch.arange(math.floor(first) - 1, max(math.floor(first) + 1, math.ceil(last) + 2), dtype=scale.dtype)
    return bounds[0] + pitch * steps


def _gather(
    table: torch.Tensor, row: torch.Tensor, weight: torch.Tensor, rows: int, summed: bool = False
) -> torch.Tensor:
    """Weighted sums of table rows.

    Args:
        table: (slabs * rows, width).
        row, weight: (slabs, n, 2), rows inside their slab.
        rows: table rows of one slab.
        summed: over the slabs too.

    Returns:
        (slabs * n, width), or (n, width) when summed.
    """
    row = row + rows * torch.arange(len(row), dtype=torch.int32, device=row.device)[:, None, None]
    if summed:
        row, weight = row.transpose(0, 1).flatten(1), weight.transpose(0, 1).flatten(1)
    else:
        row, weight = row.flatten(0, 1), weight.flatten(0, 1)
    return F.embedding_bag(row.contiguous(), table, per_sample_weights=weight.contiguous(), mode="sum")

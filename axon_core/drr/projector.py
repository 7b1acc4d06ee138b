"""Cone-beam line integrals through a volume: perspective shear-warp in plain torch.

After Lacroute and Levoy (SIGGRAPH 1994) with Joseph's weights (IEEE TMI 1982). Seen from the source, every slab of
voxels across the beam maps onto one middle plane by a scale and a shift, which are separable. So the whole projection
is two gathers of contiguous rows (columns of the volume, then rows, summed over depth) and one small 2D warp from the
middle plane onto the detector. All of it runs in the volume's own index space, so any affine (anisotropic, oblique,
flipped) works alike.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.errors import ConfigError
from axon_core.geometry import RigidPose, XrayGeometry


class Projector:
    """Line integrals of a volume for any X-ray geometry whose beam stays near the given one.

    Args:
        volume: (z, y, x) or (C, z, y, x) tensor of linear attenuation [1/mm], or of C material densities.
        affine: (4, 4) voxel index (x, y, z, 1) -> LPS millimetres.
        beam: (3,) rough direction of the beam in LPS; the volume is cut into slabs across its nearest axis.
        slab: voxels averaged along the beam; 1 is exact, 2 to 8 trade little accuracy for speed.

    The result is differentiable with respect to `volume` when it requires a gradient.
    """

    def __init__(self, volume: torch.Tensor, affine: np.ndarray, beam: np.ndarray, slab: int = 1) -> None:
        if volume.ndim == 3:
            volume = volume[None]
        if volume.ndim != 4 or slab < 1:
            raise ConfigError(
                "drr.volume",
                f"The projector got a volume of shape {tuple(volume.shape)} and slab {slab}.",
                "Give (z, y, x) or (C, z, y, x) and a slab of at least 1.",
            )
        self.to_index = np.linalg.inv(affine)
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        depth = int(np.argmax(np.abs(beam @ axes)))  # index axis (0 = x, 1 = y, 2 = z) nearest the beam
        u, v = (axis for axis in range(3) if axis != depth)
        slabs = volume.permute(3 - depth, 3 - u, 3 - v, 0)  # (depth, u, v, C)
        thickness = slabs.shape[0]
        slabs = F.pad(slabs, (0, 0, 0, 0, 0, 0, 0, -thickness % slab))
        slabs = slabs.unflatten(0, (-1, slab)).mean(1)
        self.axes = (depth, u, v)
        self.n_slabs, self.n_u, self.n_v, self.channels = slabs.shape
        self.table = slabs.reshape(self.n_slabs * self.n_u, self.n_v * self.channels).contiguous()
        self.slab = slab
        self.planes = (
            torch.arange(self.n_slabs, dtype=torch.float64) * slab + (slab - 1) / 2
        )  # depth index of each slab
        self.middle = float(self.planes.mean())

    def __call__(self, geometry: XrayGeometry, pose: RigidPose | None = None) -> torch.Tensor:
        """Integrals along every ray from source to pixel centre.

        Args:
            geometry: source and detector; isocentre at the LPS origin.
            pose: motion of the patient about the isocentre.

        Returns:
            (C, pixels, pixels) float32 of the volume's unit times millimetres.
        """
        depth, u, v = self.axes
        to_index = self.to_index if pose is None else self.to_index @ np.linalg.inv(pose.matrix)
        source = torch.from_numpy(to_index[:3, :3] @ geometry.source + to_index[:3, 3])
        detector = geometry.detector()
        ray_mm = torch.from_numpy(np.linalg.norm(detector - geometry.source, axis=-1))
        ray = torch.from_numpy(detector @ to_index[:3, :3].T + to_index[:3, 3]) - source
        if bool((ray[..., depth].abs() < 1e-6).any()):
            raise ConfigError("drr.beam", "A ray runs along the slabs.", "Build the projector for this view.")

        # where each ray meets the middle plane, and the part of that plane which the volume's shadow reaches
        hit = (self.middle - source[depth]) / ray[..., depth]
        hit_u, hit_v = source[u] + hit * ray[..., u], source[v] + hit * ray[..., v]
        scale = (self.planes - source[depth]) / (self.middle - source[depth])  # (slabs,) magnification
        grid_u = self._middle_grid(hit_u, float(source[u]), self.n_u, scale)
        grid_v = self._middle_grid(hit_v, float(source[v]), self.n_v, scale)

        sheared = self._gather(self.table, grid_u, float(source[u]), scale, self.n_u, per_slab=True)
        sheared = sheared.view(self.n_slabs, len(grid_u), self.n_v, self.channels).transpose(1, 2)
        sheared = sheared.reshape(self.n_slabs * self.n_v, len(grid_u) * self.channels)
        plane = self._gather(sheared, grid_v, float(source[v]), scale, self.n_v, per_slab=False)
        plane = plane.view(1, len(grid_v), len(grid_u), self.channels).permute(0, 3, 1, 2)

        def unit(hit: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
            return 2 * (hit - grid[0]) / (grid[-1] - grid[0]) - 1

        warp = torch.stack([unit(hit_u, grid_u), unit(hit_v, grid_v)], -1)[None].to(plane.dtype)
        film = F.grid_sample(plane, warp, mode="bilinear", align_corners=True)[0]
        step_mm = self.slab * ray_mm / ray[..., depth].abs()  # millimetres of ray inside one slab
        return film * step_mm.to(film.dtype)

    def _middle_grid(self, hit: torch.Tensor, source: float, count: int, scale: torch.Tensor) -> torch.Tensor:
        """Positions along one axis of the middle plane: detector pitch, covering the rays and the volume's shadow."""
        edges = [source + (edge - source) / float(s) for edge in (-1.0, float(count)) for s in scale[[0, -1]]]
        low, high = max(float(hit.min()), min(edges)), min(float(hit.max()), max(edges))
        pitch = float(hit.max() - hit.min()) / (max(hit.shape) - 1)
        n = max(2, math.ceil((high - low) / pitch) + 3)
        return low + pitch * (torch.arange(n, dtype=torch.float64) - 1)

    def _gather(
        self, table: torch.Tensor, grid: torch.Tensor, source: float, scale: torch.Tensor, count: int, per_slab: bool
    ) -> torch.Tensor:
        """Linear interpolation of table rows at `grid` in every slab; summed over the slabs unless `per_slab`."""
        position = source + (grid[None] - source) * scale[:, None]  # (slabs, grid) index coordinate in each slab
        below = position.floor()
        weight = (position - below)[..., None]
        row = below.long()[..., None] + torch.tensor([0, 1])
        weight = torch.cat([1 - weight, weight], -1) * ((row >= 0) & (row < count))
        row = row.clamp(0, count - 1) + (torch.arange(self.n_slabs) * count)[:, None, None]
        if per_slab:
            row, weight = row.flatten(0, 1), weight.flatten(0, 1)
        else:
            row, weight = row.transpose(0, 1).flatten(1), weight.transpose(0, 1).flatten(1)
        row, weight = row.to(table.device), weight.to(table.device, table.dtype)
        return F.embedding_bag(row, table, per_sample_weights=weight, mode="sum")

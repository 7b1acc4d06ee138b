"""The volume in which a procedural chest is painted: soft-edged shapes, blended over what is there.

All lengths are millimetres from the cube's centre, in LPS: x to the patient's Left, y Posterior, z Superior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from axon_core.geometry import CanonicalGrid

AIR, FAT, MUSCLE, SOFT = -1000.0, -100.0, 52.0, 40.0  # HU
Vector = Sequence[float] | np.ndarray  # x, y, z
Box = tuple[slice, slice, slice]  # [z, y, x]


def vec(x: float, y: float, z: float) -> np.ndarray:
    """A point or a step in LPS millimetres."""
    return np.array([x, y, z], dtype=float)


class Shape(NamedTuple):
    """A soft-edged body: its bounding box in the volume and, inside, how much of each voxel it fills (0 to 1)."""

    box: Box
    mask: np.ndarray


class Canvas:
    """The volume being painted, with coordinates in millimetres from the cube's centre."""

    all = (slice(None), slice(None), slice(None))

    def __init__(self, grid: CanonicalGrid) -> None:
        axis = (np.arange(grid.size, dtype=np.float32) - 0.5 * (grid.size - 1)) * np.float32(grid.spacing_mm)
        self.axis, self.spacing = axis, grid.spacing_mm
        self.edge = np.float32(max(grid.spacing_mm, 1.5))  # edges are this wide: partial volume and the scanner's blur
        self.x, self.y, self.z = axis[None, None, :], axis[None, :, None], axis[:, None, None]
        self.hu = np.full(grid.shape, AIR, np.float32)

    def soft(self, distance: np.ndarray) -> np.ndarray:
        """1 inside (distance < 0), 0 outside, linear over the edge's width."""
        mask = distance * np.float32(-1.0 / self.edge)
        mask += np.float32(0.5)
        return np.clip(mask, 0.0, 1.0, out=mask)

    def paint(self, shape: Shape, hu: float | np.ndarray) -> None:
        """Blend the shape over what is there."""
        view = self.hu[shape.box]
        view += shape.mask * (hu - view)

    def box(self, low: Vector, high: Vector) -> Box:
        """The voxels between two corners (x, y, z); empty where that lies outside the cube."""
        x, y, z = (slice(*np.searchsorted(self.axis, (a, b))) for a, b in zip(low, high, strict=True))
        return z, y, x

    def within(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z of the box's voxels, to be broadcast together."""
        return self.x[:, :, box[2]], self.y[:, box[1], :], self.z[box[0]]

    def ellipsoid(
        self, centre: Vector, radii: Vector, rotation: np.ndarray | None = None, margin: float = 0.0
    ) -> Shape:
        """An ellipsoid grown by `margin`; `rotation` (3, 3) turns its axes into x, y, z."""
        half = np.asarray(radii, float) + margin
        reach = (half if rotation is None else np.sqrt((rotation**2) @ half**2)) + self.edge
        box = self.box(np.subtract(centre, reach), np.add(centre, reach))
        d = [axis - np.float32(c) for axis, c in zip(self.within(box), centre, strict=True)]
        if rotation is not None:
            r = np.asarray(rotation, np.float32)
            d = [r[0, i] * d[0] + r[1, i] * d[1] + r[2, i] * d[2] for i in range(3)]
        squares = [v * v for v in d]
        radius = np.sqrt(squares[0] + squares[1] + squares[2])
        k = np.sqrt(sum(s * np.float32(1.0 / h**2) for s, h in zip(squares, half, strict=True))) + np.float32(1e-3)
        return Shape(box, self.soft(radius - radius / k))

    def capsule(
        self,
        start: Vector,
        end: Vector,
        radius: float,
        end_radius: float | None = None,
        squeeze: float = 1.0,
    ) -> Shape:
        """A rod from start to end, tapering; `squeeze` < 1 makes it taller than thick. Thin rods fade, as in CT."""
        r0 = float(radius)
        r1 = r0 if end_radius is None else float(end_radius)
        p, v = np.asarray(start, np.float32), np.subtract(end, start).astype(np.float32)
        reach = max(r0, r1) + float(self.edge)
        corner = vec(reach, reach, reach / squeeze)
        box = self.box(np.minimum(start, end) - corner, np.maximum(start, end) + corner)
        dx, dy, dz = (axis - c for axis, c in zip(self.within(box), p, strict=True))
        t = (dx * v[0] + dy * v[1] + dz * v[2]) / (v @ v + np.float32(1e-6))
        np.clip(t, 0.0, 1.0, out=t)
        across = np.sqrt((dx - t * v[0]) ** 2 + (dy - t * v[1]) ** 2 + ((dz - t * v[2]) * np.float32(squeeze)) ** 2)
        mask = self.soft(across - (np.float32(r0) + t * np.float32(r1 - r0)))
        return Shape(box, mask * np.float32(min(1.0, 2.0 * min(r0, r1) / float(self.edge))))

    def rods(
        self, points: Sequence[Vector] | np.ndarray, radius: float, end_radius: float | None = None
    ) -> Iterator[Shape]:
        """Capsules along a polyline, tapering evenly."""
        radii = np.linspace(radius, radius if end_radius is None else end_radius, len(points))
        for p, q, r, s in zip(points, points[1:], radii, radii[1:], strict=False):
            yield self.capsule(p, q, r, s)


def texture(canvas: Canvas, rng: np.random.Generator, knots: int = 20) -> np.ndarray:
    """Smooth noise over the cube, about unit variance: white noise on a coarse lattice, interpolated linearly."""
    lattice = rng.standard_normal((knots, knots, knots)).astype(np.float32)
    place = (canvas.axis / (2.0 * abs(canvas.axis[0]) + canvas.edge) + 0.5) * (knots - 1)
    weights = np.clip(1.0 - np.abs(place[:, None] - np.arange(knots)), 0.0, None).astype(np.float32)
    for _ in range(3):  # each turn interpolates the first axis and moves it to the end
        lattice = np.tensordot(lattice, weights, axes=(0, 1))
    return lattice * np.float32(1.8)


def turned(about_y: float, about_z: float) -> np.ndarray:
    """(3, 3) rotation: first about y, then about z, radians."""
    cy, sy, cz, sz = np.cos(about_y), np.sin(about_y), np.cos(about_z), np.sin(about_z)
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])

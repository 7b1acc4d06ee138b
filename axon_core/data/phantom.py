"""Procedural chests: unlimited CT-like volumes for training and for tests, no patient involved.

A chest is drawn in two steps. `Anatomy.sample` draws one person (sizes, positions, HU). Then every organ is painted
onto a `Canvas` by a small function, later over earlier: fat, muscle, abdomen, heart, lungs, vessels, airways, bones.
All lengths are millimetres from the cube's centre, in LPS: x to the patient's Left, y Posterior, z Superior. Only the
broad layout is anatomical: sizes, HU and orientation resemble real chest CTs; the rest is good enough to learn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid

AIR, FAT, MUSCLE, SOFT = -1000.0, -100.0, 52.0, 40.0  # HU
RIGHT, LEFT = -1, 1  # sign of x
SIDES = (RIGHT, LEFT)
Vector = Sequence[float] | np.ndarray  # x, y, z
Box = tuple[slice, slice, slice]  # [z, y, x]
ROUNDNESS = 2.35  # exponent of the rib cage's cross-section: 2 an ellipse, more is squarer
BODY_ROUNDNESS = 2.2
BLUR_MM = 1.4  # sd of the scanner's blur
GUTTER = 44.0  # the lungs reach this far behind the vertebral bodies' centres
VERTEBRAE = range(-2, 15)  # T1 is 0, T12 is 11; two of the neck and three of the loin show


def thorax(seed: int, grid: CanonicalGrid) -> np.ndarray:
    """One random chest.

    Args:
        seed: a whole number >= 0; the same seed gives the same person on every grid (twigs and noise differ).
        grid: the cube to fill, 360 mm or so; its centre is the chest's centre.

    Returns:
        HU in [-1024, 1500], float32 ``[z, y, x]``, LPS axes. The body goes on to the cube's bottom (abdomen) and
        top (neck, and arms if raised).

    Raises:
        ConfigError: the seed is negative.
    """
    if seed < 0:
        raise ConfigError("phantom.seed", f"Phantom seed {seed} is negative.", "Give a whole number from 0 upwards.")
    rng = np.random.default_rng(seed)
    person = Anatomy.sample(rng)
    canvas = Canvas(grid)
    cage = cage_distance(person, canvas)
    paint_body(person, canvas)
    paint_breasts(person, canvas, rng)
    canvas.paint(Shape(canvas.all, canvas.soft(cage + 5.0)), person.mediastinum_hu)
    lungs = lung_mask(person, canvas, cage)
    paint_abdomen(person, canvas, cage, rng)
    paint_heart(person, canvas, rng)
    paint_lungs(person, canvas, lungs, rng)
    paint_great_vessels(person, canvas)
    paint_lung_vessels(person, canvas, lungs, rng)
    paint_airways(person, canvas, rng)
    paint_findings(person, canvas, lungs, rng)
    paint_spine(person, canvas, rng)
    paint_ribs(person, canvas, rng)
    paint_sternum(person, canvas)
    paint_shoulders(person, canvas, cage, rng)
    scan(person, canvas, rng)
    return np.clip(canvas.hu, -1024.0, 1500.0)


def vec(x: float, y: float, z: float) -> np.ndarray:
    """A point or a step in LPS millimetres."""
    return np.array([x, y, z], dtype=float)


# ------------------------------------------------------------------------------------------------------------- person


@dataclass(frozen=True)
class Anatomy:
    """One person. Lengths in millimetres; heights are z, from the cube's centre."""

    half_width: float  # of the rib cage at its widest
    half_depth: float
    apex: float  # z of the lungs' tops
    dome: float  # z of the right diaphragm's top
    dome_step: float  # the left dome is lower by this
    sulcus: float  # depth of the costophrenic angle under the dome
    fat: float  # under the skin
    muscle: float  # over the ribs
    back_muscle: float
    female: bool
    arms_raised: bool
    scoliosis: float
    scoliosis_phase: float
    kyphosis: float
    slant: float  # how much shallower the chest is at the top
    vertebra: float  # from one vertebra to the next
    rib_drop: float  # from a rib's head to its front end
    heart: tuple[float, float, float]  # half axes
    heart_offset: float  # of the heart's centre to the left
    aorta: float  # radius
    blood_hu: float
    bone: float  # 1 is healthy adult bone
    mediastinum: float  # half width
    mediastinum_hu: float
    lung_hu: float
    noise_hu: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Anatomy:
        """Draw a person."""
        u = rng.uniform
        size = u(0.9, 1.1)
        half_width = u(118, 140) * size
        apex = u(105, 155)
        contrast = u() < 0.4
        return cls(
            half_width=half_width,
            half_depth=half_width * u(0.66, 0.82),
            apex=apex,
            dome=apex - u(180, 235) * size,
            dome_step=u(3, 20),
            sulcus=u(45, 75),
            fat=float(np.clip(rng.gamma(2.2, 7.0), 4, 38)),
            muscle=u(8, 16),
            back_muscle=u(24, 38),
            female=u() < 0.45,
            arms_raised=u() < 0.8,
            scoliosis=u(-7, 7),
            scoliosis_phase=u(0, 2 * np.pi),
            kyphosis=u(8, 26),
            slant=u(0.2, 0.36),
            vertebra=u(21.5, 25.5) * size,
            rib_drop=u(75, 105) * size,
            heart=(u(58, 76) * size, u(44, 56) * size, u(46, 58) * size),
            heart_offset=u(12, 26),
            aorta=u(11, 16.5),
            blood_hu=u(130, 300) if contrast else u(36, 52),
            bone=u(0.75, 1.2),
            mediastinum=u(24, 33),
            mediastinum_hu=u(-60, 20),
            lung_hu=u(-890, -790),
            noise_hu=u(4, 18),
        )

    def spine_at(self, z: np.ndarray | float) -> tuple[Any, Any]:
        """(x, y) of the vertebral bodies' centres at height z; numbers or arrays, as z is."""
        t = (np.asarray(z, np.float32) - 20.0) / 150.0
        x = self.scoliosis * np.sin(2.0 * t + self.scoliosis_phase)
        return x, self.half_depth - GUTTER - self.kyphosis * np.minimum(t * t, 1.6)

    def section_at(self, z: np.ndarray | float) -> tuple[Any, Any, Any, Any]:
        """The rib cage's cross-section at height z: (centre x, centre y, half width, half depth)."""
        down = (self.apex + 12.0 - np.asarray(z, np.float32)) / 260.0  # 0 at the top, 1 near the lowest ribs
        width = self.half_width * np.interp(down, _DOWN, _WIDTH).astype(np.float32)
        depth = self.half_depth * (1.0 - self.slant * (1.0 - np.clip(down / 0.8, 0.0, 1.0)) ** 1.5)
        x, spine = self.spine_at(z)
        back = spine + GUTTER
        return x, back - depth, width, depth

    def cage_point(self, angle: float, z: float) -> np.ndarray:
        """A point of the rib cage's surface. `angle`: 0 at the spine, +pi/2 left, -pi/2 right, pi at the sternum."""
        cx, cy, a, b = self.section_at(z)
        s, c = np.sin(angle), np.cos(angle)
        k = (abs(s) ** ROUNDNESS + abs(c) ** ROUNDNESS) ** (1.0 / ROUNDNESS)
        return vec(cx + a * s / k, cy + b * c / k, z)

    def front(self, z: float) -> float:
        """y of the rib cage's foremost point at height z."""
        return float(self.cage_point(np.pi, z)[1])

    @property
    def carina(self) -> np.ndarray:
        """Where the windpipe divides."""
        z = self.apex - 88.0
        x, y = self.spine_at(z)
        return vec(x - 2.0, y - 42.0, z)

    @property
    def heart_centre(self) -> np.ndarray:
        z = self.dome - self.dome_step + 0.72 * self.heart[2]
        x, _ = self.spine_at(z)
        return np.array([x + self.heart_offset, self.front(z) + self.heart[1] + 14.0, z])

    def hilum(self, side: int) -> np.ndarray:
        """Where vessels and bronchi enter the lung."""
        return self.carina + vec(side * 40.0, 3.0, -24.0 if side == RIGHT else -14.0)


_DOWN = (-0.25, 0.0, 0.1, 0.2, 0.35, 0.55, 0.8, 1.1, 1.5)
_WIDTH = (0.36, 0.48, 0.66, 0.79, 0.90, 0.97, 1.0, 0.97, 0.93)


# ------------------------------------------------------------------------------------------------------------- canvas


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


# --------------------------------------------------------------------------------------------------------- body, lungs


def rounded_distance(
    canvas: Canvas, cx: np.ndarray, cy: np.ndarray, a: np.ndarray, b: np.ndarray, exponent: float
) -> np.ndarray:
    """Distance (along rays from the axis) to a tube whose cross-section at each z is a rounded rectangle."""
    cx, cy, a, b = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (cx, cy, a, b))
    dx, dy = canvas.x - cx, canvas.y - cy
    k = (np.abs(dx) / a) ** np.float32(exponent) + (np.abs(dy) / b) ** np.float32(exponent)
    k = np.power(k + np.float32(1e-6), np.float32(-1.0 / exponent))
    radius = np.sqrt(dx * dx + dy * dy)
    return radius - radius * k


def cage_distance(person: Anatomy, canvas: Canvas) -> np.ndarray:
    """Signed distance to the rib cage's surface, negative inside; it goes on into the abdomen and the neck."""
    return rounded_distance(canvas, *person.section_at(canvas.axis), ROUNDNESS)


def paint_body(person: Anatomy, canvas: Canvas) -> None:
    """Skin's outline filled with fat, then muscle within; trunk, neck, shoulders and arms."""
    cx, cy, a, b = person.section_at(canvas.axis)
    down = person.apex - canvas.axis
    # the shoulder girdle widens the upper chest, then the outline narrows to the neck
    girdle = np.interp(down, (-60, -35, 0, 45, 95, 170), (-15, 0, 44, 38, 20, 0)).astype(np.float32)
    cy = cy + 0.5 * (person.back_muscle - person.muscle) * np.interp(down, (-40, 0), (0.3, 1.0)).astype(np.float32)
    a = a + person.muscle + girdle
    b = b + 0.5 * (person.muscle + person.back_muscle)
    belly = np.interp(down, (100, 330), (0.8, 1.25)).astype(np.float32)
    body = rounded_distance(canvas, cx, cy, a + 1.1 * person.fat * belly, b + person.fat * belly, BODY_ROUNDNESS)
    canvas.paint(Shape(canvas.all, canvas.soft(body)), FAT)
    limbs = [rod for side in SIDES for rod in arm(person, side)]
    skin = 0.6 * person.fat
    for start, end, radius, end_radius in limbs:
        canvas.paint(canvas.capsule(start, end, radius + skin, end_radius + skin), FAT)
    meat = rounded_distance(canvas, cx, cy, a, b, BODY_ROUNDNESS)
    canvas.paint(Shape(canvas.all, canvas.soft(meat)), MUSCLE)
    for rod in limbs:
        canvas.paint(canvas.capsule(*rod), MUSCLE)


def shoulder(person: Anatomy, side: int) -> np.ndarray:
    """Centre of the humeral head."""
    x, y = person.spine_at(person.apex)
    lift, forward = (28.0, 30.0) if person.arms_raised else (-22.0, 30.0)
    return vec(x + side * (1.12 * person.half_width + 10.0), y - forward, person.apex + lift)


def elbow(person: Anatomy, side: int) -> np.ndarray:
    away = vec(side * 75.0, -55.0, 180.0) if person.arms_raised else vec(side * 60.0, -5.0, -270.0)
    return shoulder(person, side) + away


def arm(person: Anatomy, side: int) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """Muscle rods of shoulder and upper arm: (start, end, radius, radius at the end)."""
    joint = shoulder(person, side)
    x, y = person.spine_at(person.apex + 15.0)
    neck = vec(x + side * 38.0, y + 8.0, person.apex + 30.0)
    thick = 22.0 + person.muscle
    return [(neck, joint, 14.0, thick), (joint, elbow(person, side), thick, thick)]


def paint_breasts(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    size, gland, height = rng.uniform(30, 52), rng.uniform(0.2, 0.6), rng.uniform(120, 150)
    if not person.female:
        return
    z = person.apex - height
    for side in SIDES:
        centre = (side * 0.52 * person.half_width, person.front(z) - person.muscle + 6.0, z)
        radii = vec(1.4, 0.5 + 0.012 * person.fat, 1.2) * size
        keep = canvas.hu[canvas.box(np.subtract(centre, 90), np.add(centre, 90))]
        inside = keep.copy()
        canvas.paint(canvas.ellipsoid(centre, radii), FAT)
        canvas.paint(canvas.ellipsoid(centre, gland * radii), 15.0)
        np.copyto(keep, inside, where=inside > 0.0)  # the breast lies on the muscle, not in it


def dome_height(person: Anatomy, canvas: Canvas) -> np.ndarray:
    """z of the diaphragm, [1, y, x]: two domes, highest a little before the middle, falling away to the sulcus."""
    cx, cy, a, b = person.section_at(person.dome)
    out = (canvas.x - cx) / a
    back = (canvas.y - cy) / b
    sides = []
    for side, top in ((RIGHT, person.dome), (LEFT, person.dome - person.dome_step)):
        fall = ((out - 0.42 * side) / 0.58) ** 2 + (
            np.clip(back + 0.2, -0.8, None) / np.where(back < -0.2, 1.15, 0.95)
        ) ** 2
        sides.append(np.float32(top) - person.sulcus * np.minimum(fall, 2.2) ** 1.3)
    saddle = (
        person.dome - person.dome_step - 14.0 - 0.5 * person.sulcus * (np.abs(out) * 2.0 + np.clip(back, 0, None) ** 2)
    )
    return np.maximum(np.maximum(*sides), saddle).astype(np.float32)


def mediastinum_half_width(person: Anatomy, canvas: Canvas) -> np.ndarray:
    """[z, y, 1]: wide around the great vessels, narrow where the lungs nearly meet behind the sternum."""
    _, cy, _, b = (v[:, None, None] for v in person.section_at(canvas.axis))
    depth = np.interp(
        (canvas.y - cy) / b, (-1.0, -0.75, -0.45, -0.1, 0.1, 0.3, 0.6), (0.1, 0.3, 0.85, 1.0, 0.9, 0.6, 0.5)
    )
    height = np.interp(
        canvas.z, (person.dome, person.carina[2] - 40.0, person.apex - 40.0, person.apex), (0.8, 0.9, 1.05, 0.9)
    )
    return (person.mediastinum * depth * height).astype(np.float32)


def heart_rotation() -> np.ndarray:
    """The heart's long axis points left, down and a little forward."""
    return turned(0.45, -0.4)


def heart_shapes(person: Anatomy, canvas: Canvas, margin: float = 0.0) -> list[Shape]:
    """Left and right half of the heart, and the stem of its great vessels."""
    centre, radii = person.heart_centre, np.array(person.heart)
    right = centre + np.array([-0.42 * radii[0], 2.0, 0.12 * radii[2]])
    return [
        canvas.ellipsoid(centre, radii * (1.0, 1.0, 0.85), heart_rotation(), margin),
        canvas.ellipsoid(right, radii * (0.7, 0.92, 0.95), None, margin),
        canvas.capsule(centre, person.carina + vec(6.0, -30.0, -14.0), 0.62 * radii[2] + margin, 20.0 + margin),
    ]


def lung_mask(person: Anatomy, canvas: Canvas, cage: np.ndarray) -> np.ndarray:
    """How much of each voxel is lung, [z, y, x]: inside the ribs, above the diaphragm, beside the mediastinum."""
    lungs = canvas.soft(cage + 7.0)
    lungs *= canvas.soft(0.7 * (dome_height(person, canvas) - canvas.z))
    spine_x, spine_y = (v[:, None, None] for v in person.spine_at(canvas.axis))
    aside = np.abs(canvas.x - spine_x - 2.0)
    lungs *= canvas.soft(mediastinum_half_width(person, canvas) - aside)
    column = np.sqrt((canvas.x - spine_x) ** 2 + (0.75 * (canvas.y - spine_y)) ** 2)
    lungs *= canvas.soft(26.0 - column)
    # rounded tops, one above each side
    off = ((aside - 0.36 * person.half_width) / (0.36 * person.half_width)) ** 2
    deep = (canvas.y - spine_y + 18.0) / 60.0
    lungs *= canvas.soft(0.7 * (canvas.z - person.apex + 22.0 * np.minimum(off + deep * deep, 4.0)))
    for shape in heart_shapes(person, canvas, margin=3.0):
        lungs[shape.box] *= 1.0 - shape.mask
    return lungs


def paint_lungs(person: Anatomy, canvas: Canvas, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """Air-filled tissue, denser at the back where it hangs (the patient lies on the back)."""
    sag = np.float32(rng.uniform(0.05, 0.4)) * canvas.y
    canvas.paint(Shape(canvas.all, lungs), np.float32(person.lung_hu) + sag + 22.0 * texture(canvas, rng))


# -------------------------------------------------------------------------------------------------- abdomen and heart


def paint_abdomen(person: Anatomy, canvas: Canvas, cage: np.ndarray, rng: np.random.Generator) -> None:
    """Fat, liver on the right, stomach with gas and spleen on the left, kidneys, bowel."""
    u = rng.uniform
    below = canvas.soft(canvas.z - dome_height(person, canvas) + 2.0)
    inside = below * canvas.soft(cage + 6.0)
    canvas.paint(Shape(canvas.all, inside), FAT + 8.0)

    def organ(hu: float, centre: Vector, radii: Vector, rotation: np.ndarray | None = None) -> None:
        shape = canvas.ellipsoid(centre, radii, rotation)
        canvas.paint(Shape(shape.box, shape.mask * inside[shape.box]), hu)

    w, top = person.half_width, person.dome - person.dome_step
    cx, cy, _, b = (float(v) for v in person.section_at(person.dome - 40.0))
    for _ in range(22):  # bowel, some of it with gas
        centre = vec(cx + w * u(-0.75, 0.75), cy + b * u(-0.75, 0.35), person.dome - u(95, 260))
        radius, gassy, hu = u(11, 20), u() < 0.3, u(15, 45)
        organ(hu, centre, vec(1.5, 1.0, 1.0) * radius)
        if gassy:
            organ(-900.0, centre, vec(0.9, 0.55, 0.6) * radius)
    for side in SIDES:
        kidney = vec(cx + side * 58.0, cy + 0.58 * b, top - u(95, 125))
        organ(0.5 * person.blood_hu + 15.0, kidney, vec(26, 25, 54), turned(side * 0.25, 0.0))
    stomach = vec(cx + w * u(0.38, 0.5), cy - b * u(0.05, 0.3), top - u(48, 62))
    radii = vec(u(34, 48), u(32, 46), u(42, 58))
    organ(u(15, 45), stomach, radii)
    gas = u(0.35, 0.8)
    organ(-930.0, stomach + radii * vec(0.0, 0.6 * gas - 0.6, 0.25), radii * gas * vec(1.0, 0.8, 0.7))
    spleen = vec(cx + 0.72 * w, cy + 0.42 * b, top - u(42, 60))
    organ(48.0 + 0.25 * person.blood_hu, spleen, vec(30, 44, 52), turned(0.3, 0.3))
    liver_hu, length = u(40, 62) + 0.2 * person.blood_hu, u(120, 165)
    liver = vec(cx - 0.52 * w, cy - 0.02 * b, person.dome - 0.42 * length)
    organ(liver_hu, liver, vec(0.66 * w, 0.98 * b, 0.62 * length))
    left_lobe = vec(cx - 0.02 * w, cy - 0.5 * b, top - 38.0)
    organ(liver_hu, left_lobe, vec(0.6 * w, 0.45 * b, 46.0), turned(0.15, 0.0))


def paint_heart(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    """Fatty sac, muscle, and blood-filled chambers (visible with contrast agent)."""
    for shape in heart_shapes(person, canvas, margin=rng.uniform(1.0, 5.0)):
        canvas.paint(shape, FAT + 15.0)
    for shape in heart_shapes(person, canvas):
        canvas.paint(shape, MUSCLE - 5.0)
    centre, radii = person.heart_centre, np.array(person.heart)
    left = centre + heart_rotation() @ np.array([0.2 * radii[0], 0.15 * radii[1], 0.0])
    canvas.paint(canvas.ellipsoid(left, radii * (0.5, 0.5, 0.45), heart_rotation()), person.blood_hu)
    right = centre + np.array([-0.5 * radii[0], -0.15 * radii[1], 0.1 * radii[2]])
    canvas.paint(canvas.ellipsoid(right, radii * (0.52, 0.62, 0.75)), person.blood_hu)
    atrium = centre + np.array([-0.15 * radii[0], 0.75 * radii[1], 0.45 * radii[2]])
    canvas.paint(canvas.ellipsoid(atrium, radii * (0.55, 0.42, 0.42)), person.blood_hu)


def paint_great_vessels(person: Anatomy, canvas: Canvas) -> None:
    """Aorta (up on the right, over to the left, down beside the spine), neck arteries, caval veins, lung arteries."""
    hu, r, carina, heart = person.blood_hu, person.aorta, person.carina, person.heart_centre
    arch = carina + vec(6.0, -14.0, 34.0)
    root = heart + np.array([-0.35 * person.heart[0], -2.0, 0.55 * person.heart[2]])
    course = [
        root,
        carina + vec(-16.0, -34.0, -6.0),
        carina + vec(-12.0, -28.0, 16.0),
        arch,
        carina + vec(24.0, 14.0, 20.0),
    ]
    for z in (carina[2] - 8.0, carina[2] - 60.0, person.dome, person.dome - 90.0, -300.0):
        x, y = person.spine_at(z)
        course.append(np.array([x + np.interp(z, (person.dome - 40.0, carina[2]), (4.0, 24.0)), y - 18.0 - r * 0.6, z]))
    for shape in canvas.rods(course, 1.15 * r, 0.8 * r):
        canvas.paint(shape, hu)
    for begin, end in (((-10, -2, 0), (-26, 0, 60)), ((0, 4, 0), (16, 6, 60)), ((10, 10, 0), (34, 14, 55))):
        canvas.paint(canvas.capsule(arch + begin, arch + end, 5.0, 4.0), hu)
        canvas.paint(canvas.capsule(arch + end, arch + end + vec(0, 0, 90), 4.5), hu)
    cava = carina + vec(-26.0, -18.0, 0.0)
    for shape in canvas.rods([heart + vec(-0.7 * person.heart[0], 4.0, 10.0), cava, cava + vec(2.0, -2.0, 45.0)], 9.0):
        canvas.paint(shape, hu)
    x, y = person.spine_at(person.dome - 60.0)
    canvas.paint(
        canvas.capsule(heart + vec(-0.6 * person.heart[0], 10.0, -20.0), (x - 22.0, y - 26.0, -300.0), 11.0),
        0.7 * hu + 10.0,
    )
    trunk = carina + vec(14.0, -34.0, -18.0)
    canvas.paint(canvas.capsule(heart + vec(-6.0, -12.0, 0.4 * person.heart[2]), trunk, 14.0, 13.0), hu)
    for side in SIDES:
        canvas.paint(canvas.capsule(trunk, person.hilum(side) + vec(-6.0 * side, -10.0, 0.0), 11.0, 8.5), hu)


# ------------------------------------------------------------------------------------------------- vessels and airways


def grow_tree(root: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the targets (n, 3), nearest first, to a tree: each to the node that makes its way from the root short.

    Returns:
        nodes (n + 1, 3), the root first, and for each node its parent's index (the root's is 0).
    """
    order = np.argsort(((targets - root) ** 2).sum(1))
    nodes = np.concatenate([root[None], targets[order]])
    parent = np.zeros(len(nodes), int)
    way = np.zeros(len(nodes))
    for i in range(1, len(nodes)):
        step = np.sqrt(((nodes[:i] - nodes[i]) ** 2).sum(1))
        parent[i] = j = int(np.argmin(step + 0.55 * way[:i]))
        way[i] = way[j] + step[j]
    return nodes, parent


def tree_radii(parent: np.ndarray, twig: float, exponent: float = 2.6) -> np.ndarray:
    """Radius of the branch that ends at each node, by Murray's law: r^e is the sum of the children's r^e."""
    flow = np.ones(len(parent))
    for i in range(len(parent) - 1, 0, -1):  # children come after their parents
        flow[parent[i]] += flow[i]
    return twig * flow ** (1.0 / exponent)


def paint_lung_vessels(person: Anatomy, canvas: Canvas, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """An artery's and a vein's tree in each lung."""
    trees = ((person.hilum, 240), (lambda side: person.hilum(side) + vec(-10.0 * side, 8.0, -30.0), 150))
    low = vec(-person.half_width, -person.half_depth - 10.0, person.dome - person.sulcus)
    high = vec(person.half_width, person.half_depth + 10.0, person.apex)
    for side in SIDES:
        for root, count in trees:
            points = rng.uniform(low, high, (3000, 3))
            points[:, 0] = side * np.abs(points[:, 0])
            z, y, x = np.clip(np.searchsorted(canvas.axis, points.T[::-1]), 0, len(canvas.axis) - 1)
            nodes, parent = grow_tree(root(side), points[lungs[z, y, x] > 0.95][:count])
            radii = np.minimum(tree_radii(parent, rng.uniform(0.75, 0.95)), 8.0)
            bends = rng.normal(0.0, 0.08, nodes.shape)
            for i in range(1, len(nodes)):
                start, end = nodes[parent[i]], nodes[i]
                middle = 0.5 * (start + end) + bends[i] * np.linalg.norm(end - start)
                for shape in canvas.rods([start, middle, end], float(radii[i]), 0.85 * float(radii[i])):
                    canvas.paint(Shape(shape.box, shape.mask * lungs[shape.box]), person.blood_hu)


def paint_airways(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    """Windpipe, main bronchi and their first branches."""
    carina, radius = person.carina, rng.uniform(7.5, 10.0)
    x, y = person.spine_at(person.apex + 30.0)
    tube = [carina + vec(0, 0, 220.0), vec(x, y - 34.0, person.apex + 30.0), carina]
    branches = [(p, q, radius) for p, q in pairwise(tube)]
    for side in SIDES:
        end = person.hilum(side) + vec(-8.0 * side, 4.0, -6.0)
        branches.append((carina, end, 0.72 * radius))
        for _ in range(3):
            branches.append(
                (
                    end,
                    end + np.array([side * rng.uniform(10, 28), rng.uniform(-22, 24), rng.uniform(-38, 28)]),
                    0.4 * radius,
                )
            )
    for p, q, r in branches:
        canvas.paint(canvas.capsule(p, q, r + 1.5), SOFT)
    for p, q, r in branches:
        canvas.paint(canvas.capsule(p, q, r, 0.9 * r), -980.0)


def paint_findings(person: Anatomy, canvas: Canvas, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """Now and then nodules, consolidated lung, or water in the chest."""
    u = rng.uniform

    def in_lung(shape: Shape, hu: float, strength: float = 1.0) -> None:
        canvas.paint(Shape(shape.box, shape.mask * lungs[shape.box] * np.float32(strength)), hu)

    def somewhere() -> tuple[float, float, float]:
        side = rng.choice(SIDES)
        return (
            side * person.half_width * u(0.35, 0.8),
            person.half_depth * u(-0.4, 0.6),
            u(person.dome, person.apex - 30.0),
        )

    for _ in range(rng.integers(1, 4) if u() < 0.35 else 0):
        in_lung(canvas.ellipsoid(somewhere(), u(3, 15) * u(0.8, 1.2, 3)), u(10, 60))
    if u() < 0.12:
        cloud = canvas.ellipsoid(somewhere(), u(20, 50, 3))
        patchy = np.clip(0.6 + 0.5 * texture(canvas, rng, knots=32)[cloud.box], 0.0, 1.0)
        in_lung(Shape(cloud.box, cloud.mask * patchy), u(-100, 30), u(0.4, 0.9))
    if u() < 0.12:
        side, level = rng.choice(SIDES), person.dome - person.sulcus + u(15, 70)
        half = canvas.x * side > 0
        in_lung(Shape(canvas.all, half * canvas.soft(canvas.z - level - 0.5 * canvas.y)), u(0, 20))


# ---------------------------------------------------------------------------------------------------------------- bones


def paint_bone(
    canvas: Canvas, rods: Sequence[tuple], hard: float, marrow: float, squeeze: float = 1.0, shell: float = 2.0
) -> None:
    """Rods (start, end, radius) of compact bone, then their marrow."""
    for start, end, radius in rods:
        canvas.paint(canvas.capsule(start, end, radius, squeeze=squeeze), hard)
    for start, end, radius in rods:
        if radius > shell:
            canvas.paint(canvas.capsule(start, end, radius - shell, squeeze=squeeze), marrow)


def vertebra_z(person: Anatomy, number: int) -> float:
    """z of a vertebral body's middle; T1 is 0, numbers grow downwards."""
    return person.apex + 14.0 - number * person.vertebra


def paint_spine(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    """Vertebral bodies with discs between, spinal canal, arches and processes."""
    hard, marrow = 520.0 * person.bone, rng.uniform(140, 240) * person.bone
    for number in VERTEBRAE:
        z = vertebra_z(person, number)
        x, y = (float(v) for v in person.spine_at(z))
        r = 12.0 + 0.45 * min(max(number, 0), 13)  # bodies grow downwards
        tall = 0.5 * person.vertebra
        box = canvas.box((x - 1.6 * r, y - 1.4 * r, z - tall), (x + 1.6 * r, y + 1.4 * r, z + tall))
        dx, dy, dz = canvas.within(box)
        across = np.sqrt(((dx - x) / 1.2) ** 2 + (dy - y) ** 2)
        waist = r + 1.5 * (np.abs(dz - z) / tall) ** 2 - 1.0
        canvas.paint(Shape(box, canvas.soft(across - waist)), 85.0)  # disc
        end = np.abs(dz - z) - 0.8 * tall
        canvas.paint(Shape(box, canvas.soft(np.maximum(across - waist, end))), 0.7 * hard)
        canvas.paint(Shape(box, canvas.soft(np.maximum(across - waist, end) + 2.2)), marrow)
        canal = y + r + 8.0
        arch = []
        for side in SIDES:
            pedicle = (x + side * 12.0, y + 0.75 * r, z + 3.0)
            joint = (x + side * 14.0, canal + 2.0, z)
            arch.append((pedicle, joint, 4.5))
            arch.append((joint, (x, canal + 11.0, z - 6.0), 4.0))
            arch.append((joint, (x + side * 32.0, canal + 9.0, z + 4.0), 4.5))
        arch.append(((x, canal + 11.0, z - 5.0), (x, canal + 32.0, z - 20.0), 3.5))
        paint_bone(canvas, arch, 0.9 * hard, 1.2 * marrow)
        canvas.paint(canvas.capsule((x, canal, z - tall), (x, canal, z + tall), 8.0), 25.0)


def rib_course(person: Anatomy, number: int, side: int, points: int = 15) -> np.ndarray:
    """(points, 3) on the cage: rib `number` (0 is the first) from the spine to the front end of its bone."""
    head = vertebra_z(person, number)
    reach = np.interp(number, (0, 2, 6, 9, 10, 11), (0.80, 0.80, 0.78, 0.68, 0.5, 0.36)) * np.pi
    drop = person.rib_drop * np.interp(number, (0, 2, 5, 9, 11), (0.42, 0.75, 1.0, 1.05, 0.7))
    angle = np.linspace(0.24, 1.0, points) * reach
    z = head + 4.0 - drop * (angle / np.pi) ** 1.15 / 0.8
    return np.stack([person.cage_point(side * a, h) for a, h in zip(angle, z, strict=True)])


def paint_ribs(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    """Twelve pairs, slanting down to the front; cartilage joins the upper ten to the sternum."""
    hard, marrow, cartilage = 620.0 * person.bone, 190.0 * person.bone, rng.uniform(80, 170)
    for number in range(12):
        thick = float(np.interp(number, (0, 4, 11), (3.8, 4.3, 3.6)))
        for side in SIDES:
            course = rib_course(person, number, side)
            rods = [(p, q, thick) for p, q in pairwise(course)]
            paint_bone(canvas, rods, hard, marrow, squeeze=0.68, shell=1.8)
            if number < 10:
                top, bottom = sternum_ends(person)
                meet = np.clip(course[-1][2] + 12.0 * number, bottom[2], top[2] - 6.0)
                goal = top + (bottom - top) * (top[2] - meet) / (top[2] - bottom[2]) + vec(side * 16.0, 0.0, 0.0)
                middle = 0.5 * (course[-1] + goal) + vec(0.0, -3.0, -5.0)
                for shape in canvas.rods([course[-1], middle, goal], 4.5):
                    canvas.paint(shape, cartilage)


def sternum_ends(person: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the notch and of the lower end."""
    x, _ = person.spine_at(0.0)
    top, bottom = person.apex - 42.0, person.apex - 190.0
    return vec(x, person.front(top) + 1.0, top), vec(x, person.front(bottom) + 1.0, bottom)


def paint_sternum(person: Anatomy, canvas: Canvas) -> None:
    """A flat bone in front, made of parallel rods; its upper part is wider."""
    top, bottom = sternum_ends(person)
    handle = top + 0.3 * (bottom - top)
    rods = [(top + vec(x, 0.0, 0.0), handle + vec(0.6 * x, 0.0, 0.0), 5.5) for x in (-18.0, -9.0, 0.0, 9.0, 18.0)]
    rods += [(handle + vec(x, 0.0, 0.0), bottom + vec(0.8 * x, 0.0, 0.0), 5.0) for x in (-11.0, -4.0, 4.0, 11.0)]
    paint_bone(canvas, rods, 380.0 * person.bone, 130.0 * person.bone, shell=1.6)


def paint_shoulders(person: Anatomy, canvas: Canvas, cage: np.ndarray, rng: np.random.Generator) -> None:
    """Collar bones, shoulder blades gliding on the rib cage, upper arm bones."""
    hard, marrow = 650.0 * person.bone, 190.0 * person.bone
    tilt = 0.55 if person.arms_raised else 0.2  # raised arms swing the blade's lower end outwards
    gap = rng.uniform(12, 16)
    notch = sternum_ends(person)[0]
    for side in SIDES:
        joint = shoulder(person, side)
        roof = joint + vec(-6.0 * side, 2.0, 20.0)
        bend = 0.45 * notch + 0.55 * roof + vec(0.0, -16.0, 2.0)
        paint_bone(canvas, [(notch + vec(side * 18.0, 0.0, 4.0), bend, 6.0), (bend, roof, 5.5)], hard, marrow)
        paint_bone(canvas, [(joint, joint, 23.0)], 0.6 * hard, marrow, shell=2.5)
        paint_bone(canvas, [(joint, elbow(person, side), 11.5)], 1.5 * hard, 60.0, shell=4.0)
        paint_blade(person, canvas, cage, side, gap, tilt, 0.75 * hard)
        x, y = person.spine_at(person.apex - 25.0)
        root = vec(x + side * (62.0 + 30.0 * tilt), y + 34.0, person.apex - 30.0)
        paint_bone(
            canvas,
            [(root, roof, 4.5), (joint + vec(-22.0 * side, 4.0, -4.0), joint + vec(-34.0 * side, 16.0, -18.0), 7.0)],
            hard,
            marrow,
        )


def paint_blade(
    person: Anatomy, canvas: Canvas, cage: np.ndarray, side: int, gap: float, tilt: float, hu: float
) -> None:
    """A thin triangle at a fixed distance outside the ribs, behind."""
    x, y = (float(v) for v in person.spine_at(person.apex - 60.0))
    ends = np.sort([x + side * 45.0, x + side * 175.0])
    box = canvas.box((ends[0], y - 25.0, person.apex - 145.0), (ends[1], 180.0, person.apex + 10.0))
    dx, dy, dz = canvas.within(box)
    low = person.apex - 135.0
    up = (dz - low) / 130.0
    out = side * (dx - x) - 62.0 - 60.0 * tilt * (1.0 - up)
    triangle = np.maximum(np.maximum(-out, out - 8.0 - 62.0 * up), np.maximum(low - dz, dz - person.apex + 8.0))
    plate = np.maximum(np.abs(cage[box] - gap) - 2.2, triangle)
    canvas.paint(Shape(box, canvas.soft(np.maximum(plate, y - 12.0 - dy))), hu)


def scan(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    """The scanner's blur and noise; soft tissue is a little uneven."""
    gaussian_filter(canvas.hu, BLUR_MM / canvas.spacing, output=canvas.hu, truncate=2.5)
    uneven = texture(canvas, rng, knots=28) * np.float32(7.0)
    uneven *= canvas.hu > -300.0
    canvas.hu += uneven
    grain = rng.standard_normal(canvas.hu.shape, dtype=np.float32)
    gaussian_filter(grain, 0.6, output=grain, truncate=2.0)
    canvas.hu += grain * np.float32(person.noise_hu / grain.std())

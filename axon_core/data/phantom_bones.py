"""The bones of a procedural chest: spine, ribs, sternum, shoulders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from axon_core.data.phantom_canvas import Canvas, Shape, vec
from axon_core.data.phantom_person import SIDES, Anatomy, elbow, shoulder

VERTEBRAE = range(-2, 15)  # T1 is 0, T12 is 11; two of the neck and three of the loin show


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

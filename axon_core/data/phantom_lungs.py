"""The lungs of a procedural chest: their outline and tissue, vessels, airways, and now and then a finding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from axon_core.data.phantom_body import dome_height, heart_shapes
from axon_core.data.phantom_canvas import SOFT, Canvas, Shape, texture, vec
from axon_core.data.phantom_person import SIDES, Anatomy


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

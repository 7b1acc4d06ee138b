"""A procedural chest around the lungs: trunk and arms, abdomen, heart and great vessels."""

from __future__ import annotations

import numpy as np

from axon_core.data.phantom_canvas import FAT, MUSCLE, Canvas, Shape, Vector, turned, vec
from axon_core.data.phantom_person import LEFT, RIGHT, ROUNDNESS, SIDES, Anatomy, elbow, shoulder

BODY_ROUNDNESS = 2.2  # exponent of the trunk's cross-section


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

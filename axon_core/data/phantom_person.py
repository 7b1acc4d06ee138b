"""One person to be painted as a procedural chest: sizes, positions and HU, and where joints and organs lie then.

All lengths are millimetres from the cube's centre, in LPS: x to the patient's Left, y Posterior, z Superior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from axon_core.data.phantom_canvas import vec

RIGHT, LEFT = -1, 1  # sign of x
SIDES = (RIGHT, LEFT)
ROUNDNESS = 2.35  # exponent of the rib cage's cross-section: 2 an ellipse, more is squarer
GUTTER = 44.0  # the lungs reach this far behind the vertebral bodies' centres
_DOWN = (-0.25, 0.0, 0.1, 0.2, 0.35, 0.55, 0.8, 1.1, 1.5)
_WIDTH = (0.36, 0.48, 0.66, 0.79, 0.90, 0.97, 1.0, 0.97, 0.93)


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


def shoulder(person: Anatomy, side: int) -> np.ndarray:
    """Centre of the humeral head."""
    x, y = person.spine_at(person.apex)
    lift, forward = (28.0, 30.0) if person.arms_raised else (-22.0, 30.0)
    return vec(x + side * (1.12 * person.half_width + 10.0), y - forward, person.apex + lift)


def elbow(person: Anatomy, side: int) -> np.ndarray:
    away = vec(side * 75.0, -55.0, 180.0) if person.arms_raised else vec(side * 60.0, -5.0, -270.0)
    return shoulder(person, side) + away

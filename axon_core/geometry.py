"""Where things lie: the canonical grid, X-ray views, and rigid poses.

World coordinates are DICOM patient coordinates, LPS in millimetres: +x to the patient's Left, +y to Posterior, +z to
Superior. Volumes are indexed ``[z, y, x]``; an affine maps the homogeneous index ``(x, y, z, 1)`` (first index fastest,
as in SimpleITK) to LPS. Films are indexed ``[row, column]``. Angles are radians here; people see degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from axon_core.errors import ConfigError


@dataclass(frozen=True)
class CanonicalGrid:
    """The isotropic cube in which the networks work, centred on the isocentre.

    Axes are parallel to LPS, so index x grows to the Left, y to Posterior, z to Superior.

    Attributes:
        size: voxels along each edge.
        extent_mm: edge length in millimetres.
        center_lps: the cube's centre in LPS millimetres (in patient space when the film is tied to a CT, else 0).
    """

    size: int
    extent_mm: float = 360.0
    center_lps: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.size < 2 or self.extent_mm <= 0:
            raise ConfigError(
                "grid.size", f"Grid of {self.size} voxels over {self.extent_mm} mm.", "Both must be positive."
            )

    @property
    def spacing_mm(self) -> float:
        """Edge of one voxel."""
        return self.extent_mm / self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Array shape, ``[z, y, x]``."""
        return (self.size, self.size, self.size)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64: index (x, y, z, 1) -> LPS millimetres of the voxel's centre."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = np.asarray(self.center_lps) - 0.5 * self.spacing_mm * (self.size - 1)
        return affine

    def refined(self, factor: int) -> CanonicalGrid:
        """The same cube with `factor` times as many voxels along each edge."""
        return CanonicalGrid(self.size * factor, self.extent_mm, self.center_lps)


class XrayView(str, Enum):
    """How the patient stood. The value is DICOM's ViewPosition (0018,5101) where one exists."""

    PA = "PA"  # beam from the patient's back to the front; patient's left on the image's right
    AP = "AP"  # beam from front to back; shown like PA
    LAT = "LAT"  # left lateral: beam from right to left, front of the chest on the image's right
    RL = "RL"  # right lateral: beam from left to right, front of the chest on the image's left

    @property
    def is_frontal(self) -> bool:
        return self in (XrayView.PA, XrayView.AP)

    @property
    def beam(self) -> np.ndarray:
        """Unit vector from source to detector, LPS."""
        return _AXES[self][0].copy()

    @property
    def column(self) -> np.ndarray:
        """Unit vector along which the film's column index grows, LPS."""
        return _AXES[self][1].copy()

    @property
    def row(self) -> np.ndarray:
        """Unit vector along which the film's row index grows (down the film), LPS."""
        return np.array([0.0, 0.0, -1.0])


_AXES = {
    XrayView.PA: (np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0])),
    XrayView.AP: (np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])),
    XrayView.LAT: (np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0])),
    XrayView.RL: (np.array([-1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])),
}


@dataclass(frozen=True)
class RigidPose:
    """A rigid motion of the patient about the isocentre: p -> R p + t.

    R = Rz Ry Rx with the angles in radians about the LPS axes; t in millimetres.
    """

    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4) float64, LPS -> LPS."""
        (cx, cy, cz), (sx, sy, sz) = np.cos(self.rotation), np.sin(self.rotation)
        rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        matrix = np.eye(4)
        matrix[:3, :3] = rz @ ry @ rx
        matrix[:3, 3] = self.translation
        return matrix

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> RigidPose:
        """The pose of a (4, 4) rigid matrix.

        Errors:
            ConfigError: it scales, shears or mirrors.
        """
        turn = np.asarray(matrix, dtype=float)[:3, :3]
        if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
            raise ConfigError(
                "pose.not-rigid", "The pose is not a rigid motion.", "Give a rotation and a translation only."
            )
        angles = (
            math.atan2(turn[2, 1], turn[2, 2]),
            math.atan2(-turn[2, 0], math.hypot(turn[2, 1], turn[2, 2])),
            math.atan2(turn[1, 0], turn[0, 0]),
        )
        x, y, z = (float(value) for value in matrix[:3, 3])
        return cls(angles, (x, y, z))


def usual_sdd_mm(view: XrayView | None) -> float:
    """How far from the detector the tube usually stands: 1.8 m, at the bedside (AP) 1.2 m."""
    return 1200.0 if view is XrayView.AP else 1800.0


@dataclass(frozen=True)
class XrayGeometry:
    """A cone beam and a square flat detector, perpendicular to each other.

    The isocentre is the LPS origin. DICOM: DistanceSourceToDetector (0018,1110), ImagerPixelSpacing (0018,1164).

    Attributes:
        view: the patient's position.
        pixels: detector pixels along each edge.
        sdd_mm: source to detector distance.
        isocentre_to_detector_mm: the isocentre lies this far before the detector.
        detector_mm: edge length of the detector.
    """

    view: XrayView = XrayView.PA
    pixels: int = 256
    sdd_mm: float = 1800.0
    isocentre_to_detector_mm: float = 200.0
    detector_mm: float = 430.0

    def __post_init__(self) -> None:
        sizes = self.isocentre_to_detector_mm, self.sdd_mm, self.detector_mm
        possible = 0 <= self.isocentre_to_detector_mm < self.sdd_mm and 1 <= self.detector_mm <= 10_000
        if not all(math.isfinite(size) for size in sizes) or not possible or self.pixels < 2:
            raise ConfigError(
                "geometry.impossible",
                f"X-ray geometry with SDD {self.sdd_mm} mm, isocentre {self.isocentre_to_detector_mm} mm before the "
                f"detector, {self.pixels} pixels over {self.detector_mm} mm.",
                "The isocentre lies between source and detector; the detector measures 1 mm to 10 m.",
            )

    @property
    def pitch_mm(self) -> float:
        """Pixel edge on the detector."""
        return self.detector_mm / self.pixels

    @property
    def magnification(self) -> float:
        """Size on the detector of one millimetre at the isocentre."""
        return self.sdd_mm / (self.sdd_mm - self.isocentre_to_detector_mm)

    @property
    def source(self) -> np.ndarray:
        """(3,) LPS millimetres."""
        return -self.view.beam * (self.sdd_mm - self.isocentre_to_detector_mm)

    def detector(self) -> np.ndarray:
        """(pixels, pixels, 3) float64: LPS millimetres of every pixel's centre, ``[row, column]``."""
        offset = (np.arange(self.pixels) - 0.5 * (self.pixels - 1)) * self.pitch_mm
        return (
            self.view.beam * self.isocentre_to_detector_mm
            + offset[:, None, None] * self.view.row
            + offset[None, :, None] * self.view.column
        )

    def rays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(3,) each, LPS mm: from the source to the first pixel, and from pixel to pixel by row and by column."""
        row, column = self.view.row * self.pitch_mm, self.view.column * self.pitch_mm
        corner = self.view.beam * self.sdd_mm - 0.5 * (self.pixels - 1) * (row + column)
        return corner, row, column

    def project(self, points_lps: np.ndarray) -> np.ndarray:
        """LPS points (..., 3) -> detector pixels (..., 2) as (row, column), pixel centres at whole numbers."""
        points = np.asarray(points_lps, dtype=float)
        depth = (points - self.source) @ self.view.beam
        on_detector = (points - self.source) * (self.sdd_mm / depth)[..., None] + self.source
        middle = 0.5 * (self.pixels - 1)
        return np.stack([on_detector @ self.view.row, on_detector @ self.view.column], -1) / self.pitch_mm + middle

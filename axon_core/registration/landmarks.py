"""Pose from a few points that are seen in the CT and on the film (PnP), with priors where points say too little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axon_core.errors import ConfigError
from axon_core.geometry import RigidPose, XrayGeometry

ENOUGH = 4
ROTATION_SD, SHIFT_SD_MM = np.deg2rad(20.0), 100.0  # priors about the start
CLICK_SD_MM = 2.0  # at the detector: how well a person places a point


@dataclass(frozen=True)
class Landmarks:
    """Pairs of points on one film.

    Attributes:
        points: (n, 3) LPS mm about the isocentre, in the CT.
        pixels: (n, 2) (row, column) on the film of `geometry`.
        geometry: of the film.
    """

    points: np.ndarray
    pixels: np.ndarray
    geometry: XrayGeometry

    def __post_init__(self) -> None:
        points, pixels = np.asarray(self.points, float), np.asarray(self.pixels, float)
        if points.ndim != 2 or points.shape[1:] != (3,) or pixels.shape != (len(points), 2):
            raise ConfigError(
                "landmarks.shape",
                f"Landmarks of shapes {points.shape} and {pixels.shape}.",
                "Give n points in space and n pixels.",
            )

    def residuals(self, pose: RigidPose) -> np.ndarray:
        """(n, 2) mm at the isocentre, down and across the film: where the pose takes the points, less the pixels."""
        moved = self.points @ pose.matrix[:3, :3].T + pose.translation
        return (self.geometry.project(moved) - self.pixels) * (self.geometry.pitch_mm / self.geometry.magnification)


def by_film(
    points: np.ndarray, marks: np.ndarray, geometries: Sequence[XrayGeometry]
) -> tuple[list[Landmarks], np.ndarray]:
    """Sort pairs of points by the film on which they were marked.

    Args:
        points: (n, 3) LPS mm about the isocentre, in the CT.
        marks: (n, 3) LPS mm about the isocentre, in the X-ray room: each on the detector of one of the films.
        geometries: of the films.

    Returns:
        The landmarks of every film, and (n,) the pairs' indices in the order in which the films hold them.

    Errors:
        ConfigError: the numbers differ.
    """
    points, marks = np.reshape(points, (-1, 3)), np.reshape(marks, (-1, 3))
    if len(points) != len(marks):
        raise ConfigError(
            "landmarks.numbers",
            f"There are {len(points)} landmarks in the CT and {len(marks)} on the film.",
            "Mark every landmark in both, in the same order.",
        )
    away = [np.abs(marks @ geometry.view.beam - geometry.isocentre_to_detector_mm) for geometry in geometries]
    nearest = np.argmin(away, axis=0)
    members = [np.flatnonzero(nearest == film) for film in range(len(geometries))]
    pairs = [
        Landmarks(points[chosen], geometry.project(marks[chosen]), geometry)
        for chosen, geometry in zip(members, geometries, strict=True)
    ]
    return pairs, np.concatenate(members)


def pose_from_landmarks(landmarks: Sequence[Landmarks], start: RigidPose | None = None) -> tuple[RigidPose, np.ndarray]:
    """The pose that brings the points nearest to their pixels on all films.

    Args:
        landmarks: of one film, or of both.
        start: the priors are centred there.

    Returns:
        The pose, and (n,) the distance that each landmark keeps from its pixel, mm at the isocentre.

    Errors:
        ConfigError: fewer than four pairs in all, or a point that is not finite.
    """
    from scipy.optimize import least_squares

    count = sum(len(film.points) for film in landmarks)
    if count < ENOUGH:
        raise ConfigError(
            "landmarks.few",
            f"{count} landmark pairs do not fix a pose.",
            f"Place at least {ENOUGH}, spread over the chest and in depth.",
        )
    first = start or RigidPose()
    begin = np.array([*first.rotation, *first.translation])
    sd = np.array([ROTATION_SD] * 3 + [SHIFT_SD_MM] * 3)

    def pose(theta: np.ndarray) -> RigidPose:
        rx, ry, rz, x, y, z = (float(value) for value in theta)
        return RigidPose((rx, ry, rz), (x, y, z))

    def errors(theta: np.ndarray) -> np.ndarray:
        seen = [film.residuals(pose(theta)).ravel() / CLICK_SD_MM for film in landmarks]
        return np.concatenate([*seen, (theta - begin) / sd])

    if not np.isfinite(errors(begin)).all():
        raise ConfigError("landmarks.not-finite", "A landmark is not a finite number.", "Place it again.")
    found = pose(least_squares(errors, begin, x_scale=sd).x)
    return found, np.concatenate([np.linalg.norm(film.residuals(found), axis=1) for film in landmarks])

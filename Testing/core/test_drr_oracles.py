"""The projector against other people's projectors: the same integrals, at the same place on the film, in every view.

A phantom with one dense cube near the patient's left, anterior, superior corner tells every way of mirroring a film.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from axon_core.drr.projector import Projector
from axon_core.geometry import RigidPose, XrayGeometry, XrayView

sys.path.insert(0, str(Path(__file__).parent))
import oracles

Engine = Callable[[np.ndarray, np.ndarray, XrayGeometry, RigidPose], np.ndarray]

PIXELS = 96
BLOCK = (np.zeros(3), np.array([90.0, 70.0, 80.0]), 0.02)  # centre and half edges [mm], mu [1/mm]
CUBE = (np.array([60.0, -45.0, 55.0]), np.full(3, 14.0), 0.1)  # to the left, anterior, superior
CUBE_SIDE = {XrayView.PA: "right", XrayView.AP: "right", XrayView.LAT: "right", XrayView.RL: "left"}


def ours(mu: np.ndarray, affine: np.ndarray, geometry: XrayGeometry, pose: RigidPose) -> np.ndarray:
    return Projector(torch.from_numpy(mu), affine, geometry.view.beam)(geometry, pose)[0].numpy()


def plastimatch_exact(mu: np.ndarray, affine: np.ndarray, geometry: XrayGeometry, pose: RigidPose) -> np.ndarray:
    return oracles.plastimatch_integrals(mu, affine, geometry, pose, "exact")


# name -> engine and the package that it needs
SMOOTH: dict[str, tuple[Engine, str]] = {  # these see a volume as we do, trilinear between voxel centres
    "nanodrr": (oracles.nanodrr_integrals, "nanodrr"),
    "plastimatch uniform": (oracles.plastimatch_integrals, "plastimatch"),
    "RTK Joseph": (oracles.rtk_integrals, "itk"),
}
BOXES: dict[str, tuple[Engine, str]] = {  # this one sees a volume as boxes
    "plastimatch exact": (plastimatch_exact, "plastimatch"),
}
ORACLES = {**SMOOTH, **BOXES}


def oracle(name: str) -> Engine:
    """The engine; skips the test where its package is not installed."""
    engine, package = ORACLES[name]
    pytest.importorskip(package)
    return engine


@dataclass(frozen=True)
class Lattice:
    """Where the voxels lie: `steps` are their signed edges along the turned axes [mm]; the middle is the isocentre."""

    steps: tuple[float, float, float]
    shape: tuple[int, int, int]
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def affine(self) -> np.ndarray:
        affine = np.eye(4)
        affine[:3, :3] = RigidPose(self.turn).matrix[:3, :3] @ np.diag(self.steps)
        affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(self.shape[::-1]) - 1))
        return affine

    @property
    def voxel_mm(self) -> float:
        return float(np.abs(self.steps).max())

    def filled(self, *boxes: tuple[np.ndarray, np.ndarray, float]) -> np.ndarray:
        """(z, y, x) mu of boxes with edges two voxels soft, so that the lattice hardly moves or frays them."""
        z, y, x = np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij")
        world = np.stack([x, y, z], -1) @ self.affine[:3, :3].T + self.affine[:3, 3]
        mu = np.zeros(self.shape)
        for center, half, value in boxes:
            inside = 0.5 + (half - np.abs(world - center)) / (2 * self.voxel_mm)
            mu += value * inside.clip(0, 1).prod(-1)
        return mu.astype(np.float32)


STRAIGHT = Lattice((4.0, 4.0, 4.0), (50, 44, 56))
OBLIQUE = Lattice((-4.0, 5.0, 4.5), (54, 44, 64), (0.1, -0.1, 0.15))
UNMOVED, MOVED = RigidPose(), RigidPose((0.05, 0.08, -0.06), (12.0, -20.0, 8.0))
SCENES = {
    "straight": (STRAIGHT, UNMOVED),
    "oblique, flipped, moved": (OBLIQUE, MOVED),
}


def centroid(film: np.ndarray) -> np.ndarray:
    """(row, column) of the film's centre of mass."""
    row, column = np.indices(film.shape)
    return np.array([(film * row).sum(), (film * column).sum()]) / film.sum()


def tolerance(truth: np.ndarray, geometry: XrayGeometry, lattice: Lattice, boxes: bool) -> float:
    """Largest mean difference between two right answers.

    Ours interpolates linearly once more, at the pitch of the detector: an error of at most curvature / 8. Boxes put an
    edge up to half a voxel off, a quarter of one on the average.
    """
    curvature = sum(np.abs(np.diff(truth, 2, axis)).mean() for axis in (0, 1))
    slope = sum(np.abs(np.diff(truth, 1, axis)).mean() for axis in (0, 1))
    voxel = lattice.voxel_mm * geometry.magnification / geometry.pitch_mm  # in pixels
    return float(curvature / 8 + (slope * voxel / 4 if boxes else 0))


@pytest.mark.parametrize("view", list(XrayView), ids=lambda view: view.name)
@pytest.mark.parametrize("name", ["ours", *ORACLES])
def test_cube_lies_on_its_side_of_the_film(name, view):
    engine = ours if name == "ours" else oracle(name)
    geometry = XrayGeometry(view, PIXELS, detector_mm=320.0)
    row, column = centroid(engine(STRAIGHT.filled(CUBE), STRAIGHT.affine, geometry, UNMOVED))
    middle = 0.5 * (PIXELS - 1)
    assert row < middle - 5
    assert (column > middle + 5) if CUBE_SIDE[view] == "right" else (column < middle - 5)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("view", list(XrayView), ids=lambda view: view.name)
@pytest.mark.parametrize("name", ["ours", *ORACLES])
def test_cube_is_cast_where_the_geometry_says(name, view, scene):
    engine = ours if name == "ours" else oracle(name)
    lattice, pose = SCENES[scene]
    geometry = XrayGeometry(view, PIXELS, detector_mm=320.0)
    film = engine(lattice.filled(CUBE), lattice.affine, geometry, pose)
    expected = geometry.project((pose.matrix @ [*CUBE[0], 1.0])[:3])
    assert np.abs(centroid(film) - expected).max() < 0.5


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("view", list(XrayView), ids=lambda view: view.name)
@pytest.mark.parametrize("name", ORACLES)
def test_integrals_agree(name, view, scene):
    engine = oracle(name)
    lattice, pose = SCENES[scene]
    geometry = XrayGeometry(view, PIXELS, detector_mm=320.0)
    mu = lattice.filled(BLOCK, CUBE)
    truth, film = (project(mu, lattice.affine, geometry, pose) for project in (engine, ours))
    allowed = tolerance(truth, geometry, lattice, name in BOXES)
    assert np.abs(film - truth).mean() < allowed
    assert film.mean() == pytest.approx(truth.mean(), rel=2e-3)
    for mirrored in (film[:, ::-1], film[::-1]):  # the lines above would notice
        assert np.abs(mirrored - truth).mean() > allowed


@pytest.mark.parametrize("view", [XrayView.PA, XrayView.AP], ids=lambda view: view.name)
def test_frontal_films_hang_as_nanodrrs_own(view):
    """nanodrr states by itself how a PA and an AP film hang, in RAS."""
    pytest.importorskip("nanodrr")
    zeros = torch.zeros(1, 3)
    theirs = oracles.nanodrr_module("camera").make_rt_inv(zeros, zeros, orientation=view.value)[0, :3, :3].numpy()
    to_ras = np.diag([-1.0, -1.0, 1.0])
    np.testing.assert_array_equal(to_ras @ oracles.camera_to_world(XrayGeometry(view))[:3, :3], theirs)

"""Landmark pairs of two markups: the CT's own coordinates, residuals, and the pose that brings them together."""

# ruff: noqa: E402  (the host makes the modules that are imported below it)

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "AXONReconstruction"), str(ROOT / "Testing" / "slicer")]
import host

host.start()

import slicer
import vtk

from axon_core.errors import AxonError
from axon_core.geometry import RigidPose, XrayGeometry, XrayView
from AXONLib.landmarks import LandmarkPairs
from AXONLib.pose import PoseController

ISOCENTRE = np.array([30.0, -200.0, 1500.0])
FLIP = np.diag([-1.0, -1.0, 1.0])
TRUTH = RigidPose((0.07, -0.05, 0.06), (8.0, 14.0, -11.0))
PA, LAT = XrayGeometry(XrayView.PA, 512), XrayGeometry(XrayView.LAT, 512)
POINTS = ISOCENTRE + np.random.default_rng(1).uniform(-100, 100, (8, 3))  # LPS, in the CT


@pytest.fixture
def pose(hosted):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Pose")
    controller = PoseController(node, ISOCENTRE)
    yield controller
    controller.close()


def addMarkups(worldLps: np.ndarray):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for point in worldLps:
        node.AddControlPointWorld(vtk.vtkVector3d(*(FLIP @ point)))
    return node


def seenOn(geometry: XrayGeometry, points: np.ndarray, pose: RigidPose = TRUTH) -> np.ndarray:
    """(n, 3) LPS in the scene: where the rays through the moved points meet the detector."""
    room = (points - ISOCENTRE) @ pose.matrix[:3, :3].T + pose.translation
    along = (room - geometry.source) / ((room - geometry.source) @ geometry.view.beam)[:, None]
    return ISOCENTRE + geometry.source + along * geometry.sdd_mm


def test_landmarks_recover_the_pose(pose) -> None:
    pairs = LandmarkPairs(addMarkups(POINTS), addMarkups(seenOn(PA, POINTS)), pose)
    assert pairs.rms([PA]) > 10
    found = pairs.solve([PA])
    assert pose.rigidPose() == RigidPose(), "the pose is for the caller to set"
    np.testing.assert_allclose(np.rad2deg(found.rotation), np.rad2deg(TRUTH.rotation), atol=0.3)
    pose.setRigidPose(found)
    assert pairs.rms([PA]) < 0.2
    pose.setRigidPose(TRUTH)
    np.testing.assert_allclose(pairs.residuals([PA]), 0, atol=1e-6)


def test_points_on_both_films_give_the_depth(pose) -> None:
    """Each mark counts on the film on which it lies, in whatever order they were placed."""
    marks = np.where((np.arange(8) % 2 == 0)[:, None], seenOn(LAT, POINTS), seenOn(PA, POINTS))
    pairs = LandmarkPairs(addMarkups(POINTS), addMarkups(marks), pose)
    found = pairs.solve([PA, LAT])
    np.testing.assert_allclose(found.translation, TRUTH.translation, atol=1.0)
    pose.setRigidPose(TRUTH)
    np.testing.assert_allclose(pairs.residuals([PA, LAT]), 0, atol=1e-6)


def test_residuals_are_millimetres_at_the_isocentre_by_pair(pose) -> None:
    marks = np.where((np.arange(8) % 2 == 0)[:, None], seenOn(LAT, POINTS), seenOn(PA, POINTS))
    marks[5, 2] += 9.0  # 9 mm up on the film are 8 mm in the patient
    pose.setRigidPose(TRUTH)
    ct = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    pose.attach(ct)
    for point in POINTS:
        ct.AddControlPoint(vtk.vtkVector3d(*(FLIP @ point)))
    pairs = LandmarkPairs(ct, addMarkups(marks), pose)
    wanted = np.zeros(8)
    wanted[5] = 9.0 / PA.magnification
    np.testing.assert_allclose(pairs.residuals([PA, LAT]), wanted, atol=1e-6)
    assert pairs.rms([PA, LAT]) == pytest.approx(8.0 / np.sqrt(8))


def test_points_placed_on_a_moved_ct_are_the_cts(pose) -> None:
    """They were clicked where the moved CT was seen; they stay on the anatomy when the pose changes."""
    pose.setRigidPose(TRUTH)
    seen = (POINTS - ISOCENTRE) @ TRUTH.matrix[:3, :3].T + TRUTH.translation + ISOCENTRE
    ct = addMarkups(seen)
    pairs = LandmarkPairs(ct, addMarkups(seenOn(PA, POINTS)), pose)
    np.testing.assert_allclose(pairs.points(), POINTS - ISOCENTRE, atol=1e-9)
    np.testing.assert_allclose(FLIP @ ct.GetNthControlPointPositionWorld(3), seen[3], atol=1e-9)
    np.testing.assert_allclose(pairs.residuals([PA]), 0, atol=1e-6)
    pose.reset()
    np.testing.assert_allclose(pairs.points(), POINTS - ISOCENTRE, atol=1e-9)
    again = LandmarkPairs(ct, pairs.filmNode, pose)
    np.testing.assert_allclose(again.points(), POINTS - ISOCENTRE, atol=1e-9)


def test_marks_count_where_the_scene_has_them(pose) -> None:
    """A user may have moved them with a transform of their own."""
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[2, 3] = 50.0
    slicer.util.updateTransformMatrixFromArray(shift, matrix)
    film = addMarkups(seenOn(PA, POINTS) - [0, 0, 50.0])
    film.SetAndObserveTransformNodeID(shift.GetID())
    pairs = LandmarkPairs(addMarkups(POINTS), film, pose)
    pose.setRigidPose(TRUTH)
    np.testing.assert_allclose(pairs.residuals([PA]), 0, atol=1e-6)


def test_unfinished_pairs_wait(pose) -> None:
    """A point without partner, and one that still follows the mouse."""
    pairs = LandmarkPairs(addMarkups(POINTS[:5]), addMarkups(seenOn(PA, POINTS[:4])), pose)
    assert len(pairs.residuals([PA])) == 4
    with pytest.raises(AxonError) as caught:
        pairs.solve([PA])
    assert caught.value.code == "landmarks.numbers" and "5" in caught.value.title and "4" in caught.value.title
    pairs.ctNode.UnsetNthControlPointPosition(4)
    assert len(pairs.points()) == 4
    pairs.solve([PA])


def test_too_few_pairs_are_told(pose) -> None:
    pairs = LandmarkPairs(addMarkups(POINTS[:3]), addMarkups(seenOn(PA, POINTS[:3])), pose)
    with pytest.raises(AxonError) as caught:
        pairs.solve([PA])
    assert caught.value.code == "landmarks.few"
    none = LandmarkPairs(addMarkups(POINTS[:0]), addMarkups(POINTS[:0]), pose)
    assert none.rms([PA]) is None and len(none.residuals([PA])) == 0

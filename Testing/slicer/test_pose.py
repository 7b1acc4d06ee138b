"""The pose as a transform node of Slicer's: six numbers, their history, and what others do to the node."""

# ruff: noqa: E402  (the host makes the modules that are imported below it)

from __future__ import annotations

import math
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
from AXONLib.pose import ANGLES, HISTORY, SHIFTS, PoseController

ISOCENTRE = np.array([30.0, -200.0, 1500.0])  # LPS
FLIP = np.diag([-1.0, -1.0, 1.0])
SOME = {"tilt": 5.0, "lean": -3.0, "rotate": 8.0, "leftRight": 12.0, "depth": -7.0, "upDown": 20.0}


@pytest.fixture
def scene(hosted):
    return slicer.mrmlScene


@pytest.fixture
def node(scene):
    return scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Pose")


@pytest.fixture
def pose(node):
    controller = PoseController(node, ISOCENTRE)
    yield controller
    controller.close()


def setAll(pose: PoseController, values: dict[str, float]) -> None:
    for name, value in values.items():
        pose.setValue(name, value)


def moved(node, matrix: np.ndarray) -> None:
    """What handles and other modules do: multiply the node's RAS matrix from the left."""
    slicer.util.updateTransformMatrixFromArray(node, matrix @ slicer.util.arrayFromTransformMatrix(node))


def inRas(pose: RigidPose, centreLps: np.ndarray) -> np.ndarray:
    """(4, 4) RAS of a motion about a point."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    to = np.eye(4)
    to[:3, 3] = centreLps
    matrix = to @ pose.matrix @ np.linalg.inv(to)
    return flip @ matrix @ flip


# ---- six numbers


def test_words_are_the_axes_of_the_pose(pose) -> None:
    setAll(pose, SOME)
    rigid = pose.rigidPose()
    assert np.rad2deg(rigid.rotation) == pytest.approx([5.0, -3.0, 8.0])
    assert rigid.translation == (12.0, -7.0, 20.0)
    assert pose.values() == pytest.approx(SOME)
    assert tuple(pose.values()) == ANGLES + SHIFTS


def test_the_node_moves_points_as_the_pose_does(pose, node, scene) -> None:
    """A point of the CT, its world position, the pixel where a film shows it and the ray through that pixel."""
    setAll(pose, SOME)
    mark = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    pose.attach(mark)
    point = ISOCENTRE + np.array([40.0, -30.0, 55.0])
    mark.AddControlPoint(vtk.vtkVector3d(*(FLIP @ point)))
    world = FLIP @ mark.GetNthControlPointPositionWorld(0)
    rigid = pose.rigidPose().matrix
    room = rigid[:3, :3] @ (point - ISOCENTRE) + rigid[:3, 3]
    np.testing.assert_allclose(world, room + ISOCENTRE, atol=1e-9)
    for view in XrayView:
        geometry = XrayGeometry(view, 512)
        row, column = geometry.project(room)
        first, by_row, by_column = geometry.rays()
        ray = first + row * by_row + column * by_column
        off = np.cross(world - ISOCENTRE - geometry.source, ray) / np.linalg.norm(ray)
        np.testing.assert_allclose(off, 0, atol=1e-9)
    pose.detach(mark)
    np.testing.assert_allclose(FLIP @ mark.GetNthControlPointPositionWorld(0), point, atol=1e-9)


def test_a_pose_in_the_node_is_taken_over(node) -> None:
    first = PoseController(node, ISOCENTRE)
    setAll(first, SOME)
    first.close()
    second = PoseController(node, ISOCENTRE)
    assert second.values() == pytest.approx(SOME, abs=1e-9)
    assert not second.canUndo()
    second.close()


def test_a_node_that_holds_no_pose_starts_anew(node) -> None:
    slicer.util.updateTransformMatrixFromArray(node, np.diag([2.0, 2.0, 2.0, 1.0]))
    controller = PoseController(node, ISOCENTRE)
    assert controller.rigidPose() == RigidPose()
    np.testing.assert_allclose(slicer.util.arrayFromTransformMatrix(node), np.eye(4), atol=1e-12)
    controller.close()


def test_changes_are_told_once(pose, node) -> None:
    heard = []
    pose.changed.connect(lambda: heard.append(pose.values()["tilt"]))
    pose.setValue("tilt", 2.0)
    pose.setValue("tilt", 2.0)
    moved(node, inRas(RigidPose((0.01, 0.0, 0.0)), ISOCENTRE))
    node.SetCenterOfTransformation(1.0, 2.0, 3.0)
    node.Modified()
    assert heard == pytest.approx([2.0, 2.0 + math.degrees(0.01)])


# ---- history


def test_undo_and_redo_go_by_gestures(pose) -> None:
    for tilt in (1.0, 2.0, 3.0):
        pose.setValue("tilt", tilt)  # one drag of a slider
    pose.commit()
    pose.commit()
    pose.setValue("upDown", 9.0)  # another one, not yet ended
    pose.undo()
    assert pose.values() == pytest.approx({**dict.fromkeys(SOME, 0.0), "tilt": 3.0})
    pose.undo()
    assert pose.rigidPose() == RigidPose() and not pose.canUndo()
    pose.undo()
    assert pose.rigidPose() == RigidPose()
    pose.redo()
    pose.redo()
    assert pose.values()["upDown"] == 9.0 and not pose.canRedo()
    pose.redo()
    assert pose.values()["upDown"] == 9.0
    pose.undo()
    pose.setValue("lean", 1.0)
    pose.commit()
    assert not pose.canRedo(), "a new gesture ends the old future"


def test_reset_can_be_undone(pose) -> None:
    setAll(pose, SOME)
    pose.reset()
    assert pose.rigidPose() == RigidPose()
    pose.undo()
    assert pose.values() == pytest.approx(SOME)


def test_history_is_bounded(pose) -> None:
    for step in range(HISTORY + 50):
        pose.setValue("upDown", float(step + 1))
        pose.commit()
    undone = 0
    while pose.canUndo():
        pose.undo()
        undone += 1
    assert undone == HISTORY and pose.values()["upDown"] == 50.0


# ---- others' changes


def test_a_thousand_moves_stay_rigid(pose, node) -> None:
    """As handles move it: a small motion at a time, in single precision."""
    pose.depthLocked = False
    random = np.random.default_rng(0)
    wanted = np.eye(4)
    for _ in range(1000):
        step = inRas(RigidPose(tuple(random.normal(0, 0.02, 3)), tuple(random.normal(0, 1, 3))), ISOCENTRE)
        moved(node, step.astype(np.float32).astype(float))
        wanted = step @ wanted
    matrix = slicer.util.arrayFromTransformMatrix(node)
    turn = matrix[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])
    np.testing.assert_allclose(turn, wanted[:3, :3], atol=1e-4)
    np.testing.assert_allclose(matrix, inRas(pose.rigidPose(), ISOCENTRE), atol=1e-9)


def test_handles_keep_a_locked_depth(pose, node) -> None:
    pose.setValue("depth", 4.0)
    moved(node, inRas(RigidPose((0.1, 0.0, 0.05), (5.0, 30.0, -6.0)), ISOCENTRE))
    assert pose.values()["depth"] == 4.0
    assert pose.values()["leftRight"] == pytest.approx(5.0, abs=0.5) and pose.values()["tilt"] == pytest.approx(
        math.degrees(0.1)
    )
    np.testing.assert_allclose(
        slicer.util.arrayFromTransformMatrix(node), inRas(pose.rigidPose(), ISOCENTRE), atol=1e-9
    )
    heard = []
    pose.changed.connect(lambda: heard.append(1))
    moved(node, inRas(RigidPose((0.0, 0.0, 0.0), (0.0, 30.0, 0.0)), ISOCENTRE))
    assert pose.values()["depth"] == 4.0 and not heard
    pose.depthLocked = False
    moved(node, inRas(RigidPose((0.0, 0.0, 0.0), (0.0, 30.0, 0.0)), ISOCENTRE))
    assert pose.values()["depth"] == pytest.approx(34.0)


@pytest.mark.parametrize(
    "matrix", [np.diag([1.1, 1.1, 1.1, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0])], ids=["scaled", "mirrored"]
)
def test_what_is_not_rigid_is_refused_and_taken_back(pose, node, matrix) -> None:
    setAll(pose, SOME)
    before, refused, heard = slicer.util.arrayFromTransformMatrix(node), [], []
    pose.refused.connect(refused.append)
    pose.changed.connect(lambda: heard.append(1))
    moved(node, matrix)
    assert [error.code for error in refused] == ["pose.not-rigid"] and refused[0].advice
    np.testing.assert_array_equal(slicer.util.arrayFromTransformMatrix(node), before)
    assert pose.values() == pytest.approx(SOME) and not heard


def test_a_warp_is_refused_and_taken_back(pose, node) -> None:
    setAll(pose, SOME)
    before, refused = slicer.util.arrayFromTransformMatrix(node), []
    pose.refused.connect(refused.append)
    node.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    assert [error.code for error in refused] == ["pose.not-rigid"]
    np.testing.assert_array_equal(slicer.util.arrayFromTransformMatrix(node), before)
    assert pose.values() == pytest.approx(SOME)


def test_the_pose_is_the_nodes_place_in_the_world(pose, node, scene) -> None:
    """Put under a transform that turns, the node is turned; under one that scales, it stays where it was."""
    pose.depthLocked = False
    setAll(pose, SOME)
    refused = []
    pose.refused.connect(refused.append)
    other = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    turn = inRas(RigidPose((0.0, 0.0, 0.3), (1.0, 2.0, 3.0)), ISOCENTRE)
    slicer.util.updateTransformMatrixFromArray(other, turn)
    wanted = turn @ slicer.util.arrayFromTransformMatrix(node)
    node.SetAndObserveTransformNodeID(other.GetID())
    world = slicer.util.arrayFromTransformMatrix(node, toWorld=True)
    np.testing.assert_allclose(world, wanted, atol=1e-9)
    np.testing.assert_allclose(world, inRas(pose.rigidPose(), ISOCENTRE), atol=1e-9)
    slicer.util.updateTransformMatrixFromArray(other, np.diag([3.0, 3.0, 3.0, 1.0]))
    assert [error.code for error in refused] == ["pose.not-rigid"]
    np.testing.assert_allclose(slicer.util.arrayFromTransformMatrix(node, toWorld=True), wanted, atol=1e-9)
    pose.setValue("tilt", 1.0)
    np.testing.assert_allclose(
        slicer.util.arrayFromTransformMatrix(node, toWorld=True), inRas(pose.rigidPose(), ISOCENTRE), atol=1e-9
    )


def test_a_closed_controller_lets_the_node_go(node) -> None:
    controller = PoseController(node, ISOCENTRE)
    heard = []
    controller.changed.connect(lambda: heard.append(1))
    controller.close()
    moved(node, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert not heard and slicer.util.arrayFromTransformMatrix(node)[0, 0] == 2.0


# ---- files and handles


def test_a_pose_is_saved_and_loaded(pose, tmp_path) -> None:
    path = tmp_path / "Ä b" / "pose.json"
    path.parent.mkdir()
    setAll(pose, SOME)
    pose.save(path)
    pose.save(path)  # the user was asked by the dialog
    pose.reset()
    pose.load(path)
    assert pose.values() == pytest.approx(SOME, abs=1e-3)
    pose.undo()
    assert pose.rigidPose() == RigidPose()
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(AxonError) as caught:
        pose.load(path)
    assert caught.value.code == "pose.file" and pose.rigidPose() == RigidPose()


def test_handles_turn_about_the_isocentre_and_do_not_scale(pose, node) -> None:
    pose.showHandles(False)
    assert node.GetDisplayNode() is None, "nothing to hide yet"
    pose.showHandles(True)
    display = node.GetDisplayNode()
    assert display.GetEditorVisibility() and display.GetEditorVisibility3D()
    assert not display.GetEditorScalingEnabled() and not display.GetEditorSliceIntersectionVisibility()
    np.testing.assert_allclose(node.GetCenterOfTransformation(), FLIP @ ISOCENTRE)
    pose.showHandles(False)
    assert not display.GetEditorVisibility()


class Mouse:
    """Slicer's handles in a 3D view, moved by mouse events; seen from before, one side and above."""

    def __init__(self, node) -> None:
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView)
        widget = manager.threeDWidget(0)
        widget.resize(300, 300)
        self.view, self.display = widget.threeDView(), node.GetDisplayNode()
        camera, centre = self.view.cameraNode().GetCamera(), FLIP @ ISOCENTRE
        camera.SetFocalPoint(*centre)
        camera.SetPosition(*(centre + np.array([120.0, 400.0, 150.0])))
        camera.SetViewUp(0, 0, 1)
        self.view.forceRender()

    def event(self, name: str, x: int, y: int) -> None:
        self.view.interactor().SetEventInformation(x, y, 0, 0, chr(0), 0, None)
        getattr(self.view.interactor(), name)()

    def find(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(kind, axis) of every handle -> a pixel on it; kinds are 1 for arrows, 2 for rings."""
        places = {}
        for x in range(60, 250, 6):
            for y in range(60, 250, 6):
                self.event("MouseMoveEvent", x, y)
                handle = (self.display.GetActiveInteractionType(), self.display.GetActiveInteractionIndex())
                places.setdefault(handle, (x, y))
        return places

    def drag(self, x: int, y: int) -> None:
        self.event("MouseMoveEvent", x, y)
        self.event("LeftButtonPressEvent", x, y)
        for step in range(1, 7):
            self.event("MouseMoveEvent", x + 4 * step, y + 3 * step)
        self.event("LeftButtonReleaseEvent", x + 24, y + 18)


def test_slicers_handles_move_the_pose(pose, node) -> None:
    pose.showHandles(True)
    mouse, heard = Mouse(node), []
    pose.changed.connect(lambda: heard.append(1))
    handles = mouse.find()
    for axis, name in enumerate(("leftRight", "depth", "upDown")):
        mouse.drag(*handles[1, axis])
        if name == "depth":
            assert pose.rigidPose() == RigidPose() and not heard, "it is locked"
            pose.depthLocked = False
            mouse.drag(*handles[1, axis])
        values = pose.values()
        assert abs(values.pop(name)) > 3 and heard
        assert np.abs(list(values.values())).max() < 1e-3, "an arrow moves along its axis alone"
        pose.reset()
        heard.clear()
    for axis, name in enumerate(("tilt", "lean", "rotate")):
        mouse.drag(*handles[2, axis])
        values = pose.values()
        assert abs(values.pop(name)) > 3
        assert np.abs(list(values.values())).max() < 1e-3, "a ring turns about its axis and the isocentre"
        turn = slicer.util.arrayFromTransformMatrix(node)[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        pose.reset()

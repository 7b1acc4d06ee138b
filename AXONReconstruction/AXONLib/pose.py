"""The pose of the CT in front of the films, in a patient's words; it lives in a linear transform node.

The node takes the CT from its own place into the X-ray room, which is laid so that its isocentre is the middle of the
CT. Whoever changes the node (our sliders, Slicer's handles, the Transforms module) changes the pose. The matrix is
always made anew from six numbers, so that it stays rigid however often it is changed.
"""

import math
import pathlib
from dataclasses import replace

import numpy as np
import slicer
from slicer.i18n import tr as _

from axon_core.errors import AxonError, ConfigError
from axon_core.geometry import RigidPose
from AXONLib.signal import Signal
from AXONLib.volumes import FLIP

ANGLES = ("tilt", "lean", "rotate")  # degrees about LPS x, y, z: nod, bow sideways, turn
SHIFTS = ("leftRight", "depth", "upDown")  # mm along LPS x, y, z
HISTORY = 100  # steps that can be undone
STILL = 1e-9  # mm, and of a direction: less is no motion


def poseOf(transformNode, isocentreLps):
    """RigidPose about the isocentre that a transform node holds in the world.

    Raises:
        ConfigError: it holds anything else than a rigid motion.
    """
    if not transformNode.IsTransformToWorldLinear():
        raise ConfigError("pose.not-rigid", _("The pose is not a rigid motion."), _("Turn and shift it only."))
    toIsocentre = np.eye(4)
    toIsocentre[:3, 3] = -np.asarray(isocentreLps)
    world = FLIP @ slicer.util.arrayFromTransformMatrix(transformNode, toWorld=True) @ FLIP
    return RigidPose.from_matrix(toIsocentre @ world @ np.linalg.inv(toIsocentre))


class PoseController:
    """The six numbers of a pose, their history, and the handles with which they are changed in the views.

    Args:
        transformNode: vtkMRMLLinearTransformNode. The pose that it holds in the world is taken over when it is rigid.
        isocentreLps: (3,) mm, the middle of the CT's voxels in its own frame; the patient turns about it.

    Attributes:
        depthLocked: whether handles (and other modules) leave the depth as it is, which a frontal film hardly shows.
            Numbers that are set here are taken as they are.
        changed: signal without arguments, after every change of the pose.
        refused: signal with an AxonError, after another module made the node something else than a rigid motion; the
            node is as it was before.
    """

    def __init__(self, transformNode, isocentreLps=(0.0, 0.0, 0.0)):
        self.node = transformNode
        self.isocentreLps = np.asarray(isocentreLps, float)
        self.depthLocked = True
        self.changed, self.refused = Signal(), Signal()
        self._toIsocentre = np.eye(4)
        self._toIsocentre[:3, 3] = -self.isocentreLps
        self._writing = False
        try:
            self._pose = poseOf(self.node, self.isocentreLps)
        except AxonError:
            self._pose = RigidPose()
        self._past, self._future = [self._pose], []
        self._write()
        self._observer = transformNode.AddObserver(
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._onTransformModified
        )

    def close(self):
        """Let go of the node; it keeps its pose."""
        self.showHandles(False)
        self.node.RemoveObserver(self._observer)
        self.changed.disconnectAll()
        self.refused.disconnectAll()

    # ---- the six numbers

    def values(self):
        """dict: name in ANGLES + SHIFTS -> degrees or mm."""
        angles = zip(ANGLES, (math.degrees(angle) for angle in self._pose.rotation), strict=True)
        return {**dict(angles), **dict(zip(SHIFTS, self._pose.translation, strict=True))}

    def setValue(self, name, value):
        """Change one of the numbers, in degrees or mm."""
        values = {**self.values(), name: float(value)}
        rotation = tuple(math.radians(values[angle]) for angle in ANGLES)
        self._set(RigidPose(rotation, tuple(values[shift] for shift in SHIFTS)))

    def rigidPose(self):
        """RigidPose about the isocentre, LPS."""
        return self._pose

    def setRigidPose(self, pose):
        self._set(pose)

    def _set(self, pose):
        if pose != self._pose:
            self._pose = pose
            self._write()
            self.changed.emit()

    # ---- history

    def commit(self):
        """A gesture has ended: what it changed can be undone in one step."""
        if self._pose != self._past[-1]:
            self._past = [*self._past[-HISTORY:], self._pose]
            self._future = []

    def reset(self):
        """The pose of the CT itself; can be undone."""
        self.commit()
        self._set(RigidPose())
        self.commit()

    def canUndo(self):
        return len(self._past) > 1 or self._pose != self._past[-1]

    def canRedo(self):
        return bool(self._future) and self._pose == self._past[-1]

    def undo(self):
        self.commit()
        if self.canUndo():
            self._future.append(self._past.pop())
            self._set(self._past[-1])

    def redo(self):
        if self.canRedo():
            self._past.append(self._future.pop())
            self._set(self._past[-1])

    # ---- files

    def save(self, path):
        """Write the pose as JSON, over an older file of that name.

        Raises:
            OutputError: it cannot be written.
        """
        from axon_core.registration.files import write_pose  # imports torch

        write_pose(pathlib.Path(path), self._pose, self.isocentreLps, overwrite=True)

    def load(self, path):
        """Take over a saved pose; can be undone.

        Raises:
            ConfigError: the file holds none; the pose stays.
        """
        from axon_core.registration.files import read_pose  # imports torch

        pose = read_pose(pathlib.Path(path))
        self.commit()
        self._set(pose)
        self.commit()

    # ---- what moves with it, and what moves it

    def attach(self, node):
        """Let a CT, or what is marked in it, move with the pose."""
        node.SetAndObserveTransformNodeID(self.node.GetID())

    def detach(self, node):
        """Bring a CT back to where it was scanned."""
        node.SetAndObserveTransformNodeID(None)

    def showHandles(self, visible, viewNodes=()):
        """Slicer's own handles: arrows and rings about the middle of the CT, in 3D views (all where none is named)."""
        if visible:
            self.node.CreateDefaultDisplayNodes()
            self.node.SetCenterOfTransformation(*(FLIP[:3, :3] @ self.isocentreLps))
        display = self.node.GetDisplayNode()
        if display is None:
            return
        display.SetViewNodeIDs([node.GetID() for node in viewNodes])
        display.SetEditorScalingEnabled(False)
        display.SetEditorVisibility3D(visible)
        display.SetEditorSliceIntersectionVisibility(False)
        display.SetEditorVisibility(visible)

    # ---- the node

    def _write(self):
        world = FLIP @ np.linalg.inv(self._toIsocentre) @ self._pose.matrix @ self._toIsocentre @ FLIP
        parent = self.node.GetParentTransformNode()
        if parent is not None and parent.IsTransformToWorldLinear():
            world = np.linalg.inv(slicer.util.arrayFromTransformMatrix(parent, toWorld=True)) @ world
        self._writing = True
        try:
            if not self.node.IsLinear():
                self.node.SetAndObserveTransformToParent(None)
            self.node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(world))
        finally:
            self._writing = False

    def _onTransformModified(self, caller, event):
        if self._writing:
            return
        try:
            pose = poseOf(self.node, self.isocentreLps)
        except AxonError as error:
            self._write()
            self.refused.emit(error)
            return
        if self.depthLocked:
            x, _depth, z = pose.translation
            pose = replace(pose, translation=(x, self._pose.translation[1], z))
        if np.abs(pose.matrix - self._pose.matrix).max() < STILL:
            self._write()
        else:
            self._set(pose)

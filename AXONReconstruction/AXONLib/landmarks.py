"""Landmarks that are seen both in the CT and on a film: how far apart they lie, and the pose that brings them together.

They are paired by index. Those in the CT move with the pose, so that their own coordinates are the CT's; those on a
film lie on its detector and belong to the film whose detector is nearest.
"""

import numpy as np
import slicer

from axon_core.registration.landmarks import by_film, pose_from_landmarks
from AXONLib.volumes import FLIP


class LandmarkPairs:
    """The pairs of two lists of points.

    Args:
        ctNode: vtkMRMLMarkupsFiducialNode, points in the CT. It comes under the pose; its points stay where they are
            seen.
        filmNode: vtkMRMLMarkupsFiducialNode, points on the films.
        pose: PoseController.
    """

    def __init__(self, ctNode, filmNode, pose):
        self.ctNode, self.filmNode, self.pose = ctNode, filmNode, pose
        if ctNode.GetTransformNodeID() != pose.node.GetID():
            indices = range(ctNode.GetNumberOfControlPoints())
            seen = [ctNode.GetNthControlPointPositionWorld(index) for index in indices]
            pose.attach(ctNode)
            for index, position in zip(indices, seen, strict=True):
                ctNode.SetNthControlPointPositionWorld(index, position)

    def points(self):
        """(n, 3) LPS mm about the isocentre, in the CT."""
        return self._placed(self.ctNode, self.ctNode.GetNthControlPointPosition)

    def marks(self):
        """(m, 3) LPS mm about the isocentre, in the X-ray room."""
        return self._placed(self.filmNode, self.filmNode.GetNthControlPointPositionWorld)

    def _placed(self, node, position):
        defined = slicer.vtkMRMLMarkupsNode.PositionDefined  # not the one that still follows the mouse
        indices = range(node.GetNumberOfControlPoints())
        placed = [position(index) for index in indices if node.GetNthControlPointPositionStatus(index) == defined]
        return np.reshape(placed, (-1, 3)) @ FLIP[:3, :3] - self.pose.isocentreLps

    def residuals(self, geometries):
        """Distance of every complete pair at the present pose.

        Args:
            geometries: XrayGeometry of every film.

        Returns:
            (n,) mm at the isocentre.
        """
        points, marks = self.points(), self.marks()
        count = min(len(points), len(marks))
        films, order = by_film(points[:count], marks[:count], geometries)
        apart = np.empty(count)
        apart[order] = np.concatenate([np.linalg.norm(film.residuals(self.pose.rigidPose()), axis=1) for film in films])
        return apart

    def rms(self, geometries):
        """Root mean square of the residuals [mm]; None without a pair."""
        apart = self.residuals(geometries)
        return float(np.sqrt(np.mean(apart**2))) if len(apart) else None

    def solve(self, geometries):
        """RigidPose that brings the pairs nearest to each other, from the present pose on; it is not set.

        Raises:
            ConfigError: the numbers of points differ, or there are fewer than four pairs.
        """
        films, _order = by_film(self.points(), self.marks(), geometries)
        return pose_from_landmarks(films, self.pose.rigidPose())[0]

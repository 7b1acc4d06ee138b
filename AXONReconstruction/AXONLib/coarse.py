"""A coarser copy of a large CT for volume rendering: without a GPU the whole one takes half a minute a view."""

import numpy as np
import slicer
import vtk

VOXEL_MM = 2.0  # finer voxels are averaged together; the synthetic volumes beside it are coarser still


def coarseCopy(volumeNode):
    """A hidden copy with voxels of about VOXEL_MM under the same transform; None where the volume is as coarse.

    It is not saved with the scene. `removeCopy` takes it away.
    """
    factors = [max(1, int(VOXEL_MM / spacing)) for spacing in volumeNode.GetSpacing()]
    if max(factors) == 1:
        return None
    shrink = vtk.vtkImageShrink3D()
    shrink.SetInputData(volumeNode.GetImageData())
    shrink.SetShrinkFactors(factors)
    shrink.MeanOn()
    shrink.Update()
    image = vtk.vtkImageData()
    image.DeepCopy(shrink.GetOutput())
    image.SetOrigin(0, 0, 0)
    image.SetSpacing(1, 1, 1)
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    toRas = slicer.util.arrayFromVTKMatrix(matrix)
    toRas[:3, 3] += toRas[:3, :3] @ ((np.array(factors) - 1) / 2)  # a mean lies in the middle of its voxels
    toRas[:3, :3] *= factors
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{volumeNode.GetName()} (3D)")
    copy.SetHideFromEditors(True)
    copy.SetSaveWithScene(False)
    copy.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(toRas))
    copy.SetAndObserveImageData(image)
    copy.CreateDefaultDisplayNodes()
    copy.GetDisplayNode().SetSaveWithScene(False)
    copy.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    return copy


def removeCopy(copy):
    """Take a copy, and how it was drawn, out of the scene."""
    if copy.GetScene() is None:
        return
    drawn = [copy.GetNthDisplayNode(index) for index in range(copy.GetNumberOfDisplayNodes())]
    for display in drawn:
        for name in ("GetVolumePropertyNode", "GetROINode"):
            part = getattr(display, name)() if hasattr(display, name) else None
            if part is not None:
                slicer.mrmlScene.RemoveNode(part)
        slicer.mrmlScene.RemoveNode(display)
    slicer.mrmlScene.RemoveNode(copy)

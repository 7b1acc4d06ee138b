"""The skeleton of a CT as a surface, which draws fast enough to follow the hand while a pose is sought."""

import numpy as np
import slicer
import vtk

TAG = "AXONBones"
BONE_HU = 220
SPACING = 2.5  # mm between the points from which the surface is made; finer detail is averaged away
IVORY = (0.93, 0.87, 0.74)


def showBones(ctNode, viewNode):
    """Draw the bones of a CT in one 3D view node, under the CT's transform. They are not saved with the scene."""
    hideBones()
    model = slicer.vtkMRMLModelNode()
    model.SetSingletonTag(TAG)
    model.SetName(TAG)
    model.SetHideFromEditors(True)
    model.SetSaveWithScene(False)
    model = slicer.mrmlScene.AddNode(model)
    model.SetAndObservePolyData(boneSurface(ctNode))
    model.CreateDefaultDisplayNodes()
    model.SetAndObserveTransformNodeID(ctNode.GetTransformNodeID())
    display = model.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetColor(*IVORY)
    display.SetScalarVisibility(False)
    display.SetBackfaceCulling(False)
    display.SetVisibility2D(False)
    display.SetViewNodeIDs([viewNode.GetID()])


def hideBones():
    """Take the bones out of the scene."""
    model = slicer.mrmlScene.GetSingletonNode(TAG, "vtkMRMLModelNode")
    if model is not None:
        slicer.mrmlScene.RemoveNode(model)


def boneSurface(ctNode):
    """vtkPolyData of the surface at BONE_HU, RAS mm in the volume's own frame."""
    factors = [max(1, round(SPACING / spacing)) for spacing in ctNode.GetSpacing()]
    coarse = vtk.vtkImageShrink3D()
    coarse.SetInputData(ctNode.GetImageData())
    coarse.SetShrinkFactors(factors)
    coarse.MeanOn()
    surface = vtk.vtkFlyingEdges3D()
    surface.SetInputConnection(coarse.GetOutputPort())
    surface.SetValue(0, BONE_HU)
    toRas = vtk.vtkTransform()
    matrix = vtk.vtkMatrix4x4()
    ctNode.GetIJKToRASMatrix(matrix)
    toRas.Concatenate(matrix)
    toRas.Translate(*((np.array(factors) - 1) / 2))  # a mean lies in the middle of its voxels
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetInputConnection(surface.GetOutputPort())
    placed.SetTransform(toRas)
    placed.Update()
    return placed.GetOutput()

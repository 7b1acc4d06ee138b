"""How volumes look: CT window and volume rendering, uncertainty and difference as colours over the slices."""

import slicer

from AXONLib import services

CHEST_WINDOW, CHEST_LEVEL = 1500, -400  # HU: lungs, soft tissue and bone each told apart
RENDERING_PRESET = "CT-Chest-Contrast-Enhanced"
UNCERTAINTY_RANGE = (25, 300)  # HU of standard deviation: nothing is coloured below, and brightest from there on
DIFFERENCE_RANGE = 600  # HU: the strongest colours stand for this much more or less
HEAT_COLORS = "vtkMRMLColorTableNodeIron"
DIFFERENCE_COLORS = "AXONDifferenceColors"


def displayAsCT(volumeNode, viewNodes=()):
    """Give a volume the chest window and, where 3D view nodes are given, show it in those by volume rendering."""
    volumeNode.CreateDefaultDisplayNodes()
    display = volumeNode.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(CHEST_WINDOW, CHEST_LEVEL)
    if viewNodes:
        renderVolume(volumeNode, viewNodes)


def renderVolume(volumeNode, viewNodes):
    """Show a volume in 3D view nodes by volume rendering; elsewhere it stays as it is.

    The preset is set the first time only, so that a user's own colours survive.

    Returns:
        vtkMRMLVolumeRenderingDisplayNode.
    """
    logic = services.volumeRenderingLogic()
    display = logic.GetFirstVolumeRenderingDisplayNode(volumeNode)
    if display is None:
        display = logic.CreateDefaultVolumeRenderingNodes(volumeNode)
        preset = logic.GetPresetByName(RENDERING_PRESET)
        if preset is not None:
            display.GetVolumePropertyNode().Copy(preset)
        views = []  # the logic names every view there is
    else:
        views = [display.GetNthViewNodeID(i) for i in range(display.GetNumberOfViewNodeIDs())]
        if not views and display.GetVisibility():  # no view named means every view: keep it in those of others
            views = [
                view.GetID()
                for view in slicer.util.getNodesByClass("vtkMRMLViewNode")
                if not (view.GetSingletonTag() or "").startswith("AXON")
            ]
    views += [view.GetID() for view in viewNodes if view.GetID() not in views]
    modifying = display.StartModify()
    display.SetViewNodeIDs(views)
    display.SetVisibility(True)
    display.EndModify(modifying)
    return display


def showUncertainty(resultNode, uncertaintyNode, opacity):
    """Lay the standard deviation in HU over the slices of a result, black-red-yellow-white; opacity 0 takes it off."""
    low, high = UNCERTAINTY_RANGE
    _paint(uncertaintyNode, HEAT_COLORS, 0, high)
    display = uncertaintyNode.GetDisplayNode()
    display.SetAutoThreshold(False)
    display.SetThreshold(low, 1e6)
    display.SetApplyThreshold(True)
    overlay([resultNode], uncertaintyNode, opacity)


def showDifference(volumeNodes, differenceNode, opacity):
    """Lay result - truth in HU over the slices of some volumes, blue where the result is less, red where it is more."""
    _paint(differenceNode, differenceColors().GetID(), -DIFFERENCE_RANGE, DIFFERENCE_RANGE)
    overlay(volumeNodes, differenceNode, opacity)


def _paint(volumeNode, colorNodeId, low, high):
    """Colours from low to high for a volume that has no such colours yet; a user's window stays."""
    volumeNode.CreateDefaultDisplayNodes()
    display = volumeNode.GetDisplayNode()
    if display.GetColorNodeID() != colorNodeId:
        display.SetAndObserveColorNodeID(colorNodeId)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(low, high)


def overlay(volumeNodes, overlayNode, opacity):
    """Lay a volume over every slice view whose background is one of some volumes; opacity 0 takes it off."""
    if services.layoutManager() is None:
        return
    under = [node.GetID() for node in volumeNodes if node is not None]
    for widget in services.sliceWidgets():
        composite = widget.mrmlSliceCompositeNode()
        if opacity > 0 and composite.GetBackgroundVolumeID() in under:
            composite.SetForegroundVolumeID(overlayNode.GetID())
            composite.SetForegroundOpacity(opacity)
        elif composite.GetForegroundVolumeID() == overlayNode.GetID():
            composite.SetForegroundVolumeID(None)


def differenceColors():
    """The colour table of differences, one in a scene: blue, white at 0, red."""
    node = slicer.mrmlScene.GetSingletonNode(DIFFERENCE_COLORS, "vtkMRMLColorTableNode")
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetSingletonTag(DIFFERENCE_COLORS)
        node.SetName("AXON difference")
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        for index in range(256):
            signed = index / 127.5 - 1
            pale = 1 - abs(signed)
            red, blue = (1.0, pale) if signed > 0 else (pale, 1.0)
            node.SetColor(index, f"{signed * DIFFERENCE_RANGE:+.0f} HU", red, 0.15 + 0.85 * pale, blue)
        node = slicer.mrmlScene.AddNode(node)
    return node

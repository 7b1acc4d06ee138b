"""The layouts of a training: a picture, the curves below it. Without a main window everything here does nothing."""

from xml.sax.saxutils import escape

import numpy as np
import slicer
from slicer.i18n import tr as _

from AXONLib import services, volumes
from AXONTrainingLib import curves, marked

CASES, TRAINING = 5741, 5742  # layouts, by numbers that nobody else uses: the picture alone, or above the curves
PICTURE = "AXONTrainingPicture"  # singleton tag of the slice view, mark of the volume in it
GROUP = 5741  # the view follows no other


def _xml(number):
    picture = (
        f'<view class="vtkMRMLSliceNode" singletontag="{PICTURE}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{escape(_("Cases"))}</property>'
        '<property name="viewcolor" action="default">#7DA7D9</property>'
        f'<property name="viewgroup" action="default">{GROUP}</property></view>'
    )
    if number == CASES:
        return f'<layout type="vertical"><item>{picture}</item></layout>'
    plots = "".join(
        f'<item><view class="vtkMRMLPlotViewNode" singletontag="{tag}">'
        f'<property name="viewlabel" action="default">{escape(label)}</property></view></item>'
        for tag, label in ((curves.LOSS, _("Loss")), (curves.QUALITY, _("PSNR")))
    )
    return (
        f'<layout type="vertical" split="true"><item splitSize="500">{picture}</item>'
        f'<item splitSize="500"><layout type="horizontal" split="true">{plots}</layout></item></layout>'
    )


class TrainingViews:
    """Opens and closes the layout, and fills its views."""

    def __init__(self):
        self._users = None  # the layout before
        self._placed = None  # the volume that the view was fitted to, and its bounds

    def isOpen(self):
        return services.layoutManager() is not None and services.currentLayout() in (CASES, TRAINING)

    def open(self, number=TRAINING):
        """Show a layout, CASES or TRAINING, with what there is."""
        if services.layoutManager() is None:
            return
        if not self.isOpen():
            self._users = services.currentLayout()
        services.defineLayout(number, _xml(number))
        if self.isOpen() and not services.layoutShows(PICTURE):  # a loaded scene named it before it was known
            services.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        services.setLayout(number)
        self._placed = None
        self.update()
        services.soon(self._fit)  # once the views have their size

    def close(self):
        """Back to the user's layout, unless he has chosen another one meanwhile."""
        if self.isOpen():
            known = self._users not in (None, CASES, TRAINING)
            services.setLayout(self._users if known else slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def update(self):
        """Give each view of the layout its picture or chart."""
        if not self.isOpen():
            return
        for tag in (curves.LOSS, curves.QUALITY):
            view = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLPlotViewNode")
            chart = curves.chart(tag)
            if view is not None and view.GetPlotChartNodeID() != chart.GetID():
                view.SetPlotChartNodeID(chart.GetID())
        picture = pictureNode()
        if picture is not None:
            self._showPicture(picture)

    def show(self, path, name, synthetic=False):
        """Show a picture file; returns its volume node, None if it cannot be read.

        Args:
            path: JPEG or PNG.
            name: of the node.
            synthetic: whether it holds what networks have made.
        """
        node = readPicture(path, name, synthetic)
        self.update()
        return node

    def _showPicture(self, node):
        """Show a picture alone in its view, as it lies, whole."""
        widget = services.sliceWidget(PICTURE)
        composite = widget.mrmlSliceCompositeNode()
        composite.SetDoPropagateVolumeSelection(False)
        composite.SetLinkedControl(False)
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        if composite.GetBackgroundVolumeID() == node.GetID() and self._placed == bounds:
            return
        composite.SetBackgroundVolumeID(node.GetID())
        composite.SetForegroundVolumeID(None)
        composite.SetLabelVolumeID(None)
        widget.mrmlSliceNode().SetOrientationToAxial()
        self._placed = bounds
        self._fit()

    def _fit(self):
        if self.isOpen() and pictureNode() is not None:
            services.sliceWidget(PICTURE).sliceLogic().FitSliceToBackground()


def pictureNode():
    """The volume node of the picture on show, or None."""
    return marked.find("vtkMRMLVectorVolumeNode", PICTURE)


def readPicture(path, name, synthetic):
    """A picture file as the module's one picture node: colours, a pixel a millimetre, first row at the front.

    It is hidden from selectors and not saved with the scene. Returns None if the file cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError):  # is being replaced, or was removed
        return None
    node = pictureNode()
    if node is None:
        node = marked.new("vtkMRMLVectorVolumeNode", PICTURE, name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volumes.FLIP))
    node.SetName(name)
    node.SetAttribute(volumes.SYNTHETIC, "1" if synthetic else None)
    slicer.util.updateVolumeFromArray(node, pixels[None])
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
    return node

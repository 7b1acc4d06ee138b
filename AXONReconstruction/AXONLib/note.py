"""The warning in every view that shows a synthetic volume."""

import slicer
import vtk
from slicer.i18n import tr as _

from AXONLib import services
from AXONLib.volumes import SYNTHETIC

UPPER_EDGE = 7  # of vtkCornerAnnotation; Slicer itself writes into the corners
LATE = -1000.0  # observers of this priority come after Slicer's, which make the views
AMBER = (1.0, 0.78, 0.2)


class SyntheticNote:
    """Keeps a warning on top of the slice and 3D views that show a volume marked as synthetic, and of no others.

    A slice view shows a volume in any of its layers; a 3D view by volume rendering, or by a slice drawn in it.
    It follows the scene by itself from the moment it is made until `stop`.
    """

    WATCHED = (
        "vtkMRMLSliceCompositeNode",
        "vtkMRMLSliceNode",
        "vtkMRMLViewNode",
        "vtkMRMLVolumeRenderingDisplayNode",
        "vtkMRMLVolumeNode",
        "vtkMRMLLayoutNode",
    )

    def __init__(self):
        self._before = {}  # annotation with the note -> its colour and background opacity without
        self._observed = {}  # node -> tag of the observer
        self._text = _("SYNTHETIC: not for diagnosis")
        scene = slicer.mrmlScene
        self._sceneTags = [
            scene.AddObserver(event, self._onNodes, LATE)
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent)
        ]
        self._onNodes()

    def stop(self):
        """Take the notes away and leave the scene alone."""
        for tag in self._sceneTags:
            slicer.mrmlScene.RemoveObserver(tag)
        for node, tag in self._observed.items():
            node.RemoveObserver(tag)
        self._sceneTags, self._observed = [], {}
        for annotation in list(self._before):
            self._write(annotation, False)

    def _onNodes(self, caller=None, event=None):
        if slicer.mrmlScene.IsBatchProcessing():  # many come or go: looked at when they are through
            return
        nodes = {node for kind in self.WATCHED for node in slicer.util.getNodesByClass(kind)}
        for node in [node for node in self._observed if node not in nodes]:
            node.RemoveObserver(self._observed.pop(node))
        for node in nodes - self._observed.keys():
            self._observed[node] = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self.update, LATE)
        self.update()

    def update(self, caller=None, event=None):
        """Write and remove the notes as the scene is now."""
        if services.layoutManager() is None:
            return
        seen = {}  # slice nodes that show something synthetic
        for widget in services.sliceWidgets():
            composite = widget.mrmlSliceCompositeNode()
            if composite is None:  # while a scene closes
                continue
            layers = (
                composite.GetBackgroundVolumeID(),
                composite.GetForegroundVolumeID(),
                composite.GetLabelVolumeID(),
            )
            seen[widget.mrmlSliceNode()] = any(isSynthetic(slicer.mrmlScene.GetNodeByID(id)) for id in layers if id)
            self._note(widget.sliceView(), seen[widget.mrmlSliceNode()])
        rendered = [
            display
            for display in slicer.util.getNodesByClass("vtkMRMLVolumeRenderingDisplayNode")
            if display.GetVisibility() and isSynthetic(display.GetVolumeNode())
        ]
        slices = [node for node, synthetic in seen.items() if synthetic and node.GetSliceVisible()]
        for widget in services.threeDWidgets():
            view = widget.mrmlViewNode().GetID()
            shown = any(display.IsDisplayableInView(view) for display in rendered)
            self._note(widget.threeDView(), shown or any(node.IsDisplayableInThreeDView(view) for node in slices))

    def _note(self, view, on):
        annotation = view.cornerAnnotation()
        if on != (annotation.GetText(UPPER_EDGE) == self._text):
            self._write(annotation, on)
            view.scheduleRender()

    def _write(self, annotation, on):
        """The text and a look that can be read on dark and on bright; the corners' texts share the look."""
        style = annotation.GetTextProperty()
        if on:
            self._before[annotation] = (style.GetColor(), style.GetBackgroundOpacity())
            style.SetColor(AMBER)
            style.SetBackgroundColor(0.0, 0.0, 0.0)
            style.SetBackgroundOpacity(0.6)
        elif annotation in self._before:
            color, opacity = self._before.pop(annotation)
            style.SetColor(color)
            style.SetBackgroundOpacity(opacity)
        annotation.SetText(UPPER_EDGE, self._text if on else "")


def isSynthetic(node):
    """Whether a node (or None) is marked as made by this module."""
    return node is not None and node.GetAttribute(SYNTHETIC) == "1"

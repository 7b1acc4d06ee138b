"""The state of the panel: one typed class, kept in the scene by Slicer's parameterNodeWrapper and saved with it."""

import enum
from typing import Annotated

from slicer import (
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class FrontalView(enum.Enum):
    """How the patient stood for the frontal film; the names of the last two are DICOM's ViewPosition."""

    AUTO = "auto"
    PA = "PA"
    AP = "AP"

    def label(self):
        texts = {"auto": _("as the file says"), "PA": _("PA (back to front)"), "AP": _("AP (front to back)")}
        return texts[self.value]


class Polarity(enum.Enum):
    """Whether dark and bright of the stored film are exchanged so that bone is bright."""

    AUTO = "auto"
    KEEP = "keep"
    INVERT = "invert"

    def label(self):
        return {"auto": _("automatic"), "keep": _("as stored"), "invert": _("inverted")}[self.value]


class CompareMode(enum.Enum):
    """How film and DRR are shown in one picture; the values are those of axon_core.registration.overlay.compare."""

    OPACITY = "opacity"
    CHECKERBOARD = "checkerboard"
    CURTAIN = "curtain"
    RED_CYAN = "red-cyan"
    EDGES = "edges"
    DIFFERENCE = "difference"

    def label(self):
        return {
            "opacity": _("Blend"),
            "checkerboard": _("Checkerboard"),
            "curtain": _("Curtain"),
            "red-cyan": _("Film red, DRR cyan"),
            "edges": _("Edges of the DRR"),
            "difference": _("Difference"),
        }[self.value]


class Quality(enum.Enum):
    """How much work goes into a reconstruction; the values are the presets of axon_core.pipeline."""

    PREVIEW = "preview"
    FAST = "fast"
    QUALITY = "quality"
    PAPER = "paper"

    def label(self):
        return {
            "preview": _("Preview (first guess only)"),
            "fast": _("Fast"),
            "quality": _("Quality"),
            "paper": _("Paper (every stage, many steps)"),
        }[self.value]


class Device(enum.Enum):
    """Where the networks run."""

    AUTO = "auto"
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"

    def label(self):
        return {"auto": _("automatic"), "cuda": _("NVIDIA GPU (cuda)"), "mps": _("Apple GPU (mps)"), "cpu": _("CPU")}[
            self.value
        ]


@parameterNodeWrapper
class AXONParameters:
    """Everything the user has chosen. A pixel size of 0 means unknown.

    The pose is the transform node itself: it moves the CT into the X-ray room (see AXONLib/pose.py).
    """

    frontal: vtkMRMLScalarVolumeNode
    frontalView: FrontalView = FrontalView.AUTO
    frontalPolarity: Polarity = Polarity.AUTO
    frontalMirrored: bool = False
    frontalPixelSize: Annotated[float, WithinRange(0, 5)] = 0.0
    lateral: vtkMRMLScalarVolumeNode
    lateralPolarity: Polarity = Polarity.AUTO
    lateralPixelSize: Annotated[float, WithinRange(0, 5)] = 0.0

    groundTruth: vtkMRMLScalarVolumeNode
    pose: vtkMRMLLinearTransformNode
    sourceDistance: Annotated[float, WithinRange(800, 4000)] = 1800.0
    depthLocked: bool = True
    fineSteps: bool = False
    compareMode: CompareMode = CompareMode.OPACITY
    compareAmount: Annotated[float, WithinRange(0, 1)] = 0.5
    collimation: vtkMRMLMarkupsROINode
    maskMarkers: bool = True
    ctLandmarks: vtkMRMLMarkupsFiducialNode
    filmLandmarks: vtkMRMLMarkupsFiducialNode

    model: str = "axon-small"
    quality: Quality = Quality.FAST
    seeds: str = "1"
    device: Device = Device.AUTO

    result: vtkMRMLScalarVolumeNode
    uncertainty: vtkMRMLScalarVolumeNode
    uncertaintyOpacity: Annotated[float, WithinRange(0, 1)] = 0.0
    difference: vtkMRMLScalarVolumeNode

"""The state of the panel: one typed class, kept in the scene by Slicer's parameterNodeWrapper and saved with it."""

import enum
from typing import Annotated

from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from AXONLib.parameters import Device


class Preset(enum.Enum):
    """Sizes of the networks and lengths of the training; the values are the presets of axon_core."""

    SMALL = "small"
    BASE = "base"
    PAPER = "paper"
    TINY = "tiny"

    def label(self):
        return {
            "small": _("small (64³, a day on two CPU cores)"),
            "base": _("base (one GPU with 12 GB)"),
            "paper": _("paper (128³, one A100)"),
            "tiny": _("tiny (16³, a trial of some seconds)"),
        }[self.value]


class Budget(enum.Enum):
    """How long the training lasts."""

    PRESET = "preset"
    STEPS = "steps"
    MINUTES = "minutes"

    def label(self):
        return {
            "preset": _("as the preset says"),
            "steps": _("steps of each stage"),
            "minutes": _("minutes in all"),
        }[self.value]


@parameterNodeWrapper
class AXONTrainingParameters:
    """Everything the user has chosen. A learning rate of 0 is the preset's; 0 kept chests draw one for each sample."""

    source: str = ""
    cache: str = ""
    preset: Preset = Preset.SMALL
    split: str = "85,5,10"

    trainCoarse: bool = True
    trainPrior: bool = True
    trainFine: bool = True
    trainSuperResolution: bool = True
    budget: Budget = Budget.PRESET
    budgetSteps: Annotated[int, WithinRange(1, 10_000_000)] = 1000
    budgetMinutes: Annotated[float, WithinRange(0.1, 100_000)] = 60.0
    keptChests: Annotated[int, WithinRange(0, 1_000_000)] = 3000
    device: Device = Device.AUTO
    learningRate: Annotated[float, WithinRange(0, 1)] = 0.0
    lessMemory: bool = False
    fullPrecision: bool = False
    phantomPercent: Annotated[float, WithinRange(0, 100)] = 0.0
    anatomy: str = ""
    findings: bool = False
    distilCoarse: bool = False
    distilFine: bool = False
    studentSteps: Annotated[int, WithinRange(1, 16)] = 2
    teacherSteps: Annotated[int, WithinRange(1, 1000)] = 8
    startModel: str = ""
    run: str = ""

    modelTitle: str = ""
    modelLicence: str = ""
    modelData: str = ""
    distilled: bool = False

"""The held-out cases of a stage as volumes in HU: what it makes of each, and the CT."""

import zipfile

import numpy as np
from slicer.i18n import tr as _

from AXONLib import volumes
from AXONTrainingLib import marked

FILE = "cases.npz"  # in a stage's folder, see `axon_core.training.validate`
WINDOW, LEVEL = 1500, -400  # HU
KINDS = ("made", "truth")


def show(folder, stage):
    """Bring a stage's cases into the scene, in the place of those before; their nodes, what is made before its CT.

    They are for any view or volume rendering, and are not saved with the scene. Without them in the folder, as where
    they are too fine to be kept, there are none.

    Args:
        folder: of the stage in a run.
        stage: in words.
    """
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            arrays, affine = [file[kind] for kind in KINDS], file["affine"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # damaged, or was never there
        arrays, affine = [[], []], None
    nodes = [
        _node(kind, number, hu, affine, stage)
        for number, pair in enumerate(zip(*arrays, strict=True), 1)
        for kind, hu in zip(KINDS, pair, strict=True)
    ]
    for node in every():
        if node not in nodes:
            volumes.remove(node)
    return nodes


def clear():
    """Take them out of the scene."""
    for node in every():
        volumes.remove(node)


def every():
    """The nodes of cases in the scene; the picture's node is a scalar volume, too."""
    found = marked.every("vtkMRMLScalarVolumeNode")
    return [node for node in found if node.GetAttribute(marked.MARK).split()[0] in KINDS]


def _node(kind, number, hu, affine, stage):
    name = {"made": _("AXON held-out case {number}, {stage}"), "truth": _("AXON held-out case {number}, CT")}[kind]
    name, mark = name.format(number=number, stage=stage), f"{kind} {number}"
    node = marked.find("vtkMRMLScalarVolumeNode", mark)
    if node is None:
        attributes = {marked.MARK: mark, **({volumes.SYNTHETIC: "1"} if kind == "made" else {})}
        node = volumes.addVolume(hu, affine, name, attributes)
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(WINDOW, LEVEL)
        for each in (node, node.GetDisplayNode()):
            each.SetSaveWithScene(False)
    volumes.setVolume(node, hu, affine)
    node.SetName(name)
    return node

"""Volumes between the scene (RAS) and axon_core (LPS): the only place where the two frames meet."""

import json
import pathlib
import shutil

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from axon_core import SYNTHETIC_NOTICE
from axon_core.ctvolume import CTVolume
from axon_core.errors import OutputError, VolumeError
from axon_core.files import atomic_file

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS <-> RAS
SYNTHETIC, PROVENANCE = "AXON.Synthetic", "AXON.Provenance"
REPORT, PROJECTIONS = "AXON.Report", "AXON.Projections"  # files of the session in which the result was made
ROLES = {"frontal": "AXON.Frontal", "lateral": "AXON.Lateral", "groundTruth": "AXON.GroundTruth", "pose": "AXON.Pose"}
PREVIEW_NAME = "AXON preview"


def affineOf(node):
    """(4, 4): a volume node's index (i, j, k, 1) -> LPS mm in the node's own frame, without parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return FLIP @ slicer.util.arrayFromVTKMatrix(matrix)


def ctVolumeOf(node):
    """The volume of a node as a CTVolume, in the node's own frame.

    Raises:
        VolumeError: a film, an empty node, a label map, or an unusable geometry.
    """
    image = node.GetImageData()
    name = node.GetName()
    if image is None:
        raise VolumeError("volume.empty", _("{name} holds no image.").format(name=name), _("Load it again."))
    if min(image.GetDimensions()) < 8 or image.GetNumberOfScalarComponents() != 1:
        raise VolumeError(
            "volume.film",
            _("{name} is a picture, not a CT volume.").format(name=name),
            _("Choose a CT series here; films are chosen under 'X-rays'."),
        )
    hu = slicer.util.arrayFromVolume(node)
    low, high = float(hu.min()), float(hu.max())
    if high - low < 300 or low > -200:
        raise VolumeError(
            "volume.not-hu",
            _("{name} does not hold Hounsfield units: its values run from {low:.0f} to {high:.0f}.").format(
                name=name, low=low, high=high
            ),
            _("Choose a chest CT in HU, with air near -1000."),
        )
    return CTVolume(np.maximum(hu, -1024), affineOf(node))


def loadCt(path):
    """Read a CT file, or the whole series of one DICOM slice, and add it to the scene.

    Raises:
        VolumeError: not a CT volume.
    """
    volume = CTVolume.load(path)
    node = addVolume(np.rint(volume.hu).astype(np.int16), volume.affine, pathlib.Path(path).name.split(".")[0])
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(1500, -400)
    return node


def addRegion(film, name):
    """A region of interest over the middle of a film that lies in the scene; vtkMRMLMarkupsROINode."""
    bounds = [0.0] * 6
    film.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetCenter(*((low + high) / 2))
    node.SetSize(*np.maximum(0.8 * (high - low), 20.0))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetFillVisibility(False)
    return node


def writeCt(node, folder):
    """Write a CT node for a child process, uncompressed because it is read once; returns the path.

    Raises:
        VolumeError: not a CT. OutputError: the disk refuses.
    """
    return ctVolumeOf(node).save(pathlib.Path(folder) / f"ct-{node.GetID()}.nii", overwrite=True)


def addVolume(hu, affineLps, name, attributes=None):
    """Add a volume to the scene: hu (z, y, x), affine index (x, y, z, 1) -> LPS mm, attributes name -> text."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    for key, text in (attributes or {}).items():  # before node selectors judge by them
        node.SetAttribute(key, text)
    node = slicer.mrmlScene.AddNode(node)
    setVolume(node, hu, affineLps)
    node.CreateDefaultDisplayNodes()
    return node


def setVolume(node, hu, affineLps):
    """Replace a volume node's voxels and place."""
    slicer.util.updateVolumeFromArray(node, hu)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(FLIP @ affineLps))


def showPreview(path, placement, name=PREVIEW_NAME):
    """Show a worker's preview in the scene's preview node, made on the first call.

    Args:
        path: .npz with ``hu`` (z, y, x) and ``affine`` in the X-ray room, LPS mm.
        placement: (4, 4) X-ray room -> frame of the result, LPS mm.

    Returns:
        The node; it is not saved with the scene. None when the file is gone already.
    """
    try:
        with np.load(path, allow_pickle=False) as preview:
            hu, affine = preview["hu"], preview["affine"]
    except (OSError, ValueError, KeyError):
        return None
    nodes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if node.GetName() == name]
    if nodes:
        setVolume(nodes[0], hu, placement @ affine)
        return nodes[0]
    node = addVolume(hu, placement @ affine, name)
    node.SetAttribute(SYNTHETIC, "1")
    node.SetHideFromEditors(True)
    for made in (node, node.GetDisplayNode()):
        made.SetSaveWithScene(False)
    return node


def removePreview():
    """Take the preview out of the scene."""
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetName() == PREVIEW_NAME and not node.GetSaveWithScene():
            remove(node)


def remove(node):
    """Take a volume out of the scene, with what showed it: Slicer leaves display nodes behind."""
    displays = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    slicer.mrmlScene.RemoveNode(node)
    for display in filter(None, displays):
        if display.IsA("vtkMRMLVolumeRenderingDisplayNode") and display.GetVolumePropertyNode() is not None:
            slicer.mrmlScene.RemoveNode(display.GetVolumePropertyNode())
        slicer.mrmlScene.RemoveNode(display)


def loadResult(path, name, placement, provenance):
    """Add a volume that a worker wrote to the scene, placed and marked as synthetic.

    Args:
        path: NRRD, NIfTI or MetaImage, in the X-ray room.
        name: of the node.
        placement: (4, 4) X-ray room -> frame of the result, LPS mm.
        provenance: plain values.

    Raises:
        OutputError: it cannot be read back.
    """
    import SimpleITK as sitk  # not CTVolume: a difference or a spread is no CT

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OutputError(
            "result.unreadable", _("The result could not be read back."), _("Check the free space on the disk.")
        ) from error
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    record = json.dumps(provenance, ensure_ascii=False)
    attributes = {SYNTHETIC: "1", "AXON.Notice": SYNTHETIC_NOTICE, PROVENANCE: record}
    return addVolume(sitk.GetArrayFromImage(image), placement @ affine, name, attributes)


def readProvenance(path):
    """The record that a worker wrote beside its volume; OutputError if it cannot be read."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            "result.unreadable", _("The result could not be read back."), _("Check the free space on the disk.")
        ) from error


def relate(node, sources):
    """Node references from a result to what it was made of: role in ROLES -> node or None."""
    for role, source in sources.items():
        if source is not None:
            node.SetNodeReferenceID(ROLES[role], source.GetID())


def placeBeside(node, source):
    """Put a node into the same subject-hierarchy study (or folder) as its source."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None or source is None:
        return
    invalid = slicer.vtkMRMLSubjectHierarchyNode.GetInvalidItemID()
    place, item = hierarchy.GetItemByDataNode(source), hierarchy.GetItemByDataNode(node)
    if place != invalid and item != invalid:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(place))


def provenanceOf(node):
    """What a result knows of its making; empty for any other volume."""
    try:
        return json.loads(node.GetAttribute(PROVENANCE) or "{}")
    except ValueError:
        return {}


def exportVolume(node, path):
    """Write a result as NRRD, NIfTI or MetaImage, marked as synthetic; returns the path.

    Raises:
        OutputError: unknown ending, or the disk refuses.
    """
    return _synthetic(node).save(path, overwrite=True)


def copyFile(source, path):
    """Copy a file, whole or not at all; returns the path.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        with atomic_file(path, overwrite=True) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise OutputError(
            "output.cannot-write", _("The file could not be written."), _("Check the free space on the disk.")
        ) from error
    return path


def exportDicom(node, folder):
    """Write a result as a DICOM CT series into a new folder below `folder`; returns its path.

    Raises:
        OutputError: the disk refuses.
    """
    name = "".join(letter if letter.isalnum() or letter in " -_()" else "_" for letter in node.GetName()).strip()
    target = pathlib.Path(folder) / (name or "AXON")
    sources = [film.get("source", {}) for film in provenanceOf(node).get("films", {}).values()]
    return _synthetic(node).save_dicom(target, film=sources, overwrite=True)


def _synthetic(node):
    """A result as a CTVolume with its provenance; in world coordinates, as it is seen."""
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, matrix)
    affine = FLIP @ slicer.util.arrayFromVTKMatrix(matrix) @ FLIP @ affineOf(node)
    provenance = {"notice": SYNTHETIC_NOTICE, **provenanceOf(node)}
    source = {"name": "axon", "notice": SYNTHETIC_NOTICE, "synthetic": True, "provenance": provenance}
    return CTVolume(slicer.util.arrayFromVolume(node).copy(), affine, source=source)


def placement(pose, isocentreLps):
    """(4, 4) LPS: X-ray room -> the CT's own frame, T(isocentre) P^-1; the identity without a CT.

    Args:
        pose: RigidPose of the CT, or None.
        isocentreLps: (3,) mm, or None.
    """
    matrix = np.eye(4)
    if pose is not None:
        matrix = np.linalg.inv(pose.matrix)
        matrix[:3, 3] += isocentreLps
    return matrix

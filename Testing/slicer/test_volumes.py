"""Volumes between scene and files: the two frames, what is a CT, where a result lies and what it carries."""

from __future__ import annotations

import json

import driving
import numpy as np
import pytest

NOTICE = "not for diagnosis"
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # a rotation
OBLIQUE = np.eye(4)  # index -> RAS, with a left-handed frame and unequal voxels
OBLIQUE[:3, :3] = TURN @ np.diag([2.0, -1.5, 3.0])
OBLIQUE[:3, 3] = (-40.0, 25.0, -60.0)
SHAPE = (20, 30, 25)  # z, y, x


@pytest.fixture
def volumes(hosted):
    from AXONLib import volumes

    return volumes


def chest(matrix=OBLIQUE, name="CT"):
    """A volume of air with a block of soft tissue nearer to its first corner."""
    import slicer

    hu = np.full(SHAPE, -1000, np.int16)
    hu[4:9, 5:11, 3:8] = 40
    hu[4, 5, 3] = 900
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=matrix, name=name)


def rasOf(node, i, j, k, world=True):
    """Where a voxel lies, RAS mm."""
    import slicer
    import vtk

    matrix, toWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    if world and node.GetParentTransformNode():
        node.GetParentTransformNode().GetMatrixTransformToWorld(toWorld)
    arrays = slicer.util.arrayFromVTKMatrix(toWorld), slicer.util.arrayFromVTKMatrix(matrix)
    return (arrays[0] @ arrays[1] @ [i, j, k, 1])[:3]


def lps(ras):
    return np.asarray(ras) * [-1, -1, 1]


# ---- the two frames


def test_a_voxel_lies_at_the_same_place_in_both_frames(volumes):
    node = chest()
    affine = volumes.affineOf(node)
    for index in ((0, 0, 0), (3, 5, 4), (24, 29, 19)):
        assert np.allclose((affine @ [*index, 1])[:3], lps(rasOf(node, *index)))


def test_a_parent_transform_does_not_change_the_own_frame(volumes):
    import slicer

    node = chest()
    before = volumes.affineOf(node)
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(OBLIQUE))
    node.SetAndObserveTransformNodeID(moved.GetID())
    assert np.array_equal(volumes.affineOf(node), before)


def test_an_oblique_mirrored_ct_goes_to_a_file_and_comes_back(volumes, tmp_path):
    import slicer

    node = chest()
    back = volumes.loadCt(volumes.writeCt(node, tmp_path))
    array = slicer.util.arrayFromVolume(back)
    assert np.array_equal(np.sort(array.ravel()), np.sort(slicer.util.arrayFromVolume(node).ravel()))
    # the reader may lay the voxels along other axes; the brightest one is where it was
    z, y, x = np.unravel_index(array.argmax(), array.shape)
    assert np.allclose(rasOf(back, x, y, z), rasOf(node, 3, 5, 4), atol=1e-3)


def test_the_middle_of_the_voxels_is_the_isocentre(volumes):
    node = chest()
    middle = lps(rasOf(node, *(np.array(SHAPE[::-1]) - 1) / 2))
    assert np.allclose(volumes.ctVolumeOf(node).center_lps, middle)


# ---- what is a CT


def film():
    import slicer

    return slicer.util.addVolumeFromArray(np.linspace(-1000, 1000, 9600).reshape(1, 80, 120), name="film")


def empty():
    import slicer

    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")


def labels():
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(node, np.random.default_rng(0).integers(0, 5, (20, 20, 20)).astype(np.int16))
    return node


def colours():
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    slicer.util.updateVolumeFromArray(node, np.zeros((20, 20, 20, 3), np.uint8))
    return node


def mri():
    import slicer

    return slicer.util.addVolumeFromArray(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), name="mri")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (film, "volume.film"),
        (empty, "volume.empty"),
        (labels, "volume.not-hu"),
        (colours, "volume.film"),
        (mri, "volume.not-hu"),
    ],
)
def test_what_is_no_ct_is_refused_by_name(volumes, make, code):
    from axon_core.errors import VolumeError

    node = make()
    with pytest.raises(VolumeError) as refused:
        volumes.ctVolumeOf(node)
    assert refused.value.code == code and refused.value.title.startswith(node.GetName()) and refused.value.advice


@pytest.mark.parametrize("name", ["missing.nrrd", "text.nrrd", "film.png"])
def test_a_file_that_is_no_ct_leaves_the_scene_alone(volumes, tmp_path, name):
    from axon_core.errors import VolumeError

    (tmp_path / "text.nrrd").write_text("no volume")
    (tmp_path / "film.png").write_bytes(driving.FILM.read_bytes())
    before = driving.content()
    with pytest.raises(VolumeError):
        volumes.loadCt(tmp_path / name)
    assert driving.content() == before


def test_the_ct_of_the_samples_is_a_ct(volumes):
    node = volumes.loadCt(driving.CT)
    assert node.GetName() == "acrin_042_ct"
    assert (node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()) == (1500, -400)
    assert min(volumes.ctVolumeOf(node).hu.shape) > 50


# ---- from the X-ray room to the CT


def test_the_placement_undoes_the_pose(volumes):
    import slicer

    from axon_core.geometry import RigidPose
    from AXONLib.pose import PoseController

    node = chest()
    centre = np.array(volumes.ctVolumeOf(node).center_lps)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    controller = PoseController(transform, centre)
    controller.attach(node)
    pose = RigidPose((0.2, -0.1, 0.3), (12.0, -7.0, 5.0))
    controller.setRigidPose(pose)
    inRoom = lps(rasOf(node, 3, 5, 4)) - centre  # where the pose node has moved it, about the isocentre
    back = (volumes.placement(pose, centre) @ [*inRoom, 1])[:3]
    assert np.allclose(back, lps(rasOf(node, 3, 5, 4, world=False)))
    controller.close()


def test_without_a_ct_the_room_is_the_world(volumes):
    assert np.array_equal(volumes.placement(None, None), np.eye(4))


# ---- results


@pytest.fixture
def made(volumes, tmp_path):
    """A result as the worker writes it, (path, CTVolume)."""
    from axon_core.ctvolume import CTVolume
    from axon_core.geometry import CanonicalGrid

    hu = np.full((16, 16, 16), -900.0, np.float32)
    hu[3, 5, 7] = 700
    volume = CTVolume.from_grid(hu, CanonicalGrid(16))
    return volume.save(tmp_path / "volume.nrrd"), volume


def test_a_result_is_placed_and_marked(volumes, made):
    import slicer

    path, volume = made
    placement = volumes.placement(None, None).copy()
    placement[:3, 3] = (10, 20, 30)
    node = volumes.loadResult(path, "made", placement, {"model": "m", "name": "Ä"})
    assert np.allclose(rasOf(node, 7, 5, 3), lps((placement @ volume.affine @ [7, 5, 3, 1])[:3]))
    assert slicer.util.arrayFromVolume(node)[3, 5, 7] == 700 and slicer.util.arrayFromVolume(node).dtype == np.int16
    assert node.GetAttribute(volumes.SYNTHETIC) == "1" and NOTICE in node.GetAttribute("AXON.Notice")
    assert volumes.provenanceOf(node) == {"model": "m", "name": "Ä"}
    assert volumes.provenanceOf(chest()) == {}


def test_fractions_of_a_standard_deviation_are_kept(volumes, made, tmp_path):
    import slicer

    from axon_core.ctvolume import CTVolume

    deviation = np.arange(512, dtype=np.float32).reshape(8, 8, 8) / 4
    path = CTVolume(deviation, np.eye(4)).save(tmp_path / "sd.nrrd")
    assert np.array_equal(slicer.util.arrayFromVolume(volumes.loadResult(path, "sd", np.eye(4), {})), deviation)


def test_an_unreadable_result_is_told_and_leaves_the_scene_alone(volumes, tmp_path):
    from axon_core.errors import OutputError

    (tmp_path / "volume.nrrd").write_text("cut off")
    before = driving.content()
    with pytest.raises(OutputError, match="could not be read back"):
        volumes.loadResult(tmp_path / "volume.nrrd", "made", np.eye(4), {})
    with pytest.raises(OutputError, match="could not be read back"):
        volumes.readProvenance(tmp_path / "volume.nrrd")
    assert driving.content() == before


def test_a_result_remembers_what_it_was_made_of(volumes):
    node, source = chest(name="made"), film()
    volumes.relate(node, {"frontal": source, "lateral": None})
    assert node.GetNodeReference(volumes.ROLES["frontal"]) is source
    assert node.GetNodeReferenceID(volumes.ROLES["lateral"]) is None


def test_a_result_comes_into_the_study_of_its_film(volumes):
    """Items are made here: in Slicer the plugins of the subject hierarchy make them."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    node, source = chest(name="made"), film()
    volumes.placeBeside(node, source)  # neither has an item: nothing happens
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    study = hierarchy.CreateStudyItem(patient, "study")
    hierarchy.CreateItem(study, source)
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    volumes.placeBeside(node, source)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    volumes.placeBeside(node, None)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


# ---- previews


def preview(path, value):
    np.savez(path, hu=np.full((8, 8, 8), value, np.int16), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    return path


def test_previews_replace_each_other_and_leave_nothing_behind(volumes, tmp_path):
    import slicer

    from AXONLib import display

    before = driving.content()
    placement = np.eye(4)
    placement[:3, 3] = (5, 6, 7)
    first = volumes.showPreview(preview(tmp_path / "1.npz", 1), placement)
    display.renderVolume(first, slicer.util.getNodesByClass("vtkMRMLViewNode")[:1])
    second = volumes.showPreview(preview(tmp_path / "2.npz", 2), placement)
    assert second is first and slicer.util.arrayFromVolume(first).max() == 2
    assert np.allclose(rasOf(first, 1, 0, 0), lps([7, 6, 7])) and first.GetAttribute(volumes.SYNTHETIC) == "1"
    assert not first.GetSaveWithScene()
    assert volumes.showPreview(tmp_path / "gone.npz", placement) is None
    volumes.removePreview()
    assert driving.content() == before


def test_a_volume_of_the_users_with_the_name_of_a_preview_stays(volumes):
    node = chest(name=volumes.PREVIEW_NAME)
    volumes.removePreview()
    assert node.GetScene() is not None


# ---- export


@pytest.fixture
def result(volumes, made):
    """A result under a transform: what is exported is what is seen."""
    import slicer

    provenance = {"model": "axon-small", "films": {"frontal": {"source": {"sop_instance_uid": "1.2.3.4"}}}}
    node = volumes.loadResult(made[0], "Film ÄÖ synthetic CT", np.eye(4), provenance)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = TURN, (15, -20, 30)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return node


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_an_exported_volume_says_what_it_is_and_lies_where_it_was_seen(volumes, result, tmp_path, ending):
    import SimpleITK as sitk

    image = sitk.ReadImage(str(volumes.exportVolume(result, tmp_path / ("Ä b" + ending))))
    assert image[7, 5, 3] == 700
    assert np.allclose(image.TransformIndexToPhysicalPoint((7, 5, 3)), lps(rasOf(result, 7, 5, 3)), atol=1e-2)
    notes = " ".join(image.GetMetaData(key) for key in image.GetMetaDataKeys())
    assert NOTICE in notes.lower() or "synthetic" in notes.lower(), notes
    if ending != ".nii.gz":
        assert json.loads(image.GetMetaData("axon"))["model"] == "axon-small"


def test_an_exported_series_is_derived_and_lies_where_it_was_seen(volumes, result, tmp_path):
    import pydicom

    from axon_core.ctvolume import CTVolume

    folder = volumes.exportDicom(result, tmp_path)
    assert folder.parent == tmp_path
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert len(slices) == 16
    for one in slices:
        assert one.Modality == "CT" and list(one.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert "SYNTHETIC" in str(one.SeriesDescription).upper() + str(one.get("ImageComments", "")).upper()
    back = CTVolume.load(folder)
    index = np.unravel_index(back.hu.argmax(), back.hu.shape)[::-1]
    assert back.hu.max() == 700
    assert np.allclose((back.affine @ [*index, 1])[:3], lps(rasOf(result, 7, 5, 3)), atol=1e-2)


def test_an_export_that_cannot_be_written_is_told(volumes, result, tmp_path):
    from axon_core.errors import OutputError

    with pytest.raises(OutputError, match="Unknown volume format"):
        volumes.exportVolume(result, tmp_path / "volume.xyz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        volumes.exportVolume(result, tmp_path / "file" / "volume.nrrd")
    with pytest.raises(OutputError):
        volumes.exportDicom(result, tmp_path / "file")


# ---- regions


def test_a_region_stands_over_the_middle_of_the_film(volumes):
    from AXONLib import films

    node = films.loadFilm(driving.FILM)
    region = volumes.addRegion(node, "area")
    centre, size, bounds = [0.0] * 3, [0.0] * 3, [0.0] * 6
    region.GetCenterWorld(centre)
    region.GetSizeWorld(size)
    node.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    assert np.allclose(centre, (low + high) / 2) and min(size) >= 20
    assert np.allclose(np.array(size)[[0, 2]], 0.8 * (high - low)[[0, 2]])

"""DICOM CT series: which slices are taken, where they lie, and what a written series says."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from axon_core import SYNTHETIC_NOTICE
from axon_core.ctvolume import CTVolume
from axon_core.dicom_write import as_axial
from axon_core.errors import OutputError, VolumeError
from axon_core.geometry import CanonicalGrid, RigidPose

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid  # noqa: E402

SHAPE = (8, 12, 10)
AFFINE = np.array([[0.8, 0, 0, -3.0], [0, 0.9, 0, -20.0], [0, 0, 2.5, 100.0], [0, 0, 0, 1]])


def chest(shape=SHAPE):
    return np.random.default_rng(7).integers(-1000, 800, shape)


def write_series(folder, hu=None, affine=AFFINE, names=None, change=None, **tags):
    """A plain scanner-like CT series; `change(dataset, index)` may alter each slice. Returns the paths."""
    hu = chest() if hu is None else hu
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    series, study, paths = generate_uid(), generate_uid(), []
    for index, image in enumerate(hu):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = study, series, "CT"
        ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 3, 1, index + 1
        (ds.Rows, ds.Columns), ds.SamplesPerPixel = image.shape, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelSpacing = [spacing[1], spacing[0]]
        ds.ImageOrientationPatient = [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
        ds.ImagePositionPatient = (affine @ [0, 0, index, 1])[:3].tolist()
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        for key, value in tags.items():
            setattr(ds, key, value)
        ds.PixelData = np.rint((image - ds.get("RescaleIntercept", 0)) / ds.RescaleSlope).astype("<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if change and change(ds, index) == "skip":
            continue
        paths.append(folder / (names[index] if names else f"{index}.dcm"))
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def refused(code, path):
    with pytest.raises(VolumeError) as caught:
        CTVolume.load(path)
    assert caught.value.code == code and caught.value.advice
    assert "Secret" not in str(caught.value) and "SECRET" not in str(caught.value)
    return str(caught.value)


def lps(affine, shape):
    z, y, x = np.indices(shape)
    return np.stack([x, y, z], -1) @ affine[:3, :3].T + affine[:3, 3]


# --- which slices, and where -----------------------------------------------------------------------------------------


def test_slices_are_sorted_by_place_not_by_name_or_number(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{n}" for n in rng.permutation(len(chest()))]
    numbers = rng.permutation(len(chest()))

    def shuffle(ds, index):
        ds.InstanceNumber = int(numbers[index])

    write_series(tmp_path / "a", names=names, change=shuffle)
    volume = CTVolume.load(tmp_path / "a")
    assert np.array_equal(volume.hu, chest())
    assert np.allclose(volume.affine, AFFINE)
    assert volume.notes == ()
    assert not any("secret" in str(value).lower() for value in volume.source.values())


@pytest.mark.parametrize("flip", [1, -1])
def test_an_oblique_series_lies_where_simpleitk_puts_it(tmp_path, flip):
    affine = np.eye(4)
    affine[:3, :3] = RigidPose((0.3, -0.2, 0.5)).matrix[:3, :3] * [0.8, 0.9, 2.5 * flip]
    affine[:3, 3] = [5.0, -7.0, 11.0]
    paths = write_series(tmp_path / "a", affine=affine)
    volume = CTVolume.load(tmp_path / "a")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(p) for p in (paths if flip == 1 else paths[::-1])])
    image = reader.Execute()
    assert np.allclose(volume.affine[:3, 3], image.GetOrigin(), atol=1e-4)
    assert np.allclose(volume.affine[:3, :3] / volume.spacing_mm, np.reshape(image.GetDirection(), (3, 3)), atol=1e-4)
    assert np.allclose(volume.spacing_mm, image.GetSpacing(), atol=1e-4)
    assert np.array_equal(volume.hu, sitk.GetArrayFromImage(image))
    world = {tuple(p): h for p, h in zip(lps(affine, SHAPE).reshape(-1, 3).round(2), chest().ravel(), strict=True)}
    place = lps(volume.affine, SHAPE).reshape(-1, 3).round(2)
    assert all(world[tuple(p)] == h for p, h in zip(place[::37], volume.hu.ravel()[::37], strict=True))


def test_rescaling_may_differ_from_slice_to_slice(tmp_path):
    def change(ds, index):
        stored = chest()[index] + 1000 + index
        ds.RescaleSlope, ds.RescaleIntercept = 0.5, -1000 - index
        ds.PixelData = (stored * 2).astype("<u2").tobytes()

    write_series(tmp_path / "a", change=change)
    assert np.array_equal(CTVolume.load(tmp_path / "a").hu, chest())


def test_signed_12_bit_and_padding(tmp_path):
    def change(ds, index):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
        stored = (chest()[index] + 1024).astype("<i2")
        stored[0, 0] = -2000
        ds.add_new("PixelPaddingValue", "SS", -2000)
        ds.PixelData = stored.tobytes()

    write_series(tmp_path / "a", change=change)
    hu = CTVolume.load(tmp_path / "a").hu
    assert (hu[:, 0, 0] == -1024).all() and np.array_equal(hu[:, 1:], chest()[:, 1:])


def test_padding_brighter_than_any_tissue_is_air(tmp_path):
    def change(ds, index):
        stored = (chest()[index] + 1024).astype("<u2")
        stored[0, 0] = 63536
        ds.add_new("PixelPaddingValue", "US", 63536)
        ds.PixelData = stored.tobytes()

    write_series(tmp_path / "a", change=change)
    assert (CTVolume.load(tmp_path / "a").hu[:, 0, 0] == -1024).all()


def test_missing_rescaling_is_noticed(tmp_path):
    write_series(tmp_path / "a", hu=chest() + 1024, RescaleIntercept=0)
    assert any("raw values" in note for note in CTVolume.load(tmp_path / "a").notes)


def test_compressed_slices(tmp_path):
    write_series(tmp_path / "a", change=lambda ds, _: ds.compress(RLELossless, generate_instance_uid=False))
    assert np.array_equal(CTVolume.load(tmp_path / "a").hu, chest())


def test_bare_datasets_without_preamble(tmp_path):
    for path in write_series(tmp_path / "a"):
        ds = pydicom.dcmread(path)
        del ds.file_meta
        ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert np.array_equal(CTVolume.load(tmp_path / "a").hu, chest())


def test_one_slice_stands_for_its_series(tmp_path):
    one = write_series(tmp_path / "a")
    write_series(tmp_path / "a", hu=chest((20, 12, 10)), names=[f"other{i}" for i in range(20)])
    assert CTVolume.load(tmp_path / "a").hu.shape == (20, 12, 10)
    assert np.array_equal(CTVolume.load(one[3]).hu, chest())


def test_the_largest_axial_series_is_taken_and_told(tmp_path):
    write_series(tmp_path / "cd" / "s1", SeriesNumber=4)
    sagittal = np.array([[0, 0, 2.0, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    write_series(tmp_path / "cd" / "s2", hu=chest((30, 12, 10)), affine=sagittal)
    write_series(tmp_path / "cd" / "s3", hu=chest((5, 12, 10)))
    write_series(tmp_path / "cd", Modality="MR", names=[f"mr{i}" for i in range(8)])
    (tmp_path / "cd" / "README.TXT").write_text("viewer")
    volume = CTVolume.load(tmp_path / "cd")
    assert np.array_equal(volume.hu, chest())
    assert "Took series 4 with 8 slices, the largest of 3 stacks." in volume.notes
    assert "Left out: DICOM objects that are not CT (8)." in volume.notes


def test_two_equally_large_series_are_refused(tmp_path):
    write_series(tmp_path / "a" / "lung")
    write_series(tmp_path / "a" / "soft")
    refused("dicom.several-series", tmp_path / "a")
    assert CTVolume.load(tmp_path / "a" / "soft").hu.shape == SHAPE


def test_a_localizer_in_the_same_series_is_left_out(tmp_path):
    def change(ds, index):
        if index == 0:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_series(tmp_path / "a", change=change)
    volume = CTVolume.load(tmp_path / "a")
    assert np.array_equal(volume.hu, chest()[1:]) and volume.notes == ("Left out: localizers (1).",)


def test_repeated_slices_are_dropped_and_contradicting_ones_refused(tmp_path):
    paths = write_series(tmp_path / "a")
    shutil.copy(paths[2], tmp_path / "a" / "copy.dcm")
    ds = pydicom.dcmread(paths[4])
    ds.SOPInstanceUID = generate_uid()
    ds.save_as(tmp_path / "a" / "again.dcm")
    volume = CTVolume.load(tmp_path / "a")
    assert np.array_equal(volume.hu, chest())
    assert volume.notes == ("Left out: slices that repeat another one (2).",)
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(tmp_path / "a" / "again.dcm")
    refused("dicom.overlap", tmp_path / "a")


def test_of_several_phases_the_largest_is_taken(tmp_path):
    paths = write_series(tmp_path / "a")
    for index, path in enumerate(paths[:5]):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID, ds.AcquisitionNumber = generate_uid(), 2
        ds.PixelData = bytes(len(ds.PixelData))
        ds.save_as(tmp_path / "a" / f"second{index}.dcm")
    volume = CTVolume.load(tmp_path / "a")
    assert np.array_equal(volume.hu, chest())
    assert volume.notes == ("The series holds 2 acquisitions; took the largest, with 8 slices.",)


def test_acquisitions_that_follow_each_other_are_not_phases(tmp_path):
    """Taking the largest of them would cut the chest."""
    far = chest((12, 12, 10))

    def change(ds, index):
        ds.AcquisitionNumber = 1 if index < 7 else 2

    paths = write_series(tmp_path / "a", hu=far, change=change)
    assert CTVolume.load(tmp_path / "a").hu.shape == far.shape
    ds = pydicom.dcmread(paths[6])  # the seam, scanned again
    ds.SOPInstanceUID, ds.AcquisitionNumber, ds.PixelData = generate_uid(), 2, bytes(len(ds.PixelData))
    ds.save_as(tmp_path / "a" / "seam.dcm")
    refused("dicom.overlap", tmp_path / "a")


def test_a_small_gap_is_filled_and_a_wide_one_refused(tmp_path):
    ramp = np.linspace(-1000, 400, 8)[:, None, None] + np.zeros((8, 12, 10))
    ramp = np.rint(ramp / 200) * 200
    write_series(tmp_path / "a", hu=ramp, change=lambda ds, index: "skip" if index == 3 else None)
    volume = CTVolume.load(tmp_path / "a")
    assert np.allclose(volume.hu, ramp, atol=1e-3) and np.allclose(volume.affine, AFFINE)
    assert "unevenly spaced" in volume.notes[0] and "5.0 mm" in volume.notes[0]
    far = chest((12, 12, 10))
    write_series(tmp_path / "b", hu=far, change=lambda ds, index: "skip" if 2 < index < 10 else None)
    refused("dicom.gap", tmp_path / "b")

    def clump(ds, index):
        ds.ImagePositionPatient = [-3, -20, 100 + (14.0 * (index - 6) if index > 6 else 0.02 * index)]

    write_series(tmp_path / "c", hu=far, change=clump)
    refused("dicom.gap", tmp_path / "c")


def test_positions_rounded_by_the_scanner_are_still_even(tmp_path):
    def change(ds, index):
        ds.ImagePositionPatient = [-3, -20, round(100 + 0.625 * index, 1)]

    write_series(tmp_path / "a", hu=chest((33, 12, 10)), change=change)
    volume = CTVolume.load(tmp_path / "a")
    assert volume.notes == () and np.isclose(volume.spacing_mm[2], 0.625, atol=1e-3)


def test_noise_in_the_direction_does_not_split_a_series(tmp_path):
    def change(ds, index):
        ds.PixelSpacing = [0.9, 0.6835 + (-1) ** index * 1e-7]

    write_series(tmp_path / "a", change=change)
    assert CTVolume.load(tmp_path / "a").hu.shape == SHAPE


def test_gantry_tilt_is_straightened(tmp_path):
    """A ball in slices tilted by 15 degrees stays a ball at its place."""
    tilt, shape = np.radians(15.0), (30, 40, 40)
    affine = np.eye(4)
    affine[:3, 0] = [2.0, 0, 0]
    affine[:3, 1] = [0, 2.0 * np.cos(tilt), 2.0 * np.sin(tilt)]
    affine[:3, 2] = [0, 0, 3.0]  # the table moves along the body, not along the slices' normal
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape[::-1]) - 1)) + [0, 0, 500.0]
    center = np.array([8.0, -6.0, 505.0])
    ball = np.linalg.norm(lps(affine, shape) - center, axis=-1) < 20.0
    write_series(tmp_path / "a", hu=np.where(ball, 0, -1000), affine=affine)
    volume = CTVolume.load(tmp_path / "a")
    assert any("gantry tilt" in note for note in volume.notes)
    weight = volume.hu + 1000.0
    place = lps(volume.affine, volume.hu.shape)
    middle = (place * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    variance = ((place - middle) ** 2 * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    assert np.abs(middle - center).max() < 0.3
    assert np.allclose(variance, 20.0**2 / 5, rtol=0.06)


def test_what_is_no_stack_is_refused(tmp_path):
    def jump(ds, index):
        ds.ImagePositionPatient = [20.0 * (index % 2), -20, 100 + 2.5 * index]

    write_series(tmp_path / "jump", change=jump)
    refused("dicom.not-a-stack", tmp_path / "jump")
    write_series(tmp_path / "two", hu=chest((2, 12, 10)))
    refused("dicom.too-few", tmp_path / "two")
    (tmp_path / "empty").mkdir()
    refused("dicom.no-ct", tmp_path / "empty")
    write_series(tmp_path / "mr", Modality="MR")
    assert "not CT" in refused("dicom.no-ct", tmp_path / "mr")
    write_series(tmp_path / "multi", NumberOfFrames=5)
    assert "dcm2niix" in refused("dicom.no-ct", tmp_path / "multi")
    slice_of_mr = next((tmp_path / "mr").iterdir())
    refused("dicom.no-ct", slice_of_mr)


def test_a_damaged_slice_is_refused(tmp_path):
    paths = write_series(tmp_path / "a")
    data = paths[3].read_bytes()
    paths[3].write_bytes(data[:-60])
    refused("volume.damaged", tmp_path / "a")


def test_colour_and_absurd_values_are_refused(tmp_path):
    write_series(tmp_path / "rgb", SamplesPerPixel=3, PhotometricInterpretation="RGB")
    refused("volume.damaged", tmp_path / "rgb")
    write_series(tmp_path / "slope", change=lambda ds, _: setattr(ds, "RescaleSlope", "1e300"))
    refused("volume.not-finite", tmp_path / "slope")
    write_series(tmp_path / "size", change=lambda ds, _: setattr(ds, "Rows", 60000))
    refused("dicom.no-ct", tmp_path / "size")
    write_series(tmp_path / "axes", change=lambda ds, _: setattr(ds, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]))
    refused("dicom.no-ct", tmp_path / "axes")


# --- writing ---------------------------------------------------------------------------------------------------------

FILM = {
    "name": "film.dcm",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
    "sop_instance_uid": "1.2.826.0.1.1",
    "study_instance_uid": "1.2.826.0.1.2",
    "series_instance_uid": "1.2.826.0.1.3",
    "patient_name": "Secret^Name",
    "PatientID": "SECRET-ID",
}


def oblique(flips=(1, 1, 1)):
    affine = np.eye(4)
    affine[:3, :3] = RigidPose((0.1, 0.2, -0.1)).matrix[:3, :3] * np.multiply((1.5, 2.0, 3.0), flips)
    affine[:3, 3] = [-7.0, 8.0, 9.0]
    return affine


@pytest.mark.parametrize("flips", [(1, 1, 1), (1, 1, -1), (-1, -1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_written_series_comes_back_in_place(tmp_path, flips, order):
    affine = oblique(flips)[:, [*order, 3]]
    volume = CTVolume(chest(), affine)
    loaded = CTVolume.load(volume.save_dicom(tmp_path / "out", {"model": "m", "seeds": [1]}, FILM))
    assert loaded.source["synthetic"] and loaded.source["provenance"] == {"model": "m", "seeds": [1]}
    assert loaded.notes == ()
    assert (np.abs(np.diag(loaded.affine[:3, :3] / loaded.spacing_mm)) > 0.9).all()  # axial slices
    there = {tuple(p): h for p, h in zip(lps(affine, SHAPE).reshape(-1, 3).round(2), chest().ravel(), strict=True)}
    place = lps(loaded.affine, loaded.hu.shape).reshape(-1, 3).round(2)
    assert all(there[tuple(p)] == h for p, h in zip(place, loaded.hu.ravel(), strict=True))
    image = sitk.ReadImage(sorted(str(p) for p in (tmp_path / "out").iterdir()))
    assert np.array_equal(sitk.GetArrayFromImage(image), loaded.hu)
    assert np.allclose(image.GetOrigin(), loaded.affine[:3, 3], atol=1e-4)


def test_as_axial_keeps_an_axial_volume():
    hu, affine = as_axial(chest(), AFFINE)
    assert np.array_equal(hu, chest()) and np.array_equal(affine, AFFINE)


def test_as_axial_makes_any_direction_right_handed_and_moves_no_voxel():
    rng = np.random.default_rng(11)
    for _ in range(100):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.choice([-1, 1], 3) * [1.0, 2.0, 3.0]
        hu, turned = as_axial(chest(), affine)
        assert np.linalg.det(turned[:3, :3]) > 0 and (np.diag(turned) > 0).all()
        for marked in (chest().max(), chest().min()):
            before, after = lps(affine, SHAPE)[chest() == marked], lps(turned, hu.shape)[hu == marked]
            assert np.allclose(np.sort(before, axis=0), np.sort(after, axis=0))


def test_every_slice_says_that_it_is_synthetic_and_whose_it_is_not(tmp_path):
    CTVolume(chest(), oblique()).save_dicom(tmp_path / "out", {"created": "2025-01-02T03:04:05+00:00"}, FILM)
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == SHAPE[0]
    read = [pydicom.dcmread(path) for path in files]
    for index, ds in enumerate(read):
        assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert ds.SeriesDescription == SYNTHETIC_NOTICE
        assert SYNTHETIC_NOTICE in ds.ImageComments and SYNTHETIC_NOTICE in ds.DerivationDescription
        assert ds.BurnedInAnnotation == "NO" and ds.RescaleIntercept == -1024 and ds.PixelRepresentation == 1
        assert ds.InstanceNumber == index + 1 and ds.SeriesDate == "20250102"
        assert all(not ds[key].value for key in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"))
        source = ds.SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == FILM["sop_instance_uid"]
        other = ds.StudiesContainingOtherReferencedInstancesSequence[0]
        assert other.StudyInstanceUID == FILM["study_instance_uid"] != ds.StudyInstanceUID
        assert "secret" not in str(ds).lower()
    along = [ds.ImagePositionPatient[2] for ds in read]
    assert along == sorted(along)
    assert len({ds.SOPInstanceUID for ds in read}) == len(read)
    for shared in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({ds[shared].value for ds in read}) == 1


def test_uids_are_new_for_new_content_and_only_then(tmp_path):
    made = {"created": "2025-01-02T03:04:05"}

    def uids(name, hu, provenance):
        CTVolume(hu, AFFINE).save_dicom(tmp_path / name, provenance)
        return {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / name).iterdir()}

    first, same = uids("a", chest(), made), uids("b", chest(), made)
    assert first == same
    assert not first & uids("c", chest() + 1, made)
    assert not first & uids("d", chest(), {**made, "seeds": [1]})


def test_films_without_uids_and_several_films(tmp_path):
    volume = CTVolume(chest(), AFFINE)
    volume.save_dicom(tmp_path / "png", film={"name": "film.png"})
    assert "SourceImageSequence" not in pydicom.dcmread(tmp_path / "png" / "0001.dcm")
    volume.save_dicom(tmp_path / "bad", film={**FILM, "sop_instance_uid": "1.2.x\\y"})
    assert "SourceImageSequence" not in pydicom.dcmread(tmp_path / "bad" / "0001.dcm")
    lateral = {**FILM, "sop_instance_uid": "1.2.826.0.1.9"}
    volume.save_dicom(tmp_path / "two", film=[FILM, lateral])
    assert len(pydicom.dcmread(tmp_path / "two" / "0001.dcm").SourceImageSequence) == 2


def test_a_real_volume_is_marked_as_well(tmp_path):
    """Only networks' output is meant to leave as DICOM; a wrong mark is safer than a missing one."""
    assert CTVolume.load(CTVolume(chest(), AFFINE).save_dicom(tmp_path / "a")).source["synthetic"]


def test_extreme_values_are_clipped_not_wrapped(tmp_path):
    hu = chest().astype(float)
    hu[0, 0, :2] = [-1e6, 1e6]
    CTVolume(hu, AFFINE).save_dicom(tmp_path / "a")
    stored = pydicom.dcmread(tmp_path / "a" / "0001.dcm").pixel_array
    assert stored[0, 0] == -32768 and stored[0, 1] == 32767


def test_an_existing_series_is_not_overwritten_unasked(tmp_path):
    volume = CTVolume(chest(), AFFINE)
    volume.save_dicom(tmp_path / "a")
    with pytest.raises(OutputError) as caught:
        volume.save_dicom(tmp_path / "a")
    assert caught.value.code == "output.exists"
    CTVolume(chest((5, 6, 7)), AFFINE).save_dicom(tmp_path / "a", overwrite=True)
    assert CTVolume.load(tmp_path / "a").hu.shape == (5, 6, 7)


@pytest.mark.parametrize("film", [None, FILM, [FILM, {**FILM, "series_instance_uid": ""}]])
def test_dciodvfy_finds_no_errors(tmp_path, film):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed")
    grid = CanonicalGrid(16, 360.0, (1.5, -180.25, 1234.56789))
    hu = np.random.default_rng(1).normal(0, 300, grid.shape)
    for name, volume in (("axial", CTVolume.from_grid(hu, grid)), ("oblique", CTVolume(hu, oblique()))):
        volume.save_dicom(tmp_path / name, {"model": "axon-small"}, film)
        for path in sorted((tmp_path / name).iterdir())[::5]:
            told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
            assert told.returncode == 0 and "CTImage" in told.stderr
            assert [line for line in told.stderr.splitlines() if line.startswith("Error")] == []

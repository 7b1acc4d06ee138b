"""CTVolume: where things lie, what resampling does to them, and what the files say afterwards."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from axon_core import SYNTHETIC_NOTICE
from axon_core.ctvolume import CTVolume
from axon_core.errors import AxonError, OutputError, VolumeError
from axon_core.files import atomic_file, atomic_folder
from axon_core.geometry import CanonicalGrid, RigidPose
from axon_core.intensity import AXON_PAPER, WIDE, HuWindow

sitk = pytest.importorskip("SimpleITK")

FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha")
MARK = np.array([30.0, -28.0, 26.0])  # patient's left, anterior, superior
EDGE = 16.0


def oblique(spacing=(2.0, 2.5, 3.0), flips=(1, 1, 1), rotation=(0.2, -0.3, 0.4), shape=(36, 40, 44)):
    """An affine whose volume of `shape` [z, y, x] is centred on the LPS origin."""
    affine = np.eye(4)
    affine[:3, :3] = RigidPose(rotation).matrix[:3, :3] * np.multiply(spacing, flips)
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape[::-1]) - 1))
    return affine


def lps(affine, shape):
    """(z, y, x, 3) LPS of every voxel's centre, from the definition."""
    z, y, x = np.indices(shape)
    return np.stack([x, y, z], -1) @ affine[:3, :3].T + affine[:3, 3]


def phantom(affine, shape=(36, 40, 44)):
    """Air with one bright cube near the patient's left, anterior, superior corner."""
    inside = (np.abs(lps(affine, shape) - MARK) < EDGE / 2).all(axis=-1)
    return CTVolume(np.where(inside, 900.0, -1000.0), affine)


def centroid(volume):
    weight = volume.hu + 1000.0
    return (lps(volume.affine, volume.hu.shape) * weight[..., None]).sum((0, 1, 2)) / weight.sum()


def sitk_affine(image):
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def refused(code, action, *args, error=VolumeError, **kwargs):
    with pytest.raises(error) as caught:
        action(*args, **kwargs)
    assert caught.value.code == code
    assert caught.value.title and caught.value.advice


# --- where things lie ------------------------------------------------------------------------------------------------

FLIPS = [(1, 1, 1), (-1, -1, 1), (1, 1, -1), (-1, 1, 1), (-1, -1, -1)]


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_mark_stays_left_anterior_superior_through_every_format(tmp_path, suffix, flips):
    volume = phantom(oblique(flips=flips))
    loaded = CTVolume.load(volume.save(tmp_path / f"v{suffix}"))
    assert np.array_equal(loaded.hu, volume.hu)
    assert np.allclose(loaded.affine, volume.affine, atol=1e-4)
    on_grid = loaded.onto(CanonicalGrid(64, 128.0))
    assert np.abs(centroid(on_grid) - MARK).max() < 1.0
    z, y, x = np.unravel_index(on_grid.hu.argmax(), on_grid.hu.shape)
    assert x > 32 and y < 32 and z > 32  # +L, -P (anterior), +S


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_simpleitk_agrees_about_files_and_resampling(tmp_path, suffix, flips):
    rng = np.random.default_rng(1)
    volume = CTVolume(rng.integers(-1000, 1000, (36, 40, 44)), oblique(flips=flips))
    image = sitk.ReadImage(str(volume.save(tmp_path / f"v{suffix}")))
    assert np.allclose(sitk_affine(image), volume.affine, atol=1e-4)
    grid = CanonicalGrid(30, 45.0, (3.0, -4.0, 5.0))  # finer than the volume: no antialiasing
    reference = sitk.GetImageFromArray(np.zeros(grid.shape, np.float32))
    reference.SetSpacing([grid.spacing_mm] * 3)
    reference.SetOrigin(grid.affine[:3, 3].tolist())
    expected = sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), reference, sitk.Transform(), sitk.sitkLinear, -1000.0)
    assert np.abs(volume.onto(grid).hu - sitk.GetArrayFromImage(expected)).max() < 0.2


def test_to_sitk_shares_voxels_and_place():
    volume = phantom(oblique(flips=(1, -1, 1)))
    image = volume.to_sitk()
    assert np.allclose(sitk_affine(image), volume.affine)
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.hu)


def test_spacing_and_center():
    volume = phantom(oblique(spacing=(1.0, 2.0, 3.0)))
    assert np.allclose(volume.spacing_mm, (1.0, 2.0, 3.0))
    assert np.allclose(volume.center_lps, 0.0, atol=1e-9)


def test_from_grid_keeps_the_place():
    grid = CanonicalGrid(16, 80.0, (10.0, 20.0, 30.0))
    volume = CTVolume.from_grid(np.zeros(grid.shape), grid)
    assert np.allclose(volume.center_lps, grid.center_lps)
    assert np.allclose(volume.spacing_mm, 5.0)
    refused("volume.shape", CTVolume.from_grid, np.zeros((4, 4, 4)), grid)


# --- resampling ------------------------------------------------------------------------------------------------------


def test_the_same_lattice_changes_nothing():
    volume = phantom(oblique())
    same = volume.resampled(volume.affine, volume.hu.shape)
    assert np.abs(same.hu - volume.hu).max() < 1e-3


def test_onto_the_grid_and_back():
    """A smooth volume survives a finer grid; outside of the grid there is air."""
    affine = oblique(spacing=(4.0, 4.0, 4.0))
    place = lps(affine, (36, 40, 44))
    smooth = CTVolume(300.0 * np.exp(-0.5 * (place**2).sum(-1) / 20.0**2), affine)
    back = smooth.onto(CanonicalGrid(96, 192.0)).resampled(affine, smooth.hu.shape)
    inner = np.linalg.norm(place, axis=-1) < 60.0
    assert np.abs(back.hu - smooth.hu)[inner].max() < 20.0
    far = smooth.onto(CanonicalGrid(8, 50.0, (1000.0, 0.0, 0.0)), fill=-777.0)
    assert (far.hu == -777.0).all()


def test_coarser_axes_are_antialiased():
    """Stripes finer than the new voxels vanish into their mean instead of turning into other stripes."""
    hu = np.zeros((40, 40, 40))
    hu[:, :, ::2] = 1000.0
    volume = CTVolume(hu, np.eye(4))
    coarse = volume.onto(CanonicalGrid(10, 36.0, volume.center_lps)).hu
    assert np.abs(coarse[2:-2, 2:-2, 2:-2] - 500.0).max() < 10.0
    fine = volume.onto(CanonicalGrid(36, 36.0, volume.center_lps)).hu  # same spacing: untouched
    assert fine.std() > 300.0 or np.allclose(fine, 500.0)


@pytest.mark.parametrize("rotation", [(0.0, 0.0, 0.0), (0.3, 0.2, -0.4)])
def test_antialiasing_widens_a_voxel_to_the_new_size(rotation):
    """FWHM² grows from 1 to f² (in old voxels): a Gaussian blob's variance grows by (f² - 1) / 2.3548²."""
    shape, factor, sigma = (60, 60, 60), 3.0, 5.0
    affine = oblique((1.0, 1.0, 1.0), rotation=rotation, shape=shape)
    volume = CTVolume(1000.0 * np.exp(-0.5 * (lps(affine, shape) ** 2).sum(-1) / sigma**2), affine)
    coarse = volume.onto(CanonicalGrid(16, 16 * factor), fill=0.0)
    place = lps(coarse.affine, coarse.hu.shape)
    variance = (place**2 * coarse.hu[..., None]).sum((0, 1, 2)) / coarse.hu.sum()
    interpolation = (
        1.0 / 6.0 if any(rotation) else 0.0
    )  # mean variance of the two weights; aligned samples fall on voxels
    assert np.allclose(variance, sigma**2 + (factor**2 - 1.0) / 2.3548**2 + interpolation, atol=0.02)


def test_smoothing_follows_the_anatomy_and_not_the_order_of_the_axes():
    """The same lattice with its axes renamed gives the same samples, though spacing differs from axis to axis."""
    volume = CTVolume(np.random.default_rng(5).normal(0, 100, (24, 30, 36)), np.diag([1.0, 1.5, 4.0, 1.0]))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    renamed = affine[:, [2, 0, 1, 3]]  # x runs up, y to the left, z to the back
    straight = volume.resampled(affine, (20, 12, 10)).hu
    turned = volume.resampled(renamed, (12, 10, 20)).hu
    assert np.allclose(turned, straight.transpose(1, 2, 0), atol=1e-2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_coarser_axis_is_smoothed(axis):
    volume = CTVolume(np.random.default_rng(2).normal(0, 100, (40, 40, 40)), np.eye(4))
    steps, shape = np.ones(4), [40, 40, 40]
    steps[axis], shape[2 - axis] = 4.0, 10
    coarse = np.moveaxis(volume.resampled(np.diag(steps), shape).hu, 2 - axis, 0)
    for neighbours in (coarse[:, 1:], coarse[:, :, 1:]):
        others = coarse[:, :-1] if neighbours.shape[1] == 39 else coarse[:, :, :-1]
        assert abs(np.corrcoef(others.ravel(), neighbours.ravel())[0, 1]) < 0.06  # still independent
    assert coarse.std() < 50.0  # averaged along the coarse axis: about 100 / sqrt(2 sqrt(pi) sigma)


# --- Hounsfield units ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [WIDE, AXON_PAPER, HuWindow("lung", -1350.0, 150.0)])
def test_the_window_round_trip_is_exact_inside_and_clips_outside(window):
    hu = np.arange(window.low - 500, window.high + 500, dtype=np.float32)
    u = window.encode(hu)
    assert u.min() == -1.0 and u.max() == 1.0
    assert np.array_equal(np.rint(window.decode(u)), hu.clip(window.low, window.high))
    assert np.abs(window.decode(u) - hu.clip(window.low, window.high)).max() < 1e-3


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("whole", [True, False])
def test_hounsfield_units_come_back_exactly(tmp_path, suffix, whole):
    rng = np.random.default_rng(3)
    hu = rng.uniform(-1024, 3071, (5, 6, 7)).astype(np.float32)
    volume = CTVolume(np.rint(hu) if whole else hu, np.eye(4))
    path = volume.save(tmp_path / f"v{suffix}")
    assert np.array_equal(CTVolume.load(path).hu, volume.hu)
    pixel = sitk.ReadImage(str(path)).GetPixelID()
    assert pixel == (sitk.sitkInt16 if whole else sitk.sitkFloat32)


def nifti(tmp_path, array, **changes):
    """Any array as .nii with identity geometry, header fields changed by name."""
    image = sitk.GetImageFromArray(array)
    path = tmp_path / "changed.nii"
    sitk.WriteImage(image, str(path))
    data = bytearray(path.read_bytes())
    for offset, dtype, values in changes.values():
        raw = np.asarray(values, dtype).tobytes()
        data[offset : offset + len(raw)] = raw
    path.write_bytes(data)
    return path


def chest(shape=(4, 5, 6)):
    return np.random.default_rng(4).integers(-1000, 500, shape).astype(np.int16)


def test_nifti_scaling_is_applied(tmp_path):
    path = nifti(tmp_path, chest(), slope=(112, "<f4", 2.0), inter=(116, "<f4", 500.0))
    assert np.allclose(CTVolume.load(path).hu, np.maximum(chest() * 2.0 + 500.0, -1024))


def test_padding_becomes_the_lowest_hu(tmp_path):
    array = chest()
    array[0] = -3024
    volume = CTVolume.load(nifti(tmp_path, array))
    assert volume.hu.min() == -1024.0 and "-3024" in volume.notes[0]


def test_raw_values_are_noticed(tmp_path):
    volume = CTVolume.load(nifti(tmp_path, chest() + 1024))
    assert any("raw values" in note and "1024" in note for note in volume.notes)
    assert not CTVolume.load(nifti(tmp_path, chest())).notes


def test_nan_becomes_air_and_too_many_are_refused(tmp_path):
    array = chest((4, 6, 6)).astype(np.float32)
    array[0, 0, 0], array[0, 0, 1] = np.nan, np.inf
    volume = CTVolume.load(nifti(tmp_path, array))
    assert volume.hu[0, 0, 0] == volume.hu[0, 0, 1] == -1000.0
    assert volume.notes[0].startswith("2 voxels")
    array[:3] = np.nan
    refused("volume.not-finite", CTVolume.load, nifti(tmp_path, array))


def test_constructing_with_nonsense_is_refused():
    cube = np.zeros((3, 3, 3))
    refused("volume.not-finite", CTVolume, np.where(np.eye(3), np.nan, 0.0)[None], np.eye(4))
    refused("volume.not-3d", CTVolume, np.zeros((3, 3)), np.eye(4))
    refused("volume.geometry", CTVolume, cube, np.eye(3))
    refused("volume.geometry", CTVolume, cube, np.diag([1.0, 0.0, 1.0, 1.0]))
    refused("volume.geometry", CTVolume, cube, np.diag([1.0, np.nan, 1.0, 1.0]))
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    refused("volume.sheared", CTVolume, cube, sheared)
    refused("volume.too-large", CTVolume(cube, np.eye(4)).resampled, np.eye(4), (5000, 5000, 5000))


# --- unusual files ---------------------------------------------------------------------------------------------------


def test_4d_2d_and_constant_files_are_refused(tmp_path):
    four = sitk.JoinSeries([sitk.GetImageFromArray(chest())] * 2)
    sitk.WriteImage(four, str(tmp_path / "four.nii"))
    refused("volume.four-d", CTVolume.load, tmp_path / "four.nii")
    sitk.WriteImage(four, str(tmp_path / "four.nrrd"))
    refused("volume.four-d", CTVolume.load, tmp_path / "four.nrrd")
    for name in ("two.nii", "two.nrrd", "two.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(chest()[0]), str(tmp_path / name))
        refused("volume.two-d", CTVolume.load, tmp_path / name)
    refused("volume.constant", CTVolume.load, nifti(tmp_path, np.zeros((3, 4, 5), np.int16)))
    one = sitk.JoinSeries([sitk.GetImageFromArray(chest())])
    sitk.WriteImage(one, str(tmp_path / "one.nii"))
    assert CTVolume.load(tmp_path / "one.nii").hu.shape == (4, 5, 6)


def test_relative_paths_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(make_folder(tmp_path / "ward"))
    with pytest.raises(VolumeError) as caught:
        CTVolume.load(".")
    assert caught.value.title.startswith("ward ")


def test_missing_foreign_and_colour_files_are_refused(tmp_path):
    refused("volume.missing", CTVolume.load, tmp_path / "no.nii")
    (tmp_path / "letter.txt").write_text("Dear doctor, x = y")
    refused("volume.format", CTVolume.load, tmp_path / "letter.txt")
    (tmp_path / "empty.nii").write_bytes(b"")
    refused("volume.format", CTVolume.load, tmp_path / "empty.nii")
    colour = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    for name in ("c.nii", "c.mha"):
        sitk.WriteImage(colour, str(tmp_path / name))
        with pytest.raises(VolumeError):
            CTVolume.load(tmp_path / name)


def test_absurd_voxel_sizes_are_refused(tmp_path):
    for size in (1e-4, 1e4):
        srow = np.diag([size, size, size, 1])[:3]
        path = nifti(tmp_path, chest(), sform=(254, "<i2", 1), srow=(280, "<f4", srow))
        refused("volume.spacing", CTVolume.load, path)
    path = nifti(tmp_path, chest(), sform=(254, "<i2", 1), srow=(280, "<f4", np.zeros((3, 4))))
    refused("volume.geometry", CTVolume.load, path)
    path = nifti(tmp_path, chest(), sform=(254, "<i2", 1), srow=(280, "<f4", np.full((3, 4), np.nan)))
    refused("volume.damaged", CTVolume.load, path)


def test_micrometres_and_missing_orientation(tmp_path):
    srow = np.diag([-2000.0, -2000.0, 3000.0, 1])[:3]
    path = nifti(tmp_path, chest(), sform=(254, "<i2", 1), srow=(280, "<f4", srow), units=(123, "u1", 3))
    volume = CTVolume.load(path)
    assert np.allclose(volume.spacing_mm, (2.0, 2.0, 3.0)) and "millimetres" in volume.notes[0]
    path = nifti(tmp_path, chest(), sform=(254, "<i2", 0), qform=(252, "<i2", 0))
    volume = CTVolume.load(path)
    assert "does not say how the patient lies" in volume.notes[0]
    assert np.allclose(volume.affine[:3, :3], np.diag([-1, -1, 1]))


def test_sform_goes_before_qform_and_both_agree_with_simpleitk(tmp_path):
    volume = phantom(oblique(flips=(1, 1, -1)))
    path = volume.save(tmp_path / "v.nii")
    data = bytearray(path.read_bytes())
    data[254:256] = b"\0\0"  # no sform: the quaternion and qfac must say the same
    (tmp_path / "q.nii").write_bytes(data)
    assert np.allclose(CTVolume.load(tmp_path / "q.nii").affine, volume.affine, atol=1e-4)


def test_big_endian_and_nifti_2(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ oblique()
    array = chest((36, 40, 44))
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for order in "<>":
            header = kind.header_class(endianness=order)
            header.set_data_dtype(np.int16)
            nibabel.save(kind(array.transpose(2, 1, 0), ras, header), tmp_path / "v.nii")
            volume = CTVolume.load(tmp_path / "v.nii")
            assert np.array_equal(volume.hu, array) and np.allclose(volume.affine, oblique(), atol=1e-4)


def test_a_sheared_sform_is_resampled_upright(tmp_path):
    """Gantry tilt: a ball in sheared slices is a ball again, at the same place."""
    shape, tilt = (40, 60, 60), np.tan(np.radians(20.0))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 3.0 * tilt
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape[::-1]) - 1))
    center = np.array([10.0, -12.0, 8.0])
    ball = np.linalg.norm(lps(affine, shape) - center, axis=-1) < 20.0
    ras = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[:3]
    array = np.where(ball, 0, -1000).astype(np.int16)
    volume = CTVolume.load(nifti(tmp_path, array, sform=(254, "<i2", 1), srow=(280, "<f4", ras)))
    assert any("upright" in note for note in volume.notes)
    assert np.allclose(volume.spacing_mm, (2.0, 2.0, 3.0), atol=1e-3)
    assert np.abs(centroid(volume) - center).max() < 0.3
    place = lps(volume.affine, volume.hu.shape) - centroid(volume)
    variance = (place**2 * (volume.hu + 1000.0)[..., None]).sum((0, 1, 2)) / (volume.hu + 1000.0).sum()
    assert np.allclose(variance, 20.0**2 / 5, rtol=0.06)  # a solid ball has r²/5 along every axis
    affine[1, 2] = 4.5  # 56 degrees
    ras = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[:3]
    refused("volume.sheared", CTVolume.load, nifti(tmp_path, array, sform=(254, "<i2", 1), srow=(280, "<f4", ras)))


def test_a_shear_that_would_need_vast_memory_is_refused(tmp_path):
    srow = np.array([[0.02, 60.0, 0, 0], [0, 80.0, 0, 0], [0, 0, 1.0, 0]])
    path = nifti(tmp_path, chest((20, 40, 20)), sform=(254, "<i2", 1), srow=(280, "<f4", srow))
    refused("volume.sheared", CTVolume.load, path)


@pytest.mark.parametrize("space, signs", [("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))])
def test_nrrd_spaces_and_encodings(tmp_path, space, signs):
    array = chest()
    directions = np.diag([2.0, 3.0, 4.0])
    for encoding, packed in (("raw", array.tobytes()), ("gzip", gzip.compress(array.tobytes()))):
        head = (
            f"NRRD0004\n# note\ntype: short\ndimension: 3\nspace: {space}\nsizes: 6 5 4\nendian: little\n"
            f"encoding: {encoding}\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (1,2,3)\n\n"
        )
        (tmp_path / "v.nrrd").write_bytes(head.encode() + packed)
        volume = CTVolume.load(tmp_path / "v.nrrd")
        assert np.array_equal(volume.hu, array)
        assert np.allclose(volume.affine[:3, :3], directions * np.array(signs)[:, None])
        assert np.allclose(volume.affine[:3, 3], np.multiply([1, 2, 3], signs))


def test_detached_headers_read_only_their_neighbours(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(chest()), str(tmp_path / "v.mhd"))
    assert np.array_equal(CTVolume.load(tmp_path / "v.mhd").hu, chest())
    text = (tmp_path / "v.mhd").read_text()
    for target in ("../v.raw", str(tmp_path / "v.raw"), "gone.raw"):
        (tmp_path / "w.mhd").write_text(text.replace("v.raw", target))
        refused("volume.detached", CTVolume.load, tmp_path / "w.mhd")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_file_is_told(tmp_path, suffix):
    path = CTVolume(chest((20, 20, 20)), np.eye(4)).save(tmp_path / f"v{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    refused("volume.damaged", CTVolume.load, path)


def test_a_huge_header_in_a_tiny_file_costs_nothing(tmp_path):
    huge = (40, "<i2", [3, 1100, 1100, 1100, 1, 1, 1, 1])
    with pytest.raises(VolumeError) as caught:
        CTVolume.load(nifti(tmp_path, chest(), dim=huge))
    assert "promises 1100 x 1100 x 1100" in caught.value.title  # found before a voxel is read
    too_large = (40, "<i2", [3, 30000, 30000, 30000, 1, 1, 1, 1])
    refused("volume.too-large", CTVolume.load, nifti(tmp_path, chest(), dim=too_large))
    refused("volume.header", CTVolume.load, nifti(tmp_path, chest(), dim=(40, "<i2", [3, -5, 5, 5, 1, 1, 1, 1])))


# --- what files say about their origin -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_synthetic_volumes_stay_marked(tmp_path, suffix):
    provenance = {"model": 'a "quoted" \\ name\nü', "seeds": [0, 1], "long": "x" * 5000}
    first = CTVolume.load(CTVolume(chest(), np.eye(4)).save(tmp_path / f"a{suffix}", provenance))
    again = CTVolume.load(first.onto(CanonicalGrid(8, 8.0)).save(tmp_path / f"b{suffix}"))
    assert first.source["synthetic"] and again.source["synthetic"]
    if suffix in (".nrrd", ".mha"):
        assert first.source["provenance"] == again.source["provenance"] == provenance
        assert json.loads(sitk.ReadImage(str(tmp_path / f"b{suffix}")).GetMetaData("axon")) == provenance
    else:
        image = sitk.ReadImage(str(tmp_path / f"b{suffix}"))
        assert image.GetMetaData("ITK_FileNotes") == SYNTHETIC_NOTICE
    real = CTVolume.load(CTVolume(chest(), np.eye(4)).save(tmp_path / f"c{suffix}"))
    assert "synthetic" not in real.source


# --- writing ---------------------------------------------------------------------------------------------------------


def test_saving_refuses_what_it_cannot_do(tmp_path):
    volume = CTVolume(chest(), np.eye(4))
    refused("output.format", volume.save, tmp_path / "v.png", error=OutputError)
    path = volume.save(tmp_path / "new" / "v.nrrd")
    refused("output.exists", volume.save, path, error=OutputError)
    volume.save(path, overwrite=True)
    refused("output.provenance", volume.save, tmp_path / "w.nrrd", {"a": object()}, error=OutputError)
    refused("output.is-folder", volume.save, make_folder(tmp_path / "x.nii"), error=OutputError)
    (tmp_path / "file").write_text("")
    refused("output.cannot-write", volume.save, tmp_path / "file" / "v.nii", error=OutputError)
    assert [p.name for p in tmp_path.rglob("*") if "partial" in p.name] == []


def make_folder(path):
    path.mkdir()
    return path


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    target = tmp_path / "v.txt"
    target.write_text("old")
    with pytest.raises(OutputError), atomic_file(target, overwrite=True) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["v.txt"]


def test_a_folder_is_replaced_only_if_it_is_a_series(tmp_path):
    folder = make_folder(tmp_path / "series")
    with atomic_folder(folder) as temporary:
        (temporary / "1.dcm").write_text("one")
    with atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "2.dcm").write_text("two")
    assert os.listdir(folder) == ["2.dcm"]
    with pytest.raises(OutputError), atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "3.dcm").write_text("three")
        raise OSError(28, "No space left on device")
    assert os.listdir(folder) == ["2.dcm"] and os.listdir(tmp_path) == ["series"]
    (folder / "thesis.doc").write_text("precious")
    with pytest.raises(OutputError) as caught, atomic_folder(folder, overwrite=True):
        pass
    assert caught.value.code == "output.foreign-folder" and (folder / "thesis.doc").exists()


def test_a_series_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "series")
    (folder / "1.dcm").write_text("old")
    replace = os.replace

    def refuse_the_new_one(source, target):
        if "partial-new" in str(source):
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new_one)
    with pytest.raises(OutputError), atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "2.dcm").write_text("new")
    assert os.listdir(folder) == ["1.dcm"] and os.listdir(tmp_path) == ["series"]


def test_two_threads_may_write_the_same_file(tmp_path):
    """As two that ask for the same kept chest at once: the later one replaces what the earlier one wrote."""
    meet = threading.Barrier(2)

    def write(text):
        with atomic_file(tmp_path / "a.txt", overwrite=True) as temporary:
            temporary.write_text(text)
            meet.wait(10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))
    assert (tmp_path / "a.txt").read_text() in ("one", "two") and os.listdir(tmp_path) == ["a.txt"]


KILLED = """
import sys, numpy as np
from axon_core.ctvolume import CTVolume
hu = np.random.default_rng(0).normal(0, 300, (160, 128, 128))
volume = CTVolume(hu, np.eye(4))
print("ready", flush=True)
if sys.argv[1].endswith("dicom"):
    volume.save_dicom(sys.argv[1], overwrite=True)
else:
    volume.save(sys.argv[1], overwrite=True)
"""


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "dicom"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_killed_writer_leaves_the_old_result_or_none(tmp_path, name, exists):
    target = tmp_path / name
    old = CTVolume(chest(), np.eye(4))
    if exists:
        old.save_dicom(target) if name == "dicom" else old.save(target)
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target)], cwd=root, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    while child.poll() is None and not begun(tmp_path):
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert child.returncode != 0, "the writer finished before it could be killed"
    assert target.exists() == exists
    if exists:
        assert np.array_equal(CTVolume.load(target).hu, old.hu)


def begun(folder):
    """Whether some bytes have been written under a temporary (or, wrongly, the final) name."""
    return any(p.is_file() and p.stat().st_size > 4096 for p in folder.rglob("*"))


def test_every_error_has_three_texts():
    with pytest.raises(AxonError) as caught:
        CTVolume.load("nowhere/at-all.nii")
    assert set(caught.value.to_dict()) == {"code", "title", "advice"} and all(caught.value.to_dict().values())

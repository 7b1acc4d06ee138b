"""Registration from files: what people and scripts call, with the record and the picture that it leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from axon_core import SYNTHETIC_NOTICE, cli
from axon_core.ctvolume import CTVolume
from axon_core.data.phantom import thorax
from axon_core.dicom_patient import check_same_patient
from axon_core.errors import AxonError, FilmError
from axon_core.film_write import write_film
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.radiograph import Radiograph
from axon_core.registration.files import read_pose

POSE = "3,-2,2,8,10,-12"  # degrees and mm


def axon(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom CT, and its frontal and lateral film in a known pose, as a clinic would make them."""
    folder = tmp_path_factory.mktemp("register")
    grid = CanonicalGrid(80, 360.0, (10.0, -150.0, 900.0))
    CTVolume(thorax(5, grid), grid.affine).save(folder / "ct.nrrd")
    for name, view in (("pa.dcm", "PA"), ("lat.dcm", "LL"), ("pa.png", "PA")):
        done = axon("drr", folder / "ct.nrrd", "-o", folder / name, "--view", view, "--pose", POSE, "--size", 256)
        assert done.exit_code == 0, done.stderr
    return folder


def test_both_films_give_the_pose_with_record_and_picture(files: Path, tmp_path: Path) -> None:
    from PIL import Image

    pose, overlay = tmp_path / "pose.json", tmp_path / "overlay.png"
    both = ["register", "--ct", files / "ct.nrrd", "--frontal", files / "pa.dcm", "--lateral", files / "lat.dcm"]
    done = axon(*both, "-o", pose, "--overlay", overlay)
    assert done.exit_code == 0, done.stderr
    assert "good" in done.stdout and "depth" in done.stdout
    record = json.loads(pose.read_text())
    wanted = [float(value) for value in POSE.split(",")]
    np.testing.assert_allclose([*record["rotation_deg"], *record["translation_mm"]], wanted, atol=1.5)
    moved = np.array(record["ct_to_xray_room"]) @ [*record["isocentre_lps_mm"], 1.0]
    np.testing.assert_allclose(moved[:3], record["translation_mm"], atol=1e-3)
    assert [film["view"] for film in record["films"]] == ["PA", "LAT"]
    assert len(record["covariance"]) == len(record["parameters"]) == 6
    assert SYNTHETIC_NOTICE in record["note"] and "pa.dcm" not in pose.read_text()
    with Image.open(overlay) as picture:
        assert picture.width > 6 * 300 and picture.height > 2 * 300
    again = read_pose(pose)
    np.testing.assert_allclose(np.rad2deg(again.rotation), record["rotation_deg"], atol=1e-3)
    assert axon(*both, "-o", pose).exit_code == 6, "nothing is overwritten"


def test_a_film_without_pixel_size_has_its_scale_estimated(files: Path, tmp_path: Path) -> None:
    from PIL import Image

    bare = tmp_path / "bare.png"
    with Image.open(files / "pa.png") as picture:
        Image.fromarray(np.asarray(picture)).save(bare)
    given = ["--ct", files / "ct.nrrd", "--frontal", bare, "--view", "PA"]
    done = axon("register", *given, "-o", tmp_path / "pose.json", "--json")
    record = json.loads(done.stdout)
    assert record["parameters"][-1]["name"] == "scale of film 1"
    assert record["films"][0]["detector_mm"] != 430.0
    assert record["similarity"][0]["after"] > 0.8


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"--frontal": "lat.dcm"}, 3, "tagged as a lateral"),
        ({"--lateral": "pa.dcm"}, 3, "tagged as a frontal"),
        ({"--ct": "nowhere.nrrd"}, 4, "nowhere.nrrd"),
        ({"-o": "pose.txt"}, 6, "end in .json"),
        ({"--sdd": "100"}, 2, "lies between"),
        ({"--sdd": "0"}, 2, "lies between"),
        ({"--sdd": "inf"}, 2, "lies between"),
        ({"--overlay": "missing/deep/o.txt"}, 6, "end in .png"),
        ({"--start": "north"}, 2, "neither six numbers"),
    ],
)
def test_mistakes_are_told_in_one_line(files: Path, tmp_path: Path, change, status, said) -> None:
    options = {"--ct": "ct.nrrd", "--frontal": "pa.dcm", "-o": "pose.json", **change}
    places = {"--ct": files, "--frontal": files, "--lateral": files, "-o": tmp_path}
    done = axon("register", *(x for k, v in options.items() for x in (k, places[k] / v if k in places else v)))
    assert done.exit_code == status and said in done.stderr
    assert not list(tmp_path.iterdir())


def test_files_of_two_patients_are_refused(files: Path, tmp_path: Path) -> None:
    paths = []
    for name, patient in (("a.dcm", "SMITH7"), ("b.dcm", "JONES9"), ("c.dcm", "")):
        film = pydicom.dcmread(files / "pa.dcm")
        film.PatientID = patient
        film.save_as(tmp_path / name)
        paths.append(tmp_path / name)
    check_same_patient([paths[0], paths[2], files / "ct.nrrd", tmp_path / "missing"])
    with pytest.raises(FilmError) as caught:
        check_same_patient(paths)
    assert caught.value.code == "film.other-patient"
    assert "SMITH7" not in str(caught.value) and "JONES9" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ written films


@pytest.mark.parametrize("view", list(XrayView))
def test_dicom_films_come_back(tmp_path: Path, view: XrayView) -> None:
    """Values, pixel size, SDD and the side on which the patient's left or front lies."""
    geometry = XrayGeometry(view, 64, 1500.0, 150.0, 400.0)
    rows, columns = np.indices((64, 64))
    film = np.exp(-((rows - 20) ** 2 + (columns - 45) ** 2) / 300.0).astype(np.float32)
    write_film(tmp_path / "film.dcm", "film.dcm", film, geometry, {"note": SYNTHETIC_NOTICE})
    back = Radiograph.load(tmp_path / "film.dcm", invert=False)
    np.testing.assert_allclose(back.pixels, film, atol=2e-4)
    assert back.spacing_mm == pytest.approx((6.25, 6.25)) and back.sdd_mm == 1500.0
    assert back.view is (view if view.is_frontal else XrayView.LAT)
    assert not [warning for warning in back.warnings if "disagree" in warning]
    header = pydicom.dcmread(tmp_path / "film.dcm")
    assert header.SeriesDescription == SYNTHETIC_NOTICE and list(header.ImageType) == ["DERIVED", "SECONDARY"]
    assert not header.PatientName and not header.PatientID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("name", ["pa.dcm", "lat.dcm"])
def test_dciodvfy_finds_no_errors(files: Path, name: str) -> None:
    told = subprocess.run(["dciodvfy", str(files / name)], capture_output=True, text=True, check=False)
    assert "DXImageForPresentation" in told.stderr + told.stdout
    assert not [line for line in (told.stderr + told.stdout).splitlines() if line.startswith("Error")]


def test_nifti_films_stand_in_the_room(tmp_path: Path) -> None:
    import SimpleITK as sitk

    geometry = XrayGeometry(XrayView.LAT, 16)
    film = np.random.default_rng(0).normal(5, 3, (16, 16)).astype(np.float32)
    write_film(tmp_path / "film.nii.gz", "film.nii.gz", film, geometry, {})
    image = sitk.ReadImage(str(tmp_path / "film.nii.gz"))
    np.testing.assert_allclose(sitk.GetArrayFromImage(image)[0], film)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((5, 3, 0)), geometry.detector()[3, 5], atol=1e-3)


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AxonError) as caught:
        write_film(tmp_path / "x", "film.bmp", np.zeros((4, 4)), XrayGeometry(pixels=4), {})
    assert caught.value.code == "output.format"


def test_a_right_lateral_film_is_seen_by_its_own_beam(files: Path, tmp_path: Path) -> None:
    done = axon("drr", files / "ct.nrrd", "-o", tmp_path / "rl.dcm", "--view", "RL", "--pose", POSE, "--size", 256)
    assert done.exit_code == 0, done.stderr
    given = ["--ct", files / "ct.nrrd", "--frontal", files / "pa.dcm", "--lateral", tmp_path / "rl.dcm"]
    record = json.loads(axon("register", *given, "-o", tmp_path / "pose.json", "--json").stdout)
    assert [film["view"] for film in record["films"]] == ["PA", "RL"]
    assert record["similarity"][1]["after"] > 0.85
    wanted = [float(value) for value in POSE.split(",")]
    np.testing.assert_allclose([*record["rotation_deg"], *record["translation_mm"]], wanted, atol=1.5)

"""Damaged volumes: every file ends in a usable volume or in one line of advice, quickly and in little memory.

The readers are pure Python and numpy except for compressed DICOM pixels, so a crash of the interpreter would show as a
failed run of this file. Seeds are fixed: a failure names its case and comes back.
"""

from __future__ import annotations

import random
import re
import time

import numpy as np
import pytest

from axon_core.ctvolume import CTVolume
from axon_core.errors import AxonError

sitk = pytest.importorskip("SimpleITK")
pydicom = pytest.importorskip("pydicom")

ABSURD = (b"-1", b"0", b"65536", b"2147483647", b"99999999999999999999", b"1e308", b"nan", b"9" * 4000)
SECRET = "Secret^Name"
LIMIT_S = 2.0  # CPU seconds for one small file
LIMIT_MB = 300  # growth of the process over all cases


def truncate(data, rng):
    return data[: rng.randrange(len(data))]


def flip(data, rng):
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_header(data, rng):
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(min(len(changed), 900))] = rng.choice([0, 127, 128, 255])
    return bytes(changed)


def absurd_number(data, rng):
    """Some number written as text, or some bytes, becomes an extreme one."""
    digits = list(re.finditer(rb"[0-9]+", data[:3000]))
    if digits and rng.random() < 0.7:
        match = rng.choice(digits)
        return data[: match.start()] + rng.choice(ABSURD) + data[match.end() :]
    at, size = rng.randrange(len(data)), rng.choice([2, 4, 8])
    return data[:at] + rng.choice([b"\xff", b"\x00", b"\x7f"]) * size + data[at + size :]


def cut_out(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 200) :]


MUTATIONS = (truncate, flip, flip_header, absurd_number, cut_out)


def check(path):
    """Load; True for a usable volume, False for an AxonError; anything else fails."""
    begin = time.process_time()
    try:
        volume = CTVolume.load(path)
    except AxonError as error:
        assert error.code and error.title and error.advice
        assert "\n" not in str(error) and SECRET not in str(error)
        return False
    finally:
        assert time.process_time() - begin < LIMIT_S
    assert volume.hu.ndim == 3 and np.isfinite(volume.hu).all() and volume.hu.min() >= -1024
    assert np.isfinite(volume.affine).all() and abs(np.linalg.det(volume.affine)) > 0
    assert SECRET not in f"{volume.source}{volume.notes}"
    return True


def peak_mb():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(0)
    return CTVolume(rng.integers(-1000, 1000, (6, 17, 18)), np.diag([1.0, 2.0, 3.0, 1.0]))


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "raw.nrrd", "v.mha", "raw.mha"])
def test_damaged_files(tmp_path, volume, name):
    path = tmp_path / name
    if name.startswith("raw"):
        sitk.WriteImage(volume.to_sitk(), str(path), False)
    else:
        volume.save(path, {"model": "m"})
    sound, before, results = path.read_bytes(), peak_mb(), []
    assert check(path)
    for case in range(100):
        rng = random.Random(f"{name} {case}")
        path.write_bytes(MUTATIONS[case % len(MUTATIONS)](sound, rng))
        results.append(check(path))
    assert 0 < sum(results) < len(results)  # both ends were reached
    assert peak_mb() - before < LIMIT_MB


@pytest.mark.parametrize("syntax", ["plain", "rle"])
def test_damaged_dicom_series(tmp_path, volume, syntax):
    paths = sorted(volume.save_dicom(tmp_path / "series").iterdir())
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.PatientName = SECRET
        if syntax == "rle":
            ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    sound, before, results = [path.read_bytes() for path in paths], peak_mb(), []
    assert check(tmp_path / "series")
    for case in range(60):
        everywhere = case % 3 == 0  # the same damage in every slice, or in one
        for index, (path, data) in enumerate(zip(paths, sound, strict=True)):
            rng = random.Random(f"{syntax} {case}")
            hit = everywhere or index == case % len(paths)
            path.write_bytes(MUTATIONS[case % len(MUTATIONS)](data, rng) if hit else data)
        results.append(check(tmp_path / "series"))
    assert 0 < sum(results) < len(results)
    assert peak_mb() - before < LIMIT_MB


ABSURD_TAGS: dict[str, list] = {
    "Rows": [0, 1, 65535], "Columns": [0, 65535], "BitsAllocated": [0, 1, 8, 64], "BitsStored": [0, 33],
    "PixelSpacing": [[0, 0], [-1, 1], ["1e30", "1e30"], [1]], "RescaleSlope": ["1e300", "0", None],
    "RescaleIntercept": ["-1e300", None], "ImageOrientationPatient": [[0] * 6, [1, 0, 0], ["1e300"] * 6],
    "ImagePositionPatient": [["1e300"] * 3, [0, 0], None], "SamplesPerPixel": [0, 3], "NumberOfFrames": [0, 2**31 - 1],
    "SeriesInstanceUID": [None, ""], "PixelData": [b"", b"\0" * 3], "SeriesNumber": [None, "-5"],
    "PixelPaddingValue": [None], "PhotometricInterpretation": [None, "RGB"], "ImageType": [None, "DERIVED"],
}  # fmt: skip


@pytest.mark.parametrize("keyword", ABSURD_TAGS)
def test_absurd_dicom_tags(tmp_path, volume, keyword):
    before = peak_mb()
    for number, value in enumerate([*ABSURD_TAGS[keyword], "gone"]):
        folder = volume.save_dicom(tmp_path / f"{number}")
        for path in folder.iterdir():
            ds = pydicom.dcmread(path)
            if value == "gone":
                ds.pop(keyword, None)
            elif keyword == "PixelPaddingValue":
                ds.add_new(keyword, "SS", value)
            else:
                with pydicom.config.disable_value_validation():
                    setattr(ds, keyword, value)
            ds.save_as(path)
        check(folder)
    assert peak_mb() - before < LIMIT_MB

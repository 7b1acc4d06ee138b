"""Damaged films end in a FilmError or a valid film: no other exception, no hang, no gigabytes."""

from __future__ import annotations

import io
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axon_core.errors import AxonError
from axon_core.radiograph import Radiograph, standardise

sys.path.insert(0, str(Path(__file__).parent))
import film_files

resource = pytest.importorskip("resource")  # not on Windows

SECONDS, MEGABYTES = 3.0, 400  # CPU time of one file; growth of the process over all files of one kind
SMALL = film_files.frontal(72, 80)
SMALL16 = SMALL.astype(np.uint16) * 16
SYNTAXES = {"rle": "1.2.840.10008.1.2.5", "jls": "1.2.840.10008.1.2.4.80", "j2k": "1.2.840.10008.1.2.4.90"}


def picture(pixels: np.ndarray, form: str, **options: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def research(folder: Path, suffix: str) -> bytes:
    import SimpleITK as sitk

    path = folder / f"sound{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(SMALL16), str(path))
    return path.read_bytes()


SOUND: dict[str, Callable[[Path], bytes]] = {
    "raw.dcm": lambda _: film_files.dicom(SMALL16, WindowCenter=2000, WindowWidth=4000, PatientOrientation=["L", "F"]),
    **{f"{key}.dcm": lambda _, s=syntax: film_files.compressed(SMALL16, s) for key, syntax in SYNTAXES.items()},  # type: ignore[misc]
    "lossless.dcm": lambda folder: film_files.jpeg_lossless(SMALL16, folder),
    "baseline.dcm": lambda _: film_files.encapsulated(SMALL, "1.2.840.10008.1.2.4.50", picture(SMALL, "JPEG")),
    "film.png": lambda _: picture(SMALL16, "PNG"),
    "film.jpg": lambda _: picture(SMALL, "JPEG"),
    "film.tif": lambda _: picture(SMALL, "TIFF", compression="tiff_lzw"),
    "film.nii": lambda folder: research(folder, ".nii"),
    "film.nii.gz": lambda folder: research(folder, ".nii.gz"),
    "film.nrrd": lambda folder: research(folder, ".nrrd"),
    "film.mha": lambda folder: research(folder, ".mha"),
}


def mutated(sound: bytes, rng: random.Random) -> bytes:
    """Cut short, bytes changed, dropped or added; headers and starts of codestreams preferred."""
    data = bytearray(sound)
    pixel_data = max(sound.find(b"\xe0\x7f\x10\x00"), 0)
    start, end = rng.choice([(0, 400), (0, len(data)), (pixel_data, pixel_data + 400)])
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(start, max(start + 1, min(end, len(data))))
        width = rng.choice([1, 2, 4])
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                data[at : at + width] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * width
            case 2:
                del data[at : at + width]
            case 3:
                data[at:at] = rng.randbytes(width)
            case 4:
                data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
    return bytes(data[: rng.randrange(len(data))]) if rng.random() < 0.15 else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A damaged PNG whose chunks all have the right checksum, so that the decoder looks at them."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack(">I", data[at : at + 4])[0]
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def attempt(path: Path) -> str:
    """ "film" or the code of the refusal; anything else escapes."""
    began = time.process_time()
    try:
        film = Radiograph.load(path)
        shown = standardise(film, 64)
        assert film.pixels.dtype == np.float32 and np.isfinite(film.pixels).all()
        assert np.isfinite(shown.image).all() and np.abs(shown.image).max() <= 1
        assert np.isfinite(shown.to_original).all()
        outcome = "film"
    except AxonError as error:
        assert error.title and error.advice
        outcome = error.code
    assert time.process_time() - began < SECONDS
    return outcome


@pytest.mark.parametrize("name", SOUND)
def test_damaged_films(tmp_path: Path, name: str) -> None:
    sound = SOUND[name](tmp_path)
    path = tmp_path / name
    path.write_bytes(sound)
    assert attempt(path) == "film"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = random.Random(name)
    outcomes = set()
    for _ in range(60):
        damaged = mutated(sound, rng)
        path.write_bytes(with_checksums(damaged) if name.endswith(".png") else damaged)
        outcomes.add(attempt(path))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES and outcomes


@pytest.mark.parametrize("name", ["raw.dcm", "rle.dcm", "film.tif", "film.mha"])
def test_every_truncation(tmp_path: Path, name: str) -> None:
    sound = SOUND[name](tmp_path)
    path = tmp_path / name
    for length in [*range(0, 700, 23), *np.linspace(700, len(sound) - 1, 10).astype(int)]:
        path.write_bytes(sound[:length])
        attempt(path)


ABSURD = {
    "Rows": [0, 1, 65535],
    "Columns": [0, 65535],
    "BitsAllocated": [0, 1, 12, 64, 65535],
    "BitsStored": [0, 1, 40, 65535],
    "HighBit": [0, 65535],
    "SamplesPerPixel": [0, 2, 3, 65535],
    "PixelRepresentation": [1, 2, 65535],
    "PhotometricInterpretation": ["", "RGB", "YBR_FULL", "PALETTE COLOR", "NONSENSE"],
    "NumberOfFrames": ["0", "-1", "99999999"],
    "RescaleSlope": ["0", "1e308", "-1e-300"],
    "RescaleIntercept": ["1e308", "-1e308"],
    "WindowWidth": ["0", "-5", "1e308", "1e-300"],
    "WindowCenter": ["1e308", "-1e308"],
    "ImagerPixelSpacing": [["0", "0"], ["-1", "1"], ["1e308", "1e308"], ["1", "2", "3"]],
    "PatientOrientation": [["X", "Y"], ["L", "L"], ["L"], ["", ""], ["H", "F"]],
    "ViewPosition": ["", "QQ", ["PA", "LL"]],
    "DistanceSourceToDetector": ["-1", "0", "1e308"],
    "PixelIntensityRelationshipSign": [0, 1, -1, 32767],
}


@pytest.mark.parametrize("keyword", ABSURD)
def test_absurd_tags(tmp_path: Path, keyword: str) -> None:
    path = tmp_path / "film"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in ABSURD[keyword]:
        for intent in ("FOR PRESENTATION", "FOR PROCESSING"):
            tags = {"PresentationIntentType": intent, "PixelIntensityRelationship": "LIN"}
            tags |= {"PixelIntensityRelationshipSign": -1, "WindowCenter": "2000", "WindowWidth": "4000"}
            path.write_bytes(film_files.dicom(SMALL16, **(tags | {keyword: value})))
            attempt(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


def test_huge_claims_in_headers(tmp_path: Path) -> None:
    """Sizes of up to 2**31 written over every aligned number of the header."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("film.nii", "film.tif", "film.jpg", "j2k.dcm", "jls.dcm", "lossless.dcm"):
        sound, path = SOUND[name](tmp_path), tmp_path / name
        start = max(sound.find(b"\xe0\x7f\x10\x00"), 0)
        for at in range(start, min(start + 120, len(sound)), 4):
            for value in (b"\x7f\xff", b"\xff\xff\xff\x7f"):
                path.write_bytes(sound[:at] + value + sound[at + len(value) :])
                attempt(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES

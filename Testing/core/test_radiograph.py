"""Films: what files say, what becomes of it, what is refused."""

from __future__ import annotations

import io
import json
import logging
import struct
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from axon_core.errors import ConfigError, FilmError
from axon_core.film_area import bone_is_bright, film_area, front_is_right, quarter_turns
from axon_core.film_choice import FilmChoice
from axon_core.film_codestream import codestream_size
from axon_core.film_dicom import windowed
from axon_core.geometry import XrayView
from axon_core.radiograph import Radiograph, replay, standardise

sys.path.insert(0, str(Path(__file__).parent))
import film_files

CHEST = film_files.frontal()
CHEST16 = CHEST.astype(np.uint16) * 16
SIDE = film_files.lateral()
RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def saved(folder: Path, data: bytes, name: str = "film") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def loaded(folder: Path, data: bytes, **options: Any) -> Radiograph:
    return Radiograph.load(saved(folder, data), **options)


def picture(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def refusal(folder: Path, data: bytes, name: str = "film") -> str:
    with pytest.raises(FilmError) as caught:
        Radiograph.load(saved(folder, data, name))
    assert caught.value.title and caught.value.advice
    return caught.value.code


# --- reading


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("pixels", [CHEST, CHEST16], ids=["8", "16"])
def test_lossless_pictures_keep_every_value(tmp_path: Path, form: str, pixels: np.ndarray) -> None:
    film = loaded(tmp_path, picture(Image.fromarray(pixels), form))
    assert np.array_equal(film.pixels, pixels) and film.pixels.dtype == np.float32
    assert film.spacing_mm is None and film.view is None
    assert film.source["format"] == form and film.source["bits"] == 8 * pixels.itemsize
    assert film.source["name"] == "film" and len(film.source["sha256"]) == 64


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_pictures_in_colour_modes(tmp_path: Path, mode: str) -> None:
    assert np.array_equal(loaded(tmp_path, picture(Image.fromarray(CHEST).convert(mode))).pixels, CHEST)


def test_jpeg(tmp_path: Path) -> None:
    film = loaded(tmp_path, picture(Image.fromarray(CHEST), "JPEG", quality=95))
    assert np.abs(film.pixels - CHEST).max() < 20 and film.source["format"] == "JPEG"


def test_transparent_pixels_are_dark(tmp_path: Path) -> None:
    rgba = np.dstack([CHEST] * 3 + [np.full_like(CHEST, 255)])
    rgba[:20, :, 3] = 0
    film = loaded(tmp_path, picture(Image.fromarray(rgba)))
    assert (film.pixels[:20] == 0).all() and np.array_equal(film.pixels[20:], CHEST[20:])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_losing_bits_is_told(tmp_path: Path, form: str) -> None:
    for channels, told in ((1, False), (3, True)):
        pixels = np.dstack([CHEST16 * 16] * channels)
        data = film_files.png16(pixels) if form == "PNG" else film_files.tiff16(pixels)
        film = loaded(tmp_path, data)
        assert any("16 bits" in w for w in film.warnings) == told
        assert np.abs(film.pixels / film.pixels.max() - CHEST / CHEST.max()).max() < 0.01
    assert not any("bits" in w for w in loaded(tmp_path, picture(Image.fromarray(CHEST).convert("RGB"), form)).warnings)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(180, 200), (1, 180, 200)], ids=["2D", "3D"])
def test_research_formats_bring_their_spacing(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(CHEST16.reshape(shape))
    image.SetSpacing((1.5, 2.0, 9.0)[: len(shape)])
    sitk.WriteImage(image, str(tmp_path / f"film{suffix}"))
    film = Radiograph.load(tmp_path / f"film{suffix}")
    assert np.array_equal(film.pixels, CHEST16) and film.spacing_mm == pytest.approx((2.0, 1.5))


def test_a_research_format_with_unit_spacing_does_not_know_it(tmp_path: Path) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(CHEST), str(tmp_path / "film.nrrd"))
    film = Radiograph.load(tmp_path / "film.nrrd")
    assert film.spacing_mm is None and any("spacing is unknown" in w for w in film.warnings)


def test_missing_values_become_the_darkest(tmp_path: Path) -> None:
    import SimpleITK as sitk

    pixels = CHEST.astype(np.float32)
    pixels[:5], pixels[5:9] = np.nan, np.inf
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "film.mha"))
    film = Radiograph.load(tmp_path / "film.mha")
    assert (film.pixels[:9] == CHEST[9:].min()).all() and np.array_equal(film.pixels[9:], CHEST[9:])
    sitk.WriteImage(sitk.GetImageFromArray(255 - pixels), str(tmp_path / "inverted.mha"))
    film = Radiograph.load(tmp_path / "inverted.mha")
    assert film.source["inverted"] and (film.pixels[:9] == film.pixels[9:].min()).all()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", RLE, JPEG_LS, JPEG_2000])
def test_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    coded = syntax in (RLE, JPEG_LS, JPEG_2000)
    film = loaded(tmp_path, film_files.compressed(CHEST16, syntax) if coded else film_files.dicom(CHEST16, syntax))
    assert np.array_equal(film.pixels, CHEST16)
    assert film.source["transfer_syntax_uid"] == syntax and film.source["modality"] == "DX"


def test_big_endian(tmp_path: Path) -> None:
    data = film_files.dicom(CHEST16, "1.2.840.10008.1.2.2", PixelData=CHEST16.astype(">u2").tobytes())
    assert np.array_equal(loaded(tmp_path, data).pixels, CHEST16)


def test_jpeg_lossless_and_baseline(tmp_path: Path) -> None:
    assert np.array_equal(loaded(tmp_path, film_files.jpeg_lossless(CHEST16, tmp_path)).pixels, CHEST16)
    jpeg = picture(Image.fromarray(CHEST), "JPEG", quality=95)
    film = loaded(tmp_path, film_files.encapsulated(CHEST, "1.2.840.10008.1.2.4.50", jpeg))
    assert np.abs(film.pixels - CHEST).max() < 20


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_dicom_without_preamble_and_optional_tags(tmp_path: Path, syntax: str) -> None:
    made = film_files.dataset(4095 - CHEST16, syntax)
    del made.Modality, made.PhotometricInterpretation, made.SamplesPerPixel, made.PixelRepresentation, made.BitsStored
    data = film_files.written(made)
    bare = data[144 + struct.unpack("<I", data[140:144])[0] :]  # (0002,0000) tells where the meta header ends
    film = loaded(tmp_path, bare)
    assert np.array_equal(film.pixels, CHEST16.astype(np.float32) - 4095)
    assert film.source["polarity_from"] == "appearance" and film.source["inverted"]


# --- from stored values to attenuation


def test_monochrome1_is_the_inverse_of_monochrome2(tmp_path: Path) -> None:
    plain = loaded(tmp_path, film_files.dicom(CHEST16))
    inverse = loaded(tmp_path, film_files.dicom(4095 - CHEST16, PhotometricInterpretation="MONOCHROME1"))
    assert inverse.source["inverted"] and inverse.source["polarity_from"] == "tags"
    assert np.array_equal(inverse.pixels + 4095, plain.pixels)


@pytest.mark.parametrize(("bits", "offset"), [(8, 128), (12, 2048), (16, 32768)])
def test_signed_pixels(tmp_path: Path, bits: int, offset: int) -> None:
    pixels = (CHEST.astype(np.int32) * 2 ** (bits - 8) - offset).astype(np.int8 if bits == 8 else np.int16)
    film = loaded(tmp_path, film_files.dicom(pixels, BitsStored=bits, HighBit=bits - 1))
    assert np.array_equal(film.pixels, pixels)


@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "OT", "SC", ""])
def test_modalities_of_films(tmp_path: Path, modality: str) -> None:
    assert np.array_equal(loaded(tmp_path, film_files.dicom(CHEST16, Modality=modality)).pixels, CHEST16)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_values_in_the_high_bits(tmp_path: Path, kind: type) -> None:
    """Old files keep 12 bits at the top of 16; the window is meant for the 12."""
    values = CHEST16.astype(np.int32) - (2048 if kind is np.int16 else 0)
    tags = {"BitsStored": 12, "HighBit": 15, "WindowCenter": 500, "WindowWidth": 3000}
    film = loaded(tmp_path, film_files.dicom((values << 4).astype(kind), **tags))
    assert np.allclose(film.pixels, windowed(values.astype(np.float32), 500, 3000), atol=1e-6)
    assert film.source["bits"] == 12


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limit", [None, 3])
def test_padding_is_dark(tmp_path: Path, photometric: str, limit: int | None) -> None:
    stored = CHEST16 + 4 if photometric == "MONOCHROME2" else 4099 - CHEST16
    padded = stored.copy()
    padded[:70, :60] = np.arange(60) % (1 if limit is None else limit + 1)
    tags = {"PixelPaddingValue": 0, "PhotometricInterpretation": photometric}
    tags |= {} if limit is None else {"PixelPaddingRangeLimit": limit}
    film, plain = (loaded(tmp_path, film_files.dicom(pixels, **tags)).pixels for pixels in (padded, stored))
    assert (film[:70, :60] == film.min()).all() and np.array_equal(film[:, 60:], plain[:, 60:])


def test_rescale(tmp_path: Path) -> None:
    film = loaded(tmp_path, film_files.dicom(CHEST16, RescaleSlope=0.5, RescaleIntercept=-7))
    assert np.allclose(film.pixels, CHEST16 * 0.5 - 7)


def test_window_functions_follow_the_standard() -> None:
    x = np.array(
        [0.0, 4095.0, -5.0, 9000.0], np.float32
    )  # PS3.3 C.11.2.1.2.1: c = 2048, w = 4096 maps 0 -> 0, 4095 -> 1
    assert windowed(x, 2048, 4096) == pytest.approx([0, 1, 0, 1], abs=1e-6)
    x = np.array([0.0, 2048.0, 4096.0], np.float32)
    assert windowed(x, 2048, 4096, "LINEAR_EXACT") == pytest.approx([0, 0.5, 1])
    assert windowed(x, 2048, 4096, "SIGMOID") == pytest.approx([1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2))])


def test_windows_are_applied_and_nonsense_is_ignored(tmp_path: Path) -> None:
    film = loaded(tmp_path, film_files.dicom(CHEST16, WindowCenter=[2000, 1], WindowWidth=[3000, 1]))
    assert np.allclose(film.pixels, windowed(CHEST16.astype(np.float32), 2000, 3000))
    film = loaded(tmp_path, film_files.dicom(CHEST16, WindowCenter=60000, WindowWidth=2))
    assert np.array_equal(film.pixels, CHEST16) and any("window" in w for w in film.warnings)


@pytest.mark.parametrize("bits", [8, 16])
def test_lookup_tables(tmp_path: Path, bits: int) -> None:
    from pydicom.dataset import Dataset

    table = np.sqrt(np.arange(200) / 199) * (2**bits - 1)
    table = table.astype(np.uint8 if bits == 8 else np.uint16)
    item = Dataset()
    item.add_new(0x00283002, "US", [200, 30, bits])  # first mapped value 30: below it the first entry, above the last
    item.add_new(0x00283006, "OW", table.tobytes())
    film = loaded(tmp_path, film_files.dicom(CHEST, VOILUTSequence=[item]))
    assert np.array_equal(film.pixels, table[np.clip(CHEST.astype(int) - 30, 0, 199)])
    film = loaded(tmp_path, film_files.dicom(CHEST, ModalityLUTSequence=[item]))
    assert np.array_equal(film.pixels, table[np.clip(CHEST.astype(int) - 30, 0, 199)])


@pytest.mark.parametrize("sign", [1, -1])
def test_linear_films_for_processing_become_attenuation(tmp_path: Path, sign: int) -> None:
    attenuation = CHEST / 80.0
    intensity = np.exp(-(attenuation - attenuation.min())) * 60000
    stored = np.rint(intensity if sign > 0 else 65535 - intensity).astype(np.uint16)
    tags = {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": sign}
    film = loaded(tmp_path, film_files.dicom(stored, PresentationIntentType="FOR PROCESSING", **tags))
    assert np.allclose(film.pixels, attenuation - attenuation.min(), atol=2e-3)


@pytest.mark.parametrize("slope", [1, -1])
@pytest.mark.parametrize("sign", [1, -1])
def test_intensity_sign_decides_what_is_bone(tmp_path: Path, sign: int, slope: int) -> None:
    stored = CHEST16 if sign < 0 else 4095 - CHEST16
    photometric = "MONOCHROME2" if sign * slope < 0 else "MONOCHROME1"
    tags = {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": sign}
    data = film_files.dicom(
        stored, RescaleSlope=slope, RescaleIntercept=0, PhotometricInterpretation=photometric, **tags
    )
    film = loaded(tmp_path, data)
    assert film.source["polarity_from"] == "tags"
    assert np.corrcoef(film.pixels.ravel(), CHEST.ravel())[0, 1] > 0.999


def test_contradicting_tags_leave_it_to_the_look(tmp_path: Path) -> None:
    for stored in (CHEST16, 4095 - CHEST16):
        film = loaded(tmp_path, film_files.dicom(stored, PixelIntensityRelationshipSign=1))
        assert film.source["polarity_from"] == "appearance" and any("disagree" in w for w in film.warnings)
        assert np.corrcoef(film.pixels.ravel(), CHEST.ravel())[0, 1] > 0.999


def test_tags_win_over_the_look_but_warn(tmp_path: Path) -> None:
    film = loaded(tmp_path, film_files.dicom(4095 - CHEST16))
    assert not film.source["inverted"] and any("looks inverted" in w for w in film.warnings)


@pytest.mark.parametrize("drawn", [CHEST, SIDE], ids=["frontal", "lateral"])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_polarity_by_look(tmp_path: Path, drawn: np.ndarray, gamma: float) -> None:
    bright = (255 * (drawn / 255) ** gamma).astype(np.uint8)
    for pixels in (bright, 255 - bright):
        film = loaded(tmp_path, picture(Image.fromarray(pixels)))
        assert film.source["inverted"] == (pixels is not bright)
        assert np.corrcoef(film.pixels.ravel(), bright.ravel())[0, 1] > 0.999


def test_the_user_decides_polarity(tmp_path: Path) -> None:
    data = picture(Image.fromarray(CHEST))
    assert np.array_equal(loaded(tmp_path, data, invert=True).pixels, -CHEST.astype(np.float32))
    assert loaded(tmp_path, data, invert=False).source["polarity_from"] == "user"


# --- what the tags say


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({"PixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"PixelSpacing": [0.3, 0.4], "ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"NominalScannedPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.3, 0.3]}, (0.2, 0.2)),
        ({"ImagerPixelSpacing": [0.0, 0.0]}, None),
        (
            {
                "PixelSpacing": [0.4, 0.4],
                "PixelSpacingCalibrationType": "GEOMETRY",
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            (0.5, 0.5),
        ),
    ],
)
def test_spacing(tmp_path: Path, tags: dict[str, Any], expected: tuple[float, float] | None) -> None:
    assert loaded(tmp_path, film_files.dicom(CHEST16, **tags)).spacing_mm == expected


def test_the_users_spacing_and_view_win(tmp_path: Path) -> None:
    data = film_files.dicom(CHEST16, ImagerPixelSpacing=[0.2, 0.2], ViewPosition="PA")
    film = loaded(tmp_path, data, spacing_mm=(1.0, 2.0), view="LAT")
    assert film.spacing_mm == (1.0, 2.0) and film.view is XrayView.LAT
    for options in ({"spacing_mm": (0.0, 1.0)}, {"spacing_mm": (float("nan"), 1.0)}, {"view": "TOP"}):
        with pytest.raises(ConfigError):
            loaded(tmp_path, data, **options)


@pytest.mark.parametrize(
    ("position", "view"), [("PA", "PA"), ("AP", "AP"), ("LL", "LAT"), ("RL", "LAT"), ("LATERAL", "LAT")]
)
def test_view_position(tmp_path: Path, position: str, view: str) -> None:
    film = loaded(tmp_path, film_files.dicom(CHEST16, ViewPosition=position, DistanceSourceToDetector=1800))
    assert film.view is XrayView(view) and film.sdd_mm == 1800


def test_decubitus_is_no_lateral(tmp_path: Path) -> None:
    film = loaded(tmp_path, film_files.dicom(CHEST16, ViewPosition="LLD"))
    assert film.view is None and any("View Position" in w for w in film.warnings)


def test_view_from_code_or_orientation(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "399173006", "SCT"
    assert loaded(tmp_path, film_files.dicom(CHEST16, ViewCodeSequence=[code])).view is XrayView.LAT
    assert loaded(tmp_path, film_files.dicom(CHEST16, PatientOrientation=["A", "F"])).view is XrayView.LAT
    assert loaded(tmp_path, film_files.dicom(CHEST16, PatientOrientation=["L", "F"])).view is None


@pytest.mark.parametrize(
    ("cosines", "letters"),
    [([-1, 0, 0, 0, 0, -1], ("R", "F")), ([0.99, 0.1, 0, 0, 0, 1], ("L", "H")), ([0, 1, 0, 0, 0, -1], ("P", "F"))],
)
def test_localizers_are_films_with_orientation(tmp_path: Path, cosines: list[float], letters: tuple[str, str]) -> None:
    tags = {"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    film = loaded(tmp_path, film_files.dicom(CHEST16, ImageOrientationPatient=cosines, **tags))
    assert film.orientation == letters and any("localizer" in w for w in film.warnings)


def test_burned_in_annotation_warns(tmp_path: Path) -> None:
    film = loaded(tmp_path, film_files.dicom(CHEST16, BurnedInAnnotation="YES"))
    assert film.source["burned_in_annotation"] is True and any("burned-in" in w for w in film.warnings)


def test_nothing_names_the_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = film_files.dataset(CHEST16, PatientName="Doe^Jane", PatientID="Doe^Jane")
    for keyword in ("ViewPosition", "StudyInstanceUID", "BurnedInAnnotation", "WindowCenter", "ImagerPixelSpacing"):
        made.add_new(keyword, "LO", "Doe^Jane")  # names where they do not belong
    data = film_files.written(made)
    for sent, vr in ((b"\x18\x00\x01\x51", b"CS"), (b"\x20\x00\x0d\x00", b"UI"), (b"\x28\x00\x01\x03", b"CS")):
        data = data.replace(sent + b"LO", sent + vr)
    for sent in (b"\x28\x00\x50\x10", b"\x18\x00\x64\x11"):
        data = data.replace(sent + b"LO", sent + b"DS")
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        film = loaded(tmp_path, data)
        shown = standardise(film)
    told = [film.source, film.warnings, shown.steps, shown.warnings, [str(w.message) for w in heard]]
    assert "Doe" not in json.dumps(told) + caplog.text


# --- the standard film


def test_canonical_layout_from_any_orientation(tmp_path: Path) -> None:
    """One chest stored in all eight ways, told by Patient Orientation, gives one standard image."""
    opposite = {"L": "R", "F": "H"}
    images = []
    for transpose in (False, True):
        for mirror in (False, True):
            for turn in (False, True):
                pixels, letters = CHEST16, ["L", "F"]
                if mirror:
                    pixels, letters[0] = pixels[:, ::-1], opposite[letters[0]]
                if turn:
                    pixels, letters[1] = pixels[::-1], opposite[letters[1]]
                spacing = [1.9, 1.7]
                if transpose:
                    pixels, letters, spacing = pixels.T, letters[::-1], spacing[::-1]
                tags = {"PatientOrientation": letters, "ImagerPixelSpacing": spacing, "ViewPosition": "PA"}
                shown = standardise(loaded(tmp_path, film_files.dicom(np.ascontiguousarray(pixels), **tags)), 96)
                images.append(shown.image)
                assert shown.scale_known
    for image in images[1:]:
        assert np.allclose(image, images[0], atol=1e-5)
    upright = standardise(Radiograph(CHEST, (1.9, 1.7), XrayView.PA), 96)
    assert np.allclose(upright.image, images[0], atol=1e-5)


def test_laterals_face_right(tmp_path: Path) -> None:
    right = standardise(Radiograph(SIDE, None, XrayView.LAT), 96)
    mirrored = standardise(Radiograph(SIDE[:, ::-1], None, XrayView.LAT), 96)
    told = standardise(Radiograph(SIDE[:, ::-1], None, XrayView.LAT, orientation=("P", "F")), 96)
    assert front_is_right(SIDE) > 0.2 and front_is_right(SIDE[:, ::-1]) == pytest.approx(
        -front_is_right(SIDE), abs=0.02
    )
    assert np.allclose(mirrored.image, right.image, atol=1e-6) and np.allclose(told.image, right.image, atol=1e-6)
    assert any("mirrored" in w for w in mirrored.warnings) and not any("mirrored" in w for w in told.warnings)
    assert mirrored.to_original @ [0, 0, 1] == pytest.approx(told.to_original @ [0, 0, 1])


def test_mirrored_laterals_keep_their_centre() -> None:
    """A frame on one side moves the film on the detector the same way, whoever tells which way it faces."""
    framed = np.pad(SIDE[:, ::-1], ((0, 0), (30, 0)))
    guessed = standardise(Radiograph(framed, (2.0, 1.6), XrayView.LAT), 96)
    told = standardise(Radiograph(framed, (2.0, 1.6), XrayView.LAT, orientation=("P", "F")), 96)
    assert guessed.scale_known and np.allclose(guessed.to_original, told.to_original)
    assert np.allclose(guessed.image, told.image, atol=1e-6)
    assert told.to_original @ [47.5, 47.5, 1] == pytest.approx([99.5, 104.5, 1])  # centre on centre, frame included


def test_contradicting_orientation_is_left_alone() -> None:
    shown = standardise(Radiograph(CHEST, None, XrayView.PA, orientation=("A", "F")), 64)
    assert any("contradicts" in w for w in shown.warnings)


def test_true_scale_lies_centred_on_the_detector() -> None:
    """A spot 60 mm left of and 40 mm above the film's centre lies there on the detector too."""
    pixels = CHEST.astype(np.float32) * 0.2
    rows, columns = pixels.shape
    spot = np.array([rows / 2 - 40 / 2.0 - 0.5, columns / 2 + 60 / 1.5 - 0.5])
    y, x = np.mgrid[:rows, :columns]
    pixels += 400 * np.exp(-0.5 * (((y - spot[0]) / 6) ** 2 + ((x - spot[1]) / 8) ** 2))
    shown = standardise(Radiograph(pixels, (2.0, 1.5), XrayView.PA), 200, detector_mm=400.0)
    assert shown.scale_known
    weight = np.clip(shown.image - 0.5, 0, None)
    found = [float((weight * axis).sum() / weight.sum()) for axis in np.mgrid[:200, :200]]
    assert found == pytest.approx([100 - 40 / 2 - 0.5, 100 + 60 / 2 - 0.5], abs=0.15)
    assert (shown.to_original @ [*found, 1])[:2] == pytest.approx(spot, abs=0.15)


@pytest.mark.parametrize("spacing", [None, (2.0, 1.5), (0.3, 0.3)])
@pytest.mark.parametrize("orientation", [None, ("R", "H"), ("F", "L")])
def test_to_original_inverts_every_step(spacing: Any, orientation: Any) -> None:
    """The standard film of a ramp holds, at each pixel, the value the original has where `to_original` points."""
    rows, columns = np.mgrid[:150, :200]
    for slope in (np.array([1.0, 0.6]), np.array([-0.7, 1.0])):
        ramp = slope[0] * rows + slope[1] * columns
        film = Radiograph(ramp.astype(np.float32), spacing, XrayView.PA, orientation=orientation)
        shown = standardise(film, 80)
        low, high = next((s["low"], s["high"]) for s in shown.steps if s["op"] == "range")
        edge = np.argwhere(shown.mask)
        inside = np.zeros_like(shown.mask)  # away from the film's edge, where antialiasing is one-sided
        inside[edge[0][0] + 3 : edge[-1][0] - 2, edge[0][1] + 3 : edge[-1][1] - 2] = True
        inside &= np.abs(shown.image) < 0.95
        points = np.argwhere(inside)
        there = (np.c_[points, np.ones(len(points))] @ shown.to_original.T)[:, :2] @ slope
        value = low + (shown.image[inside] + 1) / 2 * (high - low)
        assert len(points) > 500 and np.abs(value - there).max() < 0.05
        product = np.eye(3)
        for step in shown.steps:
            product = product @ np.array(step["to_before"])
        assert np.allclose(product, shown.to_original)


def test_replay_is_identical_even_through_json() -> None:
    film = Radiograph(CHEST, (2.0, 1.5), XrayView.PA, orientation=("R", "H"))
    shown = standardise(film, 128)
    assert np.array_equal(replay(film, json.loads(json.dumps(shown.steps))), shown.image)
    with pytest.raises(ConfigError):
        replay(film, [{"op": "sharpen"}, shown.steps[-1]])


@pytest.mark.parametrize("size", [64, 256, 700])
def test_shape_range_and_mask(size: int) -> None:
    shown = standardise(Radiograph(CHEST), size)
    assert shown.image.shape == shown.mask.shape == (size, size) and shown.image.dtype == np.float32
    assert shown.image.min() >= -1 and shown.image.max() <= 1 and (shown.image[~shown.mask] == -1).all()
    assert shown.view is XrayView.PA and any("view is unknown" in w for w in shown.warnings)
    assert not shown.scale_known
    assert abs(shown.mask.any(0).sum() / size - 400 / 430) <= 2 / size  # the longer edge
    assert abs(shown.mask.any(1).sum() / size - 0.9 * 400 / 430) <= 2 / size


@pytest.mark.parametrize(("drawn", "view", "edge_mm"), [(CHEST, XrayView.AP, 400), (SIDE, XrayView.LAT, 360)])
@pytest.mark.parametrize("detector_mm", [300.0, 430.0, 500.0])
def test_a_film_of_unknown_scale_has_the_usual_size(
    drawn: np.ndarray, view: XrayView, edge_mm: float, detector_mm: float
) -> None:
    shown = standardise(Radiograph(np.pad(drawn, ((0, 30), (0, 0))), None, view), 256, detector_mm)
    per_pixel = (
        np.linalg.norm(shown.to_original[:2, :2], axis=0) * min(edge_mm, detector_mm) / 200
    )  # mm, frame cut away
    assert per_pixel == pytest.approx([detector_mm / 256] * 2)
    middle = shown.to_original @ [127.5, 127.5, 1]
    assert middle[:2] == pytest.approx((np.array(drawn.shape) - 1) / 2)


@pytest.mark.parametrize("drawn", [CHEST, 255 - CHEST], ids=["upright", "inverted"])
def test_lying_films_are_told(drawn: np.ndarray) -> None:
    for turns in range(4):
        film = Radiograph(np.rot90(drawn, turns), None, XrayView.PA)
        assert any("upside down" in w for w in standardise(film, 64).warnings) == (turns != 0)
        assert quarter_turns(film.pixels) == -turns % 4
    for letters in (("L", "H"), ("L", "F")):  # who tells is believed
        assert not any("upside" in w for w in standardise(Radiograph(drawn[::-1], orientation=letters), 64).warnings)


def test_slices_are_told(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    body = (x / 0.9) ** 2 + (y / 0.65) ** 2 < 1
    lungs = ((np.abs(x) - 0.42) / 0.28) ** 2 + (y / 0.45) ** 2 < 1
    drawn = (10 + 140 * body - 110 * lungs + 60 * (np.hypot(x, y - 0.35) < 0.12)).astype(np.uint8)
    faded = (CHEST * np.linspace(1, 0.2, len(CHEST))[:, None]).astype(np.uint8)  # dark below, but not on the sides
    rising = (x / 0.9) ** 2 + ((y - 1) / 1.7) ** 2 < 1  # air above and on the sides, but a belly below
    bust = np.where(rising, np.maximum(drawn, 120), 10).astype(np.uint8)
    films = [(CHEST, False), (255 - CHEST, False), (SIDE, False), (faded, False), (bust, False)]
    for pixels, told in [(drawn, True), *films]:
        film = loaded(tmp_path, picture(Image.fromarray(pixels)), invert=pixels[0, 0] > 128)
        assert any("CT slice" in w for w in film.warnings) == told


def test_percentiles_are_robust() -> None:
    marked = CHEST.copy()
    marked[40:42, 40:42] = 255
    low, high = (standardise(Radiograph(p)).steps[1] for p in (CHEST, marked))
    assert low["low"] == high["low"] and low["high"] == pytest.approx(high["high"], abs=1)


@pytest.mark.parametrize(("spacing", "believed"), [(0.5, False), (1.4, True), (2.9, True), (3.5, False)])
def test_unbelievable_spacing_is_not_used(spacing: float, believed: bool) -> None:
    shown = standardise(Radiograph(CHEST, (spacing, spacing), XrayView.PA))
    assert shown.scale_known == believed and (not believed) == any("not believed" in w for w in shown.warnings)
    assert believed or abs(shown.mask.any(0).mean() - 400 / 430) < 0.01


def test_shrinking_does_not_alias() -> None:
    fine = (np.indices((1024, 1024)).sum(0) % 2 * 100).astype(np.float32)
    fine[:, :512] += 20
    shown = standardise(Radiograph(fine), 64)
    assert np.ptp(shown.image[8:-8, 4:28]) < 0.02


def test_bad_requests() -> None:
    with pytest.raises(ConfigError):
        standardise(Radiograph(CHEST), 0)
    with pytest.raises(FilmError, match="everywhere"):
        standardise(Radiograph(np.zeros((90, 90))))
    with pytest.raises(FilmError):
        Radiograph(np.zeros((3, 90, 90)))
    with pytest.raises(FilmError):
        Radiograph(np.full((90, 90), np.nan))


# --- frames and collimation


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("frame", [(0, 0, 0, 0), (12, 0, 0, 0), (0, 9, 30, 0), (20, 25, 11, 40)])
@pytest.mark.parametrize("drawn", [CHEST, 255 - CHEST], ids=["upright", "inverted"])
def test_frames_are_cut_away(value: int, frame: tuple[int, int, int, int], drawn: np.ndarray) -> None:
    top, bottom, left, right = frame
    framed = np.pad(drawn, ((top, bottom), (left, right)), constant_values=value)
    assert film_area(framed) == (top, framed.shape[0] - bottom, left, framed.shape[1] - right)


def test_lettering_on_a_frame_goes_with_it() -> None:
    framed = np.pad(CHEST, ((40, 0), (0, 0)))
    framed[12:24, 20:60] = 255
    assert film_area(framed)[0] == 40


@pytest.mark.parametrize("sign", [1, -1])
def test_collimator_shadow_is_cut_away(sign: int) -> None:
    noise = np.random.default_rng(2).normal(0, 3, (320, 300))
    film = np.asarray(Image.fromarray(CHEST).resize((300, 320))).astype(np.float32)
    film[240:] = 25 + np.linspace(0, 12, 80)[:, None] + noise[240:]
    top, bottom, left, right = film_area(sign * film)
    assert (top, left, right) == (0, 0, 300) and abs(bottom - 240) <= 4


def test_a_film_is_never_cut_to_nothing() -> None:
    lonely = np.zeros((200, 200), np.float32)
    lonely[60:135, 40:160] = np.arange(120)
    assert film_area(lonely) == (0, 200, 0, 200)


@pytest.mark.parametrize("drawn", [CHEST, SIDE], ids=["frontal", "lateral"])
def test_polarity_changes_sign_with_the_film(drawn: np.ndarray) -> None:
    assert bone_is_bright(255.0 - drawn) == pytest.approx(-bone_is_bright(drawn), abs=0.02)


def test_frames_do_not_fool_polarity() -> None:
    for value in (0, 255):
        framed = np.pad(CHEST, 30, constant_values=value)
        top, bottom, left, right = film_area(framed)
        assert (
            bone_is_bright(framed[top:bottom, left:right]) > 0.2 > -0.2 > bone_is_bright(255 - framed[30:-30, 30:-30])
        )


# --- refusals


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_pictures_that_are_no_films(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    assert refusal(tmp_path, picture(Image.fromarray(noise))) == "film.colour"
    assert refusal(tmp_path, picture(Image.fromarray(CHEST[:20, :20]))) == "film.too-small"
    assert refusal(tmp_path, picture(Image.fromarray(CHEST > 128))) == "film.black-and-white"
    for value in (0, 255):
        assert refusal(tmp_path, picture(Image.fromarray(np.full((90, 90), value, np.uint8)))) == "film.constant"
    pages = [Image.fromarray(CHEST)] * 2
    assert refusal(tmp_path, picture(pages[0], "TIFF", save_all=True, append_images=pages[1:])) == "film.multi-frame"
    assert refusal(tmp_path, b"GIF89a" + bytes(100)) == refusal(tmp_path, b"hello") == "film.unreadable"
    assert refusal(tmp_path, b"") == "film.empty"
    with pytest.raises(FilmError, match="opened"):
        Radiograph.load(tmp_path / "missing.png")
    with pytest.raises(FilmError, match="opened"):
        Radiograph.load(tmp_path)


def test_coloured_marks_only_warn(tmp_path: Path) -> None:
    rgb = np.dstack([CHEST] * 3)
    rgb[10:20, 10:30] = (255, 0, 0)
    assert any("coloured marks" in w for w in loaded(tmp_path, picture(Image.fromarray(rgb))).warnings)


def test_dicom_that_is_no_film(tmp_path: Path) -> None:
    cases = {
        "film.is-ct": {"Modality": "CT"},
        "film.modality": {"Modality": "MR"},
        "film.multi-frame": {"NumberOfFrames": 2, "PixelData": CHEST16.tobytes() * 2},
        "film.too-large": {"Rows": 65535, "Columns": 65535},
        "film.too-small": {"Rows": 20, "Columns": 20},
        "film.truncated": {"PixelData": CHEST16.tobytes()[:-200]},
        "film.pixel-format": {"BitsAllocated": 32},
    }
    for tags in ({"Modality": "MR", "ImageType": ["DERIVED", "LOCALIZER"]}, {"Modality": "US"}):
        assert refusal(tmp_path, film_files.dicom(CHEST16, **tags)) == "film.modality"
    ct = film_files.dataset(CHEST16, SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="")
    assert refusal(tmp_path, film_files.written(ct)) == "film.is-ct"
    for code, tags in cases.items():
        assert refusal(tmp_path, film_files.dicom(CHEST16, **tags)) == code
    assert refusal(tmp_path, film_files.dicom(CHEST16, "1.2.840.10008.1.2.1.99")) == "film.deflated"
    mpeg = film_files.encapsulated(CHEST16, "1.2.840.10008.1.2.4.100", b"1234")
    assert refusal(tmp_path, mpeg) == "film.compression"
    made = film_files.dataset(CHEST16)
    del made.PixelData
    assert refusal(tmp_path, film_files.written(made)) == "film.no-pixels"


@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000, "lossless"])
def test_without_pydicom_s_decoders_simpleitk_reads_the_same(
    syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossless = syntax == "lossless"
    data = film_files.jpeg_lossless(CHEST16, tmp_path) if lossless else film_files.compressed(CHEST16, syntax)
    wanted = loaded(tmp_path, data)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda _: False))
    assert np.array_equal(loaded(tmp_path, data).pixels, wanted.pixels)


def test_a_missing_decoder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    def refuse(_: object) -> None:
        raise RuntimeError("no codec")

    data = film_files.compressed(CHEST16, JPEG_LS)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda _: False))
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", refuse)
    assert refusal(tmp_path, data) == "film.no-decoder"


def test_volumes_are_sent_to_the_other_door(tmp_path: Path) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((70, 80, 90), np.int16)), str(tmp_path / "film.nii"))
    assert refusal(tmp_path, (tmp_path / "film.nii").read_bytes(), "film.nii") == "film.volume"


def test_codestreams_state_their_size() -> None:
    siz = struct.pack(">HHH8IHBBB", 0xFF51, 41, 0, 110, 95, 10, 5, 64, 64, 0, 0, 1, 7, 1, 1)
    assert codestream_size(b"\xff\x4f" + siz) == (90, 100, 1)  # the image starts at an offset within its canvas
    for mode, channels in (("L", 1), ("RGB", 3)):
        jpeg = picture(Image.fromarray(CHEST).convert(mode), "JPEG")
        assert codestream_size(jpeg) == (*CHEST.shape, channels)
        assert codestream_size(jpeg[:60]) is None
    assert codestream_size(b"") is None and codestream_size(CHEST.tobytes()) is None


def test_bombs_are_refused_on_their_headers(tmp_path: Path) -> None:
    assert refusal(tmp_path, png_of(60_000, 60_000)) == "film.too-large"
    assert refusal(tmp_path, png_of(9_000, 9_000)) == "film.empty"
    jpeg = bytearray(picture(Image.fromarray(CHEST), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert refusal(tmp_path, bytes(jpeg)) == "film.too-large"
    assert refusal(tmp_path, film_files.encapsulated(CHEST, "1.2.840.10008.1.2.4.50", bytes(jpeg))) == "film.damaged"
    coded = bytearray(film_files.compressed(CHEST16, JPEG_2000))
    size = coded.index(b"\xff\x4f\xff\x51") + 8
    for at, value in ((size, 2**31), (size + 16, 1)):  # a giant image; a tile for every pixel
        broken = coded.copy()
        broken[at : at + 8] = struct.pack(">II", value, value)
        assert refusal(tmp_path, bytes(broken)) == "film.damaged"


# --- mirrored pictures


@pytest.mark.parametrize("turned", [None, False, True], ids=["unknown", "upright", "on its side"])
@pytest.mark.parametrize(("pixels", "view"), [(CHEST, XrayView.PA), (SIDE, XrayView.LAT)], ids=["frontal", "lateral"])
def test_mirrored_films_are_flipped_on_record(pixels: np.ndarray, view: XrayView, turned: bool | None) -> None:
    """A mark at the picture's left comes to lie on the right, whatever the file says of its orientation."""
    marked = pixels.astype(np.float32)
    marked[84:94, 40:50] = 400.0
    side = "L" if view.is_frontal else "A"
    letters = None if turned is None else ("F", side) if turned else (side, "F")
    film = Radiograph(marked.T if turned else marked, None, view, orientation=letters)
    plain, flipped = (standardise(replace(film, mirrored=mirrored), 96) for mirrored in (False, True))
    assert [sum(step["op"] == "flip" for step in shown.steps) for shown in (plain, flipped)] == [0, 1]
    assert np.allclose(flipped.image, plain.image[:, ::-1], atol=1e-4)
    place = [44.5, 88.5, 1.0] if turned else [88.5, 44.5, 1.0]
    row, column, _ = np.rint(np.linalg.inv(flipped.to_original) @ place).astype(int)
    assert column > 60 and flipped.image[row, column] == 1.0 > flipped.image[row, 95 - column] + 0.5
    assert np.array_equal(replay(film, flipped.steps), flipped.image)
    assert not any("contradicts" in text or "orientation" in text for text in flipped.warnings)


def test_a_choice_of_a_film_reaches_the_film(tmp_path: Path) -> None:
    path = saved(tmp_path, picture(Image.fromarray(CHEST)), "chest.png")
    film = FilmChoice(str(path), "AP", True, 0.5, True).load()
    assert (film.view, film.spacing_mm, film.mirrored) == (XrayView.AP, (0.5, 0.5), True) and film.source["inverted"]
    assert not FilmChoice(str(path)).load().mirrored

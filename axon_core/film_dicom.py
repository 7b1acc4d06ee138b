"""Radiographs in DICOM: CR, DX, digitised film and secondary capture, with or without preamble.

The road of a stored pixel (PS3.3 C.7.6.3, C.8.11.3, C.11): decode -> modality LUT or rescale -> VOI LUT or window
(linear, linear exact, sigmoid) -> which end is bone. Films "for processing" with a linear Pixel Intensity Relationship
are turned into attenuation by a logarithm instead. Headers are judged before pixels are decoded.
"""

from __future__ import annotations

import copy
import io
import struct
import tempfile
import warnings as python_warnings
from pathlib import Path
from typing import Any

import numpy as np

from axon_core.errors import FilmError
from axon_core.film_codestream import codestream_size
from axon_core.film_formats import COLOURED, RawFilm, check_size, colour_warning, damaged, multi_frame
from axon_core.geometry import XrayView

FILM_MODALITIES = ("CR", "DX", "DR", "RG", "RF", "XA", "OT", "SC", "")
SYNTAXES = {
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"),  # uncompressed
    "1.2.840.10008.1.2.5",  # RLE
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)),  # JPEG, baseline, extended and lossless
    *(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)),  # JPEG-LS
    *(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)),  # JPEG 2000
}  # Transfer Syntax UID (0002,0010)
DEFLATED = b"1.2.840.10008.1.2.1.99"
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")

VIEWS = {
    "PA": XrayView.PA,
    "AP": XrayView.AP,
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"), XrayView.LAT),
}  # the other defined terms are decubitus and oblique
# CID 4010 "DX View": SNOMED CT and SNOMED RT codes
VIEW_CODES = {
    **dict.fromkeys(("399348003", "R-10206"), XrayView.AP),
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), XrayView.PA),
    **dict.fromkeys(("399173006", "R-10236", "399198007", "R-10232", "399067008", "R-102CD"), XrayView.LAT),
}


def looks_like_dicom(data: bytes) -> bool:
    """Whether the bytes start like DICOM: "DICM" after the preamble, or a first tag of group 0002 or 0008."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 8:
        return False
    group, element = struct.unpack("<HH", data[:4])
    return group in (0x0002, 0x0008) and element < 0x2200 and (data[4:6].isalpha() or data[6:8] == b"\0\0")


def read_dicom(name: str, data: bytes) -> RawFilm:
    """Read one DICOM radiograph.

    Args:
        name: the file's name, for messages.
        data: the whole file.

    Raises:
        FilmError: not an X-ray projection, several frames, damaged, too small or too large.
    """
    from pydicom.config import disable_value_validation

    try:
        # the parser's complaints quote values, and a value may be a name
        with python_warnings.catch_warnings(), disable_value_validation():
            python_warnings.simplefilter("ignore")
            return _film(name, _parsed(name, data))
    except FilmError:
        raise
    except Exception as error:  # damaged headers make pydicom raise nearly anything
        raise damaged(name, error) from None


def _film(name: str, dataset: Any) -> RawFilm:
    warnings: list[str] = []
    _check_kind(name, dataset, warnings)
    _check_pixels(name, dataset)
    photometric = _text(dataset, "PhotometricInterpretation")
    stored = _decoded(name, dataset, warnings)
    pixels, invert = _attenuation(dataset, stored, photometric, warnings)
    padding = _padding(dataset, stored)
    if padding.any():
        pixels = np.where(padding, np.float32(np.nan), pixels)
    orientation = _orientation(dataset)
    return RawFilm(
        pixels,
        invert,
        _spacing(dataset, warnings),
        _view(dataset, orientation, warnings),
        _distance(dataset),
        orientation,
        _source(dataset),
        _burned_in(dataset) + tuple(warnings),
    )


def _parsed(name: str, data: bytes) -> Any:
    """The data set, with a transfer syntax even where the file has no meta header."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if DEFLATED in data:  # unpacked in one go by the parser: a kilobyte could become gigabytes
        raise FilmError("film.deflated", f"{name} is a deflated DICOM file.", "Export it uncompressed or as JPEG 2000.")
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _text(dataset: Any, keyword: str) -> str:
    """A short text attribute in capitals, "" when absent; of several values the first."""
    value = dataset.get(keyword)
    if value is not None and not isinstance(value, str):
        value = value[0] if len(value) else ""
    return str(value or "").strip().upper()


def _number(dataset: Any, keyword: str) -> float | None:
    """A finite number, of several the first; None when absent or nonsense."""
    value = dataset.get(keyword)
    try:
        number = float(value if isinstance(value, (int, float, str)) else value[0])  # type: ignore[index]
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _texts(dataset: Any, keyword: str) -> list[str]:
    """All values of a text attribute, in capitals."""
    value = dataset.get(keyword)
    values = [value] if isinstance(value, str) else list(value or ())
    return [str(v).strip().upper() for v in values]


def _check_kind(name: str, dataset: Any, warnings: list[str]) -> None:
    """Refuse what is no X-ray projection, by Modality (0008,0060), SOP Class (0008,0016) and Image Type (0008,0008)."""
    modality = _text(dataset, "Modality")
    is_ct = modality == "CT" or _text(dataset, "SOPClassUID") in CT_CLASSES
    localizer = is_ct and "LOCALIZER" in _texts(dataset, "ImageType")
    if is_ct and not localizer:
        raise FilmError("film.is-ct", f"{name} is a CT slice, not a film.", "Load it, or its folder, as a CT volume.")
    if localizer:
        warnings.append("A CT localizer: scanned line by line, it magnifies across but not along the patient.")
    elif modality not in FILM_MODALITIES:
        kind = modality if modality.isalnum() and len(modality) <= 4 else "unknown"
        raise FilmError(
            "film.modality", f"{name} is an image of modality {kind}, not a chest X-ray.", "Load a CR or DX image."
        )
    frames = _number(dataset, "NumberOfFrames") or 1
    if frames > 1:
        raise multi_frame(name, int(frames))


def _check_pixels(name: str, dataset: Any) -> None:
    """Judge Rows (0028,0010), Columns (0028,0011), Bits Allocated (0028,0100) and the data's length before decoding."""

    if "PixelData" not in dataset:
        raise FilmError("film.no-pixels", f"{name} is DICOM without an image.", "Choose the image file of the study.")
    rows, columns, stored = int(dataset.Rows), int(dataset.Columns), len(dataset.PixelData)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.BitsAllocated)
    check_size(name, rows, columns, stored, samples)
    if samples not in (1, 3) or bits not in (8, 16) or "PALETTE" in _text(dataset, "PhotometricInterpretation"):
        raise FilmError(
            "film.pixel-format",
            f"{name} has {samples} x {bits} bits per pixel or a colour palette.",
            "Export the film as a grey image of 8 to 16 bits.",
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in SYNTAXES:
        raise FilmError(
            "film.compression",
            f"{name} is compressed in a way that cannot be read.",
            "Export it uncompressed, or as RLE, JPEG, JPEG-LS or JPEG 2000.",
        )
    if syntax.is_compressed:
        _check_codestream(name, dataset, (rows, columns, samples))
    elif stored < rows * columns * samples * bits // 8:
        raise FilmError("film.truncated", f"{name} ends before its image does.", "Copy or export the file again.")


def _check_codestream(name: str, dataset: Any, expected: tuple[int, int, int]) -> None:
    """The compressed image must have the size of the header. RLE (1.2.840.10008.1.2.5) states none."""
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        return
    if codestream_size(get_frame(dataset.PixelData, 0, number_of_frames=1)) != expected:
        raise FilmError(
            "film.damaged", f"{name}: the compressed image and its header disagree.", "Export the file again."
        )


def _decoded(name: str, dataset: Any, warnings: list[str]) -> np.ndarray:
    """(rows, columns) stored values; three channels become their mean. Missing attributes get their usual value."""
    from pydicom.pixels import get_decoder, pixel_array

    usual = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0}
    for keyword, value in (usual | {"BitsStored": dataset.BitsAllocated}).items():
        if dataset.get(keyword) is None:
            setattr(dataset, keyword, value)
    unused = _unused_low_bits(dataset)
    dataset.BitsStored += unused
    here = get_decoder(dataset.file_meta.TransferSyntaxUID).is_available
    pixels = (pixel_array(dataset) if here else _by_itk(name, dataset)) >> unused
    dataset.BitsStored -= unused
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        chroma = (pixels.max(-1) - pixels.min(-1)) > COLOURED * (2 ** (8 * pixels.itemsize - 8))
        warnings += colour_warning(name, float(chroma.mean()))
        pixels = pixels.mean(-1, dtype=np.float32)
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise FilmError("film.damaged", f"{name} holds another image size than it says.", "Export the file again.")
    return pixels


def _by_itk(name: str, dataset: Any) -> np.ndarray:
    """(rows, columns) or (rows, columns, 3) stored values, decoded by SimpleITK where pydicom has no decoder."""
    import SimpleITK as sitk

    stored = copy.copy(dataset)
    for keyword in ("RescaleSlope", "RescaleIntercept"):  # it would apply them
        if keyword in stored:
            delattr(stored, keyword)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        stored.save_as(path)
        reader.SetFileName(str(path))
        try:
            return sitk.GetArrayFromImage(reader.Execute())[0]
        except RuntimeError as error:
            raise FilmError(
                "film.no-decoder",
                f"{name} is compressed, and no decoder for it is installed.",
                "Install the Python packages pylibjpeg, pylibjpeg-libjpeg, pylibjpeg-openjpeg and pyjpegls (in 3D "
                "Slicer by slicer.util.pip_install), or export the film uncompressed.",
            ) from error


def _unused_low_bits(dataset: Any) -> int:
    """By how much old, uncompressed files shift their values up: High Bit (0028,0102) above Bits Stored - 1."""
    high = int(dataset.get("HighBit") or 0)
    if dataset.file_meta.TransferSyntaxUID.is_compressed or not dataset.BitsStored <= high < dataset.BitsAllocated:
        return 0
    return high + 1 - int(dataset.BitsStored)


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Where there is no film: Pixel Padding Value (0028,0120), up to Pixel Padding Range Limit (0028,0121)."""
    value = _number(dataset, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _attenuation(
    dataset: Any, stored: np.ndarray, photometric: str, warnings: list[str]
) -> tuple[np.ndarray, bool | None]:
    """Values for display, and whether they must be inverted for bone to be white.

    Pixel Intensity Relationship (0028,1040) and its Sign (0028,1041): +1 means that higher stored values saw more
    X-rays, -1 fewer. Photometric Interpretation (0028,0004): MONOCHROME1 shows low values white.
    """
    sign = _number(dataset, "PixelIntensityRelationshipSign")
    raw = _text(dataset, "PresentationIntentType") == "FOR PROCESSING"  # (0008,0068)
    if raw and _text(dataset, "PixelIntensityRelationship") == "LIN" and sign in (1.0, -1.0):
        return _minus_log(dataset, stored, sign), False
    shown = _voi(dataset, _modality(dataset, stored), warnings)
    by_photometric = {"MONOCHROME1": True, "MONOCHROME2": False}.get(photometric)
    if sign not in (1.0, -1.0):
        return shown, by_photometric
    by_sign = (sign > 0) == _rises(stored, shown)
    if by_photometric is not None and by_sign != by_photometric:
        warnings.append("Photometric Interpretation and Pixel Intensity Relationship Sign disagree; the image decided.")
        return shown, None
    return shown, by_sign


def _rises(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether `after` grows with `before`."""
    step = max(1, before.size // 100_000)
    x, y = (a.ravel()[::step].astype(np.float64) for a in (before, after))
    return float(np.mean((x - x.mean()) * (y - y.mean()))) >= 0


def _minus_log(dataset: Any, stored: np.ndarray, sign: float) -> np.ndarray:
    """Attenuation of stored values that are linear in X-ray intensity I, rising or falling: -log(I / I_max)."""
    bits = int(dataset.BitsStored)
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    intensity = np.float32(sign) * (
        stored.astype(np.float32) - np.float32(lowest if sign > 0 else lowest + 2**bits - 1)
    )
    return -np.log(np.maximum(intensity, 0.5) / max(float(intensity.max()), 0.5))


def _modality(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Modality LUT Sequence (0028,3000), else Rescale Slope (0028,1053) and Intercept (0028,1052); float32."""
    if dataset.get("ModalityLUTSequence"):
        return _lookup(dataset, stored, dataset.ModalityLUTSequence[0])
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    return stored.astype(np.float32) * np.float32(slope or 1.0) + np.float32(intercept or 0.0)


def _voi(dataset: Any, values: np.ndarray, warnings: list[str]) -> np.ndarray:
    """VOI LUT Sequence (0028,3010), else Window Center (0028,1050) and Width (0028,1051), unless no image is left."""
    if dataset.get("VOILUTSequence"):
        shown = _lookup(dataset, values, dataset.VOILUTSequence[0])
    else:
        center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
        if center is None or width is None or width <= 0:
            return values
        shown = windowed(values, center, width, _text(dataset, "VOILUTFunction"))
    if np.ptp(np.percentile(shown, (5, 95))) > 0:
        return shown
    warnings.append("The film's own brightness window leaves no image and was ignored.")
    return values


def windowed(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """VOI LUT Function (0028,1056), onto [0, 1] (PS3.3 C.11.2.1.2.1 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -80.0, 80.0)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, max(width - 1.0, 1e-6)
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def _lookup(dataset: Any, values: np.ndarray, item: Any) -> np.ndarray:
    """LUT Descriptor (0028,3002) = entries, first mapped value, bits; LUT Data (0028,3006). PS3.3 C.11.1.1."""
    entries, first, _ = (int(v) for v in item.LUTDescriptor)
    table = item.LUTData
    if isinstance(table, bytes):
        little = dataset.original_encoding[1] is not False
        table = np.frombuffer(table, np.uint8 if len(table) <= (entries or 65536) else "<u2" if little else ">u2")
    table = np.asarray(table, dtype=np.float32)[: entries or 65536]
    index = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int32)
    return table[index]


def _spacing(dataset: Any, warnings: list[str]) -> tuple[float, float] | None:
    """Row and column spacing at the detector.

    Imager Pixel Spacing (0018,1164), else Nominal Scanned Pixel Spacing (0018,2010), else Pixel Spacing (0028,0030).
    This may have been scaled to the patient (Pixel Spacing Calibration Type (0028,0A02) GEOMETRY), which Estimated
    Radiographic Magnification Factor (0018,1114) undoes.
    """
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if pair := _pair(dataset, keyword):
            return pair
    pair = _pair(dataset, "PixelSpacing")
    if pair is None:
        return None
    magnification = _number(dataset, "EstimatedRadiographicMagnificationFactor")
    if _text(dataset, "PixelSpacingCalibrationType") == "GEOMETRY" and magnification and 1 <= magnification < 4:
        return pair[0] * magnification, pair[1] * magnification
    warnings.append("Only Pixel Spacing is given; it was taken as the spacing at the detector.")
    return pair


def _pair(dataset: Any, keyword: str) -> tuple[float, float] | None:
    """Two sensible spacings in millimetres, or None."""
    try:
        row, column = (float(v) for v in dataset.get(keyword))
    except (TypeError, ValueError):
        return None
    return (row, column) if 0.01 <= row <= 10 and 0.01 <= column <= 10 else None


def _distance(dataset: Any) -> float | None:
    """Distance Source to Detector (0018,1110) in millimetres."""
    distance = _number(dataset, "DistanceSourceToDetector")
    return distance if distance is not None and 500 <= distance <= 10_000 else None


def _orientation(dataset: Any) -> tuple[str, str] | None:
    """Where columns and rows go, one letter each: Patient Orientation (0020,0020) or Image Orientation (0020,0037)."""
    letters = tuple(v[:1] for v in _texts(dataset, "PatientOrientation"))
    if len(letters) != 2:
        cosines = dataset.get("ImageOrientationPatient")
        if not cosines or len(cosines) != 6:
            return None
        letters = tuple(_letter(np.array([float(c) for c in part])) for part in (cosines[:3], cosines[3:]))
    axes = [next((i for i, pair in enumerate(("LR", "AP", "HF")) if v in pair), -1) if v else -1 for v in letters]
    return (letters[0], letters[1]) if axes in ([0, 2], [1, 2], [2, 0], [2, 1]) else None


def _letter(cosine: np.ndarray) -> str:
    """The patient direction nearest to an LPS vector."""
    axis = int(np.argmax(np.abs(cosine)))
    return ("LPH" if cosine[axis] > 0 else "RAF")[axis]


def _view(dataset: Any, orientation: tuple[str, str] | None, warnings: list[str]) -> XrayView | None:
    """View Position (0018,5101), else View Code Sequence (0054,0220), else what the orientation allows."""
    position = _text(dataset, "ViewPosition")
    if _is_right_lateral(dataset):
        warnings.append("A right lateral film: it is used as a left one, mirrored so that the chest faces right.")
    if position in VIEWS:
        return VIEWS[position]
    if position:
        warnings.append("View Position names neither a frontal nor a lateral view.")
    codes = [_text(item, "CodeValue") for item in dataset.get("ViewCodeSequence") or ()]
    for code in codes:
        if code in VIEW_CODES:
            return VIEW_CODES[code]
    if orientation and set(orientation) & {"A", "P"}:
        return XrayView.LAT
    return None


def _is_right_lateral(dataset: Any) -> bool:
    return _text(dataset, "ViewPosition") in ("RL", "RLAT")


def _burned_in(dataset: Any) -> tuple[str, ...]:
    """Burned In Annotation (0028,0301)."""
    if _text(dataset, "BurnedInAnnotation") == "YES":
        return ("The film has burned-in annotation, which may identify the patient.",)
    return ()


def _uid(dataset: Any, keyword: str) -> str:
    """A UID, "" when absent or when it is something else, which might be a name."""
    uid = _text(dataset, keyword)
    return uid if len(uid) <= 64 and uid.replace(".", "").isdigit() else ""


def _source(dataset: Any) -> dict[str, Any]:
    """What may be told about the file: its kind, and UIDs for referencing."""
    uids = {
        "sop_class_uid": "SOPClassUID",
        "sop_instance_uid": "SOPInstanceUID",
        "series_instance_uid": "SeriesInstanceUID",
        "study_instance_uid": "StudyInstanceUID",
        "frame_of_reference_uid": "FrameOfReferenceUID",
    }
    facts: dict[str, Any] = {key: _uid(dataset, keyword) for key, keyword in uids.items()}
    facts |= {
        "format": "DICOM",
        "bits": int(dataset.get("BitsStored") or dataset.BitsAllocated),
        "modality": _text(dataset, "Modality"),
        "burned_in_annotation": bool(_burned_in(dataset)),
        "right_lateral": _is_right_lateral(dataset),
        "transfer_syntax_uid": str(dataset.file_meta.TransferSyntaxUID),
    }
    return facts

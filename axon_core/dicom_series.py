"""Reading a CT volume from a folder of DICOM slices.

Slices are sorted by where they lie, never by file name or instance number. Localizers, other modalities and unreadable
files are left out and counted; a folder with several series yields its largest axial one, and a doubt is refused with
advice. Duplicates, gaps and gantry tilt are repaired when that is safe, and told.

Sources: PS3.3 C.7.6.2 Image Plane, C.8.2.1 CT Image; tags beside the code.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from axon_core.errors import VolumeError
from axon_core.volume_readers import (
    FORMATS_ADVICE,
    LOWEST_HU,
    MAX_VOXELS,
    SYNTHETIC_MARK,
    RawVolume,
    damaged,
    provenance_entries,
)

PRIVATE_GROUP, PRIVATE_CREATOR = 0x0075, "AXON"  # element 01 of the block: the provenance as JSON

_MAX_FILES = 50_000
_MAX_EDGE = 4096  # pixels along a slice
_MAX_GAP_MM = 15.0  # a wider hole between two slices is not filled
_GROWTH = 4  # filling gaps may at most multiply the slices by this
_SAME_PLACE_MM = 0.01
_SIDEWAYS_MM = 1.0
_SAME_AXES = 0.002  # mm per pixel
_AXIAL = 0.8  # cosine between the slices' normal and the body axis
_HEADER = [
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImageType", "SeriesNumber", "SeriesDescription", "AcquisitionNumber", "TemporalPositionIdentifier", "Rows",
    "Columns", "NumberOfFrames", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SyntheticData",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Slice:
    path: Path
    series: str
    number: str  # SeriesNumber (0020,0011), for messages
    phase: tuple[str, str]  # AcquisitionNumber (0020,0012), TemporalPositionIdentifier (0020,0100)
    origin: np.ndarray  # ImagePositionPatient (0020,0032): LPS of the first pixel's centre
    axes: np.ndarray  # (3, 2) mm per column and per row: Image Orientation times Pixel Spacing
    rows: int
    columns: int
    source: dict[str, Any]

    @property
    def normal(self) -> np.ndarray:
        normal = np.cross(self.axes[:, 0], self.axes[:, 1])
        return normal / np.linalg.norm(normal)

    def above(self, other: _Slice) -> float:
        """Millimetres from the other slice to this one along the other's normal."""
        return float((self.origin - other.origin) @ other.normal)

    @property
    def is_axial(self) -> bool:
        return bool(abs(self.normal[2]) > _AXIAL)

    def stacks_with(self, other: _Slice) -> bool:
        """Whether both belong to one series and are equal in size, direction and pixel spacing."""
        same = (self.series, self.rows, self.columns) == (other.series, other.rows, other.columns)
        return same and bool(np.allclose(self.axes, other.axes, rtol=0.0, atol=_SAME_AXES))


def read_dicom(path: Path) -> RawVolume:
    """The CT series in a folder (and the folders below it), or the series of one DICOM file in the file's folder.

    Raises:
        VolumeError: no CT, several equally good series, phases that overlap, wide gaps, damaged or foreign data.
    """
    name = path.name
    left_out: Counter[str] = Counter()
    with _quiet():
        slices = list(_headers(path if path.is_dir() else path.parent, path.is_dir(), left_out))
        notes = [f"Left out: {what} ({count})." for what, count in sorted(left_out.items())]
        chosen = _series_of(path, slices, left_out) if path.is_file() else _largest(name, slices, left_out, notes)
        chosen = _one_per_position(name, sorted(chosen, key=lambda s: s.above(chosen[0])), notes)
        _check_stack(name, chosen)
        voxels = np.empty((len(chosen), chosen[0].rows, chosen[0].columns), np.float32)
        for index, one in enumerate(chosen):
            voxels[index] = _hounsfield(one)
        source = {"name": name, "format": "DICOM", **chosen[0].source, **_provenance(chosen[0])}
    voxels, affine = _evenly_spaced(name, voxels, chosen, notes)
    return RawVolume(voxels, affine, tuple(notes), source)


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom's remarks about a file may quote the patient; none of them is for our users."""
    import pydicom.config

    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


# --- headers ---------------------------------------------------------------------------------------------------------


def _headers(folder: Path, deep: bool, left_out: Counter[str]) -> Iterator[_Slice]:
    for file in _files(folder, deep):
        try:
            one = _header(file)
        except _Other as reason:
            left_out[str(reason)] += 1
            continue
        if one is not None:
            yield one


def _files(folder: Path, deep: bool) -> list[Path]:
    files: list[Path] = []
    for place, folders, names in os.walk(folder):
        files += [Path(place, n) for n in names if not n.startswith(".")]
        folders[:] = [f for f in folders if deep and not f.startswith(".")]
        if len(files) > _MAX_FILES:
            raise VolumeError(
                "dicom.too-many-files",
                f"{folder.name} holds more than {_MAX_FILES:,} files.",
                "Choose a smaller folder.",
            )
    return sorted(file for file in files if file.is_file())


class _Other(Exception):
    """A DICOM file that is no CT slice; the text says what it is, in the plural."""


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM: with the preamble (PS3.10 7.1), or bare with group 0002 or 0008."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    bare = start[:4] in (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x02\x00\x00\x00")
    return start[128:] == b"DICM" or (len(start) == 132 and bare)


def _header(path: Path) -> _Slice | None:
    """None if the file is not DICOM; _Other if it is DICOM but no usable CT slice."""
    import pydicom

    if not is_dicom(path):
        return None
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER, force=True)
        return _slice(path, {key: data.get(key) for key in _HEADER})
    except _Other:
        raise
    except Exception as error:  # pydicom raises almost anything on damaged files
        raise _Other("damaged DICOM files") from error


def _slice(path: Path, tags: dict[str, Any]) -> _Slice | None:
    if tags["SOPClassUID"] == "1.2.840.10008.1.3.10":  # DICOMDIR
        return None
    if tags["Modality"] != "CT":
        raise _Other("DICOM objects that are not CT")
    if int(tags["NumberOfFrames"] or 1) > 1:
        raise _Other("multi-frame CT objects")
    image_type = tags["ImageType"]
    kind = [image_type] if isinstance(image_type, str) else list(image_type or [])
    if "LOCALIZER" in kind:
        raise _Other("localizers")
    if any(tags[key] is None for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")):
        raise _Other("CT images without a position")
    origin = np.array(tags["ImagePositionPatient"], dtype=float)
    cosines = np.array(tags["ImageOrientationPatient"], dtype=float).reshape(2, 3)
    row_spacing, column_spacing = (float(v) for v in tags["PixelSpacing"])
    rows, columns = int(tags["Rows"]), int(tags["Columns"])
    upright = np.allclose(cosines @ cosines.T, np.eye(2), atol=0.01)
    if origin.shape != (3,) or not upright or not (0 < row_spacing < 100 and 0 < column_spacing < 100):
        raise _Other("CT images with an impossible position")
    if not np.isfinite(origin).all() or not (1 < rows <= _MAX_EDGE and 1 < columns <= _MAX_EDGE):
        raise _Other("CT images with an impossible size or position")
    source: dict[str, Any] = {
        "modality": "CT",
        "sop_class_uid": _uid(tags["SOPClassUID"]),
        "study_instance_uid": _uid(tags["StudyInstanceUID"]),
        "series_instance_uid": _uid(tags["SeriesInstanceUID"]),
        "frame_of_reference_uid": _uid(tags["FrameOfReferenceUID"]),
    }
    if tags["SyntheticData"] == "YES" or str(tags["SeriesDescription"] or "").startswith(SYNTHETIC_MARK):
        source["synthetic"] = True
    return _Slice(
        path=path,
        series=str(tags["SeriesInstanceUID"]),
        number=str(tags["SeriesNumber"] if isinstance(tags["SeriesNumber"], int) else "?"),
        phase=(str(tags["AcquisitionNumber"]), str(tags["TemporalPositionIdentifier"])),
        origin=origin,
        axes=cosines.T * [column_spacing, row_spacing],
        rows=rows,
        columns=columns,
        source={key: value for key, value in source.items() if value},
    )


def _uid(value: Any) -> str:
    return str(value) if re.fullmatch(r"[0-9.]{1,64}", str(value)) else ""


# --- which slices ----------------------------------------------------------------------------------------------------


def _series_of(path: Path, slices: list[_Slice], left_out: Counter[str]) -> list[_Slice]:
    """All slices that stack with the given file."""
    own = next((s for s in slices if s.path == path), None)
    if own is None:
        raise _no_ct(path.name, left_out)
    return [s for s in slices if s.stacks_with(own)]


def _largest(name: str, slices: list[_Slice], left_out: Counter[str], notes: list[str]) -> list[_Slice]:
    """The stack with most slices, axial ones first; refused if two are equally good."""
    stacks: list[list[_Slice]] = []
    for one in slices:
        own = next((stack for stack in stacks if one.stacks_with(stack[0])), None)
        if own is None:
            stacks.append([one])
        else:
            own.append(one)
    ranked = sorted(stacks, key=lambda stack: (stack[0].is_axial, len(stack)), reverse=True)
    if not ranked:
        raise _no_ct(name, left_out)
    best = ranked[0]
    if len(ranked) > 1 and (ranked[1][0].is_axial, len(ranked[1])) == (best[0].is_axial, len(best)):
        raise VolumeError(
            "dicom.several-series",
            f"{name} holds several CT series of {len(best)} slices, among them numbers {best[0].number} and "
            f"{ranked[1][0].number}.",
            "Choose one slice of the series you want, or give it a folder of its own.",
        )
    if len(ranked) > 1:
        notes.append(f"Took series {best[0].number} with {len(best)} slices, the largest of {len(ranked)} stacks.")
    return best


def _no_ct(name: str, left_out: Counter[str]) -> VolumeError:
    found = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
    if "multi-frame CT objects" in left_out:
        advice = "Multi-frame CT is not supported: convert it to single slices or NIfTI (for example with dcm2niix)."
    else:
        advice = FORMATS_ADVICE
    return VolumeError("dicom.no-ct", f"{name} holds no CT slices{f' (but {found})' if found else ''}.", advice)


def _one_per_position(name: str, ordered: list[_Slice], notes: list[str]) -> list[_Slice]:
    """Drop slices that repeat their neighbour; of several phases keep the largest."""
    kept, repeated = ordered[:1], 0
    for one in ordered[1:]:
        if one.above(kept[-1]) > _SAME_PLACE_MM:
            kept.append(one)
        elif np.array_equal(_hounsfield(one), _hounsfield(kept[-1])):
            repeated += 1
        else:
            return _largest_phase(name, ordered, notes)
    if repeated:
        notes.append(f"Left out: slices that repeat another one ({repeated}).")
    return kept


def _largest_phase(name: str, ordered: list[_Slice], notes: list[str]) -> list[_Slice]:
    phases = Counter(one.phase for one in ordered).most_common()
    if len(phases) < 2 or phases[0][1] == phases[1][1]:
        raise VolumeError(
            "dicom.overlap",
            f"{name}: several different slices lie at the same place (several phases or reconstructions?).",
            "Put the slices of one phase into a folder of their own.",
        )
    covered = _places([one for one in ordered if one.phase == phases[0][0]])
    if covered < 0.9 * _places(ordered):
        raise VolumeError(
            "dicom.overlap",
            f"{name}: several acquisitions follow each other and overlap; the largest covers only {covered} places.",
            "Put slices that do not overlap into a folder of their own.",
        )
    notes.append(f"The series holds {len(phases)} acquisitions; took the largest, with {phases[0][1]} slices.")
    return _one_per_position(name, [one for one in ordered if one.phase == phases[0][0]], notes)


def _places(ordered: list[_Slice]) -> int:
    """How many different places the slices lie at."""
    return 1 + sum(after.above(before) > _SAME_PLACE_MM for before, after in pairwise(ordered))


def _check_stack(name: str, chosen: list[_Slice]) -> None:
    if len(chosen) < 3:
        raise VolumeError(
            "dicom.too-few", f"{name} holds only {len(chosen)} slices of one CT series.", "Choose the whole series."
        )
    if len(chosen) * chosen[0].rows * chosen[0].columns > MAX_VOXELS:
        raise VolumeError("volume.too-large", f"{name} holds too many voxels.", "Crop or resample the series.")


# --- pixels ----------------------------------------------------------------------------------------------------------


def _hounsfield(one: _Slice) -> np.ndarray:
    """(rows, columns) float32: stored values times RescaleSlope (0028,1053) plus RescaleIntercept (0028,1052)."""
    import pydicom

    try:
        data = pydicom.dcmread(one.path, force=True)
        if data.get("SamplesPerPixel", 1) != 1 or (data.Rows, data.Columns) != (one.rows, one.columns):
            raise ValueError("not a grey image of the announced size")
        slope, intercept = float(data.get("RescaleSlope", 1) or 1), float(data.get("RescaleIntercept", 0) or 0)
        stored = _stored_values(data)
        if stored.shape != (one.rows, one.columns) or not np.isfinite([slope, intercept]).all():
            raise ValueError("not an image of the announced size")
        hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        padding = data.get("PixelPaddingValue")  # (0028,0120)
        if isinstance(padding, int):
            hu[(stored == padding) | (stored == padding - 65536)] = LOWEST_HU
        return hu
    except VolumeError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged files
        raise damaged(one.path.name, "the slice cannot be decoded") from error


def _stored_values(data: Any) -> np.ndarray:
    """(rows, columns) integers as stored; files without a meta header are uncompressed (PS3.5 10.1)."""
    syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
    if syntax is None:
        data.ensure_file_meta()
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" if data.is_implicit_VR else "1.2.840.10008.1.2.1"
    elif syntax.is_compressed and not _has_decoder(syntax):
        raise VolumeError(
            "dicom.compression",
            f"The slices are compressed ({syntax.name}), for which no decoder is installed.",
            'Install one with: pip install "pylibjpeg[all]", or export the series uncompressed.',
        )
    return np.asarray(data.pixel_array)


def _has_decoder(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _provenance(one: _Slice) -> dict[str, Any]:
    """What `dicom_write` kept in the private element of a synthetic slice."""
    import pydicom

    if not one.source.get("synthetic"):
        return {}
    try:
        block = pydicom.dcmread(one.path, stop_before_pixels=True, force=True).private_block(
            PRIVATE_GROUP, PRIVATE_CREATOR
        )
        return provenance_entries(str(block[0x01].value))
    except Exception:  # no such block, or damaged: the volume is usable without
        return {}


# --- spacing ---------------------------------------------------------------------------------------------------------


def _evenly_spaced(
    name: str, voxels: np.ndarray, chosen: list[_Slice], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels at even steps along the slices' normal, and their affine (sheared if the gantry was tilted)."""
    along = np.array([one.above(chosen[0]) for one in chosen])
    origins = np.array([one.origin for one in chosen])
    drift = (origins[-1] - origins[0]) / along[-1]  # mm of movement per mm along the normal
    sideways = np.abs(origins - origins[0] - np.outer(along, drift)).max()
    if sideways > _SIDEWAYS_MM:
        raise VolumeError(
            "dicom.not-a-stack", f"{name}: the slices do not lie on one straight line.", "Choose another series."
        )
    step = along[-1] / (len(chosen) - 1)
    if np.abs(along - step * np.arange(len(chosen))).max() > 0.1 * step:
        voxels, step = _filled(name, voxels, along, notes)
    affine = np.eye(4)
    affine[:3, :2] = chosen[0].axes
    affine[:3, 2] = drift * step
    affine[:3, 3] = origins[0]
    return voxels, affine


def _filled(name: str, voxels: np.ndarray, along: np.ndarray, notes: list[str]) -> tuple[np.ndarray, float]:
    """Interpolate unevenly spaced slices linearly onto even steps of the usual width."""
    widest, usual = float(np.diff(along).max()), float(np.median(np.diff(along)))
    length = float(along[-1])
    count = round(length / usual) + 1
    if widest > _MAX_GAP_MM or count > _GROWTH * len(along) or count * voxels[0].size > MAX_VOXELS:
        raise VolumeError(
            "dicom.gap",
            f"{name}: there is a gap of {widest:.1f} mm between slices that usually lie {usual:.2f} mm apart.",
            "Slices are missing: export the whole series again.",
        )
    places = np.interp(np.linspace(0.0, length, count), along, np.arange(len(along)))
    below = np.minimum(places.astype(int), len(along) - 2)
    filled = np.empty((count, *voxels.shape[1:]), np.float32)
    for index, (first, weight) in enumerate(zip(below, places - below, strict=True)):
        filled[index] = voxels[first] * np.float32(1 - weight) + voxels[first + 1] * np.float32(weight)
    notes.append(
        f"The slices are unevenly spaced (gaps up to {widest:.1f} mm, usually {usual:.2f} mm); filled in between."
    )
    return filled, length / (count - 1)

"""Reading NIfTI, NRRD and MetaImage (MHA/MHD) volumes without trusting them.

The headers are parsed here, and checked against the limits below and the size of the file, before a voxel is read:
a damaged file must end in one line of text, not in a crashed library or gigabytes of memory.

Sources: NIfTI-1 (nifti1.h, 2007) and NIfTI-2 headers; the NRRD0005 file format (teem); the MetaIO documentation (ITK).
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from axon_core.errors import VolumeError

MAX_VOXELS = 1_500_000_000
FORMATS_ADVICE = (
    "AXON reads CT volumes from a folder of DICOM slices, NIfTI (.nii, .nii.gz), NRRD (.nrrd) and MHA (.mha)."
)
SYNTHETIC_MARK = "SYNTHETIC"
LOWEST_HU = -1024.0  # scanners pad outside the field of view with less; nothing is thinner than vacuum

_DAMAGED = "The file is damaged or incomplete: copy or export it again."
_CHUNK = 1 << 24
_MAX_HEADER = 1 << 20
_DEFLATE_LIMIT = 1040  # deflate never packs more than about 1032 bytes into one


@dataclass(frozen=True, eq=False)
class RawVolume:
    """What a file says, before anything is judged.

    Attributes:
        voxels: (z, y, x), the file's values after its own rescaling.
        affine: (4, 4) float64: index (x, y, z, 1) -> LPS millimetres. May be sheared.
        notes: what the reader decided.
        source: name, format and, where the file holds them, provenance and the synthetic mark.
    """

    voxels: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)


def check_shape(name: str, sizes: list[int]) -> tuple[int, int, int]:
    """(x, y, z) sizes of one volume out of a header's list of sizes; VolumeError for 2D, 4D and absurd ones."""
    if any(n < 1 for n in sizes):
        raise VolumeError("volume.header", f"{name}: the header gives an impossible size {sizes[:7]}.", _DAMAGED)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if len(sizes) > 3:
        raise VolumeError(
            "volume.four-d",
            f"{name} holds {len(sizes)}-dimensional data of size {'x'.join(map(str, sizes))}.",
            "Save one time point or channel as a volume of its own.",
        )
    if len(sizes) < 3 or min(sizes) < 2:
        raise VolumeError(
            "volume.two-d", f"{name} is a single image, not a volume.", "Choose a CT with several slices."
        )
    x, y, z = sizes
    if x * y * z > MAX_VOXELS:
        raise VolumeError(
            "volume.too-large",
            f"{name}: {x} x {y} x {z} voxels are more than the limit of {MAX_VOXELS:,}.",
            "Crop or resample the volume, or check whether the file is damaged.",
        )
    return x, y, z


def damaged(name: str, why: str) -> VolumeError:
    """A VolumeError for a file whose content contradicts itself."""
    return VolumeError("volume.damaged", f"{name}: {why}.", _DAMAGED)


def read_volume_file(path: Path) -> RawVolume:
    """Read one NIfTI, NRRD or MetaImage file; the content decides, not the name's ending.

    Raises:
        VolumeError: unknown format, damaged, not one 3D volume of numbers, or too large.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(1024)
            if start[:2] == b"\x1f\x8b":
                with gzip.open(path) as unpacked:
                    start = unpacked.read(1024)
            stream.seek(0)
            if _nifti_layout(start) is not None:
                return _read_nifti(path)
            if start.startswith(b"NRRD"):
                return _read_nrrd(path, stream)
            if b"=" in start and any(key in start for key in (b"ObjectType", b"NDims", b"DimSize")):
                return _read_meta(path, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path.name, "the compressed data end early or are broken") from error
    except OSError as error:
        raise VolumeError(
            "volume.unreadable",
            f"{path.name} cannot be read: {error.strerror or 'damaged data'}.",
            "Check that the file exists and that you may read it.",
        ) from error
    raise VolumeError("volume.format", f"{path.name} is not a volume that AXON knows.", FORMATS_ADVICE)


# --- bytes -> voxels -------------------------------------------------------------------------------------------------


def _read_exactly(stream: BinaryIO | io.BufferedIOBase, count: int, name: str) -> bytearray:
    """`count` bytes, in pieces, so that memory follows the data and not the header's promise."""
    data = bytearray()
    while len(data) < count:
        piece = stream.read(min(_CHUNK, count - len(data)))
        if not piece:
            raise damaged(name, f"the voxels end after {len(data):,} of {count:,} bytes")
        data += piece
    return data


def _voxels(
    stream: Any, name: str, shape_xyz: tuple[int, int, int], dtype: np.dtype, disk_bytes: int, packing: int
) -> np.ndarray:
    """Read voxels as [z, y, x]; `packing` is the most bytes that one byte on disk can hold (1 = not compressed)."""
    x, y, z = shape_xyz
    count = x * y * z * dtype.itemsize
    if count > disk_bytes * packing:
        raise damaged(name, f"the header promises {x} x {y} x {z} voxels, more than the file can hold")
    return np.frombuffer(_read_exactly(stream, count, name), dtype).reshape(z, y, x)


def _numbers(text: str, count: int, name: str, key: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.replace("(", " ").replace(")", " ").replace(",", " ").split()])
    except ValueError as error:
        raise damaged(name, f"the header's {key!r} is not made of numbers") from error
    if values.size != count or not np.isfinite(values).all():
        raise damaged(name, f"the header's {key!r} does not hold {count} finite numbers")
    return values


def _whole_numbers(text: str, name: str, key: str) -> list[int]:
    try:
        return [int(word) for word in text.split()[:16]]
    except ValueError as error:
        raise damaged(name, f"the header's {key!r} is not made of whole numbers") from error


def _affine(columns: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return affine


def provenance_entries(text: str | None) -> dict[str, Any]:
    """A header's provenance (JSON) as entries of `RawVolume.source`."""
    import json

    if not text:
        return {}
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(provenance, dict):
        return {}
    return {"provenance": provenance, "synthetic": True}


# --- NIfTI -----------------------------------------------------------------------------------------------------------

_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def _nifti_dtype(version: int, order: Any) -> np.dtype:
    """The fields that matter, at their byte offsets (nifti1.h, nifti2.h)."""
    if version == 1:
        fields: dict[str, tuple[str, int]] = {
            "dim": ("8i2", 40), "datatype": ("i2", 70), "pixdim": ("8f4", 76), "vox_offset": ("f4", 108),
            "slope": ("f4", 112), "inter": ("f4", 116), "units": ("u1", 123), "descrip": ("S80", 148),
            "qform": ("i2", 252), "sform": ("i2", 254), "quatern": ("3f4", 256), "qoffset": ("3f4", 268),
            "srow": ("(3,4)f4", 280),
        }  # fmt: skip
    else:
        fields = {
            "datatype": ("i2", 12), "dim": ("8i8", 16), "pixdim": ("8f8", 104), "vox_offset": ("i8", 168),
            "slope": ("f8", 176), "inter": ("f8", 184), "descrip": ("S80", 240), "qform": ("i4", 344),
            "sform": ("i4", 348), "quatern": ("3f8", 352), "qoffset": ("3f8", 376), "srow": ("(3,4)f8", 400),
            "units": ("i4", 500),
        }  # fmt: skip
    layout: Any = {
        "names": list(fields),
        "formats": [np.dtype(kind).newbyteorder(order) for kind, _ in fields.values()],
        "offsets": [offset for _, offset in fields.values()],
        "itemsize": 348 if version == 1 else 540,
    }
    return np.dtype(layout)


def _nifti_layout(start: bytes) -> tuple[int, Any] | None:
    """(version, byte order) of a single-file NIfTI header, else None."""
    for version, size, magic_at, magic in ((1, 348, 344, b"n+1"), (2, 540, 4, b"n+2")):
        if len(start) >= size and start[magic_at : magic_at + 3] == magic:
            for order, name in (("<", "little"), (">", "big")):
                if int.from_bytes(start[:4], name) == size:  # type: ignore[arg-type]
                    return version, order
    return None


def _read_nifti(path: Path) -> RawVolume:
    name = path.name
    with open(path, "rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open(path) if packed else open(path, "rb")  # noqa: SIM115 (closed by the next line)
    with opened as stream:
        start = stream.read(540)
        found = _nifti_layout(start)
        if found is None:
            raise damaged(name, "the header is incomplete")
        version, order = found
        layout = _nifti_dtype(version, order)
        header = np.frombuffer(start[: layout.itemsize], layout)[0]
        shape = check_shape(name, [int(n) for n in header["dim"][1 : 1 + min(max(int(header["dim"][0]), 0), 7)]])
        kind = _NIFTI_TYPES.get(int(header["datatype"]))
        if kind is None:
            raise _no_numbers(name)
        offset = float(header["vox_offset"])
        if not layout.itemsize <= offset <= _MAX_HEADER * 16:
            raise damaged(name, "the header does not say where the voxels begin")
        _read_exactly(stream, int(offset) - len(start), name) if offset > len(start) else stream.seek(int(offset))
        dtype = np.dtype(kind).newbyteorder(order)
        voxels = _voxels(stream, name, shape, dtype, os.path.getsize(path), _DEFLATE_LIMIT if packed else 1)
    slope, inter = float(header["slope"]), float(header["inter"])
    if slope != 0.0 and (slope, inter) != (1.0, 0.0):
        if not np.isfinite([slope, inter]).all():
            raise damaged(name, "the header's scaling is not finite")
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(inter)
    affine, notes = _nifti_affine(name, header)
    source: dict[str, Any] = {"name": name, "format": "NIfTI"}
    if bytes(header["descrip"]).startswith(SYNTHETIC_MARK.encode()):
        source["synthetic"] = True
    return RawVolume(voxels, affine, notes, source)


def _nifti_affine(name: str, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """sform, else qform, else the voxel size alone (NIfTI methods 3, 2, 1), turned from RAS to LPS."""
    millimetre = _NIFTI_UNITS_MM.get(int(header["units"]) & 7, 1.0)
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=float))
    notes: tuple[str, ...] = ()
    if header["sform"] > 0:
        ras = np.vstack([np.asarray(header["srow"], dtype=float), [0, 0, 0, 1]])
    elif header["qform"] > 0:
        qfac = -1.0 if header["pixdim"][0] < 0 else 1.0
        columns = _rotation(np.asarray(header["quatern"], dtype=float)) * (sizes * [1.0, 1.0, qfac])
        ras = _affine(columns, np.asarray(header["qoffset"], dtype=float))
    else:
        ras = np.diag([*sizes, 1.0])
        notes = ("The file does not say how the patient lies; the axes are taken as right, anterior, superior.",)
    if not np.isfinite(ras).all():
        raise damaged(name, "the header's position is not finite")
    ras[:3] *= millimetre
    if millimetre != 1.0:
        notes += ("Lengths converted to millimetres.",)
    return _RAS_TO_LPS @ ras, notes


def _rotation(bcd: np.ndarray) -> np.ndarray:
    """Rotation matrix of the unit quaternion (a, b, c, d) with a = sqrt(1 - b² - c² - d²) (nifti1.h, method 2)."""
    b, c, d = bcd
    a = np.sqrt(max(0.0, 1.0 - float(bcd @ bcd)))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _no_numbers(name: str) -> VolumeError:
    return VolumeError(
        "volume.voxel-type", f"{name} holds colours, complex numbers or bits, not one number per voxel.", FORMATS_ADVICE
    )


# --- NRRD ------------------------------------------------------------------------------------------------------------

_NRRD_TYPES = {
    kind: code
    for code, kinds in {
        "i1": "signed char|int8|int8_t",
        "u1": "uchar|unsigned char|uint8|uint8_t",
        "i2": "short|short int|signed short|signed short int|int16|int16_t",
        "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
        "i4": "int|signed int|int32|int32_t",
        "u4": "uint|unsigned int|uint32|uint32_t",
        "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
        "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for kind in kinds.split("|")
}
_NRRD_SPACES = {
    "left-posterior-superior": (1, 1), "lps": (1, 1),
    "right-anterior-superior": (-1, -1), "ras": (-1, -1),
    "left-anterior-superior": (1, -1), "las": (1, -1),
}  # fmt: skip
_NRRD_PACKINGS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "raw": (lambda stream: stream, 1),
    "gzip": (lambda stream: gzip.GzipFile(fileobj=stream), _DEFLATE_LIMIT),
    "gz": (lambda stream: gzip.GzipFile(fileobj=stream), _DEFLATE_LIMIT),
    "bzip2": (bz2.BZ2File, 1 << 20),
    "bz2": (bz2.BZ2File, 1 << 20),
}


def _header_lines(stream: BinaryIO, name: str, last: Callable[[str], bool]) -> list[str]:
    """Text lines up to and including the one for which `last` holds."""
    lines: list[str] = []
    while stream.tell() < _MAX_HEADER:
        line = stream.readline(_MAX_HEADER)
        if not line.endswith(b"\n"):
            break
        lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
        if last(lines[-1]):
            return lines
    raise damaged(name, "the header has no end")


def _data_beside(path: Path, data_file: str) -> Path:
    """A detached header may only name a file that lies beside it."""
    if Path(data_file).name != data_file or not (path.parent / data_file).is_file():
        raise VolumeError(
            "volume.detached",
            f"{path.name} is only a header; the voxels' file is missing or lies in another folder.",
            "Put the header and its data file into one folder, or save the volume as one file.",
        )
    return path.parent / data_file


def _read_nrrd(path: Path, stream: BinaryIO) -> RawVolume:
    name = path.name
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in _header_lines(stream, name, lambda text: text == "")[1:-1]:
        if line.startswith("#"):
            continue
        key, equals, value = line.partition(":=")
        if equals:
            keys[key] = re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)
        else:
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    shape = check_shape(name, _whole_numbers(fields.get("sizes", ""), name, "sizes"))
    kind = _NRRD_TYPES.get(fields.get("type", "").lower())
    if kind is None:
        raise _no_numbers(name)
    packing = _NRRD_PACKINGS.get(fields.get("encoding", "").lower())
    if packing is None:
        raise VolumeError("volume.format", f"{name}: unknown NRRD encoding.", "Save it with raw or gzip encoding.")
    affine, notes = _nrrd_affine(name, fields)
    data_file = fields.get("data file") or fields.get("datafile")
    if data_file:
        path = _data_beside(path, data_file)
        stream = open(path, "rb")  # noqa: SIM115 (closed below)
    with stream:
        for _ in range(_skip(fields, "line skip", "lineskip", name)):
            stream.readline(_MAX_HEADER)
        unpacked = packing[0](stream)
        _read_exactly(unpacked, _skip(fields, "byte skip", "byteskip", name), name)
        dtype = np.dtype(kind).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
        voxels = _voxels(unpacked, name, shape, dtype, os.path.getsize(path), packing[1])
    return RawVolume(voxels, affine, notes, {"name": name, "format": "NRRD", **provenance_entries(keys.get("axon"))})


def _skip(fields: dict[str, str], key: str, alias: str, name: str) -> int:
    count = (_whole_numbers(fields.get(key, fields.get(alias, "0")), name, key) or [0])[0]
    if not 0 <= count <= _MAX_HEADER:
        raise damaged(name, f"the header's {key!r} is out of range")
    return count


def _nrrd_affine(name: str, fields: dict[str, str]) -> tuple[np.ndarray, tuple[str, ...]]:
    signs = _NRRD_SPACES.get(fields.get("space", "").lower())
    unknown = "The file does not say how the patient lies; the axes are taken as left, posterior, superior."
    notes: tuple[str, ...] = () if signs else (unknown,)
    lps = np.array([*(signs or (1, 1)), 1.0])[:, None]
    units = set(fields.get("space units", "").replace('"', " ").lower().split())
    if units - {"mm", "millimeter", "millimeters", "millimetre"}:
        raise VolumeError("volume.units", f"{name} measures in {sorted(units)}.", "Save the volume in millimetres.")
    if "space directions" in fields:
        columns = _numbers(fields["space directions"].replace("none", " "), 9, name, "space directions").reshape(3, 3).T
    else:
        columns = np.diag(_numbers(fields.get("spacings", "1 1 1"), 3, name, "spacings"))
    origin = _numbers(fields.get("space origin", "0 0 0"), 3, name, "space origin")
    return _affine(lps * columns, lps[:, 0] * origin), notes


# --- MetaImage -------------------------------------------------------------------------------------------------------

_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def _read_meta(path: Path, stream: BinaryIO) -> RawVolume:
    name = path.name
    fields: dict[str, str] = {}
    for line in _header_lines(stream, name, lambda text: text.partition("=")[0].strip() == "ElementDataFile"):
        key, _, value = line.partition("=")
        fields[key.strip()] = value.strip()
    shape = check_shape(name, _whole_numbers(fields.get("DimSize", ""), name, "DimSize"))
    kind = _META_TYPES.get(fields.get("ElementType", ""))
    if kind is None or fields.get("ElementNumberOfChannels", "1") != "1":
        raise _no_numbers(name)
    if not _is_true(fields.get("BinaryData", "True")):
        raise VolumeError("volume.format", f"{name} stores its voxels as text.", "Save it with binary data.")
    affine = _meta_affine(name, fields)
    if fields["ElementDataFile"].upper() != "LOCAL":
        path = _data_beside(path, fields["ElementDataFile"])
        stream = open(path, "rb")  # noqa: SIM115 (closed below)
    packed = _is_true(fields.get("CompressedData", "False"))
    big = _is_true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    with stream:
        _skip_meta_header(stream, fields, shape, np.dtype(kind).itemsize, name)
        unpacked = _Inflated(stream) if packed else stream
        dtype = np.dtype(kind).newbyteorder(">" if big else "<")
        voxels = _voxels(unpacked, name, shape, dtype, os.path.getsize(path), _DEFLATE_LIMIT if packed else 1)
    return RawVolume(
        voxels, affine, (), {"name": name, "format": "MetaImage", **provenance_entries(fields.get("axon"))}
    )


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")


def _skip_meta_header(stream: BinaryIO, fields: dict[str, str], shape: tuple[int, ...], item: int, name: str) -> None:
    """HeaderSize: bytes to skip in the data file; -1 means that the voxels are its last bytes."""
    skip = (_whole_numbers(fields.get("HeaderSize", "0"), name, "HeaderSize") or [0])[0]
    if skip == -1:
        count = int(np.prod([int(n) for n in shape], dtype=np.int64)) * item
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - count))
    elif 0 <= skip <= _MAX_HEADER:
        _read_exactly(stream, skip, name)
    else:
        raise damaged(name, "the header's 'HeaderSize' is out of range")


def _meta_affine(name: str, fields: dict[str, str]) -> np.ndarray:
    """MetaIO keeps one line of TransformMatrix per image axis, in LPS."""

    def numbers(keys: tuple[str, ...], default: str, count: int) -> np.ndarray:
        key = next((k for k in keys if k in fields), keys[0])
        return _numbers(" ".join(fields.get(key, default).split()), count, name, key)

    directions = numbers(("TransformMatrix", "Rotation", "Orientation"), "1 0 0 0 1 0 0 0 1", 9).reshape(3, 3).T
    spacing = numbers(("ElementSpacing", "ElementSize"), "1 1 1", 3)
    return _affine(directions * spacing, numbers(("Offset", "Position", "Origin"), "0 0 0", 3))


class _Inflated:
    """Reads a zlib (or gzip) stream piece by piece, never more than asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj(wbits=47)

    def read(self, count: int) -> bytes:
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(1 << 16)
            if not packed:
                return b""
            data = self._inflater.decompress(packed, count)
            if data:
                return data
        return b""

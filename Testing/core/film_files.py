"""Films made on the fly: drawn chests and DICOM files around them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np


def frontal(rows: int = 180, columns: int = 200) -> np.ndarray:
    """A drawn frontal chest, uint8, bone bright: body, two lungs (the patient's left one smaller), spine, liver."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    film = 60.0 + 90.0 * ((x / 0.98) ** 4 + ((y - 0.5) / 1.45) ** 4 < 1)
    for cx, width in ((-0.42, 0.28), (0.45, 0.24)):
        film -= 80.0 * (((x - cx) / width) ** 2 + ((y + 0.15) / 0.55) ** 2 < 1)
    film += 60.0 * (np.abs(x) < 0.1) + 20.0 * (((x - 0.2) / 0.25) ** 2 + ((y - 0.25) / 0.25) ** 2 < 1)
    film += np.random.default_rng(0).normal(0, 3, film.shape)
    return np.clip(film, 5, 250).astype(np.uint8)


def lateral(rows: int = 200, columns: int = 180) -> np.ndarray:
    """A drawn lateral chest, uint8, bone bright, the front on the right: body, lung, heart, spine, recess behind."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    film = 10.0 + 120.0 * ((np.abs(x) / (0.75 + 0.1 * y)) ** 4 < 1)
    lung = (((x + 0.05) / 0.55) ** 2 + ((y + 0.05) / 0.7) ** 2 < 1) & (y < 0.55 - 0.5 * (x + 0.2))
    film -= 70.0 * lung
    film += 50.0 * (((x - 0.3) / 0.25) ** 2 + ((y - 0.2) / 0.25) ** 2 < 1) + 40.0 * (np.abs(x + 0.6) < 0.1)
    film += 60.0 * (y > 0.65) * (np.abs(x) < 0.7) + 50.0 * ((y < -0.7) & (np.abs(x) < 0.6))
    film += np.random.default_rng(1).normal(0, 3, film.shape)
    return np.clip(film, 5, 250).astype(np.uint8)


def dataset(pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", **attributes: Any) -> Any:
    """A DX data set around uint8, uint16 or int16 pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
    made.Modality, made.PhotometricInterpretation, made.SamplesPerPixel = "DX", "MONOCHROME2", 1
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated = made.BitsStored = 8 * pixels.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def dicom(pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", **attributes: Any) -> bytes:
    """The file of such a data set."""
    return written(dataset(pixels, syntax, **attributes))


def written(made: Any) -> bytes:
    """A data set as a file with preamble and meta header."""
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(pixels: np.ndarray, syntax: str) -> bytes:
    """The same, RLE, JPEG-LS or JPEG 2000."""
    plugin = {"5": "pydicom", "80": "pyjpegls", "90": "pylibjpeg"}[syntax.rsplit(".", 1)[1]]
    made = dataset(pixels)
    made.compress(syntax, encoding_plugin=plugin)
    return written(made)


def encapsulated(pixels: np.ndarray, syntax: str, codestream: bytes) -> bytes:
    """A file around a codestream made elsewhere."""
    from pydicom.encaps import encapsulate

    made = dataset(pixels, syntax, PixelData=encapsulate([codestream]))
    made["PixelData"].is_undefined_length = True
    return written(made)


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of (rows, columns, 1 or 3) uint16, which Pillow cannot write in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows, columns, channels = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, 16, 0 if channels == 1 else 2, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff16(pixels: np.ndarray) -> bytes:
    """An uncompressed TIFF of (rows, columns, 1 or 3) uint16."""
    rows, columns, channels = pixels.shape
    data, bits_at = pixels.astype("<u2").tobytes(), 8 + 2 + 9 * 12 + 4
    start = bits_at + 2 * channels
    entries = [
        (256, 4, 1, columns),
        (257, 4, 1, rows),
        (258, 3, channels, 16 if channels == 1 else bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (273, 4, 1, start),
        (277, 3, 1, channels),
        (278, 4, 1, rows),
        (279, 4, 1, len(data)),
    ]  # tag, type (3 = short, 4 = long), count, value or where it lies
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<H", 16) * channels + data


def jpeg_lossless(pixels: np.ndarray, folder: Any) -> bytes:
    """JPEG lossless, first order prediction (1.2.840.10008.1.2.4.70), coded by GDCM."""
    import pydicom
    import SimpleITK as sitk

    path = str(folder / "gdcm.dcm")
    writer = sitk.ImageFileWriter()
    writer.SetFileName(path)
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(pixels[None]))
    coded = pydicom.dcmread(path)
    made = dataset(pixels, str(coded.file_meta.TransferSyntaxUID), PixelData=coded.PixelData)
    made["PixelData"].is_undefined_length = True
    return written(made)

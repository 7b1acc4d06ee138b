"""Film files without DICOM tags: PNG, JPEG, TIFF through Pillow; NIfTI, NRRD, MHA through SimpleITK.

Every reader returns a `RawFilm`: what the file says, before anybody decides whether bone is bright. Sizes are checked
on the header, before a pixel is decoded, so that a small file cannot ask for gigabytes.
"""

from __future__ import annotations

import io
import warnings as python_warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from axon_core.errors import FilmError
from axon_core.geometry import XrayView

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
MIN_EDGE = 64
COLOURED = 24  # a pixel is coloured when its channels differ by more than this, of 255: above the noise of JPEG
LARGE = 16_000_000  # pixels; above this a film must weigh something
PIXELS_PER_BYTE = 100  # no compressed film comes near this; decompression bombs lie above it

ITK_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True)
class RawFilm:
    """One film as stored.

    Attributes:
        pixels: (rows, columns), any real type, after modality and VOI transforms where the format has them.
        invert: True = bright and dark must be exchanged for bone to be white; None = the file does not say.
        spacing_mm: (row, column) at the detector, or None.
        view: the patient's position, or None.
        sdd_mm: source to detector, or None.
        orientation: DICOM Patient Orientation (0020,0020): where columns and rows go, e.g. ("L", "F"), or None.
        source: non-identifying facts about the file.
        warnings: what a reader should know.
    """

    pixels: np.ndarray
    invert: bool | None = None
    spacing_mm: tuple[float, float] | None = None
    view: XrayView | None = None
    sdd_mm: float | None = None
    orientation: tuple[str, str] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def check_size(name: str, rows: int, columns: int, stored_bytes: int, channels: int = 1) -> None:
    """Refuse films that are too small to show a chest, too large for a film, or far too light for their size."""
    if min(rows, columns) < MIN_EDGE:
        raise FilmError(
            "film.too-small",
            f"{name} has only {rows} x {columns} pixels.",
            f"Load the full film, not a thumbnail: at least {MIN_EDGE} pixels along each edge, better 500 and more.",
        )
    if rows * columns * channels > MAX_PIXELS:
        raise too_large(name, f"{rows} x {columns} pixels")
    if rows * columns > max(LARGE, PIXELS_PER_BYTE * stored_bytes):
        raise FilmError(
            "film.empty",
            f"{name} claims {rows} x {columns} pixels in {stored_bytes} bytes.",
            "So little data cannot hold a film: the file is damaged or empty. Export it again.",
        )


def read_picture(name: str, data: bytes) -> RawFilm:
    """Read PNG, JPEG or TIFF: 8 or 16 bit, grey, RGB, palette, with or without alpha.

    Args:
        name: the file's name, for messages.
        data: the whole file.

    Raises:
        FilmError: not a picture, damaged, several pages, in colour, too small or too large.
    """
    from PIL import Image, ImageOps

    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")  # of large or untidy files: both are judged here
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as picture:
                check_size(name, picture.height, picture.width, len(data), len(picture.getbands()))
                frames, form = getattr(picture, "n_frames", 1), str(picture.format)
                if frames > 1 and form != "MPO":
                    raise multi_frame(name, frames)
                pixels, warnings = _grey(name, ImageOps.exif_transpose(picture))
                if pixels.dtype == np.uint8 and _bits_per_channel(picture, data) > 8:
                    warnings += (
                        "Of 16 bits per channel 8 were kept: save the film as a plain grey image to keep all.",
                    )
    except FilmError:
        raise
    except Image.DecompressionBombError:
        raise too_large(name, "hundreds of megapixels") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged data
        raise damaged(name, error) from None
    return RawFilm(pixels, source={"format": form, "bits": 8 * pixels.dtype.itemsize}, warnings=warnings)


def _grey(name: str, picture: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """One channel of a Pillow image, transparent pixels black, and warnings about colour."""
    if picture.mode in ("L", "I", "I;16", "I;16B", "F"):
        return np.asarray(picture).astype(picture_type(picture.mode), copy=False), ()
    if picture.mode == "1":
        raise FilmError(
            "film.black-and-white", f"{name} has only black and white.", "Export the film with grey levels."
        )
    rgba = np.asarray(picture.convert("RGBA"))
    colour = rgba[..., :3]
    grey = (colour.sum(-1, dtype=np.uint16) // 3).astype(np.uint8)
    if picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info:
        grey[rgba[..., 3] < 128] = 0
    chroma = colour.max(-1) - colour.min(-1)
    return grey, colour_warning(name, float(np.mean(chroma > COLOURED)))


def _bits_per_channel(picture: Any, data: bytes) -> int:
    """As stored; Pillow turns 16 bits into 8 where there are several channels."""
    if picture.format == "PNG":
        return data[24]  # IHDR
    return max(picture.tag_v2.get(258, (8,))) if picture.format == "TIFF" else 8  # BitsPerSample


def picture_type(mode: str) -> type:
    """The number type of a grey Pillow mode."""
    return {"L": np.uint8, "I": np.int32, "F": np.float32}.get(mode, np.uint16)


def colour_warning(name: str, coloured: float) -> tuple[str, ...]:
    """Refuse a film of which a good part is coloured; warn about coloured marks."""
    if coloured > 0.2:
        raise FilmError(
            "film.colour",
            f"{name} is a colour picture.",
            "Radiographs are grey. Export the X-ray itself from the viewer or PACS, not a photograph of it.",
        )
    return ("The picture has coloured marks; they were turned to grey.",) if coloured > 0.001 else ()


def read_itk(name: str, path: Path, stored_bytes: int) -> RawFilm:
    """Read a 2D NIfTI, NRRD or MHA (3D with one slice counts as 2D).

    The spacing is the file's, except 1 x 1 mm, which these formats write when nobody knows.

    Raises:
        FilmError: a volume, several channels, damaged, too small or too large.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, spacing = _plane(name, reader.GetSize(), reader.GetSpacing())
        check_size(name, size[1], size[0], stored_bytes)
        if reader.GetNumberOfComponents() != 1:
            raise FilmError("film.channels", f"{name} has several values per pixel.", "Save the film as a grey image.")
        image = reader.Execute()
    except FilmError:
        raise
    except Exception as error:
        raise damaged(name, error) from None
    pixels = sitk.GetArrayFromImage(image).reshape(size[1], size[0])
    known = all(0.01 <= s <= 10 for s in spacing) and spacing != (1.0, 1.0)
    source = {"format": reader.GetImageIO().removesuffix("ImageIO"), "bits": 8 * pixels.dtype.itemsize}
    return RawFilm(pixels, spacing_mm=(spacing[1], spacing[0]) if known else None, source=source)


def _plane(name: str, size: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[tuple[int, int], tuple[float, float]]:
    """(columns, rows) and their spacing of an image whose other axes have length one."""
    axes = [i for i, n in enumerate(size) if n > 1]
    if len(axes) > 2:
        raise FilmError(
            "film.volume",
            f"{name} is a volume of {' x '.join(map(str, size))} voxels, not a film.",
            "Load it as a CT volume instead.",
        )
    if len(axes) < 2:
        raise FilmError("film.too-small", f"{name} is a single line or point.", "Load a full film.")
    return (size[axes[0]], size[axes[1]]), (float(spacing[axes[0]]), float(spacing[axes[1]]))


def too_large(name: str, claim: str) -> FilmError:
    return FilmError(
        "film.too-large",
        f"{name} claims {claim}; a film has at most {MAX_PIXELS // 1_000_000} megapixels.",
        "The file is damaged or not a film. Export it again at 5000 pixels per edge or fewer.",
    )


def multi_frame(name: str, frames: int) -> FilmError:
    return FilmError(
        "film.multi-frame",
        f"{name} holds {frames} frames.",
        "Save the one frame that shows the chest as a file of its own.",
    )


def damaged(name: str, error: Exception) -> FilmError:
    """The decoder's own words are kept out of the text: they may quote the file."""
    return FilmError(
        "film.unreadable",
        f"{name} cannot be read ({type(error).__name__}).",
        "The file is damaged or no film. Films are DICOM (CR, DX), PNG, JPEG, TIFF, or 2D NIfTI, NRRD, MHA.",
    )

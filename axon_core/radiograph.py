"""From a film file to the image the networks see, with every step on record.

`Radiograph.load` reads a file and makes bone bright; `standardise` lays the film upright on a square detector:
orientation -> frame cut away -> robust range -> resampled onto the canonical detector, values in [-1, 1]. The steps are
plain dictionaries; `replay` repeats them, and `StandardFilm.to_original` leads from every pixel back to the file's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from axon_core.errors import ConfigError, FilmError
from axon_core.film_area import bone_is_bright, film_area, front_is_right, looks_like_slice, quarter_turns, robust_range
from axon_core.film_dicom import looks_like_dicom, read_dicom
from axon_core.film_formats import ITK_SUFFIXES, MAX_FILE_BYTES, RawFilm, read_itk, read_picture
from axon_core.geometry import XrayView

Step = dict[str, Any]

SURE = 0.25  # |bone_is_bright| and |front_is_right| above this are beyond doubt
COVERAGE = (0.6, 1.4)  # a film's longest edge over the detector's at which its spacing is believed
FRONTAL_MM, LATERAL_MM = 400.0, 360.0  # what the longest edge of a film of unknown scale is taken to show


@dataclass(frozen=True)
class Radiograph:
    """One film as it lies in its file, bone bright.

    Attributes:
        pixels: (rows, columns) float32, finite; brightness rises with attenuation.
        spacing_mm: (row, column) at the detector; None = unknown.
        view: the patient's position; None = unknown.
        sdd_mm: source to detector distance; None = unknown.
        source: where it came from: name, sha256, format, bits, inverted, polarity_from, and of DICOM modality and UIDs.
            Nothing in it identifies a patient, unless the file's own name does.
        warnings: what a user should know.
        orientation: DICOM Patient Orientation (0020,0020), where columns and rows go, one letter each; None = unknown.
        mirrored: the patient's left (of a lateral film: the front) is on the image's left, whatever `orientation` says.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    view: XrayView | None = None
    sdd_mm: float | None = None
    source: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    orientation: tuple[str, str] | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        pixels = np.asarray(self.pixels, dtype=np.float32)
        if pixels.ndim != 2 or not np.isfinite(pixels).all():
            raise FilmError("film.not-an-image", "A film is a 2D array of finite numbers.", "Load one grey image.")
        object.__setattr__(self, "pixels", pixels)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        view: XrayView | str | None = None,
        invert: bool | None = None,
        spacing_mm: tuple[float, float] | None = None,
        mirrored: bool = False,
    ) -> Radiograph:
        """Read a film: DICOM, PNG, JPEG, TIFF, or 2D NIfTI, NRRD, MHA. The content decides, not the file's extension.

        Args:
            path: the file.
            view: overrides what the file says.
            invert: True exchanges bright and dark of the stored values, False keeps them; None decides by the DICOM
                tags or, without them, by what the image looks like.
            spacing_mm: (row, column) at the detector, overrides what the file says.
            mirrored: see the attribute.

        Raises:
            FilmError: missing, damaged, not a film, constant, too small or too large.
        """
        path = Path(path)
        data = _bytes(path)
        raw = _read(path, data)
        missing = ~np.isfinite(raw.pixels)
        pixels = _without(missing, path.name, raw.pixels)
        warnings = list(raw.warnings)
        inverted, polarity_from = _polarity(pixels, raw.invert, invert, warnings)
        pixels = -pixels if inverted else pixels
        if missing.any():
            pixels = np.where(missing, pixels[~missing].min(), pixels)
        top, bottom, left, right = film_area(pixels)
        if looks_like_slice(pixels[top:bottom, left:right]):
            warnings.append("It looks like a CT slice, not a film: a CT is loaded as a volume.")
        spacing = spacing_mm or raw.spacing_mm
        if spacing is None:
            warnings.append("The pixel spacing is unknown: sizes are estimates.")
        facts = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), **raw.source}
        return cls(
            pixels=pixels,
            spacing_mm=_checked_spacing(spacing),
            view=_as_view(view) or raw.view,
            sdd_mm=raw.sdd_mm,
            source={**facts, "inverted": inverted, "polarity_from": polarity_from},
            warnings=tuple(warnings),
            orientation=raw.orientation,
            mirrored=mirrored,
        )


@dataclass(frozen=True)
class StandardFilm:
    """A film on the canonical detector, ready for the encoder.

    Frontal: patient's left on the image's right, head up. Lateral: front of the chest on the image's right, head up.

    Attributes:
        image: (size, size) float32 in [-1, 1], bone bright; -1 where there is no film.
        mask: (size, size) bool, True where there is film.
        view: PA when nobody knows, with a warning.
        to_original: (3, 3) float64: (row, column, 1) of this image's pixel centres -> of the file's.
        detector_mm: edge length of the detector.
        scale_known: True when the film lies at its true size on the detector.
        steps: what was done, for `replay`; plain numbers, strings and lists.
        warnings: the film's and those of standardising it.
        source: the film's.
    """

    image: np.ndarray
    mask: np.ndarray
    view: XrayView
    to_original: np.ndarray
    detector_mm: float
    scale_known: bool
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    source: dict[str, Any]


def standardise(film: Radiograph, size: int = 256, detector_mm: float = 430.0) -> StandardFilm:
    """Lay a film upright on a square detector of `size` x `size` pixels.

    A film of known spacing keeps its true size, its centre (frame included) on the detector's. Of one of unknown or
    unbelievable spacing the longest edge, without its frame, is taken to show what films show on average: less than a
    whole detector, for they are collimated.

    Raises:
        FilmError: the film is constant.
        ConfigError: size or detector_mm is not positive.
    """
    if size < 8 or not detector_mm > 0:
        raise ConfigError("film.size", f"A detector of {size} pixels over {detector_mm} mm.", "Both must be positive.")
    warnings = list(film.warnings)
    view = film.view
    if view is None:
        view = XrayView.PA
        warnings.append("The view is unknown: taken as PA.")
    steps = _upright(film, view, warnings)
    pixels = film.pixels
    for step in steps:
        pixels = _applied(pixels, step)
    top, bottom, left, right = film_area(pixels)
    steps.append({"op": "crop", "rows": [top, bottom], "columns": [left, right]})
    middle = [0.5 * n for n in pixels.shape]
    pixels = pixels[top:bottom, left:right]
    if view.is_frontal and film.orientation is None and quarter_turns(pixels):
        warnings.append("The film seems to lie on its side or upside down: turn it upright if so.")
    low, high = robust_range(pixels)
    if not high > low:
        raise constant(str(film.source.get("name", "The film")))
    steps.append({"op": "range", "low": low, "high": high})
    spacing, scale_known = _scale(film, steps, pixels.shape, detector_mm, view, warnings)
    middle = [middle[0] - top, middle[1] - left] if scale_known else [0.5 * n for n in pixels.shape]
    known = film.mirrored or film.orientation is not None
    if not view.is_frontal and not known and _faces_left(pixels, warnings):
        steps.append({"op": "flip", "axis": 1})
        middle[1] = pixels.shape[1] - middle[1]
    steps.append(_placement(pixels.shape, middle, spacing, size, detector_mm))
    image, mask = _run(film.pixels, steps)
    to_original = _to_original(film.pixels.shape, steps)
    return StandardFilm(
        image, mask, view, to_original, detector_mm, scale_known, tuple(steps), tuple(warnings), film.source
    )


def replay(film: Radiograph, steps: Sequence[Step]) -> np.ndarray:
    """Repeat recorded steps on a film: the identical (size, size) float32 image."""
    return _run(film.pixels, steps)[0]


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FilmError("film.too-large", f"{path.name} has {size >> 20} MiB.", "No film is that large.")
        data = path.read_bytes()
    except OSError as error:
        raise FilmError(
            "film.missing", f"{path.name} cannot be opened: {error.strerror}.", "Check the path and the permissions."
        ) from None
    if not data:
        raise FilmError("film.empty", f"{path.name} is empty.", "Copy or export the file again.")
    return data


def _read(path: Path, data: bytes) -> RawFilm:
    """By content; the formats of SimpleITK by extension, because raw MHA and NIfTI cannot be told from noise."""
    if looks_like_dicom(data):
        return read_dicom(path.name, data)
    if path.name.lower().endswith(ITK_SUFFIXES):
        return read_itk(path.name, path, len(data))
    return read_picture(path.name, data)


def _without(missing: np.ndarray, name: str, pixels: np.ndarray) -> np.ndarray:
    """float32, of more than one value; missing pixels get the median, which favours neither polarity."""
    pixels = np.asarray(pixels, dtype=np.float32)
    if missing.all() or not np.ptp(pixels[~missing]) > 0:
        raise constant(name)
    return np.where(missing, np.median(pixels[~missing]), pixels) if missing.any() else pixels


def constant(name: str) -> FilmError:
    return FilmError(
        "film.constant",
        f"{name} has the same brightness everywhere.",
        "It is an empty or over-exposed image: choose another file.",
    )


def _polarity(pixels: np.ndarray, tagged: bool | None, asked: bool | None, warnings: list[str]) -> tuple[bool, str]:
    """(whether to invert, who decided): the user, else the file's tags, else the look of the film."""
    if asked is not None:
        return asked, "user"
    top, bottom, left, right = film_area(pixels)
    bright = bone_is_bright(pixels[top:bottom, left:right])
    if tagged is not None:
        if abs(bright) > SURE and tagged != (bright < 0):
            warnings.append("The film looks inverted although its tags say otherwise: check that bone is white.")
        return tagged, "tags"
    if abs(bright) <= SURE:
        warnings.append("It hardly looks like a chest film: check the file, and that bone is white.")
    return bright < 0, "appearance"


def _checked_spacing(spacing: tuple[float, float] | None) -> tuple[float, float] | None:
    if spacing is None:
        return None
    row, column = (float(s) for s in spacing)
    if not (0.01 <= row <= 10 and 0.01 <= column <= 10):
        raise ConfigError("film.spacing", f"A pixel spacing of {row} x {column} mm.", "Give 0.01 to 10 mm.")
    return row, column


def _as_view(view: XrayView | str | None) -> XrayView | None:
    if view is None:
        return None
    try:
        return XrayView(view)
    except ValueError:
        names = ", ".join(v.value for v in XrayView)
        raise ConfigError("film.view", f"There is no view {view!r}.", f"Choose one of {names}.") from None


def _upright(film: Radiograph, view: XrayView, warnings: list[str]) -> list[Step]:
    """The transpose and flips that bring columns to the patient's Left (lateral: Anterior) and rows to the Feet."""
    target, opposite = "LR" if view.is_frontal else "AP"
    if film.orientation is None and not film.mirrored:
        return []
    columns, rows = film.orientation or (opposite, "F")
    if film.mirrored:
        columns, rows = (columns, opposite) if columns in "HF" else (opposite, rows)
    steps: list[Step] = []
    if columns in "HF":
        columns, rows = rows, columns
        steps.append({"op": "transpose"})
    if columns not in (target, opposite):
        warnings.append("The film's orientation contradicts its view; it was left as it is.")
        return []
    if columns != target:
        steps.append({"op": "flip", "axis": 1})
    if rows != "F":
        steps.append({"op": "flip", "axis": 0})
    return steps


def _scale(
    film: Radiograph,
    steps: list[Step],
    shape: tuple[int, int],
    detector_mm: float,
    view: XrayView,
    warnings: list[str],
) -> tuple[tuple[float, float], bool]:
    """(row, column) spacing to place the film with, and whether it is its true one.

    Without a believable spacing the longest edge is made the usual one of the view, or the detector's if that is less.
    """
    spacing = film.spacing_mm or (1.0, 1.0)
    if any(step["op"] == "transpose" for step in steps):
        spacing = spacing[::-1]
    longest = max(shape[0] * spacing[0], shape[1] * spacing[1])
    if film.spacing_mm is not None:
        if COVERAGE[0] <= longest / detector_mm <= COVERAGE[1]:
            return spacing, True
        warnings.append(f"The film would be {longest:.0f} mm long: its spacing was not believed.")
    usual = min(FRONTAL_MM if view.is_frontal else LATERAL_MM, detector_mm)
    return (spacing[0] * usual / longest, spacing[1] * usual / longest), False


def _faces_left(pixels: np.ndarray, warnings: list[str]) -> bool:
    """Whether a lateral film of unknown orientation, bone bright, must be mirrored for its front to be on the right."""
    right = front_is_right(pixels)
    if right < -SURE:
        warnings.append("The orientation is unknown: the film was mirrored, its front appears to be on the left.")
    elif right < SURE:
        warnings.append("The orientation is unknown: the front of the chest is taken to be on the right.")
    return right < -SURE


def _placement(
    shape: Sequence[int], middle: Sequence[float], spacing: tuple[float, float], size: int, detector_mm: float
) -> Step:
    """Resample so that `middle` comes to lie on the detector's, or as near as lets the whole film fit.

    With `scale` new pixels per old one, and `offset` where the film's edge comes to lie:
    new + 1/2 = offset + scale (old + 1/2).
    """
    scale = [s * size / detector_mm for s in spacing]
    offset = []
    for s, n, m in zip(scale, shape, middle, strict=True):
        room = size - s * n
        offset.append(min(max(0.5 * size - s * m, min(room, 0.0)), max(room, 0.0)))
    return {"op": "place", "size": size, "scale": scale, "offset": offset}


def _applied(pixels: np.ndarray, step: Step) -> np.ndarray:
    """One step, except the last, on an image."""
    match step["op"]:
        case "transpose":
            return pixels.T
        case "flip":
            return np.flip(pixels, step["axis"])
        case "crop":
            return pixels[slice(*step["rows"]), slice(*step["columns"])]
        case "range":
            low, high = step["low"], step["high"]
            return np.clip(2.0 * (pixels - low) / (high - low) - 1.0, -1.0, 1.0).astype(np.float32)
        case other:
            raise ConfigError("film.step", f"There is no step {other!r}.", "Replay steps that `standardise` recorded.")


def _run(pixels: np.ndarray, steps: Sequence[Step]) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask) after all steps."""
    for step in steps[:-1]:
        pixels = _applied(pixels, step)
    return _placed(pixels, steps[-1])


def _placed(pixels: np.ndarray, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """The film on the detector, antialiased (bicubic, widened when shrinking), and where it lies."""
    from PIL import Image

    size = step["size"]
    image, mask = np.full((size, size), -1.0, np.float32), np.zeros((size, size), bool)
    spans = [
        _span(n, *pair, size)
        for n, pair in zip(pixels.shape, zip(step["scale"], step["offset"], strict=True), strict=True)
    ]
    (r0, r1, top, bottom), (c0, c1, left, right) = spans
    source = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    small = source.resize((c1 - c0, r1 - r0), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    image[r0:r1, c0:c1] = np.clip(np.asarray(small), -1.0, 1.0)
    mask[r0:r1, c0:c1] = True
    return image, mask


def _span(length: int, scale: float, offset: float, size: int) -> tuple[int, int, float, float]:
    """The detector pixels wholly on the film, [first, end), and the film's edges (in film pixels) that they cover."""
    first = max(0, math.ceil(offset - 1e-6))
    end = min(size, math.floor(offset + scale * length + 1e-6))
    return first, end, max(0.0, (first - offset) / scale), min(float(length), (end - offset) / scale)


def _to_original(shape: tuple[int, ...], steps: Sequence[Step]) -> np.ndarray:
    """(3, 3): (row, column, 1) after all steps -> before them. Each step's own part is noted in it as `to_before`."""
    total = np.eye(3)
    rows, columns = shape
    for step in steps:
        before = np.eye(3)
        match step["op"]:
            case "transpose":
                before = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
                rows, columns = columns, rows
            case "flip":
                axis = step["axis"]
                before[axis, axis], before[axis, 2] = -1.0, (rows, columns)[axis] - 1.0
            case "crop":
                before[:2, 2] = step["rows"][0], step["columns"][0]
                rows, columns = (b - a for a, b in (step["rows"], step["columns"]))
            case "place":
                scale, offset = np.array(step["scale"]), np.array(step["offset"])
                before[[0, 1], [0, 1]] = 1.0 / scale
                before[:2, 2] = (0.5 - offset) / scale - 0.5
        step["to_before"] = before.tolist()
        total = total @ before
    return total

"""What a chest film looks like: where the film ends and its frame begins, and whether bone is bright."""

from __future__ import annotations

import numpy as np

FRAME_TOLERANCE = 0.03  # of the film's range of values
FRAME_SHARE = 0.97  # of a line that must have the frame's value; the rest may be lettering
MIN_KEPT = 0.4  # a crop never leaves less than this of an edge


def robust_range(pixels: np.ndarray) -> tuple[float, float]:
    """0.5 and 99.5 percentile."""
    low, high = np.percentile(pixels, (0.5, 99.5))
    return float(low), float(high)


def film_area(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The film inside black or white frames: (first row, end row, first column, end column).

    A frame is a run of border lines that all have nearly one value. Works on either polarity.
    """
    low, high = float(pixels.min()), float(pixels.max())
    tolerance = FRAME_TOLERANCE * (high - low)
    top, bottom, left, right = 0, pixels.shape[0], 0, pixels.shape[1]
    while True:
        area = pixels[top:bottom, left:right]
        cut = (
            _frame(area, tolerance),
            _frame(area[::-1], tolerance),
            _frame(area.T, tolerance),
            _frame(area.T[::-1], tolerance),
        )
        if not any(cut):
            break
        top, bottom, left, right = top + cut[0], bottom - cut[1], left + cut[2], right - cut[3]
        if bottom - top < MIN_KEPT * pixels.shape[0] or right - left < MIN_KEPT * pixels.shape[1]:
            return 0, pixels.shape[0], 0, pixels.shape[1]
    return top, bottom, left, right


def _frame(lines: np.ndarray, tolerance: float) -> int:
    """How many of the first lines are frame."""
    value = float(np.median(lines[0]))
    same = np.mean(np.abs(lines - value) <= tolerance, axis=1) >= FRAME_SHARE
    return int(len(same) if same.all() else np.argmin(same))


def bone_is_bright(pixels: np.ndarray) -> float:
    """How sure it is that bone is bright: above 0 it is, below 0 the film is inverted; between -1 and 1.

    The film, shrunk to 32 x 32 and ranked, is correlated with a sketch of a frontal and of a lateral chest; the sketch
    that fits better, upright or inverted, decides. Ranks make the answer independent of brightness and contrast.

    Args:
        pixels: (rows, columns), the film without its frame.
    """
    small = _shrunk(pixels, 32).ravel()
    ranks = np.empty(small.size)
    ranks[np.argsort(small, kind="stable")] = np.arange(small.size)
    fits = [float(np.corrcoef(sketch.ravel(), ranks)[0, 1]) for sketch in _sketches(32)]
    return max(fits, key=abs)


def _shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """(size, size) float32 means over equal parts of the film."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _sketches(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of a frontal and of a lateral chest, roughly; (size, size) each, the film spans -1 ... 1."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")

    def blob(cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
        return np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))

    def rise(distance: np.ndarray, width: float) -> np.ndarray:
        return 1 / (1 + np.exp(-distance / width))

    mediastinum, lungs = blob(0, 0.2, 0.18, 0.8), blob(-0.42, -0.25, 0.2, 0.4) + blob(0.42, -0.25, 0.2, 0.4)
    abdomen = rise(y - 0.45, 0.1) * blob(0, 1, 0.6, 1)
    air_above = rise(-y - 0.75, 0.08) * (1 - blob(0, 0, 0.3, 9))
    frontal = mediastinum - lungs + abdomen - 0.5 * air_above - 0.3 * rise(np.abs(x) - 0.8, 0.1)
    shoulders, belly, lung = blob(0, -1, 0.45, 0.35), blob(0.05, 0.95, 0.6, 0.45), blob(-0.1, 0, 0.5, 0.3)
    lateral = shoulders + 1.2 * belly - 0.35 * lung - rise(np.abs(x) - 0.75, 0.12)
    return frontal, lateral

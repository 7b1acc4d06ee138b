"""What a chest film looks like: where the film ends and its frame begins, and whether bone is bright."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ENOUGH_LINES = 1000  # larger films are thinned to about this
FRAME_TOLERANCE = 0.03  # of the film's range of values
FRAME_SHARE = 0.97  # of a line that must have the frame's value
LETTERED_SHARE = 0.6  # the same for lines on which the frame bears lettering
COLLIMATOR_LINES = 160  # collimator edges are sought on a film shrunk to this
COLLIMATOR_SHARE = 0.95  # of an edge's length over which brightness must step the same way
COLLIMATOR_STEP = 0.06  # median step over the edge, of the film's range of values
COLLIMATOR_FLAT = 0.25  # spread of the values outside the edge, of the film's range
AIR, BELLY = 0.12, 0.45  # of the film's range of values: air is darker, the belly brighter
LATERAL_MARGIN = 0.075  # frontal films resemble the lateral sketch by up to this more than their own
MIN_KEPT = 0.4  # a crop never leaves less than this of an edge


def robust_range(pixels: np.ndarray) -> tuple[float, float]:
    """0.5 and 99.5 percentile."""
    low, high = np.percentile(pixels, (0.5, 99.5))
    return float(low), float(high)


def film_area(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The film inside its frame and collimation: (first row, end row, first column, end column).

    A frame is a run of border lines that all have nearly one value. A collimator's shadow is a flat, darker or brighter
    border that ends in a straight edge along the whole side. Works on either polarity; rotated edges are not sought.
    Exact to a pixel in films of up to 2000 lines, to a thousandth of an edge in larger ones.
    """
    rows, columns = pixels.shape
    thin = max(1, min(rows, columns) // ENOUGH_LINES)
    small = pixels[::thin, ::thin]
    area = _inside(small, (0, small.shape[0], 0, small.shape[1]), _frame)
    top, bottom, left, right = (thin * n for n in _inside(small, area, _collimated))
    return top, min(bottom, rows), left, min(right, columns)


def _inside(
    pixels: np.ndarray, area: tuple[int, int, int, int], border: Callable[[np.ndarray], int]
) -> tuple[int, int, int, int]:
    """`area` without the borders that `border` finds on any side, as long as enough of the film remains."""
    top, bottom, left, right = area
    kept = [MIN_KEPT * n for n in pixels.shape]
    while True:
        film = pixels[top:bottom, left:right]
        cut = [border(film), border(film[::-1]), border(film.T), border(film.T[::-1])]
        if bottom - top - cut[0] - cut[1] < kept[0]:
            cut[:2] = [0, 0]
        if right - left - cut[2] - cut[3] < kept[1]:
            cut[2:] = [0, 0]
        if not any(cut):
            return top, bottom, left, right
        top, bottom, left, right = top + cut[0], bottom - cut[1], left + cut[2], right - cut[3]


def _frame(film: np.ndarray) -> int:
    """How many of the first lines are frame: nearly all of one value, but for lettering between such lines."""
    low, high = robust_range(film)
    tolerance = FRAME_TOLERANCE * (high - low)
    value = float(np.median(film[0]))
    share = np.mean(np.abs(film - value) <= tolerance, axis=1)
    plain = share >= FRAME_SHARE
    run = len(share) if (share >= LETTERED_SHARE).all() else int(np.argmax(share < LETTERED_SHARE))
    return int(np.flatnonzero(plain[:run])[-1]) + 1 if plain[0] and plain[:run].any() else 0


def _collimated(film: np.ndarray) -> int:
    """How many of the first lines lie in a collimator's shadow."""
    lines = min(COLLIMATOR_LINES, *film.shape)
    small = _shrunk(film, lines)
    low, high = robust_range(small)
    small = (small - low) / max(high - low, 1e-12)
    for edge in range(int(lines * (1 - MIN_KEPT)), 0, -1):  # the innermost edge
        outside, inside = small[:edge], small[edge + 1 : edge + 3]
        step = inside.mean(0) - small[max(0, edge - 2) : edge].mean(0)
        median = float(np.median(step))
        if abs(median) < COLLIMATOR_STEP or np.mean(step * median > 0) < COLLIMATOR_SHARE:
            continue
        if np.ptp(np.percentile(outside, (5, 95))) < COLLIMATOR_FLAT:
            return round((edge + 1) * film.shape[0] / lines)
    return 0


def bone_is_bright(pixels: np.ndarray) -> float:
    """How sure it is that bone is bright: above 0 it is, below 0 the film is inverted; between -1 and 1.

    The film, shrunk to 32 x 32 and ranked, is correlated with a sketch of a frontal and of a lateral chest; the sketch
    that fits better, upright or inverted, decides. Ranks make the answer independent of brightness and contrast.

    Args:
        pixels: (rows, columns), the film without its frame.
    """
    ranks = _ranks(pixels, 32).ravel()
    fits = [float(np.corrcoef(sketch.ravel(), ranks)[0, 1]) for sketch in _sketches(32)]
    return max(fits, key=abs)


def looks_lateral(pixels: np.ndarray) -> float:
    """How sure it is that a chest film is a lateral one: above 0 it is, below 0 it is frontal; between -2 and 2.

    Ranks are correlated with the sketches of both. Of public films, 70 frontal ones score at most -0.08, a CT's scout
    -0.02, and 19 lateral ones at least 0.01.

    Args:
        pixels: (rows, columns), the film without its frame, upright, bone bright.
    """
    ranks = _ranks(pixels, 32).ravel()
    frontal, lateral = (float(np.corrcoef(sketch.ravel(), ranks)[0, 1]) for sketch in _sketches(32))
    return lateral - frontal - LATERAL_MARGIN


def quarter_turns(pixels: np.ndarray) -> int:
    """How many quarter turns against the clock make a frontal film look upright, in either polarity: 0 to 3.

    Args:
        pixels: (rows, columns), the film without its frame.
    """
    sketch, ranks = _sketches(32)[0].ravel(), _ranks(pixels, 32)
    fits = [abs(float(np.corrcoef(sketch, np.rot90(ranks, turns).ravel())[0, 1])) for turns in range(4)]
    return int(np.argmax(fits))


def looks_like_slice(pixels: np.ndarray) -> bool:
    """Whether air surrounds the body, as on a CT slice: above, on both sides, and below, where a film shows the belly.

    Args:
        pixels: (rows, columns), the film without its frame, bone bright.
    """
    low, high = robust_range(pixels)
    small = (_shrunk(pixels, 32) - low) / max(high - low, 1e-12)
    air = min(float(np.mean(side < AIR)) for side in (small[0], small[:, 0], small[:, -1]))
    return air > 0.5 and float(np.median(small[-2:])) < BELLY


def front_is_right(pixels: np.ndarray) -> float:
    """How sure it is that a lateral film shows the chest's front on the right: below 0 on the left; between -1 and 1.

    Against its mirror image the film has, on the side of the front, a bright heart below and a dark retrosternal space
    above; on the other, dark lung reaching deep behind the diaphragm and bright shoulder blades above.

    Args:
        pixels: (rows, columns), the film without its frame, bone bright.
    """
    x, y = _plane(32)
    heart, retrosternal = _blob(x - 0.3, y - 0.35, 0.25, 0.3), _blob(x - 0.5, y + 0.4, 0.25, 0.35)
    recess, shoulder = _blob(x + 0.4, y - 0.5, 0.2, 0.3), _blob(x + 0.5, y + 0.6, 0.25, 0.4)
    sketch = heart - retrosternal - recess + shoulder
    ranks = _ranks(pixels, 32)
    return float(np.corrcoef((sketch - sketch[:, ::-1]).ravel(), (ranks - ranks[:, ::-1]).ravel())[0, 1])


def _ranks(pixels: np.ndarray, size: int) -> np.ndarray:
    """(size, size): the film shrunk, each value replaced by its rank."""
    small = _shrunk(pixels, size).ravel()
    ranks = np.empty(small.size)
    ranks[np.argsort(small, kind="stable")] = np.arange(small.size)
    return ranks.reshape(size, size)


def _shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """(size, size) float32 means over equal parts of the film."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _plane(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a film that spans -1 ... 1; (size, size) each."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _blob(x: np.ndarray, y: np.ndarray, sx: float, sy: float) -> np.ndarray:
    return np.exp(-0.5 * ((x / sx) ** 2 + (y / sy) ** 2))


def _rise(distance: np.ndarray, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-distance / width))


def _sketches(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of a frontal and of a lateral chest, roughly; (size, size) each."""
    x, y = _plane(size)
    mediastinum = _blob(x, y - 0.2, 0.18, 0.8)
    lungs = _blob(np.abs(x) - 0.42, y + 0.25, 0.2, 0.4)
    abdomen = _rise(y - 0.45, 0.1) * _blob(x, y - 1, 0.6, 1)
    air_above = _rise(-y - 0.75, 0.08) * (1 - _blob(x, y, 0.3, 9))
    frontal = mediastinum - lungs + abdomen - 0.5 * air_above - 0.3 * _rise(np.abs(x) - 0.8, 0.1)
    shoulders, belly, lung = (
        _blob(x, y + 1, 0.45, 0.35),
        _blob(x - 0.05, y - 0.95, 0.6, 0.45),
        _blob(x + 0.1, y, 0.5, 0.3),
    )
    lateral = shoulders + 1.2 * belly - 0.35 * lung - _rise(np.abs(x) - 0.75, 0.12)
    return frontal, lateral

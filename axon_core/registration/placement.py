"""A frontal film laid anew where its alignment says that it belongs, from the film's own pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from axon_core.errors import ConfigError
from axon_core.radiograph import Radiograph, StandardFilm, Step
from axon_core.radiograph import replay as replay_standard
from axon_core.registration.planar import Alignment, align


def aligned(
    film: Radiograph, standard: StandardFilm, *, fit_scale: bool | None = None
) -> tuple[StandardFilm, Alignment]:
    """Align a frontal film and place it, where that is needed; it stays as it lies, with a warning, if not plausible.

    Args:
        film: what `standard` was made of.
        standard: as `standardise` laid it.
        fit_scale: see `align`.
    """
    alignment = align(standard, fit_scale=fit_scale)
    if alignment.plausible:
        return (place(film, standard, alignment) if alignment.needed else standard), alignment
    warning = f"The film was not aligned: {' '.join(alignment.reasons)}"
    return replace(standard, warnings=(*standard.warnings, warning)), alignment


def place(film: Radiograph, standard: StandardFilm, alignment: Alignment) -> StandardFilm:
    """Lay a film anew, as an alignment of its standardised form says, in one go from the film's own pixels.

    The last step of `standardise`, "place", is replaced by one of the new scale that keeps the whole film, and a "turn"
    that rotates and shifts. `replay` repeats the steps; `to_original` leads back to the file's pixels.

    Errors:
        ConfigError: `standard` did not come straight from `standardise`.
    """
    if not standard.steps or standard.steps[-1]["op"] != "place":
        raise ConfigError("film.step", "The film is not as `standardise` lays it.", "Align a standardised film.")
    *before, laid = standard.steps
    size = standard.image.shape[0]
    wider, turn = _placing(laid, _cropped_shape(before), alignment, size, standard.detector_mm)
    steps = (*before, wider, turn)
    to_original = np.eye(3)
    for step in steps:
        to_original = to_original @ np.array(step["to_before"])
    return replace(
        standard,
        image=replay(film, steps),
        mask=_inside(turn),
        to_original=to_original,
        scale_known=standard.scale_known and alignment.scale == 1.0,
        steps=steps,
    )


def replay(film: Radiograph, steps: Sequence[Step]) -> np.ndarray:
    """Repeat the recorded steps of a placed or a merely standardised film: the identical (size, size) float32 image."""
    if not steps or steps[-1]["op"] != "turn":
        return replay_standard(film, steps)
    turn = steps[-1]
    flat = replay_standard(film, steps[:-1])[: turn["film"][0], : turn["film"][1]]
    turned = ndimage.map_coordinates(flat, _before(turn), order=3, mode="nearest")
    return np.where(_inside(turn), np.clip(turned, -1.0, 1.0), -1.0).astype(np.float32)


def _cropped_shape(steps: Sequence[Step]) -> tuple[int, int]:
    """(rows, columns) of the film when `standardise` has cut away its frame."""
    crop = next(step for step in steps if step["op"] == "crop")
    return crop["rows"][1] - crop["rows"][0], crop["columns"][1] - crop["columns"][0]


def _placing(
    laid: Step, shape: tuple[int, int], alignment: Alignment, size: int, detector_mm: float
) -> tuple[Step, Step]:
    """The steps that replace `laid`: "place" at the new scale, the whole film from the corner; and "turn".

    Pixel centres, as (row, column) + 1/2: with `old` on the film as it was laid and `flat` after the new "place",
    flat = scale (old - offset). "turn" goes from the new detector to `flat`, at the same pitch.
    """
    old_scale, offset = np.array(laid["scale"]), np.array(laid["offset"])
    scale = old_scale * alignment.scale
    extent = scale * shape
    place = {"op": "place", "size": math.ceil(extent.max()), "scale": scale.tolist(), "offset": [0.0, 0.0]}
    place["to_before"] = _affine(np.diag(1.0 / scale), 0.5 / scale - 0.5).tolist()
    pitch, middle = detector_mm / size, 0.5 * (size - 1)
    to_film = np.linalg.inv(alignment.matrix)[[1, 0, 2]][:, [1, 0, 2]]  # in mm as (y, x, 1)
    to_mm = _affine(np.eye(2) * pitch, np.full(2, -middle * pitch))
    to_flat = _affine(np.eye(2) * alignment.scale, alignment.scale * (0.5 - offset) - 0.5)
    to_before = to_flat @ np.linalg.inv(to_mm) @ to_film @ to_mm
    film = [math.floor(length + 1e-6) for length in extent]
    return place, {"op": "turn", "size": size, "film": film, "to_before": to_before.tolist()}


def _affine(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(3, 3) of a (2, 2) and a (2,)."""
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


def _before(turn: Step) -> np.ndarray:
    """(2, size, size): row and column before a "turn" of every pixel after it."""
    matrix = np.array(turn["to_before"])
    pixels = np.indices((turn["size"],) * 2, dtype=float)
    return np.einsum("ij,jrc->irc", matrix[:2, :2], pixels) + matrix[:2, 2, None, None]


def _inside(turn: Step) -> np.ndarray:
    """(size, size) bool: pixels that lie on the film."""
    before, edges = _before(turn), np.array(turn["film"])[:, None, None]
    return np.logical_and.reduce((before >= -0.5) & (before <= edges - 0.5))

"""Making the atlas from films in canonical placement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from axon_core.registration.atlas import AXIS_MM, Atlas, local_contrast, lung_box, on_grid, sampled
from axon_core.registration.atlas_fit import LOG_SCALE, LOG_STRETCH, SHIFT_X, SHIFT_Y, film_points, fit_film, refined

LUNG_DEPTH_MM = 40.0  # air along a ray that makes the lung field of a CT


def make_atlas(names: Sequence[str], films: np.ndarray, lungs: np.ndarray, detector_mm: float = 430.0) -> Atlas:
    """The atlas of films in canonical placement: mean after each is moved and stretched to fit it, in turns.

    The mean placement is kept the identity, so the atlas lies where its films lie on average.

    Args:
        names: of the films.
        films: (n, size, size) simulated frontal films in [-1, 1].
        lungs: (n, size, size) mm of lung that each ray crosses.
        detector_mm: edge length of the detector.
    """
    everywhere = np.ones(films.shape[1:], bool)
    grids = [on_grid(film, everywhere, detector_mm) for film in films]
    opened = [ndimage.binary_opening(depth > LUNG_DEPTH_MM, np.ones((15, 15))) for depth in lungs]  # no trachea
    layers = [
        np.stack([local_contrast(*grid), on_grid(field.astype(np.float32), everywhere, detector_mm)[0], grid[0]])
        for grid, field in zip(grids, opened, strict=True)
    ]
    fits = _from_boxes([lung_box(layer[1] > 0.5) for layer in layers])
    centre = (0.0, float(np.mean([lung_box(layer[1] > 0.5)[2:] for layer in layers])))
    for turn in range(5):
        fits = fits - fits.mean(0)
        contrast, field, film = (
            np.mean([_moved(layer, fit, centre) for layer, fit in zip(layers, fits, strict=True)], axis=0)
        ).astype(np.float32)
        atlas = Atlas(contrast, field, film, fits.std(0, ddof=1), tuple(names))
        centre = atlas.centre_mm
        if turn == 0:  # near by now, but perhaps in a wrong valley, which the search leaves later
            fits = np.stack([refined(atlas, grid, fit) for grid, fit in zip(grids, fits, strict=True)])
        elif turn < 4:
            fits = np.stack([fit_film(atlas, *grid) for grid in grids])
    return atlas


def _from_boxes(boxes: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """(n, 5) fits that bring every lung box onto the mean box."""
    left, right, top, bottom = np.array(boxes).T
    width, height, middle = right - left, bottom - top, 0.5 * (top + bottom)
    fits = np.zeros((len(boxes), 5))
    scale = width.mean() / width
    fits[:, LOG_SCALE] = np.log(scale)
    fits[:, LOG_STRETCH] = np.log(scale * height / height.mean())
    fits[:, SHIFT_X] = 0.5 * ((left + right).mean() - scale * (left + right))
    fits[:, SHIFT_Y] = middle.mean() - scale * middle
    return fits


def _moved(layers: np.ndarray, fit: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """(c, GRID, GRID) layers of a film as the atlas sees them under a fit."""
    y, x = np.meshgrid(AXIS_MM, AXIS_MM, indexing="ij")
    at = film_points(fit, centre, x, y)
    return np.stack([sampled(layer, *at, mode="nearest") for layer in layers])

"""How the atlas fits a film: a similarity in the film's plane and a vertical stretch, found from nowhere.

    local contrast on the atlas' grid -> FFT search over scale, rotation, stretch and every shift
    -> the best few refined by Levenberg-Marquardt

Likeness is the normalised cross-correlation over lungs and surroundings of local contrast, which hardly depends on tone
curve and exposure. A fit is (5,): rotation [rad], ln scale, shift x and y [mm], ln stretch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.optimize import least_squares

from axon_core.registration.atlas import AXIS_MM, GRID, PITCH_MM, Atlas, local_contrast, sampled

# the parameters of a fit, with what is usual of a standardised film
ROTATION, LOG_SCALE, SHIFT_X, SHIFT_Y, LOG_STRETCH = range(5)
USUAL = np.array([0.0, 0.0, 0.0, 0.0, 0.08])
SPREAD = np.array([math.radians(4.0), 0.25, 60.0, 60.0, 0.12])
PRIOR = 0.1  # residual of one spread from the usual; that of likeness r is sqrt(2 - 2 r)

# the search
SCALES = np.exp(np.arange(-3, 4) * 0.15)
ROTATIONS = np.radians([-8.0, 0.0, 8.0])
STRETCHES = np.exp([-0.1, 0.1, 0.3])
STARTS = 4
MIN_OVERLAP = 0.5  # of the atlas' weight that must lie on the film
APART = np.array([0.2, 0.2, 25.0, 25.0, 0.2])  # starts nearer than this to each other are one


def fit_film(atlas: Atlas, level: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(5,) best fit of a film on the grid: every start refined, then the best again at its own scale."""
    contrast = local_contrast(level, there)
    starts = _starts(atlas, contrast, there) or [USUAL]
    fits = [_descended(atlas, contrast, there, start, every=3) for start in starts]
    best = min(fits, key=lambda fit: _cost(atlas, contrast, there, fit))
    return refined(atlas, (level, there), best)


def refined(atlas: Atlas, grid: tuple[np.ndarray, np.ndarray], fit: np.ndarray) -> np.ndarray:
    """A fit refined with the neighbourhoods of local contrast at the scale that it says the film has."""
    level, there = grid
    return _descended(atlas, local_contrast(level, there, math.exp(fit[LOG_SCALE])), there, fit)


def _descended(atlas: Atlas, contrast: np.ndarray, there: np.ndarray, start: np.ndarray, every: int = 1) -> np.ndarray:
    """Levenberg-Marquardt from a start, on every so many points of the atlas."""

    def residuals(scaled: np.ndarray) -> np.ndarray:
        return _residuals(atlas, contrast, there, scaled * SPREAD, every)

    return least_squares(residuals, start / SPREAD, max_nfev=25, xtol=1e-3, ftol=1e-4).x * SPREAD


def _residuals(atlas: Atlas, contrast: np.ndarray, there: np.ndarray, fit: np.ndarray, every: int = 1) -> np.ndarray:
    """Square sum: 2 - 2 x likeness plus the squared distance from what is usual."""
    film, shape, _ = compared(atlas, contrast, atlas.points[3], there, fit, every)
    return np.concatenate([film - shape, PRIOR * (fit - USUAL) / SPREAD])


def _cost(atlas: Atlas, contrast: np.ndarray, there: np.ndarray, fit: np.ndarray) -> float:
    return float((_residuals(atlas, contrast, there, fit) ** 2).sum())


def compared(
    atlas: Atlas, image: np.ndarray, shape: np.ndarray, there: np.ndarray, fit: np.ndarray, every: int = 1
) -> tuple[np.ndarray, np.ndarray, float]:
    """Film and atlas at the atlas' points, weighted, of mean 0 and norm 1, and the share of the weight on the film.

    Args:
        image: (GRID, GRID) contrast or brightness of the film.
        shape: (n,) the same of the atlas at its points.
    """
    x, y, weight = (values[::every] for values in atlas.points[:3])
    at = film_points(fit, atlas.centre_mm, x, y)
    film, on_film = sampled(image, *at), weight * sampled(there, *at)
    coverage = float(on_film.sum() / weight.sum())
    return _unit(film, on_film) * np.sqrt(on_film / weight), _unit(shape[::every], weight), coverage


def _unit(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """sqrt(weight) x values, of weighted mean 0 and norm 1."""
    root = np.sqrt(weight)
    values = root * (values - (weight * values).sum() / max(float(weight.sum()), 1e-6))
    return values / max(float(np.linalg.norm(values)), 1e-6)


def film_points(
    fit: np.ndarray, centre: tuple[float, float], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the atlas, mm -> where the film shows them: p = R^-1 (q - shift) / scale, q the stretched point."""
    dx = x - fit[SHIFT_X]
    dy = centre[1] + math.exp(fit[LOG_STRETCH]) * (y - centre[1]) - fit[SHIFT_Y]
    c, s = (math.exp(-fit[LOG_SCALE]) * f(fit[ROTATION]) for f in (math.cos, math.sin))
    return c * dx + s * dy, -s * dx + c * dy


@dataclass(frozen=True)
class _Pose:
    """The atlas turned, scaled and stretched onto the film's grid at half resolution, centre on centre, as spectra.

    Attributes:
        fit: (5,) with the shift still missing.
        back: (2, 2) from offsets on the film to offsets on the detector.
        spectra: conjugate transforms of weight x contrast (of weighted mean 0) and of the weight.
        total, energy: sums of the weight and of weight x contrast^2.
    """

    fit: np.ndarray
    back: np.ndarray
    spectra: tuple[np.ndarray, np.ndarray]
    total: float
    energy: float

    @classmethod
    def of(cls, atlas: Atlas, rotation: float, scale: float, stretch: float) -> _Pose:
        c, s = scale * math.cos(rotation), scale * math.sin(rotation)
        back = np.array([[c, -s], [s, c]])
        axis = _halved(AXIS_MM)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        offset = np.einsum("ij,jrc->irc", back, np.stack([x, y])) / np.array([1.0, stretch])[:, None, None]
        at_x, at_y = offset + np.array(atlas.centre_mm)[:, None, None]
        weight, contrast = sampled(atlas.weight, at_x, at_y), sampled(atlas.contrast, at_x, at_y)
        total = float(weight.sum())
        contrast = contrast - (weight * contrast).sum() / total
        energy = float((weight * contrast * contrast).sum())
        spectra = (_spectrum(weight * contrast).conj(), _spectrum(weight).conj())
        fit = np.array([rotation, math.log(scale), 0.0, 0.0, math.log(stretch)])
        return cls(fit, back, spectra, total, energy)


@lru_cache(2)
def _poses(atlas: Atlas) -> list[_Pose]:
    """The atlas under every scale, rotation and stretch of the search."""
    return [_Pose.of(atlas, r, s, a) for s in SCALES for r in ROTATIONS for a in STRETCHES]


def _starts(atlas: Atlas, contrast: np.ndarray, there: np.ndarray) -> list[np.ndarray]:
    """The STARTS best fits of the search, apart from each other; (5,) each."""
    found = sorted(_peaks(atlas, contrast, there), key=lambda peak: -peak[0])
    starts: list[np.ndarray] = []
    for _, fit in found:
        if all(np.any(np.abs(fit - other) > APART) for other in starts):
            starts.append(fit)
    return starts[:STARTS]


def _peaks(atlas: Atlas, contrast: np.ndarray, there: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """(score, fit): the two best shifts under every pose of the atlas.

    The weighted, masked correlation for all shifts at once, after Padfield (IEEE TIP 2012). With F the film, M its
    mask, w the weight and T the atlas, the sums running over the film:

        score = sum wMT (F - mean) / sqrt(sum wM (F - mean)^2 sum wT^2),  mean = sum wMF / sum wM
    """
    film, mask = _pooled(contrast), _pooled(there)
    spectra = [_spectrum(image) for image in (film * mask, film * film * mask, mask)]
    size = len(film)
    shifts = fft.fftfreq(2 * size, 1 / (2 * size)) * 2 * PITCH_MM
    for pose in _poses(atlas):
        shape, weight = pose.spectra
        product, shape_there = (_correlation(shape, spectra[i]) for i in (0, 2))
        first, second, overlap = (_correlation(weight, spectrum) for spectrum in spectra)
        overlap = np.maximum(overlap, 1e-3)
        variance = np.maximum(second - first * first / overlap, 1e-2 * pose.total)
        score = (product - first / overlap * shape_there) / np.sqrt(variance * pose.energy)
        score[overlap < MIN_OVERLAP * pose.total] = -1.0
        penalty = 0.5 * PRIOR**2 * float((((pose.fit - USUAL) / SPREAD)[[ROTATION, LOG_SCALE, LOG_STRETCH]] ** 2).sum())
        for _ in range(2):
            row, column = np.unravel_index(np.argmax(score), score.shape)
            centre = np.array([shifts[column], shifts[row]])  # of the lungs, on the film
            fit = pose.fit.copy()
            fit[[SHIFT_X, SHIFT_Y]] = np.array(atlas.centre_mm) - pose.back @ centre
            yield float(score[row, column]) - penalty, fit
            around = np.arange(-3, 4)
            score[np.ix_((row + around) % len(score), (column + around) % len(score))] = -1.0


def _spectrum(image: np.ndarray) -> np.ndarray:
    """Of an image padded to twice its size, so that shifts do not wrap around."""
    return fft.rfft2(image.astype(np.float32), (2 * len(image),) * 2)


def _correlation(conjugate: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    return fft.irfft2(conjugate * spectrum, (len(spectrum),) * 2)


def _pooled(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    return image.reshape(GRID // 2, 2, GRID // 2, 2).mean((1, 3))


def _halved(axis: np.ndarray) -> np.ndarray:
    """Centres of pairs."""
    return axis.reshape(-1, 2).mean(1)

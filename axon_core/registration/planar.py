"""A frontal film without a CT, brought onto the canonical detector: rotation, scale and shift in its own plane.

The networks saw chests in the middle of the detector at one magnification. A film of unknown pixel size, off centre or
turned by some degrees, is moved there by the similarity under which it best resembles an atlas, the mean of such films
simulated from CTs:

    standardised film -> local contrast on a 4 mm grid -> FFT search over scale, rotation, stretch and every shift
    -> the best few refined by Levenberg-Marquardt -> `Alignment` with its reasons for doubt -> `place`

Likeness is the normalised cross-correlation over lungs and surroundings of local contrast, which hardly depends on tone
curve and exposure. Lungs of an upright patient are taller than those of one who lies in a CT: a vertical stretch of the
atlas is estimated along, so that this difference does not leak into the scale, and then left out of the placement.

Positions are millimetres from the detector's centre, x to the patient's left (growing column), y down (growing row).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from scipy import fft, ndimage
from scipy.optimize import least_squares

from axon_core.errors import ConfigError, FilmError
from axon_core.radiograph import Radiograph, StandardFilm, Step
from axon_core.radiograph import replay as replay_standard

GRID, PITCH_MM = 108, 4.0  # the atlas and the films that are compared with it
AXIS_MM = (np.arange(GRID) - 0.5 * (GRID - 1)) * PITCH_MM

# local contrast
FINE_MM, WIDE_MM, SPREAD_MM = 6.0, 40.0, 48.0  # Gaussian sigmas: detail kept, level removed, contrast equalised
FLOOR, CEILING = 0.05, 2.5  # least spread (of a film's range of 2) that is equalised; most contrast that counts

# where the atlas is compared: the lungs and this much around them, fading out over FADE_MM
AROUND_MM, BELOW_MM, FADE_MM = 25.0, 60.0, 15.0
LUNG_DEPTH_MM = 40.0  # air along a ray that makes the lung field of a CT

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

# rotation [rad], ln scale and shift [mm] up to which a film is left as it lies: training moved chests by as much
TOLERATED = (math.radians(4.0), 0.1, 20.0)

# beyond these a fit is not believed
MIN_SCORE, MIN_TONE = 0.55, 0.45
MIN_COVERAGE = 0.7
SCALE_RANGE = (0.6, 1.7)
STRETCH_RANGE = (0.6, 1.5)
MAX_ROTATION = math.radians(15.0)
MAX_SHIFT_MM = 120.0


@dataclass(frozen=True)
class Atlas:
    """What a chest on the canonical detector looks like; all (GRID, GRID) ``[row, column]`` at PITCH_MM.

    Attributes:
        contrast: float32 mean local contrast of the films, about -2 to 2.
        field: float32 share of the films on which the pixel shows lung, 0 to 1.
        film: float32 mean film in [-1, 1], bone bright; only to look at.
        spread: (5,) float64 standard deviation of the films' own placements: rotation [rad], ln scale, shift x and y
            [mm], ln stretch.
        names: the CTs it was made of.
    """

    contrast: np.ndarray
    field: np.ndarray
    film: np.ndarray
    spread: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path | None = None) -> Atlas:
        """Read an atlas; without a path the one that comes with the package. ConfigError if it cannot be read."""
        with resources.as_file(resources.files(__package__) / "atlas.npz") as bundled:
            return _read_atlas(path or bundled)

    def save(self, path: Path) -> None:
        """Write it as .npz: 8 bit for the field, half precision for the images."""
        np.savez_compressed(
            path,
            contrast=self.contrast.astype(np.float16),
            field=np.round(255 * self.field).astype(np.uint8),
            film=self.film.astype(np.float16),
            spread=self.spread,
            names=np.array(self.names),
        )

    @cached_property
    def box_mm(self) -> tuple[float, float, float, float]:
        """(left, right, top, bottom) edge of the lung field on the film, mm."""
        return lung_box(self.field > 0.5)

    @cached_property
    def centre_mm(self) -> tuple[float, float]:
        """(x, y) about which it is stretched: the midline, half-way down the lungs."""
        return 0.0, 0.5 * (self.box_mm[2] + self.box_mm[3])

    @cached_property
    def weight(self) -> np.ndarray:
        """(GRID, GRID) in [0, 1]: 1 on the lungs, around them and below, where the belly must be bright."""
        lungs = self.field > 0.5
        reach = round(BELOW_MM / PITCH_MM)
        below = np.stack([lungs[max(0, row - reach) : row + 1].any(0) for row in range(GRID)])
        below = np.stack([_without_gaps(row) for row in below])
        nearest = np.minimum(_distance_mm(lungs) - AROUND_MM, _distance_mm(below) - AROUND_MM + FADE_MM)
        return np.clip(1.0 - nearest / FADE_MM, 0.0, 1.0)

    @cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, y [mm], weight and contrast where the weight is not 0; (n,) each."""
        y, x = np.meshgrid(AXIS_MM, AXIS_MM, indexing="ij")
        used = self.weight > 0
        return x[used], y[used], self.weight[used], self.contrast[used].astype(float)

    @cached_property
    def poses(self) -> list[_Pose]:
        """Its spectra under every scale, rotation and stretch of the search."""
        return [_Pose.of(self, r, s, a) for s in SCALES for r in ROTATIONS for a in STRETCHES]


@dataclass(frozen=True)
class Alignment:
    """Where a standardised film belongs: q = scale R(rotation) p + shift, p on the film as it lies, q as it should.

    Attributes:
        rotation: radians; positive turns the film clockwise.
        scale: above 1 enlarges it.
        shift_mm: (x, y).
        stretch: height of the lungs over the atlas' at equal width; part of the fit, not of the placement.
        fitted_scale: the scale that makes the lungs as wide as the atlas'; `scale` is 1 instead where it was kept.
        box_mm: (left, right, top, bottom) of the lungs on the detector once the film is placed.
        score: likeness of local contrast to the atlas, -1 to 1; film that is missing counts as unlike.
        tone: the same of plain brightness; tells an inverted film.
        coverage: share of the atlas' weight that lies on the film, 0 to 1.
        reasons: why it is not plausible, one sentence each; empty if it is.
    """

    rotation: float = 0.0
    scale: float = 1.0
    shift_mm: tuple[float, float] = (0.0, 0.0)
    stretch: float = 1.0
    fitted_scale: float = 1.0
    box_mm: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    score: float = 1.0
    tone: float = 1.0
    coverage: float = 1.0
    reasons: tuple[str, ...] = ()

    @property
    def plausible(self) -> bool:
        return not self.reasons

    @property
    def needed(self) -> bool:
        """Whether the film lies farther off than the chests of training, which were moved about themselves."""
        off = (
            self.rotation / TOLERATED[0],
            math.log(self.scale) / TOLERATED[1],
            math.hypot(*self.shift_mm) / TOLERATED[2],
        )
        return any(abs(share) > 1.0 for share in off)

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3): (x, y, 1) mm on the film as it lies -> on the detector."""
        c, s = self.scale * math.cos(self.rotation), self.scale * math.sin(self.rotation)
        return np.array([[c, -s, self.shift_mm[0]], [s, c, self.shift_mm[1]], [0.0, 0.0, 1.0]])

    def to_detector(self, points_mm: np.ndarray) -> np.ndarray:
        """(..., 2) mm as (x, y) on the film as it lies -> where they belong."""
        return np.asarray(points_mm) @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def to_film(self, points_mm: np.ndarray) -> np.ndarray:
        """(..., 2) mm on the detector -> on the film as it lies; undoes `to_detector`."""
        return (np.asarray(points_mm) - self.matrix[:2, 2]) @ np.linalg.inv(self.matrix[:2, :2]).T


def align(film: StandardFilm, *, fit_scale: bool | None = None, atlas: Atlas | None = None) -> Alignment:
    """Find the similarity that brings a frontal film onto the canonical detector.

    Args:
        film: as `standardise` laid it.
        fit_scale: whether the lungs are brought to the atlas' width; None does so unless the film's true size is known.
        atlas: None takes the one of the package.

    Errors:
        FilmError: a lateral film, or one without contrast.
    """
    if not film.view.is_frontal:
        raise FilmError("film.view", "Only frontal films can be aligned to the atlas.", "Align the frontal film.")
    atlas = atlas or bundled_atlas()
    level, there = on_grid(film.image, film.mask, film.detector_mm)
    shown = level[there > 0.5]
    if not (shown.size and np.ptp(shown) > FLOOR):
        raise FilmError("film.constant", "The film shows nothing to align it by.", "Choose another film.")
    fit = _fit(atlas, level, there)
    keep_scale = film.scale_known if fit_scale is None else not fit_scale
    return _alignment(atlas, level, there, fit, keep_scale)


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
            fits = np.stack([_refined(atlas, grid, fit) for grid, fit in zip(grids, fits, strict=True)])
        elif turn < 4:
            fits = np.stack([_fit(atlas, *grid) for grid in grids])
    return atlas


def on_grid(image: np.ndarray, mask: np.ndarray, detector_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """A film on the atlas' grid: (GRID, GRID) brightness, and how much of each pixel is film, 0 to 1."""
    size = image.shape[0]
    pitch = detector_mm / size
    there = mask.astype(np.float32)
    level = _blurred(image.astype(np.float32), there, 0.4 * PITCH_MM / pitch)
    index = AXIS_MM / pitch + 0.5 * (size - 1)
    where = np.meshgrid(index, index, indexing="ij")
    return (
        ndimage.map_coordinates(level, where, order=1, mode="nearest"),
        ndimage.map_coordinates(there, where, order=1, mode="constant"),
    )


def local_contrast(level: np.ndarray, there: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Brightness less that of the neighbourhood, over its spread there; 0 where there is no film.

    Args:
        level: (GRID, GRID) brightness.
        there: (GRID, GRID) how much of each pixel is film.
        scale: that the film needs to have true size; the neighbourhoods shrink accordingly.
    """
    fine, wide, spread = (sigma / (PITCH_MM * scale) for sigma in (FINE_MM, WIDE_MM, SPREAD_MM))
    detail = _blurred(level, there, fine) - _blurred(level, there, wide)
    deviation = np.sqrt(_blurred(detail * detail, there, spread))
    return np.clip(detail / (deviation + FLOOR), -CEILING, CEILING) * there


def lung_box(field: np.ndarray) -> tuple[float, float, float, float]:
    """(left, right, top, bottom) mm of a (GRID, GRID) bool lung field; a line counts from three pixels of lung."""
    rows, columns = (np.flatnonzero(field.sum(axis) > 2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        raise FilmError("film.no-lungs", "A film shows no lung field.", "Make the atlas of frontal chest films.")
    left, right, top, bottom = (AXIS_MM[i] for i in (columns[0], columns[-1], rows[0], rows[-1]))
    half = 0.5 * PITCH_MM
    return float(left - half), float(right + half), float(top - half), float(bottom + half)


@lru_cache(1)
def bundled_atlas() -> Atlas:
    """The atlas of the package, read once."""
    return Atlas.load()


def _read_atlas(path: Path) -> Atlas:
    try:
        with np.load(path, allow_pickle=False) as file:
            images = (file["contrast"].astype(np.float32), file["field"] / np.float32(255), file["film"])
            atlas = Atlas(*images, file["spread"], tuple(str(name) for name in file["names"]))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "atlas.unreadable", f"The atlas {path.name} cannot be read: {error}", "Make it again, or install anew."
        ) from None
    if any(image.shape != (GRID, GRID) for image in images):
        raise ConfigError("atlas.size", f"The atlas {path.name} has another grid.", "Make it again.")
    return atlas


# ---------------------------------------------------------------- search


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
        weight, contrast = _sampled(atlas.weight, at_x, at_y), _sampled(atlas.contrast, at_x, at_y)
        total = float(weight.sum())
        contrast = contrast - (weight * contrast).sum() / total
        energy = float((weight * contrast * contrast).sum())
        spectra = (_spectrum(weight * contrast).conj(), _spectrum(weight).conj())
        fit = np.array([rotation, math.log(scale), 0.0, 0.0, math.log(stretch)])
        return cls(fit, back, spectra, total, energy)


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
    for pose in atlas.poses:
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


# ---------------------------------------------------------------- refinement


def _fit(atlas: Atlas, level: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(5,) best fit of a film on the grid: every start refined, then the best again at its own scale."""
    contrast = local_contrast(level, there)
    starts = _starts(atlas, contrast, there) or [USUAL]
    fits = [_descended(atlas, contrast, there, start, every=3) for start in starts]
    best = min(fits, key=lambda fit: _cost(atlas, contrast, there, fit))
    return _refined(atlas, (level, there), best)


def _refined(atlas: Atlas, grid: tuple[np.ndarray, np.ndarray], fit: np.ndarray) -> np.ndarray:
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
    film, shape, _ = _compared(atlas, contrast, atlas.points[3], there, fit, every)
    return np.concatenate([film - shape, PRIOR * (fit - USUAL) / SPREAD])


def _cost(atlas: Atlas, contrast: np.ndarray, there: np.ndarray, fit: np.ndarray) -> float:
    return float((_residuals(atlas, contrast, there, fit) ** 2).sum())


def _compared(
    atlas: Atlas, image: np.ndarray, shape: np.ndarray, there: np.ndarray, fit: np.ndarray, every: int = 1
) -> tuple[np.ndarray, np.ndarray, float]:
    """Film and atlas at the atlas' points, weighted, of mean 0 and norm 1, and the share of the weight on the film.

    Args:
        image: (GRID, GRID) contrast or brightness of the film.
        shape: (n,) the same of the atlas at its points.
    """
    x, y, weight = (values[::every] for values in atlas.points[:3])
    at = _film_points(fit, atlas.centre_mm, x, y)
    film, on_film = _sampled(image, *at), weight * _sampled(there, *at)
    coverage = float(on_film.sum() / weight.sum())
    return _unit(film, on_film) * np.sqrt(on_film / weight), _unit(shape[::every], weight), coverage


def _unit(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """sqrt(weight) x values, of weighted mean 0 and norm 1."""
    root = np.sqrt(weight)
    values = root * (values - (weight * values).sum() / max(float(weight.sum()), 1e-6))
    return values / max(float(np.linalg.norm(values)), 1e-6)


def _film_points(
    fit: np.ndarray, centre: tuple[float, float], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the atlas, mm -> where the film shows them: p = R^-1 (q - shift) / scale, q the stretched point."""
    dx = x - fit[SHIFT_X]
    dy = centre[1] + math.exp(fit[LOG_STRETCH]) * (y - centre[1]) - fit[SHIFT_Y]
    c, s = (math.exp(-fit[LOG_SCALE]) * f(fit[ROTATION]) for f in (math.cos, math.sin))
    return c * dx + s * dy, -s * dx + c * dy


def _alignment(atlas: Atlas, level: np.ndarray, there: np.ndarray, fit: np.ndarray, keep_scale: bool) -> Alignment:
    """What a fit means for the film. A kept scale leaves the middle of the lungs where the fit has it."""
    contrast = local_contrast(level, there, math.exp(fit[LOG_SCALE]))
    film, shape, coverage = _compared(atlas, contrast, atlas.points[3], there, fit)
    film_tone, atlas_tone, _ = _compared(atlas, level, atlas.film[atlas.weight > 0].astype(float), there, fit)
    fitted, stretch = math.exp(fit[LOG_SCALE]), math.exp(fit[LOG_STRETCH])
    shrunk = fitted if keep_scale else 1.0
    centre = np.array(atlas.centre_mm)
    shift = centre - (centre - fit[[SHIFT_X, SHIFT_Y]]) / shrunk
    left, right, top, bottom = (
        middle + factor * (edge - middle) / shrunk
        for edge, middle, factor in zip(atlas.box_mm, centre.repeat(2), (1.0, 1.0, stretch, stretch), strict=True)
    )
    alignment = Alignment(
        rotation=float(fit[ROTATION]),
        scale=fitted / shrunk,
        shift_mm=(float(shift[0]), float(shift[1])),
        stretch=stretch,
        fitted_scale=fitted,
        box_mm=(float(left), float(right), float(top), float(bottom)),
        score=float(film @ shape),
        tone=float(film_tone @ atlas_tone),
        coverage=coverage,
    )
    return replace(alignment, reasons=tuple(_doubts(alignment)))


def _doubts(found: Alignment) -> Iterator[str]:
    """Why an alignment is not plausible, one sentence each."""
    if found.score < MIN_SCORE:
        yield f"It hardly looks like a frontal chest film (likeness {found.score:.2f}, at least {MIN_SCORE:g})."
    if found.tone < MIN_TONE:
        yield f"Its lungs are not darker than what surrounds them (likeness {found.tone:.2f}): inverted?"
    if found.coverage < MIN_COVERAGE:
        yield f"Only {found.coverage:.0%} of the lungs' surroundings lie on the film."
    if not SCALE_RANGE[0] <= found.fitted_scale <= SCALE_RANGE[1]:
        yield f"It would have to be scaled by {found.fitted_scale:.2f}."
    if not STRETCH_RANGE[0] <= found.stretch <= STRETCH_RANGE[1]:
        yield f"The lungs would be {found.stretch:.2f} times as high as usual."
    if abs(found.rotation) > MAX_ROTATION:
        yield f"It would have to be turned by {math.degrees(found.rotation):.0f} degrees."
    if math.hypot(*found.shift_mm) > MAX_SHIFT_MM:
        yield f"It would have to be shifted by {math.hypot(*found.shift_mm):.0f} mm."


# ---------------------------------------------------------------- placement


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


# ---------------------------------------------------------------- atlas


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
    at = _film_points(fit, centre, x, y)
    return np.stack([_sampled(layer, *at, mode="nearest") for layer in layers])


# ---------------------------------------------------------------- images


def _sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray, mode: str = "constant") -> np.ndarray:
    """A (GRID, GRID) image at positions in mm, linearly; outside it 0, or with mode "nearest" its border."""
    middle = 0.5 * (GRID - 1)
    return ndimage.map_coordinates(image, [y / PITCH_MM + middle, x / PITCH_MM + middle], order=1, mode=mode)


def _blurred(image: np.ndarray, there: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over what is there (normalised convolution, Knutsson and Westin, CVPR 1993); sigma in pixels."""
    total = ndimage.gaussian_filter(image * there, sigma, mode="constant")
    return total / np.maximum(ndimage.gaussian_filter(there, sigma, mode="constant"), 1e-3)


def _distance_mm(region: np.ndarray) -> np.ndarray:
    """To the nearest pixel of a bool region."""
    return ndimage.distance_transform_edt(~region) * PITCH_MM


def _without_gaps(line: np.ndarray) -> np.ndarray:
    """A bool line, True from its first to its last True."""
    return np.maximum.accumulate(line) & np.maximum.accumulate(line[::-1])[::-1]

"""A frontal film without a CT, brought onto the canonical detector: rotation, scale and shift in its own plane.

The networks saw chests in the middle of the detector at one magnification. A film of unknown pixel size, off centre or
turned by some degrees, is moved there by the similarity under which it best resembles an atlas, the mean of such films
simulated from CTs:

    standardised film -> local contrast on a 4 mm grid -> FFT search over scale, rotation, stretch and every shift
    -> the best few refined by Levenberg-Marquardt -> `Alignment` with its reasons for doubt -> `placement.place`

Likeness is the normalised cross-correlation over lungs and surroundings of local contrast, which hardly depends on tone
curve and exposure. Lungs of an upright patient are taller than those of one who lies in a CT: a vertical stretch of the
atlas is estimated along, so that this difference does not leak into the scale, and then left out of the placement.

Positions are millimetres from the detector's centre, x to the patient's left (growing column), y down (growing row).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from axon_core.errors import FilmError
from axon_core.radiograph import StandardFilm
from axon_core.registration.atlas import FLOOR, Atlas, bundled_atlas, local_contrast, on_grid
from axon_core.registration.atlas_fit import LOG_SCALE, LOG_STRETCH, ROTATION, SHIFT_X, SHIFT_Y, compared, fit_film

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
    fit = fit_film(atlas, level, there)
    keep_scale = film.scale_known if fit_scale is None else not fit_scale
    return _alignment(atlas, level, there, fit, keep_scale)


def _alignment(atlas: Atlas, level: np.ndarray, there: np.ndarray, fit: np.ndarray, keep_scale: bool) -> Alignment:
    """What a fit means for the film. A kept scale leaves the middle of the lungs where the fit has it."""
    contrast = local_contrast(level, there, math.exp(fit[LOG_SCALE]))
    film, shape, coverage = compared(atlas, contrast, atlas.points[3], there, fit)
    film_tone, atlas_tone, _ = compared(atlas, level, atlas.film[atlas.weight > 0].astype(float), there, fit)
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

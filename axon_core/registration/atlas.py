"""The atlas: what a frontal chest film on the canonical detector looks like, the mean of films simulated from CTs.

All images lie on one grid, 4 mm apart. Positions are millimetres from the detector's centre, x to the patient's left
(growing column), y down (growing row).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from scipy import ndimage

from axon_core.errors import ConfigError, FilmError

GRID, PITCH_MM = 108, 4.0  # the atlas and the films that are compared with it
AXIS_MM = (np.arange(GRID) - 0.5 * (GRID - 1)) * PITCH_MM

# local contrast
FINE_MM, WIDE_MM, SPREAD_MM = 6.0, 40.0, 48.0  # Gaussian sigmas: detail kept, level removed, contrast equalised
FLOOR, CEILING = 0.05, 2.5  # least spread (of a film's range of 2) that is equalised; most contrast that counts

# where the atlas is compared: the lungs and this much around them, fading out over FADE_MM
AROUND_MM, BELOW_MM, FADE_MM = 25.0, 60.0, 15.0


@dataclass(frozen=True, eq=False)
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


def on_grid(image: np.ndarray, mask: np.ndarray, detector_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """A film on the atlas' grid: (GRID, GRID) brightness, and how much of each pixel is film, 0 to 1."""
    size = image.shape[0]
    pitch = detector_mm / size
    there = mask.astype(np.float32)
    level = blurred(image.astype(np.float32), there, 0.4 * PITCH_MM / pitch)
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
    detail = blurred(level, there, fine) - blurred(level, there, wide)
    deviation = np.sqrt(blurred(detail * detail, there, spread))
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


def sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray, mode: str = "constant") -> np.ndarray:
    """A (GRID, GRID) image at positions in mm, linearly; outside it 0, or with mode "nearest" its border."""
    middle = 0.5 * (GRID - 1)
    return ndimage.map_coordinates(image, [y / PITCH_MM + middle, x / PITCH_MM + middle], order=1, mode=mode)


def blurred(image: np.ndarray, there: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over what is there (normalised convolution, Knutsson and Westin, CVPR 1993); sigma in pixels."""
    total = ndimage.gaussian_filter(image * there, sigma, mode="constant")
    return total / np.maximum(ndimage.gaussian_filter(there, sigma, mode="constant"), 1e-3)


def _distance_mm(region: np.ndarray) -> np.ndarray:
    """To the nearest pixel of a bool region."""
    return ndimage.distance_transform_edt(~region) * PITCH_MM


def _without_gaps(line: np.ndarray) -> np.ndarray:
    """A bool line, True from its first to its last True."""
    return np.maximum.accumulate(line) & np.maximum.accumulate(line[::-1])[::-1]

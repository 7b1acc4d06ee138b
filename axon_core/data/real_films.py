"""Real films made ready for training: laid onto the canonical detector, and tied to the CT of the same patient.

With a CT, the pose is sought in which it casts the films; a film that does not fit is left out with the reason. The
film then stays as it is, and the CT is shown to it in that pose; or, as the paper does, the film is warped onto the DRR
of the CT at rest. Without a CT, a frontal film is moved to where chests lie on films.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.ctvolume import CTVolume
from axon_core.data.manifest import known_view
from axon_core.errors import AxonError, FilmError
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView
from axon_core.radiograph import Radiograph, StandardFilm, standardise
from axon_core.registration.files import FILM_PIXELS, laid_on_detector
from axon_core.registration.placement import aligned
from axon_core.registration.pose import DOUBTFUL_BELOW, Film, RegisterOptions, Registrar, Registration

LEAST_SIMILARITY = DOUBTFUL_BELOW  # below it a film is left out


@dataclass(frozen=True, eq=False)
class RealFilms:
    """The films of a case that can be used.

    Attributes:
        images: "frontal", "lateral" -> (p, p) float32 in [-1, 1] on the canonical detector, bone bright.
        pose: of the CT about `isocentre_lps`, in which it casts them; None without CT or film.
        isocentre_lps: centre of the CT's voxel box.
        geometry: view -> the detector as the registration found it.
        warnings: what was left out and why, and what is doubtful.
    """

    images: dict[str, np.ndarray] = field(default_factory=dict)
    pose: RigidPose | None = None
    isocentre_lps: np.ndarray | None = None
    geometry: dict[str, XrayGeometry] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def frame(self, grid: CanonicalGrid) -> tuple[tuple[float, ...], ...]:
        """(3, 4): from the cube in which the films see the patient to `grid` of the CT, both in [-1, 1], x, y, z."""
        if self.pose is None or self.isocentre_lps is None:
            return ()
        back = self.pose.matrix[:3, :3].T
        shift = self.isocentre_lps - np.asarray(grid.center_lps) - back @ np.asarray(self.pose.translation)
        matrix = np.concatenate([back, shift[:, None] / (grid.extent_mm / 2)], 1)
        return tuple(tuple(round(float(value), 7) for value in row) for row in matrix)


def real_films(
    ct: CTVolume | None, files: dict[str, Path], pixels: int, onto_drr: bool = False, least: float = LEAST_SIMILARITY
) -> RealFilms:
    """Read the films of a case and tie them to its CT.

    Args:
        ct: of the same patient, in its own frame; None for films alone.
        files: "frontal", "lateral" -> file.
        pixels: along each edge of the detector.
        onto_drr: warp them onto the DRRs of the CT at rest.
        least: similarity below which a film is left out.
    """
    loaded: dict[str, Radiograph] = {}
    warnings: list[str] = []
    for view, path in files.items():
        try:
            loaded[view] = _of_view(Radiograph.load(path), view, warnings)
        except AxonError as error:
            warnings.append(f"The {view} film was left out: {error.title}")
    if ct is None:
        return _films_alone(loaded, pixels, warnings)
    if not loaded:
        return RealFilms(warnings=tuple(warnings))
    registrar = Registrar(ct)
    found = _registered(registrar, loaded, least, warnings)
    if found is None:
        return RealFilms(warnings=tuple(warnings))
    result, views = found
    images = {}
    for view, geometry in zip(views, result.geometry, strict=True):
        image = standardise(loaded[view], pixels).image
        images[view] = _on_drr(image, geometry, result.pose) if onto_drr else _true_to_scale(image, geometry)
    geometries = dict(zip(views, result.geometry, strict=True))
    return RealFilms(images, result.pose, registrar.isocentre_lps, geometries, tuple(warnings))


def _of_view(film: Radiograph, view: str, warnings: list[str]) -> Radiograph:
    """The film with its view settled; FilmError if its tags contradict."""
    shown, source = known_view(film)
    if shown != view and source == "tags":
        raise FilmError("film.view", f"It is tagged as a {shown} view.", "Exchange the films.")
    if shown != view and source == "look":
        warnings.append(f"The {view} film looks like a {shown} one.")
    if view == "lateral":
        return replace(film, view=XrayView.LAT)
    return film if film.view is not None else replace(film, view=XrayView.PA)


def _films_alone(loaded: dict[str, Radiograph], pixels: int, warnings: list[str]) -> RealFilms:
    images = {}
    for view, film in loaded.items():
        standard: StandardFilm = standardise(film, pixels)
        if view == "frontal":
            standard, alignment = aligned(film, standard)
            if not alignment.plausible:
                warnings.append(f"The frontal film was left out: {' '.join(alignment.reasons)}")
                continue
        images[view] = standard.image
    return RealFilms(images, warnings=tuple(warnings))


def _registered(
    registrar: Registrar, loaded: dict[str, Radiograph], least: float, warnings: list[str]
) -> tuple[Registration, Sequence[str]] | None:
    """All films at once, else each for itself, the frontal one first: the first search in which all films fit."""
    films: dict[str, Film] = {}
    for view, film in loaded.items():
        films[view] = laid_on_detector(standardise(film, FILM_PIXELS), film.sdd_mm)
    every, first = list(films), ""
    for views in [every, *([view] for view in every if len(every) > 1)]:
        found = registrar.register(
            [films[view] for view in views], RigidPose(), RegisterOptions(global_search=True), lambda _: None
        )
        if found.verdict != "failed" and min(found.after) >= least:
            warnings += [f"Doubtful registration: {reason}" for reason in found.reasons if not _expected(reason, views)]
            others = [view for view in every if view not in views]
            warnings += [f"The {view} film was left out: it fits no pose of the other film." for view in others]
            return found, views
        first = first or ", ".join(f"{value:.2f}" for value in found.after)
    named = "The films were" if len(every) > 1 else f"The {every[0]} film was"
    warnings.append(f"{named} left out: similarity {first} to the CT, {least:.2f} is asked.")
    return None


def _expected(reason: str, views: Sequence[str]) -> bool:
    """Whether a single frontal film cannot but be doubtful in this: its depth, which is not used."""
    return list(views) == ["frontal"] and reason.startswith("depth ")


def _true_to_scale(image: np.ndarray, found: XrayGeometry) -> np.ndarray:
    """(p, p) on the detector as found -> on the canonical one, so that the isocentre has its canonical size."""
    usual = XrayGeometry(found.view, image.shape[0])
    scale = usual.magnification / found.magnification * found.detector_mm / usual.detector_mm
    return _warped(image, np.array([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]]))


def _on_drr(image: np.ndarray, found: XrayGeometry, pose: RigidPose) -> np.ndarray:
    """(p, p) film warped onto the DRR of the CT at rest: the affine map between the projections of a plane.

    The plane lies through the isocentre, parallel to the detector; what lies before or behind it is off by parallax.
    """
    view = XrayView.PA if found.view.is_frontal else XrayView.LAT
    pixels = image.shape[0]
    rest, there = XrayGeometry(view, pixels), replace(found, view=view, pixels=pixels)
    u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(-120, 120, 9), np.linspace(-120, 120, 9)))
    points = np.outer(u, rest.view.column) + np.outer(v, rest.view.row)
    moved = points @ pose.matrix[:3, :3].T + pose.matrix[:3, 3]
    drr, film = ((2 * g.project(p) + 1)[:, ::-1] / pixels - 1 for g, p in ((rest, points), (there, moved)))  # (x, y)
    matrix, *_ = np.linalg.lstsq(np.column_stack([drr, np.ones(len(drr))]), film, rcond=None)
    return _warped(image, matrix.T)


def _warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Sample at (2, 3) `matrix` times (x, y, 1), all in [-1, 1]; -1 outside."""
    theta = torch.from_numpy(matrix.astype(np.float32))[None]
    grid = F.affine_grid(theta, [1, 1, *image.shape], align_corners=False)
    lifted = torch.from_numpy(np.ascontiguousarray(image))[None, None] + 1  # so that the outside, 0, is a film's -1
    return (F.grid_sample(lifted, grid, align_corners=False)[0, 0] - 1).clamp(-1, 1).numpy()

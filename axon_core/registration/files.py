"""From files to a registration, its record and its picture: what `axon register` and the Slicer panel call."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.ctvolume import CTVolume
from axon_core.dicom_patient import check_same_patient
from axon_core.errors import ConfigError, FilmError
from axon_core.files import atomic_file
from axon_core.film_choice import FilmChoice
from axon_core.geometry import RigidPose, XrayGeometry, XrayView, usual_sdd_mm
from axon_core.radiograph import StandardFilm, standardise
from axon_core.registration.pose import Film, RegisterOptions, Registrar, Registration, Told, ct_to_room

FILM_PIXELS = 512
SCALE_SD = 0.08  # of the pixel size that is guessed for films without one
SDD_SD = 0.04  # of the usual SDD, for films that do not tell theirs but know their pixel size


@dataclass(frozen=True, eq=False)
class RegisterResult:
    """A registration with what it was made of.

    Attributes:
        registration: the pose and how sure it is.
        films: as they were laid on their detectors.
        registrar: the CT, ready for more.
        warnings: of the films and the CT.
    """

    registration: Registration
    films: tuple[Film, ...]
    registrar: Registrar
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record: angles in degrees, lengths in millimetres, matrices LPS."""
        found = self.registration
        units = ["deg"] * 3 + ["mm"] * 3 + ["relative"] * (len(found.names) - 6)
        scale = np.array([math.degrees(1.0)] * 3 + [1.0] * (len(found.names) - 3))
        return {
            "verdict": found.verdict,
            "reasons": list(found.reasons),
            **pose_record(found.pose, found.isocentre_lps),
            "similarity": [
                {"before": round(before, 4), "after": round(after, 4)}
                for before, after in zip(found.before, found.after, strict=True)
            ],
            "parameters": [
                {"name": name, "sd": float(f"{sd:.3g}"), "unit": unit}
                for name, sd, unit in zip(found.names, found.sd * scale, units, strict=True)
            ],
            "covariance": (found.covariance * np.outer(scale, scale)).tolist(),
            "note_on_verdict": "good means that nothing speaks against the pose; judge it by the overlay.",
            "films": [{**asdict(geometry), "view": geometry.view.value} for geometry in found.geometry],
            "warnings": list(self.warnings),
            "version": __version__,
            "note": f"Registration to DRRs of a CT; {SYNTHETIC_NOTICE}.",
        }


def register_files(
    ct: Path,
    frontal: FilmChoice,
    lateral: FilmChoice | None = None,
    *,
    masks: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    sdd_mm: float | None = None,
    start: RigidPose | None = None,
    global_search: bool = True,
    told: Told = lambda _: None,
) -> RegisterResult:
    """Read a CT and its films and find the pose.

    Args:
        ct: anything `CTVolume.load` reads.
        frontal, lateral: the films.
        masks: of the frontal and the lateral film as `standardise` lays them, (FILM_PIXELS, FILM_PIXELS) bool, True
            where film and DRR are compared; None = found from collimation, frame and markers.
        sdd_mm: of both films, whatever their files say.
        start: where to begin.
        global_search: look beyond the neighbourhood of the start.
        told: called with the fraction done; whatever it raises ends the search.

    Errors:
        FilmError: unusable film, or one of another patient. VolumeError: unusable CT. ConfigError: impossible numbers.
    """
    check_same_patient([ct, frontal.file, *([lateral.file] if lateral else [])])
    front = frontal.load()
    if front.view is not None and not front.view.is_frontal:
        raise FilmError("film.view", "The frontal film is tagged as a lateral view.", "Exchange the films.")
    radiographs = [front]
    if lateral is not None:
        side = lateral.load()
        if side.view is not None and side.view.is_frontal:
            raise FilmError("film.view", "The lateral film is tagged as a frontal view.", "Exchange the films.")
        radiographs.append(replace(side, view=XrayView.LAT))
    volume = CTVolume.load(ct)
    standard = [standardise(film, FILM_PIXELS) for film in radiographs]
    films = tuple(
        laid_on_detector(laid, film.sdd_mm if sdd_mm is None else sdd_mm, mask)
        for laid, film, mask in zip(standard, radiographs, masks, strict=False)
    )
    registrar = Registrar(volume)
    options = RegisterOptions(global_search=global_search)
    found = registrar.register(films, start or RigidPose(), options, told)
    warnings = [text for film in standard for text in film.warnings] + list(volume.notes)
    return RegisterResult(found, films, registrar, tuple(dict.fromkeys(warnings)))


def laid_on_detector(film: StandardFilm, sdd_mm: float | None = None, mask: np.ndarray | None = None) -> Film:
    """A standardised film, with the geometry that is known of it and what is not.

    Args:
        film: see `standardise`.
        sdd_mm: if known.
        mask: (h, h) bool on the film's image, where to compare; pixels without film are left out of it.
    """
    if mask is not None and mask.shape != film.mask.shape:
        raise ConfigError(
            "register.mask",
            f"The mask has shape {mask.shape}, its film {film.mask.shape}.",
            "Draw the mask on the standardised film.",
        )
    mask = None if mask is None else mask & film.mask
    view, image = film.view, film.image
    if film.source.get("right_lateral"):  # standardised as a left one, mirrored: the true beam sees the true film
        view, image = XrayView.RL, np.ascontiguousarray(image[:, ::-1])
        mask = None if mask is None else np.ascontiguousarray(mask[:, ::-1])
    sdd = usual_sdd_mm(film.view) if sdd_mm is None else sdd_mm
    geometry = XrayGeometry(view, image.shape[0], sdd, detector_mm=film.detector_mm)
    if not film.scale_known:
        return Film(image, geometry, mask, scale_sd=SCALE_SD)
    return Film(image, geometry, mask, sdd_sd=SDD_SD if sdd_mm is None else 0.0)


def pose_record(pose: RigidPose, isocentre_lps: np.ndarray) -> dict[str, Any]:
    """A pose in plain values: angles in degrees, lengths in millimetres, the matrix LPS."""
    return {
        "rotation_deg": np.rad2deg(pose.rotation).round(4).tolist(),
        "translation_mm": np.round(pose.translation, 4).tolist(),
        "isocentre_lps_mm": np.round(isocentre_lps, 4).tolist(),
        "ct_to_xray_room": ct_to_room(pose, isocentre_lps).round(8).tolist(),
    }


def write_pose(path: Path, pose: RigidPose, isocentre_lps: np.ndarray, overwrite: bool = False) -> None:
    """Write a pose that a person has set; `read_pose` reads it.

    Errors:
        OutputError: the file exists and `overwrite` is False, or it cannot be written.
    """
    note = f"Pose of a CT before an X-ray film; {SYNTHETIC_NOTICE}."
    record = {**pose_record(pose, isocentre_lps), "version": __version__, "note": note}
    with atomic_file(path, overwrite) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_pose(path: Path) -> RigidPose:
    """The pose of a record that `axon register` or `write_pose` wrote.

    Errors:
        ConfigError: not such a file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        x, y, z = (float(value) for value in record["translation_mm"])
        a, b, c = (math.radians(float(value)) for value in record["rotation_deg"])
        if not np.isfinite([a, b, c, x, y, z]).all():
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "pose.file", f"{path.name} holds no pose.", "Give a file that `axon register` wrote."
        ) from error
    return RigidPose((a, b, c), (x, y, z))

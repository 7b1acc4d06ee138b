"""A whole film from a CT: couch and cut ends, geometry, physics, look. What `axon drr` calls."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.ctvolume import CTVolume
from axon_core.drr.appearance import Look
from axon_core.drr.blur import restored, voxel_sigma_mm
from axon_core.drr.exposure import Exposure
from axon_core.drr.materials import densities
from axon_core.drr.physics import attenuation_film, expose
from axon_core.drr.prepare import prepare_ct
from axon_core.drr.projector import Projector
from axon_core.errors import ConfigError
from axon_core.geometry import RigidPose, XrayGeometry
from axon_core.intensity import hu_to_mu

PRESETS = ("clinic", "linear")
SHARPEN = 2.0  # most that a frequency lost in the voxels is amplified: more shows their staircase


@torch.inference_mode()
def simulate(
    ct: CTVolume,
    geometry: XrayGeometry,
    pose: RigidPose | None = None,
    preset: str = "clinic",
    exposure: Exposure | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The film that a CT casts; the centre of its voxel box lies at the isocentre.

    Args:
        ct: any orientation and spacing.
        geometry: view, distances, detector.
        pose: motion of the patient about the isocentre.
        preset: "clinic" for X-ray physics and a film's look, in [0, 1]; "linear" for the line integrals of one energy.
        exposure: of the clinic preset.

    Returns:
        (h, h) float32, bone bright, and how it was made (JSON-able).

    Errors:
        VolumeError: no body in the CT. ConfigError: unknown preset, or the detector misses the body.
    """
    if preset not in PRESETS:
        raise ConfigError("drr.preset", f"There is no preset {preset!r}.", f"Use one of {', '.join(PRESETS)}.")
    prepared = prepare_ct(ct)
    affine = prepared.affine.copy()
    affine[:3, 3] -= ct.center_lps
    hu = torch.from_numpy(prepared.hu)
    record: dict[str, Any] = {
        "what": "digitally reconstructed radiograph",
        "note": SYNTHETIC_NOTICE,
        "preset": preset,
        "geometry": {**asdict(geometry), "view": geometry.view.value},
        "pose": asdict(pose or RigidPose()),
        "warnings": list(ct.notes),
        "version": __version__,
    }
    if preset == "linear":
        film = Projector(hu_to_mu(hu), affine, geometry.view.beam)(geometry, pose)[0]
        return _hit(film, 0.1).numpy(), record
    exposure, look = exposure or Exposure(), Look()
    film = clinic_film(hu, affine, geometry, pose, exposure, look)
    return (0.5 * (film + 1)).numpy(), {**record, "exposure": exposure.to_dict(), "look": look.to_dict()}


def clinic_film(
    hu: torch.Tensor,
    affine: np.ndarray,
    geometry: XrayGeometry,
    pose: RigidPose | None = None,
    exposure: Exposure | None = None,
    look: Look | None = None,
) -> torch.Tensor:
    """A film by X-ray physics and a film's look, of a volume that needs no preparation.

    Args:
        hu: (z, y, x) HU.
        affine, geometry, pose, exposure: see `log_film`.
        look: None for the plain one.

    Returns:
        (h, h) in [-1, 1], bone bright.

    Errors:
        ConfigError: the detector misses the body.
    """
    return (look or Look()).apply(log_film(material_densities(hu), affine, geometry, pose, exposure))


def material_densities(hu: torch.Tensor) -> torch.Tensor:
    """(z, y, x) HU -> (materials, z, y, x) float16 g/cm3, what `log_film` films: once for all films of a volume."""
    return torch.stack([part.half() for part in densities(hu).values()])


def log_film(
    materials: torch.Tensor,
    affine: np.ndarray,
    geometry: XrayGeometry,
    pose: RigidPose | None = None,
    exposure: Exposure | None = None,
) -> torch.Tensor:
    """The logarithmic film by X-ray physics, before any look, of a volume that needs no preparation.

    Args:
        materials: of `material_densities`.
        affine: (4, 4) voxel index -> LPS about the isocentre.
        geometry, pose, exposure: see `simulate`; None for the usual ones.

    Returns:
        (h, h) -log of the signal, dimensionless; see `physics.attenuation_film`.

    Errors:
        ConfigError: the detector misses the body.
    """
    areal = _hit(Projector(materials, affine, geometry.view.beam)(geometry, pose) / 10.0, 0.5)  # mm of ray -> cm
    voxel_mm = float(np.mean(np.linalg.norm(affine[:3, :3], axis=0)))
    sigma = voxel_sigma_mm(voxel_mm) * geometry.magnification / geometry.pitch_mm
    return attenuation_film(expose(restored(areal, sigma, SHARPEN), geometry, exposure or Exposure()))


def _hit(integrals: torch.Tensor, enough: float) -> torch.Tensor:
    """The same integrals, one of which must be `enough` for a body to be there."""
    if float(integrals.max()) < enough:
        raise ConfigError(
            "drr.miss", "The detector misses the body.", "Check the pose, the distances and the size of the detector."
        )
    return integrals

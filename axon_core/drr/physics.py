"""From what lies along each ray to the signal of a flat detector: polychromatic X-ray physics in plain torch.

Signals are relative to the open field, which is 1. Every effect can be switched off; with all of them off the film is
Beer and Lambert's exp(-integral) of one energy. In the order of the light:

    spectrum      w(E) ~ tube(kVp, E) exp(-mu_Al d_Al - mu_Cu d_Cu) * E (1 - exp(-mu_CsI d_CsI))
    primary       P = sum_E w(E) exp(-sum_m (mu/rho)_m(E) a_m),   a_m: grams of material m per cm2
    focal spot    P * gauss(spot (M - 1))
    scatter       S = grid * (k a P) * gauss(sigma_s),            a = sum_m a_m
    quanta        N ~ Poisson(n (P + S))
    detector      N * gauss(MTF), plus electronic noise

Before the light, `materials.densities` tells materials from HU and `blur.restored` takes the blur of the CT's voxels
from their projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from axon_core.drr.beam import Beam, beam, primary
from axon_core.drr.blur import blur, mtf_sigma_mm, spot_sigma_mm
from axon_core.drr.exposure import USUAL, Exposure
from axon_core.drr.materials import MATERIALS
from axon_core.errors import ConfigError
from axon_core.geometry import XrayGeometry

# Scatter of a 35 x 35 cm field of water, 2 cm before the detector, 50 to 75 keV, by Monte Carlo (Klein and Nishina's
# cross section; Testing/core/test_physics.py repeats it): scatter per primary grows in proportion to thickness.
SCATTER_PER_PRIMARY = 0.115  # per g/cm2
SCATTER_SIGMA_MM = 60.0  # the same Monte Carlo for a pencil beam, half of whose scatter lands within 1.18 sigma
# Through chests it gives Niklason's measurements (Med. Phys. 8 (1981) 677): 90 % of the light behind the mediastinum is
# scattered without a grid, more than half with a 12:1 grid.


def scatter(
    primary: torch.Tensor, thickness: torch.Tensor, strength: float | torch.Tensor, sigma: float
) -> torch.Tensor:
    """Scattered light: each ray scatters in proportion to its primary and its path through tissue, and spreads wide.

    The kernel superposition of Love and Kruger (Med. Phys. 14 (1987) 178), with one Gaussian.

    Args:
        primary: (..., h, w).
        thickness: (..., h, w) [g/cm2].
        strength: 1 for a large field without gap and grid.
        sigma: of the spread [pixels].

    Returns:
        (..., h, w) in the unit of `primary`.
    """
    return blur(strength * SCATTER_PER_PRIMARY * thickness * primary, sigma)


def quanta_per_pixel(exposure: Exposure, beam: Beam, geometry: XrayGeometry) -> float:
    """Detected quanta per pixel of the open field; 0 without quantum noise. The inverse square law holds."""
    if exposure.quanta > 0 or exposure.kvp is None:
        return exposure.quanta
    return beam.quanta * exposure.mas * (1000.0 / geometry.sdd_mm) ** 2 * (0.1 * geometry.pitch_mm) ** 2


def counted(signal: torch.Tensor, quanta: float, generator: torch.Generator) -> torch.Tensor:
    """The signal as that many quanta would count it: Poisson, so that variance and mean of the count are equal."""
    return torch.poisson(quanta * signal.detach().cpu(), generator=generator).to(signal.device) / quanta


def expose(
    areal: torch.Tensor,
    geometry: XrayGeometry,
    exposure: Exposure = USUAL,
    materials: Sequence[str] = MATERIALS,
) -> torch.Tensor:
    """Take a film.

    Args:
        areal: (materials, h, w) grams per cm2 along each ray: a tenth of what `Projector` gives for `densities`, whose
            rays are in millimetres.
        geometry: gives pixel size, distance and magnification.
        exposure: how.
        materials: names of the channels.

    Returns:
        (h, w) signal relative to the open field, positive. Differentiable with respect to `areal` without noise.

    Raises:
        ConfigError: channels and materials do not match, or a material is unknown.
    """
    if areal.ndim != 3 or len(areal) != len(materials):
        raise ConfigError(
            "film.materials",
            f"Areal densities of shape {tuple(areal.shape)} for {len(materials)} materials.",
            "Give one (h, w) channel for each material.",
        )
    rays = beam(exposure, materials)
    pitch = geometry.pitch_mm
    direct = primary(areal, rays)
    signal = blur(direct, spot_sigma_mm(exposure.spot_mm, geometry.magnification) / pitch)
    if exposure.scatter > 0:
        signal = signal + scatter(direct, areal.sum(0), exposure.grid * exposure.scatter, SCATTER_SIGMA_MM / pitch)
    quanta = quanta_per_pixel(exposure, rays, geometry)
    generator = torch.Generator().manual_seed(exposure.seed)
    if quanta > 0:
        signal = counted(signal, quanta, generator)
    signal = blur(signal, mtf_sigma_mm(exposure.mtf50_per_mm) / pitch)
    if quanta > 0:
        noise = torch.randn(signal.shape, generator=generator).to(signal.device)
        signal = signal + exposure.electronic / quanta * noise
        signal = signal.clamp_min(0.5 / quanta)  # half a quantum, so that the logarithm exists
    return signal


def attenuation_film(signal: torch.Tensor) -> torch.Tensor:
    """The logarithmic film, -log(signal): what the line integrals would be if nothing but attenuation were at work."""
    return -torch.log(signal)

"""From what lies along each ray to the signal of a flat detector: polychromatic X-ray physics in plain torch.

Signals are relative to the open field, which is 1. Every effect can be switched off; with all of them off the film is
Beer and Lambert's exp(-integral) of one energy. In the order of the light:

    spectrum      w(E) ~ tube(kVp, E) exp(-mu_Al d_Al - mu_Cu d_Cu) * E (1 - exp(-mu_CsI d_CsI))
    primary       P = sum_E w(E) exp(-sum_m (mu/rho)_m(E) a_m),   a_m: grams of material m per cm2
    focal spot    P * gauss(spot (M - 1))
    scatter       S = grid * (k a P) * gauss(sigma_s),            a = sum_m a_m
    quanta        N ~ Poisson(n (P + S))
    detector      N * gauss(MTF), plus electronic noise

Before the light, `densities` tells materials from HU and `restored` takes the blur of the CT's voxels from their
projection. The tables of spectra (SpekPy) and mass attenuation (NIST's values) lie in `tables/` with the script that
made them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ive

from axon_core.errors import ConfigError
from axon_core.geometry import XrayGeometry

TABLES = Path(__file__).parent / "tables"
MATERIALS = ("soft", "bone")  # what `densities` gives unless told more

CT_KEV = 70.0  # effective energy of a CT at 120 kVp, where HU are taken to be what their definition says
SOFT_HU = 100.0  # up to here soft tissue grows denser; beyond, it is mixed with bone
BONE_DENSITY = 1.92  # cortical bone [g/cm3], ICRU Report 44
DENSITY = {"aluminium": 2.699, "copper": 8.96, "csi": 4.51}  # [g/cm3], NISTIR 5632
CSI_PACKING = 0.75  # share of a layer of CsI needles that is CsI; Zhao et al., Med. Phys. 31 (2004) 2594

# Scatter of a 35 x 35 cm field of water, 2 cm before the detector, 50 to 75 keV, by Monte Carlo (Klein and Nishina's
# cross section; Testing/core/test_physics.py repeats it): scatter per primary grows in proportion to thickness.
SCATTER_PER_PRIMARY = 0.115  # per g/cm2
SCATTER_SIGMA_MM = 60.0  # the same Monte Carlo for a pencil beam, half of whose scatter lands within 1.18 sigma
# Through chests it gives Niklason's measurements (Med. Phys. 8 (1981) 677): 90 % of the light behind the mediastinum is
# scattered without a grid, more than half with a 12:1 grid.


@dataclass(frozen=True)
class Exposure:
    """How a film is taken. The defaults are a PA chest in a modern department.

    Attributes:
        kvp: tube voltage, 60 to 140; None for one energy, `kev`, counted by an ideal detector.
        kev: energy of the only photons when `kvp` is None.
        aluminium_mm: total filtration of the tube, 1 or more.
        copper_mm: added filtration.
        bins: groups of energies in which the spectrum is followed; 12 are accurate to 1 % of the film's logarithm.
        csi_mm: thickness of the scintillator, whose light is proportional to the absorbed energy; 0 counts photons.
        scatter: multiplies the scatter of a large field without a gap; 0 switches it off.
        grid: transmission of the antiscatter grid for scatter over that for primary; 1 without grid, 0.2 for 12:1.
        spot_mm: focal spot, full width at half maximum; 0 switches its blur off.
        mtf50_per_mm: frequency at which the detector's MTF has fallen to a half; 0 for an ideal detector.
        mas: tube current times time, which sets the quantum noise; 0 switches it off.
        quanta: detected quanta per pixel of the open field, instead of what follows from `mas`; 0 to follow `mas`.
        electronic: standard deviation of the electronics' noise, in quanta per pixel; only with quantum noise.
        seed: of the noise.

    Raises:
        ConfigError: a value out of its range.
    """

    kvp: float | None = 120.0
    kev: float = 60.0
    aluminium_mm: float = 3.0
    copper_mm: float = 0.1
    bins: int = 12
    csi_mm: float = 0.5
    scatter: float = 1.0
    grid: float = 0.2
    spot_mm: float = 1.0
    mtf50_per_mm: float = 1.2
    mas: float = 1.5
    quanta: float = 0.0
    electronic: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kvp is not None and not 60 <= self.kvp <= 140:
            raise ConfigError("exposure.kvp", f"A tube voltage of {self.kvp} kVp.", "Give 60 to 140, or None.")
        if not 11 <= self.kev <= 139:
            raise ConfigError("exposure.kev", f"A photon energy of {self.kev} keV.", "Give 11 to 139.")
        if self.aluminium_mm < 1 or self.bins < 1:
            raise ConfigError(
                "exposure.filter",
                f"A filter of {self.aluminium_mm} mm aluminium, {self.bins} bins.",
                "Give at least 1 mm (usual: 2.5 and more) and at least 1 bin.",
            )
        sizes = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("kvp", "seed")}
        negative = [name for name, size in sizes.items() if not 0 <= size < 1e9]
        if negative:
            raise ConfigError(
                "exposure.negative", f"Negative or endless: {', '.join(negative)}.", "Give 0 to switch an effect off."
            )

    def to_dict(self) -> dict[str, Any]:
        """Parameters for a log: `Exposure(**d)` is the same exposure."""
        return asdict(self)


IDEAL = Exposure(kvp=None, csi_mm=0, scatter=0, spot_mm=0, mtf50_per_mm=0, mas=0, electronic=0)


def random_exposure(generator: torch.Generator) -> Exposure:
    """A plausible exposure: 85 to 140 kVp, any usual filter, with a grid, or without one at lower voltage."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    bedside = uniform(0, 1) < 0.3
    return Exposure(
        kvp=uniform(85, 110) if bedside else uniform(105, 140),
        aluminium_mm=uniform(2.5, 4.0),
        copper_mm=0.0 if bedside else uniform(0.0, 0.3),
        csi_mm=uniform(0.3, 0.6),
        scatter=uniform(0.6, 1.1),
        grid=uniform(0.5, 0.8) if bedside else uniform(0.1, 0.3),
        spot_mm=uniform(0.6, 1.4),
        mtf50_per_mm=uniform(0.9, 1.6),
        mas=math.exp(uniform(math.log(0.6), math.log(4.0))),
        seed=int(torch.randint(2**31, (), generator=generator)),
    )


# --- tables ----------------------------------------------------------------------------------------------------------


@cache
def _table(name: str) -> dict[str, np.ndarray]:
    """Columns of a table by their heading; "kev" among them."""
    lines = [line for line in (TABLES / name).read_text("utf-8").splitlines() if not line.startswith("#")]
    values = np.array([line.split(",") for line in lines[1:]], dtype=float)
    return dict(zip(lines[0].split(","), values.T, strict=True))


def mass_attenuation(material: str, kev: Any) -> np.ndarray:
    """Total mass attenuation [cm2/g] at energies of 10.5 to 139.5 keV, between the table's by straight log-log lines.

    Args:
        material: water, soft, bone, iodine, iron, aluminium, copper, csi; or air_absorption, air's mass energy
            absorption.
        kev: any shape.

    Raises:
        ConfigError: another material.
    """
    table = _table("attenuation.csv")
    if material not in table or material == "kev":
        raise ConfigError(
            "material.unknown", f"There is no material {material!r}.", f"Choose from {', '.join(list(table)[1:])}."
        )
    return np.exp(np.interp(np.log(kev), np.log(table["kev"]), np.log(table[material])))


def spectrum(kvp: float, aluminium_mm: float, copper_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Photons that leave the filtered tube: energies [keV] and photons per keV, cm2 and mAs at 1 m; (130,) each.

    Between the voltages of the table, 5 kV apart, the spectra are blended.
    """
    table = _table("spectra.csv")
    kev = table["kev"]
    below = min(int(kvp // 5) * 5, 135)
    share = (kvp - below) / 5
    tube = (1 - share) * table[str(below)] + share * table[str(below + 5)]
    absorbers = (("aluminium", aluminium_mm), ("copper", copper_mm))
    depth = sum(mass_attenuation(m, kev) * DENSITY[m] * 0.1 * mm for m, mm in absorbers)
    return kev, tube * np.exp(-depth)


def absorbed_share(kev: np.ndarray, csi_mm: float) -> np.ndarray:
    """Share of photons stopped in the scintillator; 1 for an ideal detector (0 mm)."""
    if csi_mm == 0:
        return np.ones_like(kev)
    return 1 - np.exp(-mass_attenuation("csi", kev) * DENSITY["csi"] * CSI_PACKING * 0.1 * csi_mm)


def half_value_layer(kvp: float, aluminium_mm: float, copper_mm: float = 0.0) -> float:
    """Millimetres of aluminium that halve the air kerma of the beam (IEC 61267)."""
    kev, photons = spectrum(kvp, aluminium_mm, copper_mm)
    kerma = photons * kev * mass_attenuation("air_absorption", kev)
    layer = np.linspace(0, 40, 4001)
    passed = np.exp(-0.1 * DENSITY["aluminium"] * layer[:, None] * mass_attenuation("aluminium", kev)) @ kerma
    return float(np.interp(-0.5, -passed / passed[0], layer))


# --- from HU to materials --------------------------------------------------------------------------------------------


def volume_fractions(hu: torch.Tensor) -> dict[str, torch.Tensor]:
    """HU -> shares of air, soft tissue and bone in each voxel, 0 to 1; they sum to one.

    Air and soft tissue mix below 0 HU; from 100 HU a steady ramp leads to cortical bone at about 1600.
    """
    air = (-hu / 1000.0).clamp(0.0, 1.0)
    bone = ((hu - SOFT_HU) / (_bone_hu() - SOFT_HU)).clamp(0.0, 1.0)
    return {"air": air, "soft": 1 - air - bone, "bone": bone}


def densities(
    hu: torch.Tensor, iodine: torch.Tensor | None = None, metal_hu: float | None = None
) -> dict[str, torch.Tensor]:
    """HU -> grams of each material per cm3, so that at the CT's effective energy the mixture has these very HU:

        1 + HU/1000 = sum_m rho_m (mu/rho)_m / mu_water

    Soft tissue grows denser up to 100 HU, bone beyond cortical bone. The mass of air is neglected.

    Args:
        hu: any shape.
        iodine: bool, where HU above water are contrast medium in blood: adds the channel "iodine".
        metal_hu: from here on it is iron: adds the channel "iron", as dense as the HU (often clipped) say.

    Returns:
        One tensor like `hu` for each material, "soft" and "bone" first.
    """
    share = volume_fractions(hu)
    parts = {
        "soft": share["soft"] * _density("soft", hu.clamp(0.0, SOFT_HU)),
        "bone": share["bone"] * _density("bone", hu.clamp_min(_bone_hu())),
    }
    if iodine is not None:
        blood = _density("soft", torch.zeros_like(hu))
        enhanced = iodine & (hu > 0)
        parts = {"soft": torch.where(enhanced, blood, parts["soft"]), "bone": parts["bone"] * ~enhanced}
        parts["iodine"] = _density("iodine", hu - 1000.0) * enhanced
    if metal_hu is not None:
        metal = hu >= metal_hu
        parts = {name: part * ~metal for name, part in parts.items()}
        parts["iron"] = _density("iron", hu) * metal
    return parts


def _density(material: str, hu: torch.Tensor) -> torch.Tensor:
    """The density [g/cm3] at which the material alone has these HU."""
    return (1 + hu / 1000.0) * float(mass_attenuation("water", CT_KEV) / mass_attenuation(material, CT_KEV))


def _bone_hu() -> float:
    """HU of cortical bone at the CT's effective energy."""
    ratio = BONE_DENSITY * mass_attenuation("bone", CT_KEV) / mass_attenuation("water", CT_KEV)
    return 1000.0 * (float(ratio) - 1.0)


# --- the beam in few energies ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beam:
    """A spectrum in few groups of energies.

    Attributes:
        weight: (bins,) share of the detector's signal in the open field; sums to one.
        attenuation: (materials, bins) mean mass attenuation [cm2/g].
        quanta: photons per cm2 and mAs at 1 m that, all alike, would be as noisy as the detector's signal.
    """

    weight: np.ndarray
    attenuation: np.ndarray
    quanta: float


def beam(exposure: Exposure, materials: Sequence[str] = MATERIALS) -> Beam:
    """What the detector responds to, in groups of energies that bring about equal shares of the signal.

    The signal of a quantum is its energy if a scintillator absorbs it. Of n quanta with signals s the sum has the
    relative noise of n <s>^2 / <s^2> equal ones (Swank, J. Appl. Phys. 44 (1973) 4199).
    """
    if exposure.kvp is None:
        attenuation = np.array([[mass_attenuation(m, exposure.kev)] for m in materials])
        return Beam(np.ones(1), attenuation, 0.0)
    kev, photons = spectrum(exposure.kvp, exposure.aluminium_mm, exposure.copper_mm)
    detected = photons * absorbed_share(kev, exposure.csi_mm)
    signal = detected * (kev if exposure.csi_mm > 0 else 1.0)
    quanta = signal.sum() ** 2 / (signal**2 / np.maximum(detected, 1e-30)).sum()
    share = np.cumsum(signal) / signal.sum()
    group = np.minimum((exposure.bins * share).astype(int), exposure.bins - 1)
    weight = np.bincount(group, signal, exposure.bins)
    fine = np.array([mass_attenuation(m, kev) for m in materials])
    mean = np.array([np.bincount(group, signal * mu, exposure.bins) for mu in fine]) / np.maximum(weight, 1e-30)
    return Beam(weight / weight.sum(), mean, float(quanta))


def primary(areal: torch.Tensor, beam: Beam) -> torch.Tensor:
    """Beer and Lambert over the spectrum: sum_E w(E) exp(-sum_m (mu/rho)_m(E) a_m).

    Args:
        areal: (materials, h, w) [g/cm2].
        beam: with as many materials.

    Returns:
        (h, w), 1 where there is nothing.
    """
    total = torch.zeros_like(areal[0])
    for weight, attenuation in zip(beam.weight.tolist(), beam.attenuation.T.tolist(), strict=True):
        total = total + weight * torch.exp(-sum(mu * a for mu, a in zip(attenuation, areal, strict=True)))
    return total


def restored(areal: torch.Tensor, sigma: float, gain: float = 6.0) -> torch.Tensor:
    """Undo, as far as the frequencies are not lost, the blur that the voxels of a CT leave in its projection.

    Wiener's inverse of a Gaussian transfer function h, W ~ h / (h^2 + 1 / (2 gain)^2), 1 at frequency 0. An isotropic
    blur of the volume is the same blur of its projection, so that this may be done on the film, where the CT's own
    noise has averaged out.

    Args:
        areal: (materials, h, w).
        sigma: of the blur [pixels]; see `voxel_sigma_mm`. 0 changes nothing.
        gain: no frequency is amplified by more.

    Returns:
        Like `areal`, not negative.
    """
    if sigma <= 0:
        return areal
    margin = min(math.ceil(6 * sigma), min(areal.shape[-2:]) - 1)
    padded = F.pad(areal, (margin,) * 4, mode="replicate")
    rows, columns = torch.fft.fftfreq(padded.shape[-2]), torch.fft.rfftfreq(padded.shape[-1])
    transfer = torch.exp(-2 * (math.pi * sigma) ** 2 * (rows[:, None] ** 2 + columns**2)).to(areal)
    limit = 1 / (2 * gain) ** 2
    inverse = (1 + limit) * transfer / (transfer**2 + limit)
    film = torch.fft.irfft2(torch.fft.rfft2(padded) * inverse, s=padded.shape[-2:])
    return film[..., margin:-margin, margin:-margin].clamp_min(0.0)


def voxel_sigma_mm(voxel_mm: float) -> float:
    """Blur at the isocentre of a CT of such voxels, smoothed before it was sampled and then interpolated: 0.6 voxels.

    A voxel's box alone has 0.29 of its edge, a linear interpolation 0.41, and the smoothing before sampling about 0.4.
    """
    return 0.6 * voxel_mm


# --- what the light does before it is a film -------------------------------------------------------------------------


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


def blur(film: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (..., h, w), sigma in pixels, with replicated edges; wide kernels run on a reduced image.

    The weights exp(-t) I_n(t), t = sigma^2, are the Gaussian of a lattice (Lindeberg, IEEE PAMI 12 (1990) 234):
    positive, of exact sum and variance however small sigma is, with the transfer function exp(t (cos w - 1)), which is
    a Gaussian's where pixels are fine.
    """
    if sigma <= 0:
        return film
    height, width = film.shape[-2:]
    sigma = min(sigma, float(max(height, width)))  # wider kernels do the same to an image with replicated edges
    factor = 2 ** max(0, math.floor(math.log2(sigma / 3))) if sigma > 6 else 1
    image = F.pad(film.reshape(-1, 1, height, width), (0, -width % factor, 0, -height % factor), mode="replicate")
    small = F.avg_pool2d(image, factor)
    # averaging and interpolating back widen by a quarter of a reduced pixel's square
    small = _convolved(small, np.array([(sigma / factor) ** 2 - (0.25 if factor > 1 else 0.0)]))
    if factor > 1:
        small = F.interpolate(small, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return small[:, 0, :height, :width].reshape(film.shape)


def blur_each(films: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """`blur` of (B, h, w) with a sigma for each film; at full size, so for small sigmas."""
    wanted = [number for number, sigma in enumerate(sigmas) if sigma > 0]
    if not wanted:
        return films
    result = films.clone()
    result[wanted] = _convolved(films[wanted][None], np.square([sigmas[number] for number in wanted]))[0]
    return result


def _convolved(images: torch.Tensor, variances: np.ndarray) -> torch.Tensor:
    """(B, C, h, w), every channel with the lattice Gaussian of its variance [pixels squared]; one variance is all's."""
    channels = images.shape[1]
    radius = math.ceil(4 * math.sqrt(variances.max())) + 1
    weights = ive(np.abs(np.arange(-radius, radius + 1)), variances[:, None])
    kernel = torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(images).expand(channels, -1)
    images = F.pad(images, (radius,) * 4, mode="replicate")
    images = F.conv2d(images, kernel[:, None, None, :], groups=channels)
    return F.conv2d(images, kernel[:, None, :, None], groups=channels)


def spot_sigma_mm(spot_mm: float, magnification: float) -> float:
    """Blur on the detector of a focal spot of this full width at half maximum, for what lies at the isocentre."""
    return spot_mm * (magnification - 1) / (2 * math.sqrt(2 * math.log(2)))


def mtf_sigma_mm(mtf50_per_mm: float) -> float:
    """The Gaussian whose transfer function exp(-2 (pi sigma f)^2) is a half at this frequency; 0 for an ideal one."""
    return math.sqrt(math.log(2) / 2) / (math.pi * mtf50_per_mm) if mtf50_per_mm > 0 else 0.0


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
    exposure: Exposure = Exposure(),
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

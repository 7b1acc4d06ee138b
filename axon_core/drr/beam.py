"""The X-ray beam: from tube and filter to what the detector responds to, in few groups of energies.

The table of spectra (SpekPy) lies in `tables/` with the script that made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from axon_core.drr.exposure import Exposure
from axon_core.drr.materials import MATERIALS, mass_attenuation, read_table

DENSITY = {"aluminium": 2.699, "copper": 8.96, "csi": 4.51}  # [g/cm3], NISTIR 5632
CSI_PACKING = 0.75  # share of a layer of CsI needles that is CsI; Zhao et al., Med. Phys. 31 (2004) 2594


def spectrum(kvp: float, aluminium_mm: float, copper_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Photons that leave the filtered tube: energies [keV] and photons per keV, cm2 and mAs at 1 m; (130,) each.

    Between the voltages of the table, 5 kV apart, the spectra are blended.
    """
    table = read_table("spectra.csv")
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

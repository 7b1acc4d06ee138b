"""What materials do to X-rays, and which of them the voxels of a CT hold.

The table of mass attenuation (NIST's values) lies in `tables/` with the script that made it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon_core.errors import ConfigError

TABLES = Path(__file__).parent / "tables"
MATERIALS = ("soft", "bone")  # what `densities` gives unless told more
CT_KEV = 70.0  # effective energy of a CT at 120 kVp, where HU are taken to be what their definition says
SOFT_HU = 100.0  # up to here soft tissue grows denser; beyond, it is mixed with bone
BONE_DENSITY = 1.92  # cortical bone [g/cm3], ICRU Report 44


@cache
def read_table(name: str) -> dict[str, np.ndarray]:
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
    table = read_table("attenuation.csv")
    if material not in table or material == "kev":
        raise ConfigError(
            "material.unknown", f"There is no material {material!r}.", f"Choose from {', '.join(list(table)[1:])}."
        )
    return np.exp(np.interp(np.log(kev), np.log(table["kev"]), np.log(table[material])))


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

"""How a film is taken: tube, filter, grid and detector, as a person sets them or drawn at random."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from axon_core.errors import ConfigError


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


USUAL = Exposure()
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

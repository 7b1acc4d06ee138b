"""Hounsfield units, the network's range, and attenuation.

HU <-> u in [-1, 1] (METHOD: the window is stored with every model), and HU -> linear attenuation for radiographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from axon_core.errors import ConfigError

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor: only arithmetic and clip are used

MU_WATER_PER_MM = 0.0192  # linear attenuation of water at about 70 keV effective energy [1/mm]
MU_BONE_PER_MM = 0.0573  # linear attenuation of cortical bone, reached at 1000 HU [1/mm]


@dataclass(frozen=True)
class HuWindow:
    """A closed interval of Hounsfield units mapped linearly onto [-1, 1].

    u = 2 (clip(HU, low, high) - low) / (high - low) - 1. Inside the window the round trip is exact up to rounding;
    outside it HU is clipped.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.high > self.low:
            raise ConfigError("window.empty", f"HU window {self.name!r}: high must exceed low.", "Give low < high.")

    def encode(self, hu: Any) -> Any:
        """HU -> u in [-1, 1]; any array shape."""
        return 2.0 * (hu.clip(self.low, self.high) - self.low) / (self.high - self.low) - 1.0

    def decode(self, u: Any) -> Any:
        """u -> HU in [low, high]; u is clipped to [-1, 1]."""
        return self.low + (u.clip(-1.0, 1.0) + 1.0) * (0.5 * (self.high - self.low))


WIDE = HuWindow("wide", -1000.0, 1000.0)
AXON_PAPER = HuWindow("axon-paper", -100.0, 900.0)
WINDOWS = {w.name: w for w in (WIDE, AXON_PAPER)}


def hu_to_mu(hu: Any) -> Any:
    """HU -> linear attenuation [1/mm], monochromatic.

    Water-like below 0 HU (mu = mu_w (1 + HU/1000), the definition of HU); above, a straight line to cortical bone at
    1000 HU, because bone attenuates more than its HU at CT energies suggests at radiograph energies.
    HU below -1000 counts as air.
    """
    soft = hu.clip(-1000.0, 0.0) * (MU_WATER_PER_MM / 1000.0) + MU_WATER_PER_MM
    return soft + hu.clip(0.0, None) * ((MU_BONE_PER_MM - MU_WATER_PER_MM) / 1000.0)

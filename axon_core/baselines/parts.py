"""What several baselines share: small 3D blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.nets.parts import zero


def groups(channels: int) -> nn.GroupNorm:
    """Group normalisation with at most 8 groups."""
    return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)


class ResidualBlock3d(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second convolution starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = groups(channels), nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = groups(channels), nn.Conv3d(channels, channels, 3, padding=1)
        zero(self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))

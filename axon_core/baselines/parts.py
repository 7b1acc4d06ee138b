"""What several baselines share: films laid along their rays, and small 3D blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.nets.encoder import lift
from axon_core.nets.parts import zero


def repeat_along_ray(maps: torch.Tensor, lateral: bool) -> torch.Tensor:
    """Repeat 2D maps along the ray of their film (parallel rays), antero-posterior or left-right.

    Args:
        maps: (B, C, n, n), rows and columns as on the film.

    Returns:
        (B, C, z, y, x), LPS index order, each edge n.
    """
    n = maps.shape[-1]
    depth = maps.flatten(0, 1)[:, None].expand(-1, n, -1, -1)
    return lift(depth, lateral).view(*maps.shape[:2], n, n, n)


def repeated_films(films: torch.Tensor, size: int) -> torch.Tensor:
    """Both films as volumes: (B, V, p, p) -> (B, 2, n, n, n), each pooled and repeated along its ray.

    A missing lateral film is a volume of zeros, so that the same weights serve one view or two.
    """
    small = F.adaptive_avg_pool2d(films, size)
    frontal = repeat_along_ray(small[:, :1], lateral=False)
    lateral = repeat_along_ray(small[:, 1:], lateral=True) if films.shape[1] == 2 else torch.zeros_like(frontal)
    return torch.cat([frontal, lateral], 1)


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

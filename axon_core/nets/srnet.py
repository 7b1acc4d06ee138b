"""SR-Net: slice-wise residual-in-residual dense blocks, then a 3D transposed convolution (paper 3.3).

After ESRGAN (Wang et al. 2018), whose trunk runs on the axial slices as a batch of images. Slices are doubled in plane,
stacked again, and a transposed convolution doubles the number of slices and joins them. The result is added to the
trilinear interpolation, at which the network starts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.nets.parts import zero


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each seeing all earlier outputs; scaled by 0.2 and added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1) for i in range(5)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data *= 0.1
            zero(conv, weight=False)
        self.convs = nn.ModuleList(convs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(seen, 1))


class RRDB(nn.Module):
    """Residual-in-residual dense block: three dense blocks, scaled by 0.2 and added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.blocks(x)


class SRNet(nn.Module):
    """x2 super-resolution of a volume.

    Args:
        width: feature channels (paper: 16).
        blocks: RRDBs (paper: 6).
        growth: channels that each dense convolution adds (ESRGAN: 32).
    """

    factor = 2

    def __init__(self, width: int = 16, blocks: int = 6, growth: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.trunk = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1))
        self.enlarge = nn.Conv2d(width, width, 3, padding=1)
        # kernel divisible by stride along depth: every output slice has the same number of contributions
        self.join = nn.ConvTranspose3d(width, 1, (4, 3, 3), (2, 1, 1), (1, 1, 1))
        zero(self.join)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, 1, D, H, W) in [-1, 1] -> (B, 1, 2D, 2H, 2W), unclipped."""
        batch, _, depth, height, width = volume.shape
        slices = volume.transpose(1, 2).reshape(batch * depth, 1, height, width)
        slices = slices.contiguous(memory_format=torch.channels_last)
        shallow = self.first(slices)
        features = shallow + self.trunk(shallow)
        features = F.leaky_relu(self.enlarge(F.interpolate(features, scale_factor=2.0, mode="nearest")), 0.2)
        features = features.view(batch, depth, -1, 2 * height, 2 * width).transpose(1, 2)
        return F.interpolate(volume, scale_factor=2.0, mode="trilinear", align_corners=False) + self.join(features)

"""From films to a coarse volume: the image encoder and the FusionBlock (paper 3.1).

The encoder brings a film of r*n pixels down to n pixels and reads its output channels as depth along the ray of that
view: antero-posterior for a frontal film, left-right for a lateral one. The FusionBlock joins the two volumes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.config import EncoderConfig
from axon_core.nets.parts import fold, unfold, zero

FRONTAL, FRONTAL_OF_TWO, LATERAL_OF_TWO = 0, 1, 2  # the roles that a film can have


def _roles(views: int, device: torch.device) -> torch.Tensor:
    """(views,) indices of the roles of one film or two."""
    return torch.tensor([FRONTAL] if views == 1 else [FRONTAL_OF_TWO, LATERAL_OF_TWO], device=device)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)


class ResidualBlock2d(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second convolution starting at zero."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2, self.conv2 = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        zero(self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))


class FilmAttention(nn.Module):
    """Self-attention over the coarsest pixels of all films of a patient, so that the views inform each other."""

    def __init__(self, channels: int, pixels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.zeros(1, channels, pixels, pixels))
        self.norm = _norm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        zero(self.out)

    def forward(self, x: torch.Tensor, views: int) -> torch.Tensor:
        batch, channels, height, width = x.shape
        x = x + self.position
        tokens = self.norm(x).view(batch // views, views, channels, height * width).transpose(2, 3).flatten(1, 2)
        query, key, value = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed = self.out(mixed).view(batch // views, views, height * width, channels).transpose(2, 3)
        return x + mixed.reshape(x.shape)


class ImageEncoder(nn.Module):
    """Films -> depth features, one channel for each depth.

    A pixel-unshuffle stem (the strided convolution that costs least), then a 2D U-Net; with a single width it is a
    plain convolutional encoder as in the paper.

    Args:
        film_size: pixels along each edge of a film.
        volume_size: voxels along each edge of the volume; divides `film_size`.
        widths: channels at volume_size, volume_size/2, ... pixels.
        blocks: residual blocks on the way down and up at each width.
    """

    def __init__(self, film_size: int, volume_size: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        ratio = film_size // volume_size
        self.unshuffle = nn.PixelUnshuffle(ratio)
        self.stem = nn.Conv2d(ratio * ratio, widths[0], 3, padding=1)
        self.role = nn.Embedding(3, widths[0])
        nn.init.normal_(self.role.weight, std=0.1)
        self.down, self.up, self.shrink = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.Sequential(*(ResidualBlock2d(width, width) for _ in range(blocks))))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, 2, 1))
        lowest = volume_size // 2 ** (len(widths) - 1)
        self.attention = FilmAttention(widths[-1], lowest) if len(widths) > 1 else None
        for width, below in reversed(list(pairwise(widths))):
            later = (ResidualBlock2d(width, width) for _ in range(blocks - 1))
            self.up.append(nn.Sequential(ResidualBlock2d(width + below, width), *later))
        self.out = nn.Sequential(_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], volume_size, 1))

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, r*n, r*n) films in [-1, 1], V = 1 (frontal) or 2 (frontal, lateral) -> (B, V, depth, n, n)."""
        batch, views = films.shape[:2]
        role = self.role(_roles(views, films.device)).repeat(batch, 1)
        x = self.stem(self.unshuffle(films.flatten(0, 1)[:, None])) + role[:, :, None, None]
        kept = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.shrink):
                kept.append(x)
                x = self.shrink[level](x)
        if self.attention is not None:
            x = self.attention(x, views)
        for blocks in self.up:
            x = blocks(torch.cat([F.interpolate(x, scale_factor=2.0, mode="bilinear"), kept.pop()], 1))
        return self.out(x).unflatten(0, (batch, views))


class GlobalEncoder(nn.Module):
    """All films of a patient -> one vector for the ControlNet's time embedding; it starts at zero.

    The paper's ablation names an "additional global encoder" and does not describe it. This is the usual global
    condition of a diffusion model (Preechakul et al., Diffusion Autoencoders, CVPR 2022): strided convolutions, the
    mean over pixels and films, and a linear layer.

    Args:
        config: the widths of F(x).
        film_size, volume_size: see `ImageEncoder`.
        channels: of the vector.
    """

    def __init__(self, config: EncoderConfig, film_size: int, volume_size: int, channels: int) -> None:
        super().__init__()
        ratio = film_size // volume_size
        layers: list[nn.Module] = [nn.PixelUnshuffle(ratio)]
        for before, width in pairwise((ratio * ratio, *config.widths)):
            layers += [nn.Conv2d(before, width, 3, 2, 1), _norm(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.role = nn.Embedding(3, config.widths[-1])
        self.out = nn.Linear(config.widths[-1], channels)
        zero(self.out)

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) films in [-1, 1], V in {1, 2} -> (B, channels)."""
        batch, views = films.shape[:2]
        features = self.layers(films.flatten(0, 1)[:, None]).mean((-2, -1)).unflatten(0, (batch, views))
        return self.out(F.silu(features + self.role(_roles(views, films.device))).mean(1))


class FusionBlock(nn.Module):
    """Two depth-feature volumes -> one (paper 3.1).

    Three 3x3x3 convolutions with group normalisation and ReLU beside a 1x1x1 convolution that starts as the mean of the
    views. The branch enters through a gain that starts at zero, so the block starts as exactly that mean and still
    learns.

    Args:
        width: channels of the first two convolutions.
        patch: edge of the folded patches on which the branch works (see `parts.fold`), 1 as in the paper.
    """

    def __init__(self, width: int = 16, patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = []
        ends = patch**3
        for channels_in, channels, groups in ((2 * ends, width, 8), (width, width, 8), (width, ends, 1)):
            layers += [nn.Conv3d(channels_in, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.ReLU()]
        self.branch = nn.Sequential(*layers)
        self.gain = nn.Parameter(torch.zeros(()))
        self.skip = nn.Parameter(torch.full((2, 1, 1, 1), 0.5))  # a 1x1x1 convolution, written out: ten times faster
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """(B, 2, n, n, n) -> (B, 1, n, n, n)."""
        mean = (views * self.skip).sum(1, keepdim=True) + self.bias
        return mean + self.gain * unfold(self.branch(fold(views, self.patch)), self.patch)


def lift(depth_features: torch.Tensor, lateral: bool) -> torch.Tensor:
    """Depth features of one film -> volume axes.

    Film rows run down (superior to inferior), columns as `XrayView.column`; depth channels run along index y of the
    volume for a frontal film and along index x for a lateral film.

    Args:
        depth_features: (B, depth, rows, columns).

    Returns:
        (B, 1, z, y, x), LPS index order.
    """
    if lateral:  # (x, rows, columns toward anterior) -> (z, y, x)
        return depth_features.permute(0, 2, 3, 1).flip(1, 2)[:, None]
    return depth_features.permute(0, 2, 1, 3).flip(1)[:, None]  # (y, rows, columns) -> (z, y, x)


class FilmToVolume(nn.Module):
    """F(x): films -> coarse volume in [-1, 1], the end point of the bridge.

    The weights serve one view or two: without a lateral film the FusionBlock is passed by.
    """

    def __init__(self, config: EncoderConfig, film_size: int, volume_size: int) -> None:
        super().__init__()
        self.encoder = ImageEncoder(film_size, volume_size, config.widths, config.blocks)
        self.fusion = FusionBlock(config.fusion_width, config.fusion_patch)

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, r*n, r*n) in [-1, 1] with V in {1, 2} -> (B, 1, n, n, n) in (-1, 1)."""
        features = self.encoder(films)
        volume = lift(features[:, 0], lateral=False)
        if films.shape[1] == 2:
            volume = self.fusion(torch.cat([volume, lift(features[:, 1], lateral=True)], 1))
        return torch.tanh(volume)

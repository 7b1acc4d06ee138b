"""Small parts that several networks share: space to depth and back, and layers that start at zero."""

from __future__ import annotations

import torch
from torch import nn


def fold(x: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, C, pD, pH, pW) -> (B, C p^3, D, H, W)."""
    if patch == 1:
        return x
    b, c, d, h, w = x.shape
    x = x.view(b, c, d // patch, patch, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * patch**3, d // patch, h // patch, w // patch)


def unfold(x: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, C p^3, D, H, W) -> (B, C, pD, pH, pW), the inverse of `fold`."""
    if patch == 1:
        return x
    b, c, d, h, w = x.shape
    x = x.view(b, c // patch**3, patch, patch, patch, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // patch**3, d * patch, h * patch, w * patch)


def zero(layer: nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d, weight: bool = True) -> None:
    """Start a layer at zero (its bias only, if not `weight`)."""
    if weight:
        nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)

"""Repeat & Concatenate (Corona-Figueroa et al., "Repeat and Concatenate: 2D to 3D Image Translation", 2024).

Each film is repeated along its ray to a volume, the volumes are concatenated as channels, and a 3D U-Net translates
them to the CT in one step, with an absolute-error loss. Their U-Net is a SwinUNETR with a neural optimal-transport
loss; here it is the U-Net of our bridge without its time, so that the two methods differ in nothing but the method.
"""

from __future__ import annotations

import torch
from torch import nn

from axon_core.config import ModelConfig, UNetConfig
from axon_core.nets.rays import repeated_films
from axon_core.nets.unet import UNet3d
from axon_core.training.draws import Draws
from axon_core.training.stages import Batch, EndpointStage, Loss, drop_views, weighted_mean


class RepeatConcat(nn.Module):
    """Films repeated along their rays, then a 3D U-Net whose time stands still."""

    def __init__(self, sizes: UNetConfig, config: ModelConfig) -> None:
        super().__init__()
        self.size = config.size
        self.unet = UNet3d(sizes, 2)

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) in [-1, 1] with V in {1, 2} -> (B, 1, n, n, n)."""
        return self.unet(repeated_films(films, self.size), torch.zeros(len(films), device=films.device))


class RepeatConcatStage(EndpointStage):
    """mean |R&C(x) - Y|; the lateral film is left out at random, as for F(x)."""

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, target, weight = batch
        error = self.model.endpoint(drop_views(films, draws)).float() - target
        values = weighted_mean(error.abs(), weight)
        return Loss(values, torch.zeros_like(values))

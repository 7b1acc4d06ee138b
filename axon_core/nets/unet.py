"""3D U-Net and ControlNet, built from MONAI, optionally working on 2x2x2 patches.

With `patch` 2 a volume is folded (space to depth) before the first and unfolded after the last convolution: eight times
fewer positions at every level, about ten times less work for each training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from axon_core.config import UNetConfig
from axon_core.nets.parts import fold, unfold

Residuals = tuple[list[torch.Tensor], torch.Tensor]  # what a ControlNet adds to skips and middle


def monai_arguments(config: UNetConfig) -> dict[str, Any]:
    """Keyword arguments shared by MONAI's U-Net and ControlNet; attention by scaled_dot_product_attention."""
    return {
        "spatial_dims": 3,
        "channels": config.channels,
        "attention_levels": config.attention,
        "num_res_blocks": config.res_blocks,
        "num_head_channels": config.head_channels,
        "norm_num_groups": config.norm_groups,
        "use_flash_attention": True,
    }


class UNet3d(nn.Module):
    """Time-conditioned 3D U-Net (MONAI `DiffusionModelUNet`); its output starts at zero."""

    def __init__(self, config: UNetConfig, channels_in: int, channels_out: int = 1) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        self.patch = config.patch
        volume = config.patch**3
        self.net = DiffusionModelUNet(
            in_channels=channels_in * volume, out_channels=channels_out * volume, **monai_arguments(config)
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor, control: Residuals | None = None) -> torch.Tensor:
        """x (B, C, n, n, n), time (B,) in [0, 1000] -> (B, channels_out, n, n, n)."""
        down, middle = control if control is not None else (None, None)
        out = self.net(
            fold(x, self.patch), time, down_block_additional_residuals=down, mid_block_additional_residual=middle
        )
        return unfold(out, self.patch)


class ControlNet3d(nn.Module):
    """A copy of the U-Net's encoder steered by a hint volume; its outputs pass through convolutions that start at zero.

    Zhang et al., ICCV 2023, in 3D (MONAI `ControlNet`). The hint enters at full resolution.

    Attributes:
        time_channels: of the embedding of the time, and of what an encoder adds to it.
    """

    def __init__(self, config: UNetConfig, channels_in: int = 1) -> None:
        super().__init__()
        from monai.networks.nets.controlnet import ControlNet

        self.patch = config.patch
        volume = config.patch**3
        self.net = ControlNet(
            in_channels=channels_in * volume,
            conditioning_embedding_in_channels=volume,
            conditioning_embedding_num_channels=(16,),
            **monai_arguments(config),
        )
        self.time_channels = 4 * config.channels[0]

    def add_encoder(self, encoder: nn.Module) -> None:
        """Let a module of (B, V, p, p) films -> (B, time_channels) speak where MONAI has an embedding of classes."""
        self.net.num_class_embeds = 1  # read only to see that there is one
        self.net.register_module("class_embedding", encoder)

    def start_from(self, unet: UNet3d) -> None:
        """Copy the U-Net's encoder; only the hint, the zero convolutions and an encoder of films are new."""
        missing = self.net.load_state_dict(unet.net.state_dict(), strict=False).missing_keys
        unexpected = [key for key in missing if not key.startswith(("controlnet_", "class_embedding"))]
        if unexpected:
            raise ValueError(f"U-Net and ControlNet differ in {unexpected[:3]}")

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, hint: torch.Tensor, films: torch.Tensor | None = None
    ) -> Residuals:
        """x (B, C, n, n, n), time (B,), hint (B, 1, n, n, n) in [-1, 1] -> residuals for `UNet3d`.

        `films` (B, V, p, p) are for an encoder that was added.
        """
        return self.net(fold(x, self.patch), time, fold(hint, self.patch), class_labels=films)

"""Less memory for time: activations of blocks are computed again in the backward pass (gradient checkpointing)."""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from axon_core.nets.encoder import ResidualBlock2d
from axon_core.nets.srnet import DenseBlock


def recompute(network: nn.Module) -> None:
    """Keep only the inputs of the network's residual, attention and dense blocks (Chen et al. 2016).

    Results and gradients are the same; weights and their names stay as they are. Without gradients nothing changes.
    """
    from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, SpatialAttentionBlock

    blocks = (ResidualBlock2d, DenseBlock, DiffusionUNetResnetBlock, SpatialAttentionBlock)
    for block in network.modules():
        if isinstance(block, blocks):
            block.forward = functools.partial(checkpoint, type(block).forward.__get__(block), use_reentrant=False)  # type: ignore[method-assign]

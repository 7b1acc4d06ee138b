"""X-ray2CTPA (Cahan et al., "X-ray2CTPA: Generating 3D CTPA scans from 2D X-ray conditioning", 2024), from the paper.

A 3D diffusion in the latent space of an autoencoder, conditioned on features of the films: the network predicts the
clean latent volume (x0) with an absolute-error loss over T = 1000 times, DDIM samples it, and the decoder makes the CT.

Differences. Their autoencoder is the 2D one of Stable Diffusion, slice by slice, and their film features come from
MedCLIP, a vector beside the time; both are downloads trained on other data. Here the autoencoder is a plain 3D one,
trained first on the same CTs (absolute error; the latent volume is normalised instead of regularised), and a film
encoder is trained with the diffusion, whose cross-attention sees its features. Their perceptual term (weight 0.01),
which needs a downloaded network, is left out. The schedule ends in pure noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.baselines.parts import ResidualBlock3d, groups
from axon_core.config import ModelConfig
from axon_core.diffusion import gaussian
from axon_core.diffusion.sampling import SeededNoise, sample_ddim
from axon_core.model import AxonModel
from axon_core.nets.encoder import ResidualBlock2d
from axon_core.nets.parts import fold, unfold
from axon_core.training.draws import Draws
from axon_core.training.settings import StageSettings
from axon_core.training.stages import Batch, EndpointStage, Loss, drop_views, weighted_mean


@dataclass(frozen=True)
class Xray2CTPASizes:
    """Sizes of X-ray2CTPA.

    Attributes:
        autoencoder: 3D channels of the autoencoder, each level half as wide as the one before.
        channels: of the latent U-Net's levels; multiples of 8.
        attention: whether a level has self- and cross-attention.
        films: 2D channels of the film encoder, each level half as wide as the one before; the last are what the
            attention sees.
        latent: channels of the latent volume.
        blocks: residual blocks of each level, everywhere.
        head_channels: channels of an attention head.
        patch: edge of the folded patches on which the autoencoder works.
        steps: DDIM steps of a sample.
    """

    autoencoder: tuple[int, ...]
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    films: tuple[int, ...]
    latent: int = 4
    blocks: int = 1
    head_channels: int = 32
    patch: int = 1
    steps: int = 50


class Autoencoder3d(nn.Module):
    """(B, 1, n, n, n) <-> latent volume of zero mean and unit variance in each channel.

    Batch normalisation without weights at the bottleneck sets the latent's scale; it takes the place of a measured one.
    """

    def __init__(self, sizes: Xray2CTPASizes) -> None:
        super().__init__()
        self.patch = sizes.patch
        widths, ends = sizes.autoencoder, sizes.patch**3
        down: list[nn.Module] = [nn.Conv3d(ends, widths[0], 3, padding=1)]
        for width, below in pairwise(widths):
            down += [ResidualBlock3d(width) for _ in range(sizes.blocks)]
            down.append(nn.Conv3d(width, below, 2, 2))
        down += [*(ResidualBlock3d(widths[-1]) for _ in range(sizes.blocks)), groups(widths[-1]), nn.SiLU()]
        self.down = nn.Sequential(*down, nn.Conv3d(widths[-1], sizes.latent, 1))
        self.norm = nn.BatchNorm3d(sizes.latent, affine=False)
        up: list[nn.Module] = [nn.Conv3d(sizes.latent, widths[-1], 3, padding=1)]
        for width, above in pairwise(reversed(widths)):
            up += [ResidualBlock3d(width) for _ in range(sizes.blocks)]
            up.append(nn.ConvTranspose3d(width, above, 2, 2))
        up += [*(ResidualBlock3d(widths[0]) for _ in range(sizes.blocks)), groups(widths[0]), nn.SiLU()]
        self.up = nn.Sequential(*up, nn.Conv3d(widths[0], ends, 3, padding=1))

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, 1, n, n, n) in [-1, 1] -> (B, latent, k, k, k)."""
        return self.norm(self.down(fold(volume, self.patch)).float())

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """(B, latent, k, k, k) -> (B, 1, n, n, n) in (-1, 1)."""
        return torch.tanh(unfold(self.up(latent), self.patch))


class FilmTokens(nn.Module):
    """Films -> features with their place and view, for cross-attention."""

    def __init__(self, sizes: Xray2CTPASizes, config: ModelConfig) -> None:
        super().__init__()
        ratio = config.film_size // config.size
        widths = sizes.films
        layers: list[nn.Module] = [nn.PixelUnshuffle(ratio), nn.Conv2d(ratio * ratio, widths[0], 3, 2, 1)]
        for width, below in pairwise(widths):
            layers += [*(ResidualBlock2d(width, width) for _ in range(sizes.blocks)), nn.Conv2d(width, below, 3, 2, 1)]
        self.net = nn.Sequential(*layers, ResidualBlock2d(widths[-1], widths[-1]), groups(widths[-1]))
        pixels = config.size >> len(widths)
        self.place = nn.Parameter(0.02 * torch.randn(2, widths[-1], pixels, pixels))

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) -> (B, V k k, C)."""
        batch, views = films.shape[:2]
        maps = self.net(films.flatten(0, 1)[:, None]).unflatten(0, (batch, views)) + self.place[:views]
        return maps.permute(0, 1, 3, 4, 2).flatten(1, 3)


class LatentDenoiser(nn.Module):
    """(x_t, t, films) -> the clean latent volume."""

    def __init__(self, sizes: Xray2CTPASizes, config: ModelConfig) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        self.tokens = FilmTokens(sizes, config)
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=sizes.latent,
            out_channels=sizes.latent,
            channels=sizes.channels,
            attention_levels=sizes.attention,
            num_res_blocks=sizes.blocks,
            num_head_channels=sizes.head_channels,
            norm_num_groups=8,
            with_conditioning=True,
            cross_attention_dim=sizes.films[-1],
            use_flash_attention=True,
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """x (B, latent, k, k, k), t (B,) in [0, 1000), tokens as `self.tokens` gives them."""
        return self.unet(x, t, context=tokens)


class Xray2CTPA(nn.Module):
    """Autoencoder and latent diffusion; a call samples a volume."""

    def __init__(self, sizes: Xray2CTPASizes, config: ModelConfig) -> None:
        super().__init__()
        self.sizes, self.size = sizes, config.size
        self.autoencoder = Autoencoder3d(sizes)
        self.denoiser = LatentDenoiser(sizes, config)

    @cached_property
    def alphas(self) -> torch.Tensor:
        """(1000,) cumulated alphas, on the CPU."""
        return gaussian.alpha_bars(zero_terminal=True)

    def forward(self, films: torch.Tensor, noise: SeededNoise) -> torch.Tensor:
        """(B, V, p, p) in [-1, 1] with V in {1, 2} -> (B, 1, n, n, n), a sample by DDIM with eta = 0."""
        tokens = self.denoiser.tokens(films)
        edge = self.size // self.sizes.patch >> (len(self.sizes.autoencoder) - 1)

        def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
            return self.denoiser(x, torch.full((len(x),), float(t), device=x.device), tokens).float()

        start = noise(torch.empty(len(films), self.sizes.latent, edge, edge, edge, device=films.device))
        times = gaussian.times(self.sizes.steps)
        return self.autoencoder.decode(sample_ddim(denoise, start, times, self.alphas, 0.0, noise))


def _network(model: AxonModel) -> Xray2CTPA:
    network = model.film_to_volume
    assert isinstance(network, Xray2CTPA)
    return network


class AutoencoderStage(EndpointStage):
    """mean |decode(encode(Y)) - Y|."""

    def __init__(self, model: AxonModel, settings: StageSettings) -> None:
        super().__init__(model, settings)
        self.trained = _network(model).autoencoder

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        _, target, weight = batch
        error = self.volume(batch, draws) - target
        values = weighted_mean(error.abs(), weight)
        return Loss(values, torch.zeros_like(values))

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """The autoencoder's own reconstruction, an upper bound of what the diffusion can reach."""
        coder = _network(self.model).autoencoder
        return coder.decode(coder.encode(batch[1])).float()


class LatentStage(EndpointStage):
    """mean |x0_theta(x_t, t, films) - encode(Y)|, the autoencoder frozen."""

    needs = ("xray2ctpa-autoencoder",)

    def __init__(self, model: AxonModel, settings: StageSettings) -> None:
        super().__init__(model, settings)
        self.trained = _network(model).denoiser

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, target, weight = batch
        network = _network(self.model)
        with torch.no_grad():
            x0 = network.autoencoder.encode(target)
        t = (draws.stratified() * len(network.alphas)).long()
        alpha = network.alphas[t].float().view(-1, 1, 1, 1, 1).to(x0.device)
        x, time = gaussian.add_noise(x0, alpha, draws.noise(x0)), t.float().to(x0.device)
        error = network.denoiser(x, time, network.denoiser.tokens(drop_views(films, draws))).float() - x0
        known = F.adaptive_avg_pool3d(weight, x0.shape[-1]).expand_as(x0)
        return Loss(weighted_mean(error.abs(), known), time / len(network.alphas))

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        return self.model.endpoint(batch[0][:, :1], SeededNoise(draws.seeds())).float()

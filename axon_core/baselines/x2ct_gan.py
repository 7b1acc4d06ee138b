"""X2CT-GAN (Ying et al., "X2CT-GAN: Reconstructing CT from Biplanar X-Rays with Generative Adversarial Networks", CVPR
2019), written from the paper.

Generator: for each film a densely connected 2D encoder and a 3D decoder, joined by

- connection A: the lowest features, through a fully connected layer, become the lowest volume;
- connection B: features at each resolution, narrowed by a 2D convolution, are repeated along the film's ray;
- connection C: the decoders' volumes of both films at each resolution are averaged and fed to a third decoder.

The lateral film's features are turned to the volume's axes where they become 3D (A and B), so that C averages volumes
of one orientation. One film uses its own encoder and decoder alone; the same weights serve one film or two.

Losses, with the paper's weights: 0.1 least-squares adversarial + 10 squared error + 10 absolute error of the three
orthogonal projections, all on volumes scaled to [0, 1]; against a 3D patch discriminator that also sees the films,
repeated along their rays. Differences: generator and discriminator step at the same time, not in turn; like our bridge,
the decoders may work on folded patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from axon_core.config import ModelConfig
from axon_core.model import AxonModel
from axon_core.nets.encoder import lift
from axon_core.nets.parts import unfold
from axon_core.nets.rays import repeat_along_ray, repeated_films
from axon_core.training.draws import Draws
from axon_core.training.settings import StageSettings
from axon_core.training.stages import Batch, EndpointStage, Loss, drop_views, weighted_mean

ADVERSARIAL, RECONSTRUCTION, PROJECTION = 0.1, 10.0, 10.0  # the paper's lambda 1, 2, 3
AXES = (2, 3, 4)  # of (B, 1, z, y, x): the three orthogonal projections


@dataclass(frozen=True)
class X2CTSizes:
    """Sizes of X2CT-GAN.

    Attributes:
        encoder: 2D channels from size / patch pixels downwards, each level half as wide as the one before.
        decoder: 3D channels of the same levels.
        layers: convolutions of a dense block.
        growth: channels that each of them adds.
        skip: channels that connection B repeats.
        bottleneck: channels at both ends of connection A.
        discriminator: channels of the discriminator's strided convolutions.
        patch: edge of the folded patches on which the decoders work, 1 as in the paper.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    layers: int = 4
    growth: int = 16
    skip: int = 8
    bottleneck: int = 16
    discriminator: tuple[int, ...] = (16, 32, 64)
    patch: int = 1


def _block3d(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels, 3, padding=1), nn.InstanceNorm3d(channels, affine=True), nn.ReLU()
    )


class DenseBlock2d(nn.Module):
    """Convolutions that each see all earlier outputs (Huang et al. 2017), then a 1x1 convolution that compresses."""

    def __init__(self, channels_in: int, channels: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.InstanceNorm2d(width, affine=True), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1))
            for width in range(channels_in, channels_in + layers * growth, growth)
        )
        self.compress = nn.Conv2d(channels_in + layers * growth, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.compress(x)


class FilmDecoder(nn.Module):
    """One film -> volumes of features at every level, by connections A and B."""

    def __init__(self, sizes: X2CTSizes, config: ModelConfig, lateral: bool) -> None:
        super().__init__()
        self.lateral = lateral
        edge = config.size // sizes.patch
        ratio = config.film_size // edge
        self.stem = nn.Sequential(nn.PixelUnshuffle(ratio), nn.Conv2d(ratio * ratio, sizes.encoder[0], 3, padding=1))
        self.dense, self.down = nn.ModuleList(), nn.ModuleList()
        for width, below in pairwise((*sizes.encoder, sizes.encoder[-1])):
            self.dense.append(DenseBlock2d(width, width, sizes.layers, sizes.growth))
            self.down.append(nn.Conv2d(width, below, 3, 2, 1))
        self.down = self.down[:-1]
        self.lowest = edge >> (len(sizes.encoder) - 1)
        lowest = sizes.bottleneck * self.lowest**2
        self.narrow = nn.Conv2d(sizes.encoder[-1], sizes.bottleneck, 1)
        self.connection_a = nn.Linear(lowest, lowest * self.lowest)
        self.connection_b = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, sizes.skip, 3, padding=1), nn.InstanceNorm2d(sizes.skip), nn.ReLU())
            for width in sizes.encoder
        )
        self.up = nn.ModuleList(
            nn.Sequential(_block3d(below + sizes.skip, width), _block3d(width, width))
            for width, below in zip(sizes.decoder, (*sizes.decoder[1:], sizes.bottleneck), strict=True)
        )

    def forward(self, film: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, p, p) -> (B, C, e, e, e) of every level, the finest first, in the volume's axes."""
        x = self.stem(film)
        maps = []
        for level, dense in enumerate(self.dense):
            x = dense(x)
            maps.append(x)
            if level < len(self.down):
                x = self.down[level](x)
        batch, e = len(film), self.lowest
        deep = F.relu(self.connection_a(self.narrow(x).flatten(1))).view(-1, e, e, e)
        volume = lift(deep, self.lateral).view(batch, -1, e, e, e)
        volumes: list[torch.Tensor] = []
        for level in reversed(range(len(maps))):
            repeated = repeat_along_ray(self.connection_b[level](maps[level]), self.lateral)
            volume = self.up[level](torch.cat([_doubled(volume, repeated), repeated], 1))
            volumes.insert(0, volume)
        return volumes


def _doubled(volume: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The volume, enlarged to the edge of `like` where it is smaller."""
    if volume.shape[-1] == like.shape[-1]:
        return volume
    return F.interpolate(volume, scale_factor=2.0, mode="nearest")


class X2CTGenerator(nn.Module):
    """One film, or two fused by connection C, -> volume in (-1, 1)."""

    def __init__(self, sizes: X2CTSizes, config: ModelConfig) -> None:
        super().__init__()
        self.patch = sizes.patch
        self.frontal = FilmDecoder(sizes, config, lateral=False)
        self.lateral = FilmDecoder(sizes, config, lateral=True)
        self.fusion = nn.ModuleList(_block3d(width + below, width) for width, below in pairwise((*sizes.decoder, 0)))
        self.out_one = nn.Conv3d(sizes.decoder[0], sizes.patch**3, 3, padding=1)
        self.out_two = nn.Conv3d(sizes.decoder[0], sizes.patch**3, 3, padding=1)

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) in [-1, 1] with V in {1, 2} -> (B, 1, n, n, n)."""
        frontal = self.frontal(films[:, :1])
        if films.shape[1] == 1:
            return torch.tanh(unfold(self.out_one(frontal[0]), self.patch))
        lateral = self.lateral(films[:, 1:])
        fused = self.fusion[-1](0.5 * (frontal[-1] + lateral[-1]))
        for level in reversed(range(len(frontal) - 1)):
            mean = 0.5 * (frontal[level] + lateral[level])  # connection C
            fused = self.fusion[level](torch.cat([mean, _doubled(fused, mean)], 1))
        return torch.tanh(unfold(self.out_two(fused), self.patch))


class PatchDiscriminator3d(nn.Module):
    """Volume and repeated films -> a score for each patch (Isola et al. 2017, in 3D)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, width) in enumerate(pairwise((3, *channels))):
            layers.append(nn.Conv3d(before, width, 4, 2, 1))
            layers += [nn.InstanceNorm3d(width, affine=True)] if number else []
            layers.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*layers, nn.Conv3d(channels[-1], 1, 3, padding=1))

    def forward(self, volume: torch.Tensor, films: torch.Tensor) -> torch.Tensor:
        """(B, 1, n, n, n) and `repeated_films` (B, 2, n, n, n) -> (B, 1, k, k, k)."""
        return self.net(torch.cat([volume, films], 1))


def projection_error(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(B,): mean over three orthogonal planes of |P(G(x)) - P(Y)|, P the mean along an axis.

    Voxels count with their weight; with equal weights this is the paper's loss.
    """
    error = error * weight / weight.flatten(1).mean(1).clamp_min(1e-6).view(-1, 1, 1, 1, 1)
    return torch.stack([error.mean(axis).abs().flatten(1).mean(1) for axis in AXES]).mean(0)


def _squared(score: torch.Tensor, wanted: float) -> torch.Tensor:
    """(B,): half the mean (D - wanted)^2 (Mao et al. 2017)."""
    return 0.5 * (score.float() - wanted).square().flatten(1).mean(1)


class X2CTStage(EndpointStage):
    """The generator's loss plus the discriminator's; each reaches its own network alone.

    The generator is judged by a copy of the discriminator with detached weights, and the discriminator sees a detached
    volume. So one backward pass gives the gradients of both textbook losses, and one optimiser steps both networks.
    """

    def __init__(self, model: AxonModel, settings: StageSettings) -> None:
        super().__init__(model, settings)
        sizes: X2CTSizes = model.sizes  # type: ignore[attr-defined]
        self.discriminator = PatchDiscriminator3d(sizes.discriminator)
        self.trained = nn.ModuleDict({"generator": model.film_to_volume, "discriminator": self.discriminator})

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, target, weight = batch
        films = drop_views(films, draws, 0.5)  # two thirds of the network learn in steps with two films alone
        fake = self.model.endpoint(films).float()
        values = self.generator_loss(fake, films, target, weight) + self.discriminator_loss(fake, films, target)
        return Loss(values, torch.zeros_like(values))

    def generator_loss(
        self, fake: torch.Tensor, films: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """(B,), paper Eq. 6; no gradient reaches the discriminator's weights."""
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        score = functional_call(self.discriminator, frozen, (fake, repeated_films(films, fake.shape[-1])))
        error = 0.5 * (fake - target)  # on [0, 1]
        return (
            ADVERSARIAL * _squared(score, 1.0)
            + RECONSTRUCTION * weighted_mean(error**2, weight)
            + PROJECTION * projection_error(error, weight)
        )

    def discriminator_loss(self, fake: torch.Tensor, films: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(B,), least squares; no gradient reaches the generator."""
        condition = repeated_films(films, target.shape[-1])
        real = self.discriminator(target, condition)
        return _squared(real, 1.0) + _squared(self.discriminator(fake.detach(), condition), 0.0)

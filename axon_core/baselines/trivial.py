"""Baselines without a gradient: a constant, the mean volume, and the nearest training case by its films.

A method that does not beat these has learnt nothing from the film. One pass over training items fits them; a fit of the
squared error at known voxels each, over what the method can say:

- constant: one number;
- mean: one volume, whatever the film;
- nearest: the volume whose films correlate best with the given ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.config import ModelConfig

PIXELS = 16  # along each edge of the films that are compared


@dataclass(frozen=True)
class TrivialSizes:
    """How many training items a trivial baseline looks at; "nearest" keeps them all in its weights."""

    items: int = 256


class Fitted(nn.Module):
    """Buffers instead of weights; `fit` fills them."""

    def __init__(self, sizes: TrivialSizes, config: ModelConfig) -> None:
        super().__init__()
        self.items = sizes.items

    def fit(self, items: Iterable[Sequence[torch.Tensor]]) -> None:
        """Learn from `sizes.items` items (films (2, p, p), target (1, n, n, n), weight (1, n, n, n)), see `stages`."""
        raise NotImplementedError


class Constant(Fitted):
    """The mean of all voxels, everywhere."""

    value: torch.Tensor

    def __init__(self, sizes: TrivialSizes, config: ModelConfig) -> None:
        super().__init__(sizes, config)
        self.size = config.size
        self.register_buffer("value", torch.zeros(1))

    def fit(self, items: Iterable[Sequence[torch.Tensor]]) -> None:
        total = weights = torch.zeros((), dtype=torch.float64)
        for _, target, weight in items:
            total, weights = total + (target * weight).sum().double().cpu(), weights + weight.sum().double().cpu()
        self.value.fill_(float(total / weights))

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) -> (B, 1, n, n, n)."""
        return self.value.view(1, 1, 1, 1, 1).repeat(len(films), 1, *[self.size] * 3)


class MeanVolume(Fitted):
    """The mean of each voxel, whatever the films."""

    volume: torch.Tensor

    def __init__(self, sizes: TrivialSizes, config: ModelConfig) -> None:
        super().__init__(sizes, config)
        self.register_buffer("volume", torch.zeros(1, *[config.size] * 3))

    def fit(self, items: Iterable[Sequence[torch.Tensor]]) -> None:
        total = weights = torch.zeros(self.volume.shape, dtype=torch.float64)
        for _, target, weight in items:
            total, weights = total + (target * weight).double().cpu(), weights + weight.double().cpu()
        self.volume.copy_(total / weights.clamp_min(1e-6))

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) -> (B, 1, n, n, n)."""
        return self.volume.repeat(len(films), 1, 1, 1, 1)


class Nearest(Fitted):
    """The training case whose films correlate best with the given ones, on films of PIXELS x PIXELS.

    Correlation does not see brightness and contrast, which say more about a film's processing than about the chest.
    With two films the two correlations are added. Volumes are kept in 256 steps of the window.
    """

    features: torch.Tensor
    volumes: torch.Tensor

    def __init__(self, sizes: TrivialSizes, config: ModelConfig) -> None:
        super().__init__(sizes, config)
        self.register_buffer("features", torch.zeros(sizes.items, 2, PIXELS**2))
        self.register_buffer("volumes", torch.zeros(sizes.items, 1, *[config.size] * 3, dtype=torch.uint8))

    def fit(self, items: Iterable[Sequence[torch.Tensor]]) -> None:
        for row, (films, target, _) in enumerate(items):
            self.features[row] = film_features(films[None])[0]
            self.volumes[row] = (127.5 * (target + 1)).round()

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        """(B, V, p, p) -> (B, 1, n, n, n)."""
        correlation = torch.einsum("bvf,nvf->bn", film_features(films), self.features[:, : films.shape[1]])
        return self.volumes[correlation.argmax(1)] / 127.5 - 1


def film_features(films: torch.Tensor) -> torch.Tensor:
    """(B, V, p, p) -> (B, V, PIXELS^2): pooled, without mean, of norm one; products of two are correlations."""
    small = F.adaptive_avg_pool2d(films.float(), PIXELS).flatten(2)
    return F.normalize(small - small.mean(2, keepdim=True), dim=2)


def fit_items(network: Fitted, dataset: Any) -> None:
    """Fit to the data set's first items; beyond its length an index draws another look of a case."""
    network.fit(dataset[index] for index in range(network.items))

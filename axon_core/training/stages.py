"""The loss of each stage: a module over the networks that it trains, whose `forward(batch, generator)` is the loss.

A batch is (films (B, 2, p, p), target (B, 1, n, n, n), weight (B, 1, n, n, n)) as `PairDataset` gives it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.diffusion import bridge, gaussian
from axon_core.diffusion.sampling import SeededNoise, sample_bridge
from axon_core.model import AxonModel

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def weighted_mean(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of the voxel errors, each with its weight."""
    return (error * weight).sum() / weight.sum()


def drop_views(films: torch.Tensor, generator: torch.Generator, probability: float = 0.65) -> torch.Tensor:
    """Leave out the lateral films of a batch with `probability`, so that one checkpoint serves one view or two."""
    return films[:, :1] if float(torch.rand((), generator=generator)) < probability else films


def stratified(batch: int, generator: torch.Generator) -> torch.Tensor:
    """(B,) in [0, 1): one draw in each of B equal strata, which lowers the variance of the loss over times."""
    return (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch


class EndpointStage(nn.Module):
    """Anchor F(x) on the CT before the bridge: mean (F - Y)^2 + 0.1 mean |F - Y|."""

    def __init__(self, model: AxonModel) -> None:
        super().__init__()
        self.model = model
        self.trained = model.film_to_volume

    def forward(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        films, target, weight = batch
        error = self.model.endpoint(drop_views(films, generator)).float() - target
        return weighted_mean(error**2 + 0.1 * error.abs(), weight)


class BridgeStage(nn.Module):
    """The bridge between Y and a frozen F(x), paper Eq. 3 as prediction of x0.

    The squared error of x0 is divided by c_out^2, which makes it the error of a unit-variance target at every m. A
    fifth of the draws sit at m = 1, where sampling starts.
    """

    def __init__(self, model: AxonModel) -> None:
        super().__init__()
        self.model = model
        self.trained = model.coarse

    def forward(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        films, x0, weight = batch
        c = self.model.config.bridge
        with torch.no_grad():
            y = self.model.endpoint(drop_views(films, generator)).float()
        m = stratified(len(x0), generator).clamp(0.001, 0.999).view(-1, 1, 1, 1, 1)
        start = torch.rand(m.shape, generator=generator) < 0.2
        m = torch.where(start, torch.tensor(0.9995), m).to(x0.device)
        x = bridge.forward(x0, y, m, c.s, _noise(x0, generator))
        error = self.model.bridge_x0(x, m, y).float() - x0
        if c.sigma:
            error = error / bridge.preconditioning(m, c.s, c.sigma)[1]
        return weighted_mean(error**2, weight)


class PriorStage(nn.Module):
    """The unconditional DDPM over CT volumes: ||target - output||^2 (paper Eq. 4 without the condition)."""

    def __init__(self, model: AxonModel) -> None:
        super().__init__()
        self.model = model
        self.trained = model.prior

    def forward(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        _, x0, weight = batch
        x, time, target = _noised(self.model, x0, generator)
        return weighted_mean((self.model.prior(x, time).float() - target) ** 2, weight)


class ControlStage(nn.Module):
    """ControlNet on the coarse volume, the prior frozen; gradients flow through the prior's decoder.

    The hint is what inference offers: F(x) or a short bridge sample, from one view or two, slightly degraded, because
    the coarse volumes of training chests are better than those of new ones.
    """

    def __init__(self, model: AxonModel) -> None:
        super().__init__()
        self.model = model
        self.trained = model.control
        model.control.start_from(model.prior)
        model.prior.requires_grad_(False)

    def forward(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        films, x0, weight = batch
        with torch.no_grad():
            hint = coarse_volume(self.model, drop_views(films, generator), generator)
        if float(torch.rand((), generator=generator)) < 0.5:
            hint = F.avg_pool3d(hint, 3, 1, 1, count_include_pad=False)
        hint = hint + 0.05 * float(torch.rand((), generator=generator)) * _noise(hint, generator)
        x, time, target = _noised(self.model, x0, generator)
        output = self.model.prior(x, time, self.model.control(x, time, hint)).float()
        return weighted_mean((output - target) ** 2, weight)


class SuperResolutionStage(nn.Module):
    """|SR(low) - Y| on random blocks; the batch's volumes are at the doubled resolution.

    Low volumes are the pooled truth (blurred and noisy at random) or the coarse volume of the chest's films (the
    paper's "with synthetic inputs").
    """

    def __init__(self, model: AxonModel, block: int = 24) -> None:
        super().__init__()
        self.model = model
        self.trained = model.sr
        self.block = block

    def forward(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        films, high, weight = batch
        if float(torch.rand((), generator=generator)) < 0.5:
            with torch.no_grad():
                low = coarse_volume(self.model, drop_views(films, generator), generator)
        else:
            low = F.avg_pool3d(high, 2)
            if float(torch.rand((), generator=generator)) < 0.5:
                low = F.avg_pool3d(low, 3, 1, 1, count_include_pad=False)
            low = low + 0.03 * float(torch.rand((), generator=generator)) * _noise(low, generator)
        n = min(self.block, low.shape[-1])
        z, y, x = at = torch.randint(0, low.shape[-1] - n + 1, (3,), generator=generator).tolist()
        low = low[..., z : z + n, y : y + n, x : x + n]
        zz, yy, xx = (slice(2 * a, 2 * (a + n)) for a in at)
        error = self.model.sr(low).float() - high[..., zz, yy, xx]
        error, weight = error[..., 4:-4, 4:-4, 4:-4], weight[..., zz, yy, xx][..., 4:-4, 4:-4, 4:-4]
        return weighted_mean(error.abs(), weight)


def coarse_volume(model: AxonModel, films: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """F(x), or with even odds a three-step bridge sample from it, where the bridge is trained."""
    y = model.endpoint(films).float()
    if not model.has("coarse") or float(torch.rand((), generator=generator)) < 0.5:
        return y
    seeds = torch.randint(2**31, (len(y),), generator=generator).tolist()

    def denoise(x: torch.Tensor, m: float) -> torch.Tensor:
        return model.bridge_x0(x, torch.full((len(x), 1, 1, 1, 1), m, device=x.device), y).float()

    return sample_bridge(denoise, y, bridge.times(3), model.config.bridge.s, 1.0, SeededNoise(seeds))


def _noised(
    model: AxonModel, x0: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw times and noise: (x_t, t as float, regression target)."""
    t = (stratified(len(x0), generator) * len(model.alphas)).long()
    alpha = model.alphas[t].float().view(-1, 1, 1, 1, 1).to(x0.device)
    noise = _noise(x0, generator)
    x = gaussian.add_noise(x0, alpha, noise)
    return x, t.float().to(x0.device), gaussian.target(x0, alpha, noise, model.config.diffusion.prediction)


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise, drawn on the CPU whatever the device, so that a seed means the same everywhere."""
    return torch.randn(like.shape, generator=generator).to(like.device)

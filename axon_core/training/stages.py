"""The loss of each stage: a module over the network that it trains, whose `forward(batch, draws)` is the loss.

A batch is (films (B, 2, p, p), target (B, 1, n, n, n), weight (B, 1, n, n, n)) as `PairDataset` gives it. The loss is
one value for each sample, so that its mean over a batch does not depend on how the batch is divided, with the time in
[0, 1] at which the sample was taken (0 where a stage knows no time).

`volume(batch, draws)` is what the stage makes of a batch when it is used, for validation: (B, 1, n, n, n) in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from axon_core.config import ModelConfig
from axon_core.diffusion import bridge, gaussian
from axon_core.diffusion.sampling import SeededNoise, sample_ddim
from axon_core.errors import ConfigError
from axon_core.model import FINE_BRIDGE, AxonModel, Hint
from axon_core.training.draws import Draws
from axon_core.training.settings import StageSettings
from axon_core.walks import Quality, fine_times, walk_coarse, walk_fine

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Loss(NamedTuple):
    """Of each sample, (B,), and its time, (B,) in [0, 1]."""

    values: torch.Tensor
    time: torch.Tensor


class Stage(nn.Module):
    """What all stages have in common.

    Attributes:
        model: all networks; those that are not `trained` stay as they are.
        trained: the network that learns.
        settings: min_snr, edge and synthetic are read here.
    """

    learns = ""  # attribute of the model that is `trained`
    needs: tuple[str, ...] = ()  # stages that must be trained before
    enlarges = 1  # the batch's volumes are so many times finer than the model's grid
    conditional = True  # whether `volume` is meant to be the target

    def __init__(self, model: AxonModel, settings: StageSettings) -> None:
        self.check(model.config)
        super().__init__()
        self.model = model
        self.trained: nn.Module = getattr(model, self.learns)
        self.settings = settings

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Refuse, as a ConfigError, a model that has no such stage."""

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        raise NotImplementedError

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        raise NotImplementedError


def weighted_mean(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(B,): mean over each sample's voxels, each with its weight."""
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)


def edge_error(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(B,): mean |gradient| of an error (B, 1, n, n, n) along the three axes, between neighbours.

    Gradients are linear: that of x0 - Y is how far the edges of x0 are from those of Y. A pair of voxels has the lower
    of their weights.
    """
    steps = []
    for axis in (-3, -2, -1):
        pairs = weight.unfold(axis, 2, 1).amin(-1)
        steps.append(weighted_mean(error.diff(dim=axis).abs(), pairs))
    return torch.stack(steps).mean(0)


def drop_views(films: torch.Tensor, draws: Draws, probability: float = 0.65) -> torch.Tensor:
    """Leave out the lateral films of a step with `probability`, so that one checkpoint serves one view or two."""
    return films[:, :1] if draws.number() < probability else films


def min_snr(alpha: torch.Tensor, gamma: float, prediction: str) -> torch.Tensor:
    """Weights of the squared error by the signal-to-noise ratio SNR = a / (1 - a) (Hang et al., ICCV 2023).

    min(SNR, gamma) / SNR for "epsilon", min(SNR, gamma) / (SNR + 1) for "v": both weigh the error of x0 by
    min(SNR, gamma). With a terminal SNR of zero, "v" gives the last time no weight.
    """
    snr = alpha / (1 - alpha)
    return (gamma / snr).clamp_max(1.0) if prediction == "epsilon" else snr.clamp_max(gamma) / (snr + 1)


class EndpointStage(Stage):
    """Anchor F(x) on the CT before the bridge: mean (F - Y)^2 + 0.1 mean |F - Y|."""

    learns = "film_to_volume"

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, target, weight = batch
        error = self.model.endpoint(drop_views(films, draws)).float() - target
        values = weighted_mean(error**2 + 0.1 * error.abs(), weight)
        return Loss(values, torch.zeros_like(values))

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        return self.model.endpoint(batch[0][:, :1]).float()


class BridgeStage(Stage):
    """The bridge between Y and a frozen F(x), paper Eq. 3 as prediction of x0.

    The squared error of x0 is divided by c_out^2, which makes it the error of a unit-variance target at every m. A
    fifth of the draws sit at m = 1, where sampling starts. `settings.edge` adds so many times the `edge_error` of x0,
    in the units of x0 at every m.
    """

    learns = "coarse"
    needs = ("endpoint",)

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, x0, weight = batch
        c = self.model.config.bridge
        y = self.end(films, draws)
        time = draws.stratified().clamp(0.001, 0.999)
        time = torch.where(draws.uniform() < 0.2, torch.tensor(0.9995), time).to(x0.device)
        m = time.view(-1, 1, 1, 1, 1)
        x = bridge.forward(x0, y, m, c.s, draws.noise(x0))
        error = self.model.bridge_x0(x, m, y, self.trained).float() - x0
        scale = bridge.preconditioning(m, c.s, c.sigma)[1] if c.sigma else 1.0
        values = weighted_mean((error / scale) ** 2, weight)
        if self.settings.edge:
            values = values + self.settings.edge * edge_error(error, weight)
        return Loss(values, time)

    @torch.no_grad()
    def end(self, films: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Where the bridge starts."""
        return self.model.endpoint(drop_views(films, draws)).float()

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        return bridge_sample(self.model, self.model.endpoint(batch[0][:, :1]).float(), 8, draws)


class PriorStage(Stage):
    """The unconditional DDPM over CT volumes: ||target - output||^2 (paper Eq. 4 without the condition)."""

    learns = "prior"
    conditional = False

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        _, x0, weight = batch
        x, t, target, importance = noised(self.model, x0, draws, self.settings.min_snr)
        error = self.model.prior(x, t).float() - target
        return Loss(importance * weighted_mean(error**2, weight), t / len(self.model.alphas))

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        model, like = self.model, batch[1]

        def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
            time = torch.full((len(x),), t, device=x.device)
            alpha = model.alphas[int(t)].to(x.device, x.dtype)
            return gaussian.predict_x0(x, alpha, model.prior(x, time).float(), model.config.diffusion.prediction)

        return sample_ddim(denoise, draws.noise(like), gaussian.times(12), model.alphas, 0.0, draws.noise)


class ControlStage(Stage):
    """ControlNet on the coarse volume or on the films, the prior frozen; gradients flow through the prior's decoder.

    What was not trained before starts as the prior's encoder behind convolutions of zeros.
    """

    learns = "control"
    needs = ("endpoint", "prior")

    def __init__(self, model: AxonModel, settings: StageSettings) -> None:
        super().__init__(model, settings)
        if not model.has("fine"):
            model.control.start_from(model.prior)
        model.prior.requires_grad_(False)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        if config.diffusion.is_bridge:
            raise ConfigError(
                "training.process", "FineDiff of this preset is a second bridge.", "Run `axon train fine-bridge`."
            )

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, x0, weight = batch
        hint = offered_hint(self.model, films, draws)
        x, t, target, importance = noised(self.model, x0, draws, self.settings.min_snr)
        error = self.model.prior(x, t, self.model.control(x, t, *hint)).float() - target
        return Loss(importance * weighted_mean(error**2, weight), t / len(self.model.alphas))

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        """As the pipeline does: from the noised F(x), or from noise where the films are the hint."""
        return fine_sample(self.model, batch[0][:, :1], draws)


class FineBridgeStage(BridgeStage):
    """The paper's ablation: a second bridge in FineDiff's place, from what else would be its hint to the CT."""

    learns = FINE_BRIDGE

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        if not config.diffusion.is_bridge:
            raise ConfigError(
                "training.process",
                "FineDiff of this preset is a ControlNet.",
                'Write process = "bridge" under [diffusion] of a copy of the preset, or run `axon train fine`.',
            )

    @torch.no_grad()
    def end(self, films: torch.Tensor, draws: Draws) -> torch.Tensor:
        return offered_hint(self.model, films, draws).volume

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        return fine_sample(self.model, batch[0][:, :1], draws)


class SuperResolutionStage(Stage):
    """|SR(low) - Y| on random blocks; the batch's volumes are at the doubled resolution.

    Low volumes are the pooled truth (blurred and noisy at random) or, for a share of `settings.synthetic`, the coarse
    volume of the chest's films (the paper's "with synthetic inputs").
    """

    learns = "sr"
    enlarges = 2

    def __init__(self, model: AxonModel, settings: StageSettings, block: int = 24) -> None:
        super().__init__(model, settings)
        self.block = block
        self.needs = ("endpoint",) if settings.synthetic else ()

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, high, weight = batch
        if draws.number() < self.settings.synthetic:
            with torch.no_grad():
                low = coarse_volume(self.model, drop_views(films, draws), draws)
        else:
            low = F.avg_pool3d(high, 2)
            if draws.number() < 0.5:
                low = F.avg_pool3d(low, 3, 1, 1, count_include_pad=False)
            low = low + 0.03 * draws.number() * draws.noise(low)
        n = min(self.block, low.shape[-1])
        z, y, x = at = draws.integers(low.shape[-1] - n + 1, 3)
        low = low[..., z : z + n, y : y + n, x : x + n]
        zz, yy, xx = (slice(2 * a, 2 * (a + n)) for a in at)
        error = self.model.sr(low).float() - high[..., zz, yy, xx]
        error, weight = error[..., 4:-4, 4:-4, 4:-4], weight[..., zz, yy, xx][..., 4:-4, 4:-4, 4:-4]
        values = weighted_mean(error.abs(), weight)
        return Loss(values, torch.zeros_like(values))

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        return self.model.super_resolve(F.avg_pool3d(batch[1], 2)).float()


STAGES: dict[str, type[Stage]] = {  # in the order of training
    "endpoint": EndpointStage,
    "coarse": BridgeStage,
    "prior": PriorStage,
    "control": ControlStage,
    "super-resolution": SuperResolutionStage,
}
VARIANTS: dict[str, type[Stage]] = {"fine-bridge": FineBridgeStage}  # in the place of others, where a preset says so


@torch.no_grad()
def offered_hint(model: AxonModel, films: torch.Tensor, draws: Draws) -> Hint:
    """What inference offers FineDiff, from one view or two: F(x) or a short bridge sample, slightly degraded; or films.

    For the coarse volumes of training chests are better than those of new ones (exposure bias; Ho et al., Cascaded
    Diffusion Models, 2022). Films are not.
    """
    films = drop_views(films, draws)
    if model.config.diffusion.hint == "films":
        return model.fine_hint(films, films)
    coarse = coarse_volume(model, films, draws)
    if draws.number() < 0.5:
        coarse = F.avg_pool3d(coarse, 3, 1, 1, count_include_pad=False)
    return model.fine_hint(films, coarse + 0.05 * draws.number() * draws.noise(coarse))


def coarse_volume(model: AxonModel, films: torch.Tensor, draws: Draws) -> torch.Tensor:
    """F(x), or with even odds a three-step bridge sample from it, where the bridge is trained."""
    y = model.endpoint(films).float()
    if not model.has("coarse") or draws.number() < 0.5:
        return y
    return bridge_sample(model, y, 3, draws)


def bridge_sample(model: AxonModel, y: torch.Tensor, steps: int, draws: Draws) -> torch.Tensor:
    """A sample of the bridge from y = F(x)."""
    return walk_coarse(model, y, bridge.times(steps), SeededNoise(draws.seeds()))


def fine_sample(model: AxonModel, films: torch.Tensor, draws: Draws) -> torch.Tensor:
    """A sample of FineDiff as the pipeline takes it from F(x), or from noise where the films are the hint."""
    hint = model.fine_hint(films, model.endpoint(films).float())
    return walk_fine(model, hint, fine_times(model, Quality()), draws.noise)


def noised(
    model: AxonModel, x0: torch.Tensor, draws: Draws, gamma: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | float]:
    """Draw times and noise: x_t, t (B,) as float, the regression target, and each sample's importance (B,)."""
    t = (draws.stratified() * len(model.alphas)).long()
    alpha = model.alphas[t].float().view(-1, 1, 1, 1, 1).to(x0.device)
    noise = draws.noise(x0)
    prediction = model.config.diffusion.prediction
    importance = min_snr(alpha.flatten(), gamma, prediction) if gamma else 1.0
    x = gaussian.add_noise(x0, alpha, noise)
    return x, t.float().to(x0.device), gaussian.target(x0, alpha, noise, prediction), importance

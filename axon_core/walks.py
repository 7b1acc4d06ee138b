"""How a model's two diffusion stages are sampled: from where, at which times, with how much fresh noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from axon_core.diffusion import bridge, gaussian
from axon_core.diffusion.sampling import Callback, Denoiser, sample_bridge, sample_ddim
from axon_core.model import AxonModel, Hint

Noise = Callable[[torch.Tensor], torch.Tensor]  # standard normal, like the tensor


@dataclass(frozen=True)
class Quality:
    """How much work goes into a reconstruction; distilled networks have their own times in place of these.

    Attributes:
        bridge_steps: network evaluations of the bridge.
        rho: spacing of the bridge's times.
        fine_steps: network evaluations of FineDiff.
        fine_start: share of FineDiff's times that is run; below 1 it starts from the noised coarse volume. Where the
            films themselves are the hint, all times are run.
        everything: run every trained stage, not only those that proved better than the stage before.
        first_only: stop at F(x).
    """

    bridge_steps: int = 8
    rho: float = 3.0
    fine_steps: int = 12
    fine_start: float = 0.4
    everything: bool = False
    first_only: bool = False


def coarse_times(model: AxonModel, quality: Quality) -> list[float]:
    """m of each evaluation of CoarseDiff's network."""
    return list(model.config.bridge.times) or bridge.times(quality.bridge_steps, quality.rho)


def coarse_eta(model: AxonModel) -> float:
    """Share of fresh noise in CoarseDiff's steps: a distilled network learned steps without it."""
    return 0.0 if model.config.bridge.times else 1.0


def coarse_denoiser(model: AxonModel, y: torch.Tensor) -> Denoiser:
    """(x, m) -> CoarseDiff's prediction of x0, from y = F(x)."""

    def denoise(x: torch.Tensor, m: float) -> torch.Tensor:
        return model.bridge_x0(x, torch.full((len(x), 1, 1, 1, 1), m, device=x.device), y).float()

    return denoise


def walk_coarse(
    model: AxonModel,
    y: torch.Tensor,
    times: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """A sample of CoarseDiff from y = F(x), (B, 1, n, n, n)."""
    return sample_bridge(coarse_denoiser(model, y), y, times, model.config.bridge.s, coarse_eta(model), noise, callback)


def fine_times(model: AxonModel, quality: Quality) -> list[float]:
    """Time of each evaluation of FineDiff's networks: an index into `model.alphas`, or m where it is a bridge."""
    c = model.config.diffusion
    if c.is_bridge:
        return bridge.times(quality.fine_steps, quality.rho)
    return list(c.times) or list(gaussian.times(quality.fine_steps, 1.0 if c.from_noise else quality.fine_start))


def fine_eta(model: AxonModel) -> float:
    """Share of fresh noise in FineDiff's steps."""
    return 1.0 if model.config.diffusion.is_bridge else 0.0


def fine_denoiser(model: AxonModel, hint: Hint) -> Denoiser:
    """(x, time) -> FineDiff's prediction of x0, steered by the hint."""

    def denoise(x: torch.Tensor, time: float) -> torch.Tensor:
        return model.fine_x0(x, torch.full((len(x),), time), hint).float()

    return denoise


def walk_fine(
    model: AxonModel,
    hint: Hint,
    times: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """A sample of FineDiff, (B, 1, n, n, n): denoised by DDIM, or walked from the hint where it is a bridge."""
    denoise = fine_denoiser(model, hint)
    if model.config.diffusion.is_bridge:
        return sample_bridge(denoise, hint.volume, times, model.config.bridge.s, fine_eta(model), noise, callback)
    indices = [int(t) for t in times]
    start = model.fine_start(hint, indices[0], noise(hint.volume))
    return sample_ddim(denoise, start, indices, model.alphas, fine_eta(model), noise, callback)

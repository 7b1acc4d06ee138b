"""The two sampling loops: pure functions of a denoiser, a start, a list of times and a source of noise.

Every step calls `callback(Step)` with its prediction of the clean volume, which is the progressive preview. Noise
comes from a CPU generator whatever the device, so that a seed gives the same volume everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from axon_core.diffusion import bridge, gaussian

Denoiser = Callable[[torch.Tensor, float], torch.Tensor]  # (x, time) -> prediction of x0


@dataclass(frozen=True)
class Step:
    """State after one network evaluation: index of total, time, and the predicted clean volumes (B, 1, n, n, n)."""

    index: int
    total: int
    time: float
    x0: torch.Tensor


Callback = Callable[[Step], None]


_POOL = ThreadPoolExecutor(os.cpu_count(), "noise")  # a GPU computes a step as fast as one core draws its noise


def standard_normal(like: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """(B, ...) noise with the shape, device and dtype of `like`, each sample's from its own generator on the CPU."""
    with torch.inference_mode(False):  # that mode is one thread's: the others could not write
        noise = torch.empty(len(generators), *like.shape[1:], pin_memory=like.device.type == "cuda")

    def draw(generator: torch.Generator, out: torch.Tensor) -> None:
        torch.randn(out.shape, generator=generator, out=out)

    list(_POOL.map(draw, generators, noise.unbind()))
    return noise.to(like.device, like.dtype)


class SeededNoise:
    """Standard normal noise, one independent stream for each sample of the batch, made on the CPU.

    A sample's noise depends only on its own seed, not on the batch around it or the device.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        """(B, ...) noise with the shape, device and dtype of `like`; B is the number of seeds."""
        return standard_normal(like, self.generators)


def sample_bridge(
    denoise: Denoiser,
    y: torch.Tensor,
    times: Sequence[float],
    s: float,
    eta: float,
    noise: Callable[[torch.Tensor], torch.Tensor],
    callback: Callback | None = None,
) -> torch.Tensor:
    """Walk the bridge from y = F(x) to the volume.

    Args:
        denoise: (x, m) -> prediction of x0.
        y: (B, 1, n, n, n) start.
        times: decreasing m in (0, 1]; the last prediction is the result.
        s: variance of the bridge.
        eta: 0 deterministic after the first draw, 1 the full posterior.
    """
    x = y
    for index, m in enumerate(times):
        x0 = denoise(x, m)
        if callback is not None:
            callback(Step(index, len(times), m, x0))
        if index + 1 < len(times):
            x = bridge.step(x0, y, x, m, times[index + 1], s, eta, noise(y))
    return x0


def sample_ddim(
    denoise: Denoiser,
    x: torch.Tensor,
    times: Sequence[int],
    alphas: torch.Tensor,
    eta: float,
    noise: Callable[[torch.Tensor], torch.Tensor],
    callback: Callback | None = None,
) -> torch.Tensor:
    """Denoise x (B, 1, n, n, n), which has the noise level of times[0]; the last prediction is the result.

    Args:
        denoise: (x, t) -> prediction of x0, t an index into `alphas`.
        times: decreasing indices.
        alphas: cumulated alphas.
    """
    for index, t in enumerate(times):
        x0 = denoise(x, t)
        if callback is not None:
            callback(Step(index, len(times), t, x0))
        if index + 1 < len(times):
            fresh = noise(x) if eta > 0 else torch.zeros_like(x)
            x = gaussian.step(x0, x, float(alphas[t]), float(alphas[times[index + 1]]), eta, fresh)
    return x0

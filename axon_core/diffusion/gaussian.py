"""Gaussian diffusion: x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps, a_t the cumulated product of 1 - beta (DDPM, Ho 2020)."""

from __future__ import annotations

import torch


def alpha_bars(steps: int = 1000, zero_terminal: bool = False) -> torch.Tensor:
    """(steps,) float64 cumulated alphas of the linear schedule beta = 1e-4 ... 2e-2.

    `zero_terminal` rescales sqrt(a) so that the last is exactly 0 (Lin et al. 2024): sampling then starts from pure
    noise as in training, and the mean HU cannot leak in.
    """
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, steps, dtype=torch.float64), 0)
    if zero_terminal:
        root = alphas.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alphas


def add_noise(x0: torch.Tensor, alpha_bar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """x_t; alpha_bar broadcasts against x0."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def target(x0: torch.Tensor, alpha_bar: torch.Tensor, noise: torch.Tensor, prediction: str) -> torch.Tensor:
    """What the network learns: "epsilon" (paper Eq. 4) or "v" = sqrt(a) eps - sqrt(1 - a) x0 (Salimans and Ho 2022)."""
    if prediction == "epsilon":
        return noise
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


def predict_x0(x: torch.Tensor, alpha_bar: torch.Tensor, output: torch.Tensor, prediction: str) -> torch.Tensor:
    """The clean volume that a network output implies."""
    if prediction == "epsilon":
        return (x - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    return alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * output


def step(
    x0: torch.Tensor, x: torch.Tensor, alpha_t: float, alpha_r: float, eta: float, noise: torch.Tensor
) -> torch.Tensor:
    """One DDIM step (Song et al. 2021, Eq. 12) from alpha_t to the less noisy alpha_r, given the prediction x0."""
    epsilon = (x - alpha_t**0.5 * x0) / (1 - alpha_t) ** 0.5
    sigma2 = eta**2 * (1 - alpha_r) / (1 - alpha_t) * (1 - alpha_t / alpha_r)
    return alpha_r**0.5 * x0 + max(1 - alpha_r - sigma2, 0.0) ** 0.5 * epsilon + max(sigma2, 0.0) ** 0.5 * noise


def times(steps: int, start: float = 1.0, total: int = 1000) -> list[int]:
    """Indices of the network evaluations, from start * (total - 1) down, evenly spaced and each above 0."""
    first = start * (total - 1)
    return [round(first * (1 - i / steps)) for i in range(steps)]

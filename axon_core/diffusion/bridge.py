"""The Brownian bridge between a film's coarse volume and the CT (paper 3.1; Li et al., BBDM, CVPR 2023).

Notation: x0 = Y (the CT), y = F(x) (the bridge's other end), m in [0, 1] the way from x0 to y, and

    x_m = (1 - m) x0 + m y + sqrt(delta_m) eps,    delta_m = 2 s (m - m^2).                               (paper Eq. 2)

s = 1 is the paper's bridge. A small s matched to the spread of x0 - y is what few training steps can learn.
"""

from __future__ import annotations

import torch


def delta(m: torch.Tensor, s: float) -> torch.Tensor:
    """Variance of the bridge at m: 2 s (m - m^2)."""
    return 2 * s * (m - m * m)


def forward(x0: torch.Tensor, y: torch.Tensor, m: torch.Tensor, s: float, noise: torch.Tensor) -> torch.Tensor:
    """x_m from both ends (Eq. 2); m broadcasts against the volumes, noise is standard normal."""
    return (1 - m) * x0 + m * y + delta(m, s).sqrt() * noise


def gradient_target(x0: torch.Tensor, y: torch.Tensor, m: torch.Tensor, s: float, noise: torch.Tensor) -> torch.Tensor:
    """x_m - x0 = m (y - x0) + sqrt(delta_m) eps, BBDM's regression target.

    Paper Eq. 3 prints the first term with the other sign, which could not be inverted at m = 1/2.
    """
    return m * (y - x0) + delta(m, s).sqrt() * noise


def preconditioning(m: torch.Tensor, s: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(c_skip, c_out, c_in) such that x0 = y + c_skip (x_m - y) + c_out f(c_in (x_m - y)) has a unit-variance target.

    After Karras et al. (EDM, 2022), for a residual x0 - y of standard deviation `sigma`. x_m - y = (1 - m)(x0 - y) +
    sqrt(delta) eps is the residual in noise, with variance k = (1 - m)^2 sigma^2 + delta; with f = 0 the prediction
    is the best linear one, and at m = 1 it is y itself.
    """
    variance = ((1 - m) ** 2 * sigma**2 + delta(m, s)).clamp_min(1e-8)
    c_skip = (1 - m) * sigma**2 / variance
    c_out = sigma * (2 * s * m / ((1 - m) * sigma**2 + 2 * s * m)).sqrt()  # delta / k without 0 / 0 at m = 1
    return c_skip, c_out, variance.rsqrt()


def step(
    x0: torch.Tensor, y: torch.Tensor, x: torch.Tensor, m: float, r: float, s: float, eta: float, noise: torch.Tensor
) -> torch.Tensor:
    """One sampling step from m down to r < m, given the prediction x0 (non-Markovian family, DDIM for the bridge).

        sigma^2 = eta^2 delta_r (delta_m - delta_r (1-m)^2 / (1-r)^2) / delta_m
        x_r = (1-r) x0 + r y + sqrt((delta_r - sigma^2) / delta_m) (x - (1-m) x0 - m y) + sigma eps

    eta = 1 is the posterior of the bridge. At m = 1 the bridge has no spread left, and the limit is a fresh draw from
    the marginal, for every eta: without it all seeds would give one volume.
    """
    delta_r = 2 * s * (r - r * r)
    mean = (1 - r) * x0 + r * y
    if m >= 1:
        return mean + delta_r**0.5 * noise
    delta_m = 2 * s * (m - m * m)
    sigma2 = eta**2 * delta_r * (delta_m - delta_r * (1 - m) ** 2 / (1 - r) ** 2) / delta_m
    direction = (x - (1 - m) * x0 - m * y) / delta_m**0.5
    return mean + max(delta_r - sigma2, 0.0) ** 0.5 * direction + max(sigma2, 0.0) ** 0.5 * noise


def times(steps: int, rho: float = 3.0) -> list[float]:
    """m of each network evaluation, from 1 downwards: (1 - i / steps)^rho.

    rho = 1 is BBDM's even spacing; rho = 3 spends the steps near x0, where detail is decided.
    """
    return [(1 - i / steps) ** rho for i in range(steps)]

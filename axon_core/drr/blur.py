"""The blurs of a film: a Gaussian of any width, the widths of focal spot, detector and voxels, and a blur's inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ive


def blur(film: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (..., h, w), sigma in pixels, with replicated edges; wide kernels run on a reduced image.

    The weights exp(-t) I_n(t), t = sigma^2, are the Gaussian of a lattice (Lindeberg, IEEE PAMI 12 (1990) 234):
    positive, of exact sum and variance however small sigma is, with the transfer function exp(t (cos w - 1)), which is
    a Gaussian's where pixels are fine.
    """
    if sigma <= 0:
        return film
    height, width = film.shape[-2:]
    sigma = min(sigma, float(max(height, width)))  # wider kernels do the same to an image with replicated edges
    factor = 2 ** max(0, math.floor(math.log2(sigma / 3))) if sigma > 6 else 1
    image = F.pad(film.reshape(-1, 1, height, width), (0, -width % factor, 0, -height % factor), mode="replicate")
    small = F.avg_pool2d(image, factor)
    # averaging and interpolating back widen by a quarter of a reduced pixel's square
    small = _convolved(small, np.array([(sigma / factor) ** 2 - (0.25 if factor > 1 else 0.0)]))
    if factor > 1:
        small = F.interpolate(small, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return small[:, 0, :height, :width].reshape(film.shape)


def blur_each(films: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """`blur` of (B, h, w) with a sigma for each film; at full size, so for small sigmas."""
    wanted = [number for number, sigma in enumerate(sigmas) if sigma > 0]
    if not wanted:
        return films
    result = films.clone()
    result[wanted] = _convolved(films[wanted][None], np.square([sigmas[number] for number in wanted]))[0]
    return result


def _convolved(images: torch.Tensor, variances: np.ndarray) -> torch.Tensor:
    """(B, C, h, w), every channel with the lattice Gaussian of its variance [pixels squared]; one variance is all's."""
    channels = images.shape[1]
    radius = math.ceil(4 * math.sqrt(variances.max())) + 1
    weights = ive(np.abs(np.arange(-radius, radius + 1)), variances[:, None])
    kernel = torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(images).expand(channels, -1)
    images = F.pad(images, (radius,) * 4, mode="replicate")
    images = F.conv2d(images, kernel[:, None, None, :], groups=channels)
    return F.conv2d(images, kernel[:, None, :, None], groups=channels)


def spot_sigma_mm(spot_mm: float, magnification: float) -> float:
    """Blur on the detector of a focal spot of this full width at half maximum, for what lies at the isocentre."""
    return spot_mm * (magnification - 1) / (2 * math.sqrt(2 * math.log(2)))


def mtf_sigma_mm(mtf50_per_mm: float) -> float:
    """The Gaussian whose transfer function exp(-2 (pi sigma f)^2) is a half at this frequency; 0 for an ideal one."""
    return math.sqrt(math.log(2) / 2) / (math.pi * mtf50_per_mm) if mtf50_per_mm > 0 else 0.0


def voxel_sigma_mm(voxel_mm: float) -> float:
    """Blur at the isocentre of a CT of such voxels, smoothed before it was sampled and then interpolated: 0.6 voxels.

    A voxel's box alone has 0.29 of its edge, a linear interpolation 0.41, and the smoothing before sampling about 0.4.
    """
    return 0.6 * voxel_mm


def restored(areal: torch.Tensor, sigma: float, gain: float = 6.0) -> torch.Tensor:
    """Undo, as far as the frequencies are not lost, the blur that the voxels of a CT leave in its projection.

    Wiener's inverse of a Gaussian transfer function h, W ~ h / (h^2 + 1 / (2 gain)^2), 1 at frequency 0. An isotropic
    blur of the volume is the same blur of its projection, so that this may be done on the film, where the CT's own
    noise has averaged out.

    Args:
        areal: (materials, h, w).
        sigma: of the blur [pixels]; see `voxel_sigma_mm`. 0 changes nothing.
        gain: no frequency is amplified by more.

    Returns:
        Like `areal`, not negative.
    """
    if sigma <= 0:
        return areal
    margin = min(math.ceil(6 * sigma), min(areal.shape[-2:]) - 1)
    padded = F.pad(areal, (margin,) * 4, mode="replicate")
    rows, columns = torch.fft.fftfreq(padded.shape[-2]), torch.fft.rfftfreq(padded.shape[-1])
    transfer = torch.exp(-2 * (math.pi * sigma) ** 2 * (rows[:, None] ** 2 + columns**2)).to(areal)
    limit = 1 / (2 * gain) ** 2
    inverse = (1 + limit) * transfer / (transfer**2 + limit)
    film = torch.fft.irfft2(torch.fft.rfft2(padded) * inverse, s=padded.shape[-2:])
    return film[..., margin:-margin, margin:-margin].clamp_min(0.0)

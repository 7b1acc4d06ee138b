"""How close a volume is to the truth, and how close two projections are.

Volumes are compared in [0, 1] (data range 1), axes ``[z, y, x]``: put HU through a `HuWindow`, then (u + 1) / 2. Arrays
may be NumPy or torch; sums run in float64 on the CPU. Every metric is a plain float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from axon_core.errors import ConfigError, VolumeError

SSIM_NAMES = {
    "valid": "3-D SSIM, Gaussian 11 (sd 1.5), no padding, as MONAI SSIMMetric and scikit-image gaussian_weights",
    "zero": "3-D SSIM, Gaussian 11 (sd 1.5), zero padding, larger on volumes with a flat background",
    "slices": "mean SSIM of all axial, coronal and sagittal slices, uniform window of 7 x 7, as X2CT-GAN's code",
}
SSIM_WINDOW = 11
SSIM_SD = 1.5
SLICE_WINDOW = 7
SLAB = 16
X2CT_PEAK, X2CT_RANGE = 4095.0, 2500.0


def mae(pred: Any, truth: Any) -> float:
    """Mean absolute error: mean |p - t|."""
    p, t = pair(pred, truth)
    return float((p - t).abs().mean())


def mse(pred: Any, truth: Any) -> float:
    """Mean squared error: mean (p - t)^2."""
    p, t = pair(pred, truth)
    return float((p - t).square().mean())


def psnr(pred: Any, truth: Any) -> float:
    """Peak signal-to-noise ratio in dB for data range 1: 10 log10(1 / MSE); infinite if equal."""
    error = mse(pred, truth)
    return -10.0 * math.log10(error) if error > 0.0 else math.inf


def x2ct_psnr(pred: Any, truth: Any) -> float:
    """PSNR as X2CT-GAN's code prints it, in dB: only to stand beside published numbers of that convention.

    The volume in [0, 1] is multiplied by the 2500 HU that it spans, yet the peak is taken as 4095:
    20 log10(4095 / (2500 RMSE)) = `psnr` + 4.29 dB.
    """
    return psnr(pred, truth) + 20.0 * math.log10(X2CT_PEAK / X2CT_RANGE)


def ssim3d(pred: Any, truth: Any, padding: Literal["valid", "zero"] = "valid", mask: Any = None) -> float:
    """Mean structural similarity, in [-1, 1] (Wang et al. 2004, equation 13; K1 0.01, K2 0.03, L 1).

    Local means, variances and covariance are population moments under a Gaussian of 11^3 voxels, sd 1.5 voxels.

    Args:
        pred: volume (z, y, x) in [0, 1].
        truth: the same shape.
        padding: ``valid`` averages where the window fits into the volume (each edge needs 11 voxels); ``zero``
            surrounds the volume with zeros and averages over all of it. Implementations differ by up to 0.13 on the
            same pair: name the one that you print (`SSIM_NAMES`).
        mask: the same shape, True or non-zero inside; windows that reach out of it are not counted. With ``valid``.

    Raises:
        VolumeError: shapes differ, not 3-D, not finite, or no window fits.
        ConfigError: another padding, or one with a mask.
    """
    p, t = pair(pred, truth)
    if padding not in ("valid", "zero") or (padding == "zero" and mask is not None):
        raise ConfigError("metrics.padding", f"SSIM padding {padding!r} is unknown.", "Choose 'valid' or 'zero'.")
    if p.ndim != 3 or (padding == "valid" and min(p.shape) < SSIM_WINDOW):
        raise VolumeError(
            "metrics.size",
            f"SSIM of a volume of shape {tuple(p.shape)}.",
            f"Compare 3-D volumes of at least {SSIM_WINDOW} voxels along each edge.",
        )
    if padding == "zero":
        p, t = (torch.nn.functional.pad(v, [SSIM_WINDOW // 2] * 6) for v in (p, t))
    fits = None if mask is None else _windows_inside(_inside(mask, p))
    slabs = range(0, len(p) - SSIM_WINDOW + 1, SLAB)  # a few slices at a time: fast and small
    total, count = 0.0, 0
    for z in slabs:
        similar = _similarity(*(v[z : z + SLAB + SSIM_WINDOW - 1] for v in (p, t)))
        similar = similar if fits is None else similar[fits[z : z + SLAB]]
        total, count = total + float(similar.sum()), count + similar.numel()
    if count == 0:
        raise VolumeError("metrics.size", "No SSIM window lies inside the mask.", "Compare a larger part.")
    return total / count


def ssim_slices(pred: Any, truth: Any) -> float:
    """Mean structural similarity of all slices across each of the three axes, as X2CT-GAN's code computes it.

    In every slice a uniform window of 7 x 7, sample variances (n - 1), no padding, K1 0.01, K2 0.03, L 1; the mean over
    the slices of each axis, then over the axes.

    Args:
        pred: volume (z, y, x) in [0, 1]; it is clipped to it, as there.
        truth: the same shape.

    Raises:
        VolumeError: shapes differ, not 3-D, not finite, or fewer than 7 voxels along an edge.
    """
    p, t = pair(pred, truth)
    if p.ndim != 3 or min(p.shape) < SLICE_WINDOW:
        raise VolumeError(
            "metrics.size",
            f"Slice-wise SSIM of a volume of shape {tuple(p.shape)}.",
            f"Compare 3-D volumes of at least {SLICE_WINDOW} voxels along each edge.",
        )
    p = p.clamp(0.0, 1.0)
    means = [float(_slice_similarity(p.movedim(axis, 0), t.movedim(axis, 0)).mean()) for axis in range(3)]
    return sum(means) / len(means)


def edge_sharpness(pred: Any, truth: Any) -> float:
    """How sharp the edges are: mean |grad p| / mean |grad t|, forward differences averaged over the axes.

    1: as sharp as the truth; below 1: blurred; above 1: noisy or oversharpened; nan where the truth is flat.
    """
    p, t = pair(pred, truth)
    steep = _mean_gradient(t)
    return _mean_gradient(p) / steep if steep > 0.0 else math.nan


def ncc(a: Any, b: Any, mask: Any = None) -> float:
    """Normalised cross-correlation (Pearson's r) of two images, in [-1, 1]; 0 if one of them is flat.

    Args:
        a: image of any shape and scale.
        b: the same shape.
        mask: where to compare, the same shape, True or non-zero inside; everywhere if None.
    """
    x, y = pair(a, b)
    if mask is not None:
        inside = _inside(mask, x)
        x, y = x[inside], y[inside]
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.square().sum().sqrt() * y.square().sum().sqrt())
    return float((x * y).sum()) / scale if scale > 0.0 else 0.0


class Summary(NamedTuple):
    """Mean and sample standard deviation (n - 1; nan for one value) of `n` values."""

    mean: float
    sd: float
    n: int


def summarise(values: Iterable[float]) -> Summary:
    """Mean and sample sd over cases."""
    numbers = np.fromiter(values, dtype=float)
    if numbers.size == 0:
        raise ConfigError("metrics.empty", "There are no values to summarise.", "Evaluate at least one case.")
    sd = float(numbers.std(ddof=1)) if numbers.size > 1 and np.isfinite(numbers).all() else math.nan
    return Summary(float(numbers.mean()), sd, numbers.size)


def pair(a: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float64 on the CPU, of one shape and finite; VolumeError otherwise."""
    x, y = (torch.as_tensor(v).detach().cpu().double() for v in (a, b))
    if x.shape != y.shape or x.numel() == 0:
        raise VolumeError(
            "metrics.shape",
            f"Cannot compare shapes {tuple(x.shape)} and {tuple(y.shape)}.",
            "Put both on the same grid first.",
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise VolumeError("metrics.not-finite", "A value to compare is not finite.", "Look for NaN in the volumes.")
    return x, y


def _inside(mask: Any, values: torch.Tensor) -> torch.Tensor:
    """The mask as truth values of the shape of `values`; VolumeError if it is another or empty."""
    inside = torch.as_tensor(mask).detach().cpu() != 0
    if inside.shape != values.shape or not inside.any():
        raise VolumeError(
            "metrics.mask",
            f"Mask of shape {tuple(inside.shape)} with {int(inside.sum())} inside, values {tuple(values.shape)}.",
            "Give a mask of the values' shape that is not empty.",
        )
    return inside


def _windows_inside(inside: torch.Tensor) -> torch.Tensor:
    """Where an SSIM window lies inside altogether: (z, y, x) less a window, plus one, as `_similarity` has it."""
    for axis in range(inside.ndim):
        inside = inside.unfold(axis, SSIM_WINDOW, 1).all(-1)
    return inside


def _mean_gradient(volume: torch.Tensor) -> float:
    steps = [volume.diff(dim=axis).abs().mean() for axis in range(volume.ndim)]
    return float(sum(steps)) / len(steps)


def _slice_similarity(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """SSIM maps of (slices, h, w) under a uniform window."""

    def local(volume: torch.Tensor) -> torch.Tensor:
        for axis in (1, 2):  # differences of running sums
            sums = torch.nn.functional.pad(volume.movedim(axis, -1).cumsum(-1), (1, 0))
            volume = ((sums[..., SLICE_WINDOW:] - sums[..., :-SLICE_WINDOW]) / SLICE_WINDOW).movedim(-1, axis)
        return volume

    sample = SLICE_WINDOW**2 / (SLICE_WINDOW**2 - 1.0)
    mp, mt = local(p), local(t)
    moments = (sample * (local(a * b) - local(a) * local(b)) for a, b in ((p, p), (t, t), (p, t)))
    return _ssim(mp, mt, *moments)


def _similarity(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """SSIM at every place where the window fits."""
    mp, mt = _blur(p), _blur(t)
    return _ssim(mp, mt, _blur(p * p) - mp * mp, _blur(t * t) - mt * mt, _blur(p * t) - mp * mt)


def _ssim(mp: torch.Tensor, mt: torch.Tensor, var_p: torch.Tensor, var_t: torch.Tensor, cov: Any) -> torch.Tensor:
    """Wang et al. 2004, equation 13, from local means, variances and covariance."""
    c1, c2 = 0.01**2, 0.03**2
    return (2.0 * mp * mt + c1) * (2.0 * cov + c2) / ((mp * mp + mt * mt + c1) * (var_p + var_t + c2))


def _blur(volume: torch.Tensor) -> torch.Tensor:
    """Gaussian means where the window fits, one axis at a time: a weighted sum of shifted copies."""
    half = SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / SSIM_SD) ** 2)
    weights /= weights.sum()
    for axis in range(volume.ndim):
        length = volume.shape[axis] - 2 * half
        total = volume.narrow(axis, 0, length) * weights[0]
        for i in range(1, SSIM_WINDOW):
            total.add_(volume.narrow(axis, i, length), alpha=float(weights[i]))
        volume = total
    return volume

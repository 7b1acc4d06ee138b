"""How much structure of each size a volume holds: its radial power spectrum beside the truth's.

A blurred volume lacks power at high frequencies, a grainy one has too much, whatever its PSNR.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from axon_core.evaluation.metrics import pair

FINE_BAND = (0.25, 0.5)  # cycles per voxel: structures of two to four voxels
BINS = 16


def radial_spectrum(volume: Any, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Mean power at each spatial frequency, over all directions.

    The mean is taken off and a Hann window is laid over the volume first, so that its borders are no edges. The power
    is |FFT|^2 over the window's energy: white noise of variance v has power v everywhere.

    Args:
        volume: (z, y, x), any scale.
        bins: of equal width from 0 to 0.5 cycles per voxel.

    Returns:
        (bins,) centres in cycles per voxel, and (bins,) power; nan where no frequency falls into a bin.
    """
    frequency, power, weight = _power(np.asarray(volume, np.float64))
    edges = np.linspace(0.0, 0.5, bins + 1)
    inside = frequency <= 0.5
    which = np.digitize(frequency[inside], edges[1:-1])
    total = np.bincount(which, (weight * power)[inside], bins)
    count = np.bincount(which, weight[inside], bins)
    return 0.5 * (edges[1:] + edges[:-1]), total / np.where(count > 0, count, np.nan)


def spectrum_ratio(pred: Any, truth: Any, band: tuple[float, float] = FINE_BAND) -> float:
    """Power of `pred` over power of `truth` within a band of frequencies (cycles per voxel, ends included).

    1: as much fine structure as the truth; below 1: blurred; above 1: grainy; nan where the truth has none.

    Raises:
        VolumeError: shapes differ, or values that are not finite.
    """
    sums = []
    for volume in pair(pred, truth):
        frequency, power, weight = _power(volume.numpy())
        sums.append(float((weight * power)[(frequency >= band[0]) & (frequency <= band[1])].sum()))
    return sums[0] / sums[1] if sums[1] > 0.0 else math.nan


def _power(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half of the (symmetric) spectrum, flat: frequency in cycles per voxel, power, and 1 or 2 for what it counts."""
    windows = [np.hanning(n + 2)[1:-1] for n in volume.shape]
    window = windows[0][:, None, None] * windows[1][:, None] * windows[2]
    mean = float((volume * window).sum() / window.sum())
    power = np.abs(np.fft.rfftn((volume - mean) * window)) ** 2 / float((window**2).sum())
    z, y = (np.fft.fftfreq(n) for n in volume.shape[:2])
    x = np.fft.rfftfreq(volume.shape[2])
    frequency = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    weight = np.broadcast_to(np.where((x == 0.0) | (x == 0.5), 1.0, 2.0), power.shape)
    return frequency.ravel(), power.ravel(), weight.ravel()

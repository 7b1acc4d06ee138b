"""Does the spread over seeds tell where a volume is wrong? Correlation, coverage, and a calibration curve.

If truth and samples were drawn from the same normal law in every voxel, with standard deviation sigma, the truth would
lie off the mean of N samples by sigma sqrt(1 + 1/N), and (truth - mean) / (spread sqrt(1 + 1/N)) would follow Student's
t with N - 1 degrees of freedom. What is measured is compared with that, so that few seeds are no excuse and no blame.
The curve needs more: with few seeds the bins sort by luck as well, and their ends bend towards the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from axon_core.errors import ConfigError
from axon_core.evaluation.metrics import pair

KS = (1.0, 2.0, 3.0)
BINS = 10


class Calibration(NamedTuple):
    """How the spread over seeds stands to the error.

    Attributes:
        pearson: correlation of spread and |truth - mean| over the voxels; 0 if one is constant.
        spearman: the same of their ranks.
        coverage: share of voxels whose truth lies within mean +- k spread, for each k of `KS`.
        expected: what that share is for samples from the true distribution, with this number of seeds.
        predicted: root mean square of the error to expect, spread sqrt(1 + 1/N), in bins of equal count by spread.
        found: root mean square of the error in the same bins; equal to `predicted` where calibrated, above it where
            the samples are too sure.
        seeds: N.
    """

    pearson: float
    spearman: float
    coverage: tuple[float, ...]
    expected: tuple[float, ...]
    predicted: tuple[float, ...]
    found: tuple[float, ...]
    seeds: int


def calibration(mean: Any, spread: Any, truth: Any, seeds: int, mask: Any = None, bins: int = BINS) -> Calibration:
    """Compare the spread over seeds with the error of their mean.

    Args:
        mean: of the samples, any shape and unit.
        spread: sample standard deviation (n - 1) of the samples, the same shape.
        truth: the same shape.
        seeds: number of samples, two or more.
        mask: where to look, the same shape, True or non-zero inside; everywhere if None.
        bins: of the calibration curve.

    Errors:
        ConfigError: fewer than two seeds. VolumeError: shapes differ, or values that are not finite.
    """
    if seeds < 2:
        raise ConfigError("uncertainty.seeds", "One sample has no spread.", "Draw two or more seeds.")
    from scipy.stats import rankdata

    a, t = pair(mean, truth)
    s, _ = pair(spread, truth)
    inside = slice(None) if mask is None else np.asarray(mask).ravel() != 0
    error = (t - a).abs().numpy().ravel()[inside]
    sd = s.numpy().ravel()[inside]
    widened = sd * math.sqrt(1 + 1 / seeds)
    parts = np.array_split(np.argsort(sd, kind="stable"), bins)
    return Calibration(
        _pearson(sd, error),
        _pearson(rankdata(sd), rankdata(error)),
        tuple(float((error <= k * sd).mean()) for k in KS),
        expected_coverage(seeds),
        tuple(_rms(widened[part]) for part in parts if len(part)),
        tuple(_rms(error[part]) for part in parts if len(part)),
        seeds,
    )


def expected_coverage(seeds: int, ks: Sequence[float] = KS) -> tuple[float, ...]:
    """P(|truth - mean| <= k spread) where truth and `seeds` samples are independent draws from one normal law."""
    from scipy.special import stdtr

    return tuple(float(1 - 2 * stdtr(seeds - 1, -k / math.sqrt(1 + 1 / seeds))) for k in ks)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0.0 else 0.0

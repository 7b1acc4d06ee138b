"""Intervals, p values and calibration where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from axon_core.errors import ConfigError
from axon_core.evaluation.statistics import bootstrap_mean, paired_difference, table
from axon_core.evaluation.uncertainty import KS, calibration, expected_coverage


def test_mean_and_sd_are_over_patients() -> None:
    found = bootstrap_mean([1.0, 3.0, 5.0, 9.0, math.nan], ["a", "a", "b", "c", "c"])
    values = [2.0, 5.0, 9.0]
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), 3)
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert 2.0 <= found.low < found.mean < found.high <= 9.0
    assert found == bootstrap_mean([1.0, 3.0, 5.0, 9.0, math.nan], ["a", "a", "b", "c", "c"])  # the same draws
    one = bootstrap_mean([4.0])
    assert one.mean == 4.0 and math.isnan(one.sd) and math.isnan(one.low)
    with pytest.raises(ConfigError):
        bootstrap_mean([math.nan])


def test_the_interval_holds_the_true_mean_in_95_of_100_samples() -> None:
    """Of normal data with few patients; the plain percentile interval of 6 would hold it in 87."""
    rng = np.random.default_rng(0)
    for n, least in ((6, 0.905), (25, 0.915)):
        samples = rng.normal(3.0, 2.0, (500, n))
        found = [bootstrap_mean(sample, draws=400, seed=k) for k, sample in enumerate(samples)]
        inside = np.mean([each.low <= 3.0 <= each.high for each in found])
        assert least < inside < 0.985


def test_a_large_sample_has_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.0, 400)
    found = bootstrap_mean(values)
    half = 1.966 * values.std(ddof=1) / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.006)


@pytest.mark.parametrize("n", [8, 20])
def test_p_is_uniform_when_there_is_no_difference(n: int) -> None:
    rng = np.random.default_rng(n)
    p = [paired_difference(rng.normal(size=n), np.zeros(n), draws=400, seed=k).p for k in range(300)]
    for level in (0.05, 0.2, 0.5, 0.8):
        spread = 3 * math.sqrt(level * (1 - level) / 300) + 2 / 2**n
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=spread)


def test_p_by_hand() -> None:
    """All five better: of 32 patterns of signs, two are as far from 0."""
    found = paired_difference([2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert found.p == 2 / 32 and found.mean == pytest.approx(3.0)
    assert paired_difference([1.0, -1.0], [0.0, 0.0]).p == 1.0
    assert paired_difference([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]).p == 1.0
    many = paired_difference(np.arange(1.0, 31.0), np.zeros(30))
    assert many.p < 1e-3 and many.low > 0


def test_differences_are_paired() -> None:
    """Patients differ by far more than methods, and yet the difference is sharp."""
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 10, 12)
    found = paired_difference(hard + 0.5 + rng.normal(0, 0.1, 12), hard)
    assert found.low == pytest.approx(0.43, abs=0.08) and found.p < 0.001
    with pytest.raises(ConfigError):
        paired_difference([1.0], [1.0, 2.0])


def test_a_table_compares_on_the_cases_that_both_have() -> None:
    scores = {
        "a": {"1": {"PSNR": 20.0}, "2": {"PSNR": 22.0}, "3": {"PSNR": 30.0, "NCC": 0.9}},
        "b": {"1": {"PSNR": 21.0}, "2": {"PSNR": 24.0, "edges": math.inf}},
    }
    found = table(scores, "a", {"1": "p", "2": "q", "3": "q"})
    assert found["a"]["PSNR"]["mean"] == pytest.approx(23.0) and found["a"]["PSNR"]["n"] == 2
    assert found["a"]["NCC"]["n"] == 1 and "edges" not in found["b"] and "difference" not in found["a"]["PSNR"]
    assert found["b"]["PSNR"]["difference"]["mean"] == pytest.approx(1.5)
    assert found["b"]["PSNR"]["difference"]["n"] == 2
    assert "difference" not in table(scores)["b"]["PSNR"]
    with pytest.raises(ConfigError) as caught:
        table(scores, "c")
    assert caught.value.code == "statistics.reference"


# --- uncertainty -----------------------------------------------------------------------------------------------------


def gaussian_model(seeds: int, voxels: int = 40_000, bias: float = 0.0) -> tuple[np.ndarray, ...]:
    """Truth and samples from one normal law in every voxel, whose sd grows over the voxels; mean and spread of it."""
    rng = np.random.default_rng(seeds)
    centre, sigma = rng.normal(0, 5, voxels), np.linspace(1.0, 4.0, voxels)
    truth = centre + sigma * rng.normal(size=voxels)
    samples = centre + bias + sigma * rng.normal(size=(seeds, voxels))
    return samples.mean(0), samples.std(0, ddof=1), truth, sigma


@pytest.mark.parametrize("seeds", [2, 4, 64])
def test_an_exact_model_is_calibrated(seeds: int) -> None:
    mean, spread, truth, _ = gaussian_model(seeds)
    found = calibration(mean, torch.from_numpy(spread), truth, seeds)
    assert found.coverage == pytest.approx(found.expected, abs=0.012)
    assert found.expected == expected_coverage(seeds) and found.seeds == seeds
    together = math.sqrt(np.mean(np.square(found.predicted)))
    assert math.sqrt(np.mean(np.square(found.found))) == pytest.approx(together, rel=0.03)
    if seeds == 64:
        assert found.found[1:-1] == pytest.approx(found.predicted[1:-1], rel=0.06)  # the ends bend
        assert found.expected == pytest.approx((0.67, 0.945, 0.995), abs=0.01)
        sigma = gaussian_model(64)[3]
        error = np.abs(truth - mean)
        assert found.pearson == pytest.approx(np.corrcoef(sigma, error)[0, 1], abs=0.02) and found.spearman > 0.2


def test_samples_that_are_too_sure_are_found_out() -> None:
    mean, spread, truth, _ = gaussian_model(16)
    found = calibration(mean, 0.5 * spread, truth, 16)
    assert all(share < expected - 0.05 for share, expected in zip(found.coverage[:2], found.expected, strict=False))
    assert np.array(found.found)[2:-2] == pytest.approx(2 * np.array(found.predicted)[2:-2], rel=0.15)
    shifted = calibration(gaussian_model(16, bias=3.0)[0], spread, truth, 16)
    assert shifted.coverage[0] < found.expected[0] - 0.2


def test_the_mask_says_where_to_look() -> None:
    mean, spread, truth, _ = gaussian_model(8, 4000)
    mask = np.arange(4000) < 1000
    spoiled = np.where(mask, truth, 1e6)
    assert calibration(mean, spread, spoiled, 8, mask) == calibration(mean[:1000], spread[:1000], truth[:1000], 8)
    flat = calibration(np.zeros(100), np.ones(100), np.linspace(-1, 1, 100), 8)
    assert (flat.pearson, flat.spearman, len(flat.coverage)) == (0.0, 0.0, len(KS))
    with pytest.raises(ConfigError):
        calibration(mean, spread, truth, 1)

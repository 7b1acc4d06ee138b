"""Means with intervals over patients, and whether one method is better than another on the same patients.

Patients, not cases, are the independent draws: the cases of a patient are averaged first. A difference is taken patient
by patient, which removes what all methods find hard about one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from axon_core.errors import ConfigError

DRAWS = 10_000
EXACT = 14  # patients up to which all 2^n sign patterns are counted


class Estimate(NamedTuple):
    """A mean over patients.

    Attributes:
        mean: of the patients' values.
        sd: sample standard deviation (n - 1) between patients; nan for one.
        low, high: ends of the 95 % interval of the mean; nan for one patient.
        n: patients.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """Method minus reference, on the patients that both have; `Estimate` of the differences, and p."""

    mean: float
    sd: float
    low: float
    high: float
    n: int
    p: float


def bootstrap_mean(
    values: Sequence[float], patients: Sequence[str] | None = None, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean over patients with its 95 % bootstrap interval.

    Patients are drawn with replacement `draws` times; the interval holds the middle of the drawn means. As the
    percentile interval is too narrow for few patients, its tails are those at which a normal interval becomes
    Student's: alpha' / 2 = Phi(-sqrt(n / (n - 1)) t_{alpha/2, n-1}) (the expanded percentile interval, Hesterberg,
    The American Statistician 69 (2015) 371).

    Args:
        values: one for each case; values that are nan are left out.
        patients: whose case each is; None: every case is a patient of its own.
        draws: bootstrap samples.
        seed: of the draws.

    Errors:
        ConfigError: no value.
    """
    return _estimate(_by_patient(values, patients), draws, seed)


def paired_difference(
    values: Sequence[float],
    reference: Sequence[float],
    patients: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Mean of method minus reference on the same cases: its paired bootstrap interval by patient, and a p value.

    The interval is that of `bootstrap_mean`. p is two-sided, of the sign-flip test: if the methods were equal, each
    patient's difference could as well have the other sign. Up to 14 patients all patterns are counted, so that p is
    exact, and never below 2 / 2^n: five patients cannot give less than 0.06.

    Args:
        values, reference: one for each case, in the same order; cases where either is nan are left out.
        patients, draws, seed: see `bootstrap_mean`; `draws` is also the number of sign patterns beyond 14 patients.

    Errors:
        ConfigError: lengths differ, or no case is left.
    """
    if len(values) != len(reference):
        raise ConfigError("statistics.pairs", "The methods have different cases.", "Compare them on the same cases.")
    differences = _by_patient(np.subtract(values, reference).tolist(), patients)
    return Difference(*_estimate(differences, draws, seed), _sign_flip_p(differences, draws, seed))


def table(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    reference: str | None = None,
    patients: Mapping[str, str] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Estimates of every method and metric, from scores by case.

    Args:
        scores: method -> case -> metric -> value. Methods may lack cases.
        reference: a method; the others' differences from it are added, on the cases that both have.
        patients: case -> patient; None: every case is a patient of its own.

    Returns:
        method -> metric -> {"mean", "sd", "low", "high", "n"} and, beside a reference, {"difference": {..., "p"}}.

    Errors:
        ConfigError: the reference is not among the methods.
    """
    if reference is not None and reference not in scores:
        raise ConfigError("statistics.reference", f"There is no row {reference!r}.", f"Use one of {', '.join(scores)}.")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for method, cases in scores.items():
        found[method] = {}
        for metric in dict.fromkeys(name for case in cases.values() for name in case):
            have = [case for case in cases if math.isfinite(cases[case].get(metric, math.nan))]
            if not have:
                continue
            owners = [(patients or {}).get(case, case) for case in have]
            row = bootstrap_mean([cases[case][metric] for case in have], owners)._asdict()
            if reference is not None and method != reference:
                other = scores[reference]
                both = [case for case in have if math.isfinite(other.get(case, {}).get(metric, math.nan))]
                if both:
                    row["difference"] = paired_difference(
                        [cases[case][metric] for case in both],
                        [other[case][metric] for case in both],
                        [(patients or {}).get(case, case) for case in both],
                    )._asdict()
            found[method][metric] = row
    return found


def _by_patient(values: Sequence[float], patients: Sequence[str] | None) -> np.ndarray:
    """The mean of each patient's finite values, in order of first appearance."""
    owners = range(len(values)) if patients is None else patients
    groups: dict[Any, list[float]] = {}
    for value, owner in zip(values, owners, strict=True):
        if not math.isnan(value):
            groups.setdefault(owner, []).append(float(value))
    if not groups:
        raise ConfigError("statistics.empty", "There are no values.", "Evaluate at least one case.")
    return np.array([np.mean(group) for group in groups.values()])


def _estimate(values: np.ndarray, draws: int, seed: int) -> Estimate:
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    from scipy.special import ndtr, stdtrit

    means = values[np.random.default_rng(seed).integers(n, size=(draws, n))].mean(1)
    tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025)))
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(mean, float(values.std(ddof=1)), float(low), float(high), n)


def _sign_flip_p(differences: np.ndarray, draws: int, seed: int) -> float:
    n, observed = len(differences), abs(float(differences.sum()))
    exact = n <= EXACT
    if exact:
        signs = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, n))
    as_far = int((np.abs(signs @ differences) >= observed * (1 - 1e-12)).sum())
    return as_far / 2**n if exact else (as_far + 1) / (draws + 1)

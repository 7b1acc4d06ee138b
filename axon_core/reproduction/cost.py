"""What a reproduction will cost in time and disk on this machine, before anything starts.

Training follows from counted work and from how fast the device trains a small block (`training.estimate`); the tables
from a third of that, which is what a step without its backward pass costs. The other rates are rough: they tell hours
from days.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache

import torch

from axon_core.baselines.run import estimate_baseline
from axon_core.config import load_preset
from axon_core.data.plan import Layout
from axon_core.model import bfloat16_pays
from axon_core.pipeline import PRESETS
from axon_core.reproduction.job import AXON, FEW, PLAIN, STUDENTS, Job
from axon_core.training.estimate import Estimate, estimate, training_rate
from axon_core.training.settings import StageSettings
from axon_core.training.stages import STAGES

DOWNLOAD_MB_S = 10.0
PREPARE_S = 10.0  # a case, of one process
SCORE_S = 0.4  # a volume of 64³: metrics and re-projection, of one core
STATE_BYTES = 32  # of a weight: itself, its average and Adam's two moments, in the last state and the one before
REPORT_BYTES = 20e6  # a table with its pictures


@dataclass(frozen=True)
class Cost:
    """Of a step: seconds, and bytes that stay on disk; about."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class Data:
    """What is known of the data beforehand.

    Attributes:
        cases: CTs.
        fetched: bytes to download.
    """

    cases: int
    fetched: float = 0.0


def device_rate(job: Job, device: torch.device) -> float:
    """FLOP per second of training on the device, in the precision of the job's first stage."""
    precision = job.settings("endpoint").precision
    if precision == "auto":
        precision = "bf16" if bfloat16_pays(device, training=True) else "32"
    return training_rate(device, precision)


def stage_estimate(job: Job, model: str, stage: str, cases: int, rate: float) -> Estimate:
    """Of one stage of one model's training; see `training.estimate`."""
    settings = job.settings(stage)
    counted = _counted(job.sizes, model if model in job.baselines else "", stage, settings)
    steps = settings.total(cases)
    return dataclasses.replace(counted, steps=steps, seconds=steps * counted.flop / rate)


@cache
def _counted(preset: str, baseline: str, stage: str, settings: StageSettings) -> Estimate:
    """Of a data set of one case, on a device of 1 FLOP per second."""
    if baseline:
        return estimate_baseline(baseline, preset, stage, load_preset(preset), settings, 1, 1.0)
    return estimate(stage, load_preset(preset), settings, 1, 1.0)


def training_flop(job: Job, model: str, cases: int) -> float:
    """Floating-point operations of a model's whole training."""
    found = [stage_estimate(job, model, stage, cases, 1.0) for stage in job.stages_of(model)]
    return sum(one.flop * one.steps for one in found)


def costs(job: Job, data: Data, rate: float) -> dict[str, Cost]:
    """Step -> cost.

    Args:
        job: see `Job`.
        data: see `Data`.
        rate: see `device_rate`.
    """
    layout = Layout.of(job.preset)
    cases = job.training_cases() or max(1, round(data.cases * job.percent[0] / 100))
    found: dict[str, Cost] = {}
    if job.data is None:
        found["download"] = Cost(data.fetched / 1e6 / DOWNLOAD_MB_S, data.fetched)
    case = 2 * layout.render**3 + 4 * job.config.film_size**2
    found["prepare"] = Cost(PREPARE_S * data.cases / job.workers, data.cases * case + job.kept * _kept_bytes(job))
    estimates: dict[str, Estimate] = {}
    for stage in (*STAGES, *(STUDENTS if job.distill else ())):
        estimates[stage] = stage_estimate(job, AXON, stage, cases, rate)
        found[f"train {stage}"] = _trained(estimates[stage])
    found["train super-resolution without synthetic inputs"] = _trained(estimates["super-resolution"])
    weights = 0
    for name in job.baselines:
        parts = [stage_estimate(job, name, stage, cases, rate) for stage in job.stages_of(name)]
        estimates |= {f"{name} {part.stage}": part for part in parts}
        weights += sum(part.parameters for part in parts)
        found[f"baseline {name}"] = Cost(sum(p.seconds for p in parts), STATE_BYTES * sum(p.parameters for p in parts))
    own = sum(estimates[stage].parameters for stage in STAGES)
    found["export"] = Cost(10.0, 2.0 * (weights + own * sum(name in job.models for name in (AXON, FEW, PLAIN))))
    test = max(1, round(data.cases * job.percent[2] / 100))
    for table in job.tables:
        found[f"evaluate {table}"] = Cost(test * _compared_seconds(job, table, estimates), REPORT_BYTES)
    return found


def _trained(one: Estimate) -> Cost:
    return Cost(one.seconds, STATE_BYTES * one.parameters)


def _kept_bytes(job: Job) -> int:
    """A drawn chest on disk, in the sizes of all stages: HU, mask, two films of line integrals."""
    sizes = (job.config.size, 2 * job.config.size)
    return sum(2 * n**3 + n**3 // 8 + 4 * job.config.film_size**2 for n in sizes)


def _compared_seconds(job: Job, table: str, estimates: dict[str, Estimate]) -> float:
    """All methods of a table on one case."""
    quality = PRESETS[job.quality]

    def once(name: str) -> float:
        """A sample without backward pass."""
        settings = job.settings(name.split()[-1])
        return estimates[name].seconds / max(1, estimates[name].steps) / settings.batch / 3

    views = {"table1": 1, "table2": 2, "table3": 2}[table]
    score = SCORE_S * (job.config.size / 64) ** 3
    seeds = len(job.seeds)
    if table == "table3":
        return views * (6 * 8 * score + 2 * once("super-resolution"))
    walks = quality.bridge_steps * once("coarse"), quality.fine_steps * once("control")
    own = once("endpoint") + score + seeds * (walks[0] + score) + seeds * (sum(walks) + score)
    others = sum(once(f"{name} {stage}") for name in job.baselines for stage in job.stages_of(name))
    return views * ((2 if job.distill else 1) * own + others + (len(job.baselines) + 2) * score)

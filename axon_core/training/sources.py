"""Where training data come from: a cache of `axon prepare`, or a folder of pairs (`data.pairs`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from axon_core.config import ModelConfig
from axon_core.data.anatomy import AnatomyModel
from axon_core.data.cache import CacheDataset, validation_cases
from axon_core.data.cases import Case
from axon_core.data.pairs import PairDataset
from axon_core.data.phantom import thorax
from axon_core.data.plan import read_plan
from axon_core.data.pool import PairPool
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid

CASES = 6  # that validation looks at
PHANTOMS = 32  # that a device's pool deforms again and again: drawing one takes a CPU a second


@dataclass(frozen=True)
class Source:
    """What a stage learns from.

    Attributes:
        dataset: items (films, target, weight), see `trainer.train`.
        cases: fixed items for validation, of patients that the data set does not hold.
        facts: plain values that tell which data these are.
    """

    dataset: Any
    cases: Sequence[Any]
    facts: dict[str, Any]


def open_source(
    where: Path,
    config: ModelConfig,
    enlarges: int = 1,
    seed: int = 0,
    kept: int = 0,
    held_out: Path | None = None,
    phantoms: float = 0.0,
    anatomy: Path | None = None,
    findings: bool = False,
    device: str = "cpu",
) -> Source:
    """Open a cache's training and validation cases, or a folder of pairs.

    Args:
        where: folder.
        config: of the model; a cache that was prepared for another one is refused.
        enlarges: how much finer than the model's grid the volumes must be; pairs have theirs.
        seed: of the looks, and of the chests that a cache draws.
        kept: of a cache: 0 draws a new chest for each sample, k > 0 draws k once and keeps them, on disk (see
            `CacheDataset`), or on CUDA devices in their memory (see `PairPool`).
        held_out: folder of pairs for validation. A cache knows its own cases for that.
        phantoms: share of phantoms among a cache's chests.
        anatomy: file of an `AnatomyModel` of a cache's CTs, to draw other shapes from.
        findings: vary the CTs' densities from place to place and paint findings into them.
        device: on which is trained.

    Errors:
        ConfigError: no such folder, nothing in it, or data for another preset.
    """
    if not where.is_dir():
        raise ConfigError(
            "training.no-data", f"There is no folder {where.name!r}.", "Name a cache or a folder of pairs."
        )
    if any(where.glob("[!.]*.npz")):
        pairs = PairDataset(where, config.hu_window, seed)
        fixed = [] if held_out is None else first_items(PairDataset(held_out, config.hu_window))
        return Source(pairs, fixed, {"kind": "pairs", "folder": where.name, "count": len(pairs)})
    plan = read_plan(where)
    plan.check(config)
    size = config.size * enlarges
    cases = [(c.films, c.target, c.weight) for c in validation_cases(where, size=size)[:CASES]]
    shapes = AnatomyModel.load(anatomy) if anatomy else None
    cache = CacheDataset(
        where, seed=seed, size=size, kept=kept, phantom_share=phantoms, anatomy=shapes, findings=findings
    )
    facts = {"kind": "cache", "plan": plan.sha256, "cases": len(cache), "kept": kept, "phantoms": phantoms}
    facts["findings"] = findings
    if shapes:
        facts["anatomy"] = shapes.digest
    on_device = kept and device == "cuda" and not cache.real and not plan.layout.stretched
    return Source(_pool(cache, shapes, device) if on_device else cache, cases, facts)


def _pool(cache: CacheDataset, anatomy: AnatomyModel | None, device: str) -> PairPool:
    """The cache's chests, drawn and held on a device."""
    layout = cache.plan.layout
    grid = CanonicalGrid(layout.render)
    drawn = PHANTOMS if cache.phantom_share else 0
    return PairPool(
        list(cache.chests),
        cache.kept,
        cache.size,
        layout.model.film_size,
        layout.model.hu_window,
        device,
        anatomy=anatomy,
        findings=cache.findings,
        phantoms=[Case(f"phantom-{n}", thorax(n, grid), np.ones(grid.size, bool), grid) for n in range(drawn)],
        phantom_share=cache.phantom_share,
        seed=cache.seed,
        unknown_weight=cache.unknown_weight,
    )


def first_items(data: PairDataset) -> list[Any]:
    """The first few pairs, each with one look."""
    return [data[index] for index in range(min(CASES, len(data)))]

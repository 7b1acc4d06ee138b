"""A baseline's run: a folder as of `training.run`, in which the stages of one baseline are trained, and its export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from axon_core.baselines.models import BaselineModel, new_baseline
from axon_core.baselines.registry import find, load_sizes
from axon_core.baselines.trivial import Fitted, fit_items
from axon_core.config import ModelConfig
from axon_core.errors import ModelError
from axon_core.model import ModelCard, ModelInfo
from axon_core.training.checkpoint import has_state, read_state, save_state
from axon_core.training.draws import stream
from axon_core.training.ema import EMA
from axon_core.training.estimate import Estimate, estimate_stage
from axon_core.training.events import Listener
from axon_core.training.run import RECORD, begin_run, write_card
from axon_core.training.settings import StageSettings, load_settings
from axon_core.training.stages import Stage
from axon_core.training.trainer import train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FIT = "fit"  # folder of the state of a baseline that is fitted without steps


def begin_baseline(run: Path, name: str, preset: str, data: Sequence[dict[str, Any]], seed: int) -> None:
    """Note with what the run was begun, or check that it goes on with the same.

    Errors:
        ConfigError: it was begun with another baseline or preset.
    """
    find(name)
    begin_run(run, preset, data, seed, name)


def run_baseline(run: Path) -> str:
    """Name of the baseline that a run trains, "" for a run of AXON's own stages or none yet."""
    return str(_record(run).get("baseline", "")) if (run / RECORD).is_file() else ""


def _record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / RECORD).read_text(encoding="utf-8")))


def stage_settings(name: str, preset: str) -> dict[str, StageSettings]:
    """Of every stage, in order of training, from the preset's tables [training.STAGE]; none for a fitted baseline."""
    return {stage: load_settings(preset, stage) for stage in find(name).stages}


def train_baseline(
    name: str,
    preset: str,
    run: Path,
    data: Any,
    settings: Mapping[str, StageSettings],
    fabric: Fabric,
    *,
    seed: int = 0,
    cases: Sequence[Any] = (),
    tell: Listener = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train a baseline, or go on with it.

    Args:
        name: key of `registry.BASELINES`.
        preset: sizes.
        run: folder; states and logs of every stage go there.
        data: see `trainer.train`.
        settings: of every stage, see `stage_settings`.
        fabric: see `trainer.make_fabric`.
        seed, cases, tell, stop: see `trainer.train`.

    Errors:
        As `trainer.train`.
    """
    if not find(name).stages:
        if fabric.is_global_zero:
            fit_baseline(name, preset, run, data)
        fabric.barrier()
    for stage, wanted in settings.items():
        train_baseline_stage(
            name, stage, preset, run, data, wanted, fabric, seed=seed, cases=cases, tell=tell, stop=stop
        )


def train_baseline_stage(
    name: str,
    stage: str,
    preset: str,
    run: Path,
    data: Any,
    settings: StageSettings,
    fabric: Fabric,
    *,
    seed: int = 0,
    cases: Sequence[Any] = (),
    tell: Listener = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train one stage of a baseline over what the run has trained before; see `train_baseline`."""
    model = open_baseline_run(name, preset, run, seed)
    built = new_stage(model, stage, settings, seed)
    for needed in built.needs:
        if not has_state(run / needed):
            raise ModelError(
                "training.needs",
                f"Stage {stage!r} builds on {needed!r}, which this run has not trained.",
                f"Run `axon train baseline {name}`, which trains its stages in order.",
            )
    train(built, data, run / stage, fabric, seed=seed, cases=cases, tell=tell, stop=stop)


def fit_baseline(name: str, preset: str, run: Path, data: Any) -> None:
    """Fit a baseline that needs no steps to the first items of the data set."""
    network = new_baseline(name, preset).film_to_volume
    assert isinstance(network, Fitted)
    (run / FIT).mkdir(parents=True, exist_ok=True)
    fit_items(network, data)
    average = EMA(network, 0.0).state_dict()  # itself
    save_state(run / FIT, {"trained": network.state_dict(), "ema": average, "step": network.items})


def new_stage(model: BaselineModel, stage: str, settings: StageSettings, seed: int = 0) -> Stage:
    """A stage over the model's network; networks of its own (a discriminator) start from weights of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("weights", seed, stage, "own").initial_seed())
        return model.baseline.stages[stage](model, settings)


def open_baseline_run(name: str, preset: str, run: Path, seed: int = 0) -> BaselineModel:
    """A baseline with the averaged weights of every stage that the run has begun; new weights follow from the seed."""
    model = new_baseline(name, preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("weights", seed, name).initial_seed())
        network = model.film_to_volume
    if has_state(run / FIT):
        network.load_state_dict(read_state(run / FIT, network)["ema"]["average"])
    for stage in find(name).stages:
        if has_state(run / stage):
            trained = new_stage(model, stage, StageSettings(steps=1)).trained
            trained.load_state_dict(read_state(run / stage, trained)["ema"]["average"])
            trained.eval().requires_grad_(False)
    return model


def export_baseline(run: Path, out: Path, card: ModelCard) -> ModelInfo:
    """Write a run's baseline as a model folder that `axon reconstruct --model` runs.

    Args:
        run: folder of the run.
        out: folder of the model; its weights are replaced, a README.md that is there is left alone.
        card: what to say about it; its stages are filled in.

    Errors:
        ModelError: a stage is not trained yet, or a state is damaged.
    """
    record = _record(run)
    name = record["baseline"]
    for stage in find(name).stages or (FIT,):
        if not has_state(run / stage):
            raise ModelError(
                "training.nothing", f"{run.name} holds no trained {stage!r}.", f"Run `axon train baseline {name}`."
            )
    model = open_baseline_run(name, record["preset"], run)
    card = dataclasses.replace(card, stages=("endpoint",), default_stages=("endpoint",))
    info = model.save_pretrained(out, card, torch.float32)  # normalisations of near-constant maps magnify rounding
    write_card(info, curves=bool(find(name).stages))
    return info


def estimate_baseline(
    name: str,
    preset: str,
    stage: str,
    config: ModelConfig,
    settings: StageSettings,
    cases: int,
    rate: float,
    world: int = 1,
    views: int = 2,
) -> Estimate:
    """Size, work, memory and time of a stage, see `training.estimate`."""
    with torch.device("meta"):
        sizes = load_sizes(name, preset)
        model = BaselineModel(config, device=torch.device("meta"), name=name, sizes=sizes)
        built = find(name).stages[stage](model, settings)
    return estimate_stage(stage, built, cases, rate, world, views)

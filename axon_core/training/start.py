"""A run that starts with the weights of a model: to train it further, on other data, or to distil it.

``RUN/start/`` holds a copy of the model. A stage that the run has not trained has the model's weights: others build on
them, and its own training begins with them.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from axon_core.config import ModelConfig, load_preset
from axon_core.errors import ConfigError, ModelError
from axon_core.files import atomic_folder
from axon_core.model import WEIGHTS, AxonModel, ModelInfo, find_model
from axon_core.training.checkpoint import has_state

START, SIGMA = "start", "sigma.txt"  # in the run's folder
STAGES_OF = {  # what a model calls a stage -> stages of training
    "endpoint": ("endpoint",),
    "coarse": ("coarse",),
    "fine": ("prior", "control"),
    "super-resolution": ("super-resolution",),
}


def copy_start(model: str | os.PathLike[str], run: Path, preset: str) -> ModelInfo:
    """Copy a model into a run that is not begun yet; what an interrupted copy has left is replaced.

    Errors:
        ModelError: not found, damaged, a baseline, or distilled. ConfigError: the run is begun, or the model is of
        another preset.
    """
    info = find_model(model)
    if kind := _unlike_a_run(info):
        raise ModelError(
            "training.start",
            f"{info.name} is a {kind}: no run can start from it.",
            "Start from the AXON model that it was made of.",
        )
    if run.is_dir() and any(path.name not in (START, SIGMA) and not _is_partial(path) for path in run.iterdir()):
        raise ConfigError("training.begun", f"{run.name} is begun already.", "Choose another folder.")
    if _apart_from_sigma(info.config) != _apart_from_sigma(load_preset(preset)):
        raise ConfigError(
            "training.other-preset",
            f"{info.name} is not a model of preset {preset!r}.",
            f"Give the preset that it was trained with (it calls itself {info.config.name!r}).",
        )
    run.mkdir(parents=True, exist_ok=True)
    with atomic_folder(run / START, overwrite=True, ending=WEIGHTS) as temporary:
        shutil.copyfile(info.folder / WEIGHTS, temporary / WEIGHTS)
    return info


def started(run: Path) -> AxonModel | None:
    """The model with whose weights a run started, if it did."""
    return AxonModel.from_pretrained(run / START) if (run / START / WEIGHTS).is_file() else None


def is_trained(run: Path, stage: str) -> bool:
    """Whether a stage has weights that others may build on: its own, or those with which the run started."""
    if has_state(run / stage):
        return True
    model = started(run)
    return model is not None and any(stage in STAGES_OF[served] for served in model.card.stages)


def _unlike_a_run(info: ModelInfo) -> str:
    """What keeps a run from starting with a model, "" if nothing does."""
    if info.baseline:
        return "baseline"
    if info.config.bridge.times or info.config.diffusion.times:
        return "distilled student"
    return "model with a second bridge" if info.config.diffusion.is_bridge else ""


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".partial-")


def _apart_from_sigma(config: ModelConfig) -> ModelConfig:
    """The spread on which the bridge is built is measured in training."""
    measured = config.bridge.sigma > 0
    bridge = dataclasses.replace(config.bridge, sigma=1.0, s=1.0) if measured else config.bridge
    return dataclasses.replace(config, bridge=bridge)

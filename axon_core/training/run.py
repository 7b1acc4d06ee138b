"""A run: a folder in which the stages of a model are trained one after the other, and from which it is exported.

``RUN/run.json`` tells with what it was begun, ``RUN/start/`` holds the model with whose weights it started, if it did
(see `start`); ``RUN/STAGE/`` holds a stage's state, log and picture (`trainer.train`);
``RUN/sigma.txt`` the measured spread of Y - F(x), on which the bridge is built; ``RUN/STUDENT/times.json`` the times at
which a distilled student is evaluated.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.config import ModelConfig, from_dict, load_preset
from axon_core.errors import ConfigError, ModelError
from axon_core.files import atomic_file
from axon_core.model import PARTS, AxonModel, ModelCard, ModelInfo, find_model
from axon_core.training.checkpoint import has_state, read_state
from axon_core.training.distill import EVERY, STUDENTS, Student
from axon_core.training.draws import stream
from axon_core.training.events import Listener
from axon_core.training.settings import StageSettings
from axon_core.training.stages import STAGES, VARIANTS, Stage
from axon_core.training.start import SIGMA, STAGES_OF, copy_start, is_trained, started
from axon_core.training.trainer import train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

COMMANDS = {  # what people name -> stages
    "coarse": ("endpoint", "coarse"),
    "prior": ("prior",),
    "fine": ("control",),
    "sr": ("super-resolution",),
    "all": tuple(STAGES),
    "fine-bridge": ("fine-bridge",),
}
SERVES = {  # stage of training -> what a model calls it
    "endpoint": "endpoint",
    "coarse": "coarse",
    "control": "fine",
    "fine-bridge": "fine",
    "super-resolution": "super-resolution",
}
RECORD, TIMES = "run.json", "times.json"


def begin_run(run: Path, preset: str, data: Sequence[dict[str, Any]], seed: int, baseline: str = "") -> None:
    """Note with what the run was begun, or check that it goes on with the same; all data that it learns from are noted.

    Errors:
        ConfigError: it was begun with another preset, or for another method. ModelError: the same, of a run without a
            record.
    """
    config = load_preset(preset).to_dict()
    path = run / RECORD
    if not path.is_file():
        open_run(preset, run)  # states from before this record was kept must be of this preset
        record = {"preset": preset, "config": config, "seed": seed, "data": list(data), "version": __version__}
        record |= {"baseline": baseline} if baseline else {}
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.get("baseline", "") != baseline:
        raise ConfigError(
            "training.other-method",
            f"{run.name} was begun for {record.get('baseline') or 'AXON'}, not for {baseline or 'AXON'}.",
            "Choose another folder.",
        )
    if from_dict(ModelConfig, record["config"]) != load_preset(preset):  # records of old lack what was added since
        raise ConfigError(
            "training.other-preset",
            f"{run.name} was begun with preset {record['preset']!r}, which is another model.",
            f"Go on with --preset {record['preset']}, or choose another folder.",
        )
    if new := [facts for facts in data if facts not in record["data"]]:
        record["data"] += new
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def begin_run_from(model: str | os.PathLike[str], run: Path, preset: str | None = None, seed: int = 0) -> ModelInfo:
    """Begin a run with the weights of a model; `preset` is the one of the model's name by default.

    Errors:
        See `start.copy_start`.
    """
    preset = preset or find_model(model).config.name
    info = copy_start(model, run, preset)
    if "coarse" in info.card.stages and info.config.bridge.sigma:  # else it is measured when a bridge is begun
        _note_sigma(run, info.config.bridge.sigma)
    begin_run(run, preset, [{"kind": "model", "name": info.name, "sha256": info.sha256}], seed)
    return info


def run_preset(run: Path) -> str:
    """The preset with which a run was begun; "small" for runs from before that was noted."""
    path = run / RECORD
    return str(json.loads(path.read_text(encoding="utf-8"))["preset"]) if path.is_file() else "small"


def open_run(preset: str, run: Path) -> AxonModel:
    """A model of `preset` with the averaged weights of every stage that the run has begun, and the bridge's sigma."""
    config = _with_sigma(load_preset(preset), run)
    model = started(run) or AxonModel(config)
    came = [stage for served in model.card.stages for stage in STAGES_OF[served]]
    for stage in came:
        getattr(model, EVERY[stage].learns)  # read now: what the model lacks is new
    model.config, model.path, model.sha256 = config, None, ""
    done = [stage for stage in (*STAGES, *VARIANTS) if stage in came or has_state(run / stage)]
    for stage in done:
        network = getattr(model, EVERY[stage].learns)
        if has_state(run / stage):
            network.load_state_dict(read_state(run / stage, network)["ema"]["average"])
        network.eval().requires_grad_(False)
    served = {SERVES[stage] for stage in done if stage in SERVES}
    model.card = ModelCard(stages=tuple(stage for stage in PARTS if stage in served))
    return model


def _with_sigma(config: ModelConfig, run: Path) -> ModelConfig:
    if not (run / SIGMA).is_file():
        return config
    sigma = float((run / SIGMA).read_text(encoding="utf-8"))
    return dataclasses.replace(config, bridge=dataclasses.replace(config.bridge, sigma=sigma, s=2 * sigma**2))


def _note_sigma(run: Path, sigma: float) -> None:
    with atomic_file(run / SIGMA, overwrite=True) as temporary:
        temporary.write_text(f"{sigma:.4f}\n", encoding="utf-8")


@torch.inference_mode()
def residual_sd(model: AxonModel, data: Any, count: int = 64) -> float:
    """Standard deviation of Y - F(x) over known voxels, one and two views in turn."""
    total, weight_sum = 0.0, 0.0
    for index in range(count):
        films, target, weight = data[index]
        model.to(films.device)  # where a GPU holds its data
        error = model.endpoint(films[None, : 1 + index % 2])[0] - target
        known = (weight == 1).float()
        total += float((error**2 * known).sum())
        weight_sum += float(known.sum())
    return math.sqrt(total / weight_sum)


def open_stage(name: str, preset: str, run: Path, settings: StageSettings, seed: int = 0) -> Stage:
    """A stage over the run's networks so far; a network that is new starts from weights that follow from the seed.

    Errors:
        ModelError: the stage builds on another that the run has not trained.
    """
    model = open_run(preset, run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("weights", seed, name).initial_seed())
        stage = EVERY[name](model, settings)
    for needed in stage.needs:
        if not is_trained(run, needed):
            raise ModelError(
                "training.needs", f"Stage {name!r} builds on {needed!r}, which this run has not trained.",
                "Train the stages in order: coarse, prior, fine, sr; or `axon train all`. Students come last.",
            )  # fmt: skip
    return stage


def train_stage(
    name: str,
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
    """Train one stage of a run, or go on with it; see `trainer.train`.

    Before the bridge is begun, the spread of Y - F(x) is measured, where the preset's bridge is preconditioned by it.
    """
    if name == "coarse" and load_preset(preset).bridge.sigma and not has_state(run / name):
        if not (run / SIGMA).is_file() and is_trained(run, "endpoint"):
            sigma = residual_sd(open_run(preset, run), data)
            if fabric.is_global_zero:
                _note_sigma(run, sigma)
        fabric.barrier()
    stage = open_stage(name, preset, run, settings, seed)
    if isinstance(stage, Student) and fabric.is_global_zero:
        _note_times(run / name, stage.times)
    train(stage, data, run / name, fabric, seed=seed, cases=cases, tell=tell, stop=stop)


def _note_times(folder: Path, times: Sequence[float]) -> None:
    """Note at which times a student is evaluated, or check that it goes on with the same."""
    path = folder / TIMES
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(list(times)) + "\n", encoding="utf-8")
    elif (begun := json.loads(path.read_text(encoding="utf-8"))) != list(times):
        raise ConfigError(
            "training.other-student",
            f"{folder.name} was begun as a student of {len(begun)} steps.",
            f"Go on with --steps-student {len(begun)}, or remove that folder.",
        )


def with_students(model: AxonModel, run: Path) -> AxonModel:
    """The run's model with each student that it has trained in its teacher's place.

    Errors:
        ModelError: there is no student, or its state is damaged.
    """
    trained = [name for name in STUDENTS if has_state(run / name)]
    if not trained:
        raise ModelError(
            "training.no-student", f"{run.name} holds no distilled student.", "Run `axon train distill` first."
        )
    for name in trained:
        kind = STUDENTS[name]
        networks = kind.networks(model)
        networks.load_state_dict(read_state(run / name, networks)["ema"]["average"])
        steps = len(json.loads((run / name / TIMES).read_text(encoding="utf-8")))
        model.config = kind.distilled(model.config, steps)
    return model


def export_run(run: Path, out: Path, card: ModelCard, preset: str | None = None, distilled: bool = False) -> ModelInfo:
    """Write the averaged weights of every trained stage as a model that `axon reconstruct --model` runs.

    Args:
        run: folder of the run.
        out: folder of the model; its weights are replaced, a README.md that is there is left alone.
        card: what to say about it; its `stages` are filled in, and `default_stages` kept to those that are trained.
        preset: the run's own by default.
        distilled: see `with_students`.

    Errors:
        ModelError: nothing is trained yet, F(x) is missing, or a state is damaged.
    """
    model = open_run(preset or run_preset(run), run)
    if "endpoint" not in model.card.stages:
        raise ModelError(
            "training.nothing",
            f"{run.name} holds no trained F(x), on which all else builds.",
            "Run `axon train coarse`.",
        )
    if distilled:
        model = with_students(model, run)
    whole = model.config.diffusion.is_bridge or is_trained(run, "prior")
    stages = tuple(stage for stage in model.card.stages if stage != "fine" or whole)
    default = tuple(stage for stage in card.default_stages if stage in stages)
    card = dataclasses.replace(card, notes=" ".join(filter(None, [_origin(run), card.notes])))
    info = model.save_pretrained(out, dataclasses.replace(card, stages=stages, default_stages=default))
    write_card(info)
    return info


def _origin(run: Path) -> str:
    """With which model's weights a run started, "" where it did not."""
    if started(run) is None:
        return ""
    model = json.loads((run / RECORD).read_text(encoding="utf-8"))["data"][0]
    return f"Trained on from {model['name']}, sha256 {model['sha256']}."


def write_card(info: ModelInfo, curves: bool = True) -> None:
    """Write a model's README.md, unless it has one; with the picture of its curves, if there will be one."""
    if not (info.folder / "README.md").exists():
        with atomic_file(info.folder / "README.md") as temporary:
            temporary.write_text(_card_text(info, curves), encoding="utf-8")


def _card_text(info: ModelInfo, curves: bool) -> str:
    card = info.card
    rows = {
        "method": info.baseline.get("name", "axon"),
        "stages": ", ".join(card.stages),
        "runs by default": ", ".join(card.default_stages),
        "grid": f"{info.config.size}³, {info.config.extent_mm:g} mm",
        "window": info.config.window,
        **({"FineDiff": info.config.diffusion.described()} if "fine" in card.stages else {}),
        "trained on": card.data or "not stated",
        "licence": card.licence or "not stated",
        "notes": card.notes or "none",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    head = f"# {card.title or info.name}\n\n**{SYNTHETIC_NOTICE}.**"
    picture = "\n![Losses](curves.png)\n" if curves else ""
    return f"{head}\n\n| | |\n|---|---|\n{table}\n{picture}"

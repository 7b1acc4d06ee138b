"""How a stage is trained, as the table [training] of a preset says it, and the learning rate that follows from it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from axon_core.config import from_dict, preset_table
from axon_core.errors import ConfigError

SCHEDULES = ("cosine", "constant", "exponential")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # of Lightning Fabric


@dataclass(frozen=True)
class StageSettings:
    """How long and how fast one stage learns. All sizes are those of the whole run, however many processes share it.

    Attributes:
        steps: optimiser steps in all; 0 counts in epochs.
        epochs: passes over the cases, where `steps` is 0.
        batch: samples of an optimiser step.
        micro: samples that a process computes at a time, the others follow (gradient accumulation); 0: all at once.
        lr: peak learning rate of AdamW.
        schedule: "constant", or down to `final` times `lr` along half a "cosine" or an "exponential".
        final: see `schedule`.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW; 0 makes it Adam.
        beta1: of Adam, the memory of gradients.
        beta2: of Adam, the memory of squared gradients.
        clip: largest norm of the gradient; longer ones are shortened to it.
        ema: decay of the weight average, which is what is evaluated and shipped.
        precision: "32", "bf16", "16", or "auto": the fastest that the device computes well.
        recompute: compute activations again in the backward pass instead of keeping them: less memory, a third slower.
        validate: steps between two validations.
        min_snr: gamma of the min-SNR weights of the prior and of FineDiff (Hang et al., ICCV 2023); 0: equal weights.
        edge: weight of the bridge's edge loss, beside its squared error; 0 is the paper's choice.
        synthetic: share of coarse volumes among the inputs of super-resolution; 0 is the paper's "without synthetic".
        student_steps: network evaluations of a distilled student, for all its way.
        teacher_steps: of the walk of its teacher that it learns.
    """

    steps: int = 0
    epochs: int = 0
    batch: int = 4
    micro: int = 0
    lr: float = 5e-4
    schedule: str = "cosine"
    final: float = 0.03
    warmup: int = 50
    weight_decay: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    ema: float = 0.995
    precision: str = "auto"
    recompute: bool = False
    validate: int = 500
    min_snr: float = 0.0
    edge: float = 0.0
    synthetic: float = 0.5
    student_steps: int = 2
    teacher_steps: int = 8

    def __post_init__(self) -> None:
        def refuse(name: str, advice: str) -> None:
            raise ConfigError("training.setting", f"Training with {name} = {getattr(self, name)!r}.", advice)

        if (self.steps > 0) == (self.epochs > 0):
            refuse("steps", "Give a positive number either of steps or of epochs.")
        if self.schedule not in SCHEDULES:
            refuse("schedule", f"Use one of {', '.join(SCHEDULES)}.")
        if self.precision not in (*PRECISIONS, "auto"):
            refuse("precision", f"Use one of auto, {', '.join(PRECISIONS)}.")
        for name in ("batch", "lr", "final", "clip", "validate", "student_steps", "teacher_steps"):
            if not getattr(self, name) > 0:
                refuse(name, "It must be positive.")
        if not self.edge >= 0:
            refuse("edge", "It must be 0 or more.")
        for name in ("ema", "synthetic"):
            if not 0 <= getattr(self, name) <= 1:
                refuse(name, "It must lie between 0 and 1.")

    def total(self, cases: int) -> int:
        """Optimiser steps in all, for a data set of so many cases."""
        return self.steps or math.ceil(self.epochs * cases / self.batch)


def learning_rate(step: int, steps: int, settings: StageSettings) -> float:
    """Rate of step 0, 1, ...: linear warm-up times the schedule, which ends after `steps` at `final` times its peak."""
    progress = min(1.0, step / max(1, steps))
    shape = {
        "cosine": settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress)),
        "constant": 1.0,
        "exponential": settings.final**progress,
    }
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup)) * shape[settings.schedule]


def load_settings(preset: str, stage: str) -> StageSettings:
    """Settings of a stage: the keys of the preset's table [training], then those of [training.STAGE].

    Errors:
        ConfigError: the preset says nothing about training, or something unknown or impossible.
    """
    table = preset_table(preset).get("training", {})
    common = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if stage not in table:
        raise ConfigError(
            "training.preset",
            f"Preset {preset!r} does not say how to train {stage!r}.",
            f"Add a table [training.{stage}] with steps or epochs.",
        )
    return from_dict(StageSettings, {**common, **table[stage]}, f"{preset}: training.{stage}")


def changed(settings: StageSettings, **values: object) -> StageSettings:
    """The settings with those values that are not None; steps take the place of epochs."""
    given = {key: value for key, value in values.items() if value is not None}
    if "steps" in given:
        given["epochs"] = 0
    return dataclasses.replace(settings, **given)  # type: ignore[arg-type]

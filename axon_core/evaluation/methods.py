"""What is compared: a model up to one of its stages, or a volume that knows nothing of the film."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.baselines.predict import chosen_stages, is_random, predict
from axon_core.intensity import WIDE, HuWindow
from axon_core.model import AxonModel, parameter_count
from axon_core.pipeline import COARSE, FINE, PRESETS, SUPER
from axon_core.walks import Quality, coarse_eta, coarse_times, fine_eta, fine_times

TRAINING_FLOP = re.compile(r"training flop:?\s*([\d.]+(?:e\+?\d+)?)", re.IGNORECASE)
NOT_STATED = "not stated"


class Method(Protocol):
    """Films in, volume out.

    Attributes:
        label: its name in tables, unique among the methods of a comparison.
        key: hash of weights and settings.
        film_size: pixels along each edge of the films; 0 if it looks at none.
        size: voxels along each edge of its volumes.
        window: outside of which its volumes are clipped.
        random: whether the seed makes a difference.
        facts: what a table says about it, see `FACTS`.
    """

    label: str
    key: str
    film_size: int
    size: int
    window: HuWindow
    random: bool
    facts: dict[str, Any]

    def volume(self, films: torch.Tensor, seed: int) -> torch.Tensor:
        """(V, p, p) films in [-1, 1] -> (n, n, n) float32 HU on the CPU."""


FACTS = ("stages", "steps", "eta", "window", "parameters", "training FLOP", "trained on", "weights")


@dataclass(eq=False)
class ModelMethod:
    """A model, AXON's or a baseline's, that runs some of its stages.

    Attributes:
        model: on any device.
        label: see `Method`.
        stages: after F(x), see `baselines.predict.predict`; None: the model's default stages.
        quality: steps of the bridge and of FineDiff.
        enlarged: double the result by trilinear interpolation: what super-resolution has to beat.
    """

    model: AxonModel
    label: str
    stages: Sequence[str] | None = None
    quality: Quality = field(default_factory=lambda: PRESETS["fast"])
    enlarged: bool = False

    def __post_init__(self) -> None:
        self.run = chosen_stages(self.model, self.stages)
        config = self.model.config
        self.film_size, self.window = config.film_size, config.hu_window
        self.size = config.size * (2 if SUPER in self.run or self.enlarged else 1)
        self.random = is_random(self.model, self.run)
        self.facts = self._facts()
        told = [self.model.sha256, self.model.method, self.run, vars(self.quality), self.enlarged]
        self.key = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()

    def volume(self, films: torch.Tensor, seed: int) -> torch.Tensor:
        """See `Method`."""
        made = predict(self.model, films[None], seed, stages=self.run, quality=self.quality)
        if self.enlarged:
            made = F.interpolate(made, scale_factor=2.0, mode="trilinear", align_corners=False)
        return self.window.decode(made[0, 0].float().cpu())

    def _facts(self) -> dict[str, Any]:
        model = self.model
        steps = {COARSE: len(coarse_times(model, self.quality)), FINE: len(fine_times(model, self.quality))}
        eta = {COARSE: coarse_eta(model), FINE: fine_eta(model)}
        first = "F(x)" if model.method == "axon" else "network"
        if model.random_endpoint:  # a baseline that draws samples itself
            steps, eta = {first: model.sizes.steps, **steps}, {first: 0.0, **eta}  # type: ignore[attr-defined]
        made, stages = (first, *self.run), ("endpoint", *self.run)
        if FINE in self.run and model.config.diffusion.from_noise:  # what comes before FineDiff leaves no trace
            stages = self.run[self.run.index(FINE) :]
            made = ("films", *stages)
        random = [stage for stage in made if stage in steps]
        parts = [name for stage in stages for name in model.parts(stage)]
        flop = TRAINING_FLOP.search(" ".join((model.card.title, model.card.data, model.card.notes)))
        return {
            "stages": " + ".join((*made, *(["trilinear x2"] if self.enlarged else []))),
            "steps": ", ".join(f"{stage} {steps[stage]}" for stage in random) or "1",
            "eta": ", ".join(f"{stage} {eta[stage]:g}" for stage in random) or "-",
            "window": f"{self.window.name} [{self.window.low:g}, {self.window.high:g}]",
            "parameters": sum(parameter_count(getattr(model, name)) for name in parts),
            "training FLOP": flop[1] if flop else NOT_STATED,
            "trained on": model.card.data or NOT_STATED,
            "weights": model.sha256[:12] or NOT_STATED,
        }


@dataclass(eq=False)
class FixedMethod:
    """One volume for everybody: what a method must beat to have learned anything from the film.

    Attributes:
        label: see `Method`.
        hu: (n, n, n) HU.
    """

    label: str
    hu: np.ndarray

    film_size = 0
    random = False
    window = WIDE

    def __post_init__(self) -> None:
        self.size = len(self.hu)
        self.key = hashlib.sha256(np.ascontiguousarray(self.hu, np.float32).tobytes()).hexdigest()
        self.facts = dict.fromkeys(FACTS, "-") | {"parameters": 0}

    def volume(self, films: torch.Tensor, seed: int) -> torch.Tensor:
        """The volume; see `Method`."""
        return torch.from_numpy(np.asarray(self.hu, np.float32))


def trivial_methods(mean: np.ndarray) -> list[FixedMethod]:
    """The constant and the mean volume, from the mean of the training CTs, (n, n, n) HU."""
    size = len(mean)
    return [
        FixedMethod(f"constant, {size}³", np.full_like(mean, float(mean.mean()))),
        FixedMethod(f"mean volume of the training CTs, {size}³", mean),
    ]

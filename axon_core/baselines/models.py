"""A baseline as a model: its network in F(x)'s place of an `AxonModel`, so that everything above serves both."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from axon_core.baselines.registry import Baseline, find, load_sizes
from axon_core.config import from_dict, load_preset
from axon_core.diffusion.sampling import SeededNoise
from axon_core.model import WEIGHTS, AxonModel, ModelCard, find_model


@dataclass(eq=False)
class BaselineModel(AxonModel):
    """A baseline that predicts a volume from films; it has no later stages.

    Attributes:
        name: key of `registry.BASELINES`.
        sizes: of its network.
    """

    name: str = ""
    sizes: Any = None

    @property
    def baseline(self) -> Baseline:
        """What the name stands for."""
        return find(self.name)

    @property
    def method(self) -> str:
        return self.name

    @property
    def random_endpoint(self) -> bool:
        return self.baseline.random

    @cached_property
    def film_to_volume(self) -> nn.Module:
        """The baseline's network."""
        return self._built("film_to_volume", self.baseline.network(self.sizes, self.config))

    def endpoint(self, films: torch.Tensor, noise: SeededNoise | None = None) -> torch.Tensor:
        """(B, V, p, p) films in [-1, 1] -> (B, 1, n, n, n); samples of random baselines, by default those of seed 0."""
        if self.random_endpoint:
            return self.film_to_volume(films, noise or SeededNoise([0] * len(films)))
        return self.film_to_volume(films)

    def described(self) -> dict[str, Any]:
        return {"baseline": {"name": self.name, "sizes": dataclasses.asdict(self.sizes)}}


def new_baseline(name: str, preset: str) -> BaselineModel:
    """A freshly initialised baseline in the sizes of a preset.

    Errors:
        ConfigError: no such baseline or preset, or the preset does not size it.
    """
    return BaselineModel(load_preset(preset), ModelCard(title="untrained"), name=name, sizes=load_sizes(name, preset))


def open_model(name_or_folder: str | os.PathLike[str]) -> AxonModel:
    """Open an AXON model or a baseline, by its name among the bundled ones or by its folder.

    Errors:
        ModelError: not found, damaged, or of an unknown format.
    """
    info = find_model(name_or_folder)
    path = info.folder / WEIGHTS
    if not info.baseline:
        return AxonModel(info.config, info.card, path, info.sha256)
    name = info.baseline["name"]
    sizes: Any = from_dict(find(name).sizes, info.baseline["sizes"], "baseline")
    return BaselineModel(info.config, info.card, path, info.sha256, name=name, sizes=sizes)

"""The baselines by name: what builds their network, and the stages that train it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from axon_core.baselines.repeat_concat import RepeatConcat, RepeatConcatStage
from axon_core.baselines.trivial import Constant, MeanVolume, Nearest, TrivialSizes
from axon_core.baselines.x2ct_gan import X2CTGenerator, X2CTSizes, X2CTStage
from axon_core.baselines.xray2ctpa import AutoencoderStage, LatentStage, Xray2CTPA, Xray2CTPASizes
from axon_core.config import EncoderConfig, ModelConfig, UNetConfig, from_dict, preset_table
from axon_core.errors import ConfigError
from axon_core.nets.encoder import FilmToVolume
from axon_core.training.stages import EndpointStage, Stage


@dataclass(frozen=True)
class Baseline:
    """One method.

    Attributes:
        title: for tables.
        sizes: dataclass of a preset's table [baseline.NAME].
        network: from sizes and the model's config to a module: films (B, V, p, p) -> (B, 1, n, n, n).
        stages: trained in this order, with the settings of [training.STAGE]; none: `trivial.Fitted.fit`.
        random: whether a call draws a sample, with noise as second argument.
    """

    title: str
    sizes: type
    network: Callable[[Any, ModelConfig], nn.Module]
    stages: dict[str, type[Stage]] = field(default_factory=dict)
    random: bool = False


def _film_to_volume(sizes: EncoderConfig, config: ModelConfig) -> FilmToVolume:
    return FilmToVolume(sizes, config.film_size, config.size)


BASELINES: dict[str, Baseline] = {
    "constant": Baseline("Constant", TrivialSizes, Constant),
    "mean": Baseline("Mean volume", TrivialSizes, MeanVolume),
    "nearest": Baseline("Nearest film", TrivialSizes, Nearest),
    "regression": Baseline("Regression F(x)", EncoderConfig, _film_to_volume, {"endpoint": EndpointStage}),
    "repeat-concat": Baseline("Repeat & Concatenate", UNetConfig, RepeatConcat, {"repeat-concat": RepeatConcatStage}),
    "x2ct-gan": Baseline("X2CT-GAN", X2CTSizes, X2CTGenerator, {"x2ct-gan": X2CTStage}),
    "xray2ctpa": Baseline(
        "X-ray2CTPA",
        Xray2CTPASizes,
        Xray2CTPA,
        {"xray2ctpa-autoencoder": AutoencoderStage, "xray2ctpa-latent": LatentStage},
        random=True,
    ),
}


def find(name: str) -> Baseline:
    """A baseline by its name.

    Errors:
        ConfigError: there is none.
    """
    if name not in BASELINES:
        raise ConfigError("baseline.name", f"There is no baseline {name!r}.", f"Use one of {', '.join(BASELINES)}.")
    return BASELINES[name]


def load_sizes(name: str, preset: str) -> Any:
    """Sizes of a baseline: the preset's table [baseline.NAME].

    "regression" is F(x), sized by [encoder]; "repeat-concat" is the bridge's U-Net, sized by [coarse]; the sizes of the
    trivial ones have defaults.

    Errors:
        ConfigError: no such baseline, or the preset does not size it rightly.
    """
    kind = find(name).sizes
    table = preset_table(preset)
    own = {"regression": table.get("encoder", {}), "repeat-concat": table.get("coarse", {})}
    values = own.get(name, table.get("baseline", {}).get(name, {}))
    return from_dict(kind, values, f"{preset}: baseline.{name}")

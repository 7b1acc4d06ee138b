"""One door for what is compared: films in, volume out, for F(x), the bridge, FineDiff and every baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from axon_core.diffusion.sampling import SeededNoise
from axon_core.errors import ConfigError, ModelError
from axon_core.model import AxonModel
from axon_core.pipeline import COARSE, FINE, PRESETS, SUPER, Moments, autocast
from axon_core.walks import Quality, coarse_times, fine_times, walk_coarse, walk_fine

ORDER = (COARSE, FINE, SUPER)  # what may run after F(x)


def predict(
    model: AxonModel,
    films: torch.Tensor,
    seed: int = 0,
    *,
    stages: Sequence[str] | None = None,
    quality: Quality = PRESETS["fast"],
) -> torch.Tensor:
    """One volume for each sample, as `pipeline.reconstruct` computes it with one seed.

    A case's volume does not depend on the batch around it: every sample has noise of the same seed.

    Args:
        model: AXON's or a baseline's, on any device.
        films: (B, V, p, p) standardised films in [-1, 1], V = 1 (frontal) or 2 (frontal, lateral).
        seed: of all noise; without effect where `is_random` is False.
        stages: what runs after F(x), some of "coarse", "fine", "super-resolution" in this order; () is F(x) alone.
            None: the model's `default_stages`. A baseline has none.
        quality: steps of the bridge and of FineDiff.

    Returns:
        (B, 1, n, n, n) float32 in [-1, 1] on the model's device, [z, y, x]; 2n after super-resolution.

    Errors:
        ConfigError: stages that do not exist or stand in another order. ModelError: one that the model has not trained.
    """
    chosen = chosen_stages(model, stages)
    films = films.to(model.device)
    noise = SeededNoise([seed] * len(films))
    with torch.no_grad(), autocast(model.device):
        volume = model.endpoint(films, noise).float()
        if COARSE in chosen:
            volume = walk_coarse(model, volume, coarse_times(model, quality), noise).clamp(-1, 1)
        if FINE in chosen:
            hint = model.fine_hint(films, volume)
            volume = walk_fine(model, hint, fine_times(model, quality), noise).clamp(-1, 1)
        if SUPER in chosen:
            volume = model.super_resolve(volume).float()
    return volume.clamp(-1, 1)


def predict_mean(
    model: AxonModel,
    films: torch.Tensor,
    seeds: Sequence[int],
    *,
    stages: Sequence[str] | None = None,
    quality: Quality = PRESETS["fast"],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean and sample standard deviation over the seeds; see `predict`.

    The standard deviation is None with a single seed, or where nothing is random, which is then computed once. Each
    seed's volume passes through super-resolution.
    """
    moments = Moments()
    for seed in seeds if is_random(model, stages) else seeds[:1]:
        moments.add(predict(model, films, seed, stages=stages, quality=quality))
    return moments.mean, moments.std if moments.count > 1 else None


def is_random(model: AxonModel, stages: Sequence[str] | None = None) -> bool:
    """Whether the seed makes a difference."""
    return model.random_endpoint or any(stage in (COARSE, FINE) for stage in chosen_stages(model, stages))


def chosen_stages(model: AxonModel, stages: Sequence[str] | None) -> tuple[str, ...]:
    """The stages after F(x), checked; see `predict`."""
    if stages is None:
        return tuple(stage for stage in ORDER if stage in model.card.default_stages and model.has(stage))
    if list(stages) != [stage for stage in ORDER if stage in stages]:
        raise ConfigError(
            "predict.stages", f"Stages {', '.join(stages)}.", f"Use some of {', '.join(ORDER)}, each once, in order."
        )
    for stage in stages:
        if not model.has(stage):
            raise ModelError(
                "predict.untrained", f"This model ({model.method}) has no stage {stage!r}.", "Leave the stage out."
            )
    return tuple(stages)

"""The loop: one stage, endless batches, a cosine schedule, EMA, checkpoints to go on from as if never stopped.

Everything random of step k follows from (seed, k) alone, so a resumed run draws what the uninterrupted one would have.
"""

from __future__ import annotations

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from axon_core.errors import ModelError
from axon_core.model import bfloat16_pays
from axon_core.training.ema import EMA


@dataclass(frozen=True)
class TrainOptions:
    """How long and how fast.

    Attributes:
        steps: optimiser steps in all.
        batch: samples of a step.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up; then a cosine down to 3 % of `lr`.
        ema: decay of the weight average.
        precision: of Lightning Fabric, "bf16-mixed" or "32-true"; "auto" takes the faster one of the device.
        seed: of everything random.
        save_every: seconds between checkpoints.
    """

    steps: int
    batch: int = 4
    lr: float = 5e-4
    warmup: int = 50
    ema: float = 0.995
    precision: str = "auto"
    seed: int = 0
    save_every: float = 120.0


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then half a cosine."""
    progress = min(1.0, step / max(1, options.steps))
    return options.lr * min(1.0, (step + 1) / options.warmup) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))


def read_state(path: Path, network: nn.Module) -> dict[str, Any]:
    """What `train` has saved for `network`.

    Errors:
        ModelError: the file is damaged, or of a network of other sizes.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = {key: value.shape for key, value in state["trained"].items()}
    except Exception as error:  # torch.load raises many kinds; all mean the same to a user
        raise ModelError(
            "training.state",
            f"{path.parent.name}/{path.name} is damaged.",
            "Remove it to train this stage from the start.",
        ) from error
    if found != {key: value.shape for key, value in network.state_dict().items()}:
        raise ModelError(
            "training.other-network",
            f"{path.parent.name}/{path.name} is of a network of other sizes.",
            "Use the preset with which this run was begun, or another folder.",
        )
    return state


def train(stage: nn.Module, dataset: Dataset[Any], options: TrainOptions, folder: Path) -> None:
    """Train `stage.trained` and leave its averaged weights in it.

    Args:
        stage: a module of `axon_core.training.stages`.
        dataset: map-style; index i of step k is drawn from a stream that depends only on the seed and k.
        options: see `TrainOptions`.
        folder: holds ``state.pt`` (to resume) and ``log.jsonl`` (step, loss, lr, seconds).

    Errors:
        ModelError: ``state.pt`` is damaged or of another network.
    """
    from lightning_fabric import Fabric

    folder.mkdir(parents=True, exist_ok=True)
    fabric = Fabric(accelerator="auto", devices=1)
    precision = options.precision
    if precision == "auto":
        precision = "bf16-mixed" if bfloat16_pays(fabric.device, training=True) else "32-true"
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)  # type: ignore[arg-type]
    trained: nn.Module = stage.trained  # type: ignore[assignment]
    trained.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), options.lr, betas=(0.9, 0.98), weight_decay=1e-3)
    wrapped, optimizer = fabric.setup(stage, optimizer)
    stage.model.to(fabric.device)  # type: ignore[operator, union-attr]  # the frozen networks beside the trained one
    ema = EMA(trained, options.ema)
    state_file = folder / "state.pt"
    first = 0
    if state_file.is_file():
        state = read_state(state_file, trained)
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        first = state["step"]

    def save(step: int) -> None:
        temporary = state_file.with_suffix(".tmp")
        torch.save(
            {
                "trained": trained.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.state_dict(),
                "step": step,
            },
            temporary,
        )
        os.replace(temporary, state_file)

    def draw(step: int) -> tuple[Any, torch.Generator]:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        indices = torch.randint(2**31, (options.batch,), generator=generator).tolist()
        return default_collate([dataset[i] for i in indices]), generator

    saved = started = time.monotonic()
    losses: list[float] = []
    with open(folder / "log.jsonl", "a", encoding="utf-8") as log, ThreadPoolExecutor(1) as ahead:
        coming = [ahead.submit(draw, step) for step in range(first, options.steps)[:1]]
        for step in range(first, options.steps):
            drawn, generator = coming.pop().result()
            if step + 1 < options.steps:  # the next batch is drawn while this one is computed
                coming.append(ahead.submit(draw, step + 1))
            batch = fabric.to_device(drawn)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, options)
            loss = wrapped(batch, generator)
            fabric.backward(loss)
            fabric.clip_gradients(trained, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(trained)
            losses.append(float(loss.detach()))
            if (step + 1) % 25 == 0:
                line = {
                    "step": step + 1,
                    "loss": round(sum(losses) / len(losses), 6),
                    "lr": learning_rate(step, options),
                    "seconds": round(time.monotonic() - started, 1),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                losses = []
            if time.monotonic() - saved > options.save_every:
                save(step + 1)
                saved = time.monotonic()
    save(max(first, options.steps))
    trained.load_state_dict(ema.average)
    trained.eval().requires_grad_(False)

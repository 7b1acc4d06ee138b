"""What a training will cost on this machine, before anything starts.

Work and memory are counted by running a step on PyTorch's "meta" device, where tensors have shapes but no values; time
follows from how fast the real device trains a small block of the same kind.
"""

from __future__ import annotations

import time
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from axon_core.config import ModelConfig
from axon_core.model import AxonModel, ModelCard, bfloat16_pays, parameter_count
from axon_core.training.distill import EVERY
from axon_core.training.draws import Draws
from axon_core.training.memory import recompute
from axon_core.training.settings import StageSettings
from axon_core.training.stages import Stage
from axon_core.training.trainer import share

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Estimate:
    """Of one stage.

    Attributes:
        stage: its name.
        parameters: weights that learn.
        flop: floating-point operations of an optimiser step, all samples.
        memory: bytes of a process at its peak: weights, gradients, Adam, average, activations of a part of the batch.
        steps: optimiser steps in all.
        seconds: the whole stage, without reading data and validating; about.
    """

    stage: str
    parameters: int
    flop: float
    memory: int
    steps: int
    seconds: float


def estimate(
    name: str, config: ModelConfig, settings: StageSettings, cases: int, rate: float, world: int = 1, views: int = 2
) -> Estimate:
    """Count a step of the stage with so many films; `rate` is `training_rate`'s, of each of `world` processes."""
    model = AxonModel(config, ModelCard(stages=("endpoint", "coarse")), device=torch.device("meta"))
    with torch.device("meta"):
        stage = EVERY[name](model, settings)
    return estimate_stage(name, stage, cases, rate, world, views)


def estimate_stage(name: str, stage: Stage, cases: int, rate: float, world: int = 1, views: int = 2) -> Estimate:
    """The same of a stage whose networks lie on the device "meta"."""
    settings, model, config = stage.settings, stage.model, stage.model.config
    part = len(share(settings.batch, settings.micro, 0, world)[0])
    stage.trained.train().requires_grad_(True)
    if settings.recompute:
        recompute(stage.trained)
    n = config.size * stage.enlarges
    batch = (
        torch.empty(part, views, config.film_size, config.film_size, device="meta"),
        *(torch.empty(part, 1, n, n, n, device="meta") for _ in range(2)),
    )
    with Peak() as peak, FlopCounterMode(display=False) as counter:
        stage(batch, Draws(0, 0, range(part), part)).values.mean().backward()
    parameters = parameter_count(stage.trained)
    learning = set(stage.trained.parameters())
    networks = (module for module in vars(model).values() if isinstance(module, nn.Module))
    frozen = sum(p.numel() for network in networks for p in network.parameters() if p not in learning)
    activations = peak.bytes - 4 * parameters  # the gradients are counted below
    if settings.precision in DTYPES:
        activations = int(0.6 * activations)  # norms and losses stay in 32 bits
    flop = counter.get_total_flops() / part * settings.batch
    steps = settings.total(cases)
    memory = 4 * (5 * parameters + frozen) + activations
    return Estimate(name, parameters, flop, memory, steps, steps * flop / rate / world)


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors made inside that are alive at the same time; `bytes` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.bytes = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device.type == "meta" and key not in self.known:
            self.known.add(key)
            self.now += size
            self.bytes = max(self.bytes, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def training_rate(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """FLOP per second of a forward and backward pass on `device`, on a block like those of the networks."""
    if precision == "auto":
        precision = "bf16" if bfloat16_pays(device, training=True) else "32"
    width, edge = (128, 48) if device.type == "cuda" else (32, 24)
    layers = [nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1)) for _ in range(3)]
    block = nn.Sequential(*layers).to(device)
    x = torch.randn(2, width, edge, edge, edge, device=device)
    autocast = torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else nullcontext()

    def once() -> None:
        with autocast:
            loss = block(x).float().square().mean()
        loss.backward()
        loss.detach().item()  # waits for a GPU

    with FlopCounterMode(display=False) as counter:
        once()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return float(counter.get_total_flops() / sorted(times)[len(times) // 2])

"""The loop: one stage, one optimiser, averaged weights, and a state on disk to go on from as if never stopped.

A step's samples, times and noise follow from (seed, step, sample) alone. So the loss curve and the weights are those of
an uninterrupted run however often it is stopped, and a batch means the same however it is divided over time (gradient
accumulation) and over processes (``torchrun``, DDP).
"""

from __future__ import annotations

import math
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, default_collate

from axon_core.errors import AxonError, ConfigError, DeviceError
from axon_core.model import bfloat16_pays
from axon_core.pipeline import is_out_of_memory
from axon_core.training.checkpoint import has_state, read_state, save_state
from axon_core.training.draws import Draws, case_index
from axon_core.training.ema import EMA
from axon_core.training.events import BINS, Listener, Log, bins_of
from axon_core.training.memory import recompute
from axon_core.training.settings import PRECISIONS, learning_rate
from axon_core.training.stages import Stage
from axon_core.training.validate import validate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 10  # steps
AHEAD = 2  # batches that are drawn while one is computed
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)  # what damaged files raise


class Stopped(AxonError):
    """The user or the cluster asked to stop; the state is saved."""

    exit_code = 130

    def __init__(self, stage: str, step: int, steps: int) -> None:
        super().__init__(
            "training.stopped",
            f"Stopped after step {step} of {steps} of {stage!r}; the state is saved.",
            "The same command goes on from there.",
        )


def make_fabric(precision: str = "auto", device: str = "auto") -> Fabric:
    """Lightning Fabric for this process, or for all processes that ``torchrun`` has started.

    Args:
        precision: a key of PRECISIONS, or "auto".
        device: "auto", "cpu", "cuda" or "mps".
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    if "TORCHELASTIC_RUN_ID" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        layout: dict[str, Any] = {
            "devices": here,
            "num_nodes": int(os.environ["WORLD_SIZE"]) // here,
            "strategy": DDPStrategy(find_unused_parameters=True),  # of the FusionBlock in steps with one view
        }
    else:
        layout = {"devices": 1, "plugins": [LightningEnvironment()]}  # on a cluster, too, one process is one process
    if precision == "auto":
        chosen = Fabric(accelerator=device, devices=1, plugins=[LightningEnvironment()]).device
        precision = "bf16" if bfloat16_pays(chosen, training=True) else "32"
    fabric = Fabric(accelerator=device, precision=PRECISIONS[precision], **layout)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


class Batches:
    """The batches of steps `first`, `first` + 1, ..., drawn ahead in threads, in the parts that this process computes.

    Args:
        dataset: map-style, with a length; see `draws.case_index` for the indices that it is asked for. Its
            `__getitems__(indices)`, if there is one, gives several items at once.
        samples: which of a step's samples are computed here, in parts.
        batch: samples of a step over all processes.
    """

    def __init__(self, dataset: Any, samples: list[list[int]], batch: int, seed: int, steps: range) -> None:
        self.dataset, self.samples, self.batch, self.seed = dataset, samples, batch, seed
        self.pool = ThreadPoolExecutor(AHEAD)
        self.steps = iter(steps)
        self.coming: list[Future[list[tuple[Any, Draws]]]] = []
        for _ in range(AHEAD):
            self._order()

    def _order(self) -> None:
        for step in self.steps:
            self.coming.append(self.pool.submit(self.draw, step))
            break

    def draw(self, step: int) -> list[tuple[Any, Draws]]:
        """The parts of a step: (collated items, their draws)."""
        cases = len(self.dataset)
        return [
            (
                default_collate(self.items([case_index(self.seed, step * self.batch + i, cases) for i in part])),
                Draws(self.seed, step, part, self.batch),
            )
            for part in self.samples
        ]

    def items(self, indices: list[int]) -> list[Any]:
        """Items of the data set, at once where it can do that; whatever goes wrong is told in one line."""
        try:
            if hasattr(self.dataset, "__getitems__"):
                return list(self.dataset.__getitems__(indices))
            return [self.dataset[index] for index in indices]
        except UNREADABLE as error:
            raise ConfigError(
                "training.data",
                f"Training data cannot be read: {type(error).__name__}: {error}.",
                "Remove the damaged file, or prepare the data again; then the same command goes on.",
            ) from error

    def next(self) -> list[tuple[Any, Draws]]:
        """The parts of the next step."""
        parts = self.coming.pop(0).result()
        self._order()
        return parts

    def close(self) -> None:
        """Draw no more."""
        self.pool.shutdown(cancel_futures=True)


def share(batch: int, micro: int, rank: int, world: int) -> list[list[int]]:
    """Which samples of a step process `rank` of `world` computes, in parts of at most `micro` (0: all at once).

    Errors:
        ConfigError: the batch cannot be divided evenly, so that the mean over processes would not be that of the batch.
    """
    own = list(range(rank, batch, world))
    micro = min(micro or len(own), max(1, len(own)))
    if batch % world or len(own) % micro:
        raise ConfigError(
            "training.batch",
            f"A batch of {batch} cannot be divided over {world} processes in parts of {micro}.",
            "Choose a batch that is a multiple of processes times part (--batch, --micro).",
        )
    return [own[start : start + micro] for start in range(0, len(own), micro)]


def check_items(dataset: Any, stage: Stage) -> None:
    """Refuse data that the networks cannot take.

    Errors:
        ConfigError: fewer than two cases, or films and volumes of other sizes than the preset's.
    """
    if len(dataset) < 2:
        raise ConfigError(
            "training.one-case",
            "There is only one case to learn from.",
            "Prepare more: networks that see a single chest learn it by heart.",
        )
    films, target, _ = dataset[0]
    config = stage.model.config
    want = (config.film_size, config.size * stage.enlarges)
    if (films.shape[-1], target.shape[-1]) != want:
        raise ConfigError(
            "training.other-size",
            f"The data have films of {films.shape[-1]} pixels and volumes of {target.shape[-1]} voxels along an edge, "
            f"but preset {config.name!r} wants {want[0]} and {want[1]} for this stage.",
            "Choose the preset for which the data were made, or prepare them for this one.",
        )


def train(
    stage: Stage,
    dataset: Dataset[Any],
    folder: Path,
    fabric: Fabric,
    *,
    seed: int = 0,
    cases: Sequence[Any] = (),
    tell: Listener = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    save_every: float = 120.0,
) -> None:
    """Train `stage.trained` and leave its averaged weights in it, frozen.

    Args:
        stage: of `axon_core.training.stages`; its `settings` say how.
        dataset: map-style, with a length; items are (films, target, weight), see `stages`. Item i is case i modulo the
            length; i beyond the length draws another look of the case.
        folder: holds the state (see `checkpoint`) and the log (see `events`).
        fabric: see `make_fabric`.
        seed: of everything random.
        cases: items for validation, of the same kind as the data set's.
        tell: called with every event, in the first process alone.
        stop: asked after every step; True saves the state and raises Stopped.
        save_every: seconds between two states.

    Errors:
        Stopped. ConfigError: data that do not fit, a batch that cannot be divided. ModelError: the state is damaged or
        of another network. OutputError: the disk is full. DeviceError: out of memory. AxonError "training.diverged".
    """
    try:
        _Training(stage, dataset, folder, fabric, seed, cases, tell, save_every).run(stop)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            "training.memory",
            f"The memory of device {fabric.device.type!r} does not suffice.",
            "Use --micro 1 (the same batch in more parts) and --recompute, then run the same command again.",
        ) from error


class _Training:
    """What `train` keeps between steps."""

    def __init__(
        self,
        stage: Stage,
        dataset: Any,
        folder: Path,
        fabric: Fabric,
        seed: int,
        cases: Sequence[Any],
        tell: Listener,
        save_every: float,
    ) -> None:
        self.stage, self.settings, self.fabric, self.cases = stage, stage.settings, fabric, cases
        self.folder, self.name, self.save_every = folder, folder.name, save_every
        check_items(dataset, stage)
        folder.mkdir(parents=True, exist_ok=True)
        self.trained = stage.trained
        self.trained.train().requires_grad_(True)
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.trained.parameters(),
            settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        if settings.recompute:
            recompute(self.trained)
        self.wrapped, self.optimizer = fabric.setup(stage, optimizer)
        stage.model.to(fabric.device)  # the frozen networks beside the trained one
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.ema = EMA(self.trained, settings.ema)
        self.steps = settings.total(len(dataset))
        self.step, self.seconds = 0, 0.0  # optimiser steps done, and what they took
        self.records: list[list[float]] = []  # sums and counts of the loss in each bin, of steps not yet told
        if has_state(folder):
            self._resume()
        self.begun = (self.step, self.seconds)
        samples = share(settings.batch, settings.micro, fabric.global_rank, fabric.world_size)
        self.batches = Batches(dataset, samples, settings.batch, seed, range(self.step, self.steps))
        self.log = Log(folder, self.step) if fabric.is_global_zero else None
        self.listeners: list[Listener] = [self.log, tell] if self.log else []

    def tell(self, **event: Any) -> None:
        for listener in self.listeners:
            listener(event)

    # ---- the loop

    def run(self, stop: Callable[[], bool]) -> None:
        saved = last = time.monotonic()
        try:
            while self.step < self.steps:
                record = self._advance(stop)
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                if self.step % LOG_EVERY == 0 or self.step == self.steps:
                    self._report(record["norm"])
                if self.cases and (self.step % self.settings.validate == 0 or self.step == self.steps):
                    self._validate()
                    last = time.monotonic()
                if record["stop"] or now - saved > self.save_every or self.step == self.steps:
                    self._save()
                    saved = time.monotonic()
                if record["stop"] and self.step < self.steps:
                    raise Stopped(self.name, self.step, self.steps)
        finally:
            self.batches.close()
            if self.log:
                self.log.close()
        self.fabric.barrier()  # nobody goes on before the state is on disk
        self.trained.load_state_dict(self.ema.average)
        self.trained.eval().requires_grad_(False)

    def _advance(self, stop: Callable[[], bool]) -> dict[str, Any]:
        """One optimiser step."""
        settings, fabric = self.settings, self.fabric
        parts = self.batches.next()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, settings)
        totals = torch.zeros(2, BINS, dtype=torch.float64)
        for number, (batch, draws) in enumerate(parts):
            with fabric.no_backward_sync(self.wrapped, enabled=number + 1 < len(parts)):
                loss, t = self.wrapped(fabric.to_device(batch), draws)
                fabric.backward(loss.mean() / len(parts))
            bins = (t.cpu() * BINS).long().clamp_max(BINS - 1)
            totals.index_add_(1, bins, torch.stack([loss.detach().cpu().double(), torch.ones(len(bins)).double()]))
        told = torch.cat([totals.flatten(), torch.tensor([float(stop())], dtype=torch.float64)])
        if fabric.world_size > 1:
            told = fabric.all_reduce(told.to(fabric.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
        length = fabric.clip_gradients(self.trained, self.optimizer, max_norm=settings.clip, error_if_nonfinite=False)
        norm = float(length)  # type: ignore[arg-type]
        mean = float(told[:BINS].sum()) / settings.batch
        if not math.isfinite(mean) or not (math.isfinite(norm) or self.scaler):  # a scaler passes over such steps
            raise self._diverged()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.trained)
        self.step += 1
        self.records.append(told[: 2 * BINS].tolist())
        return {"norm": norm, "stop": bool(told[-1] > 0)}

    def _report(self, norm: float) -> None:
        """Tell the mean over the steps since the last report."""
        sums = [sum(values) for values in zip(*self.records, strict=True)]
        totals, counts = sums[:BINS], sums[BINS:]
        step_s = (self.seconds - self.begun[1]) / (self.step - self.begun[0])
        self.tell(
            type="progress",
            stage=self.name,
            step=self.step,
            steps=self.steps,
            loss=round(sum(totals) / sum(counts), 6),
            bins=bins_of(totals, counts),
            lr=learning_rate(self.step - 1, self.steps, self.settings),
            norm=round(norm, 6),
            seconds=round(self.seconds, 2),
            step_s=round(step_s, 4),
            eta_s=round(step_s * (self.steps - self.step), 1),
        )
        self.records = []

    def _validate(self) -> None:
        if self.fabric.is_global_zero:
            with self.ema.applied(self.trained), self.fabric.autocast():
                found = validate(self.stage, self.cases, self.fabric.device, self.folder)
            self.tell(type="validation", stage=self.name, step=self.step, **found)
        self.fabric.barrier()

    # ---- state

    def _save(self) -> None:
        if not all(bool(value.isfinite().all()) for value in self.trained.parameters()):
            raise self._diverged()
        if self.fabric.is_global_zero:
            state = {
                "trained": self.trained.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
                "step": self.step,
                "records": self.records,
                "seconds": self.seconds,
                "scaler": self.scaler.state_dict() if self.scaler else None,
            }
            save_state(self.folder, state)

    def _resume(self) -> None:
        state = read_state(self.folder, self.trained, repair=self.fabric.is_global_zero)
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group.update(betas=(self.settings.beta1, self.settings.beta2), weight_decay=self.settings.weight_decay)
        self.ema.load_state_dict(state["ema"])
        self.step = state["step"]
        self.records, self.seconds = state.get("records", []), state.get("seconds", 0.0)
        if self.scaler and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _diverged(self) -> AxonError:
        kept = "of the last save" if has_state(self.folder) else "with which it began"
        return AxonError(
            "training.diverged",
            f"The loss of {self.name!r} is no number after step {self.step}; the good weights {kept} are kept.",
            "Run the same command with a lower --lr, or with --precision 32: it goes on from there.",
        )

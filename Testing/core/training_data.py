"""Drawn chests for training tests, and runs of tiny networks on them."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from axon_core.config import load_preset
from axon_core.data.pairs import Pair, save_pair
from axon_core.model import PARTS, AxonModel, ModelCard
from axon_core.training import checkpoint, trainer
from axon_core.training.distill import EVERY
from axon_core.training.settings import StageSettings
from axon_core.training.stages import Stage

Item = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Few(torch.utils.data.Dataset):
    """A few items; those beyond the last are the same again. `asked` are the indices asked for."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        self.asked.append(index)
        return self.items[index % len(self.items)]


def body(seed: int, size: int) -> torch.Tensor:
    """(n, n, n) HU: an ellipsoid of water with two of lung, at random, in air."""
    g = torch.Generator().manual_seed(seed)
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 3, indexing="ij")
    hu = torch.full((size,) * 3, -1000.0)
    wide, deep = (0.6 + 0.3 * torch.rand(2, generator=g)).tolist()
    hu[(x / wide) ** 2 + (y / deep) ** 2 < 1] = 0.0
    for side in (-0.4, 0.4):
        high, thick = (0.4 + 0.4 * torch.rand(2, generator=g)).tolist()
        hu[((x - side) / 0.3) ** 2 + (y / (thick * deep)) ** 2 + (z / high) ** 2 < 1] = -800.0
    return hu


def pair(seed: int, size: int = 16) -> Pair:
    """A body and its parallel projections as films of 32 pixels; the lowest slices are not known."""
    fine = body(seed, 32)
    density = (fine + 1000) / 1000
    films = torch.stack([density.mean(1).flip(0), density.mean(2).flip(0)]) * 3
    hu = torch.nn.functional.avg_pool3d(fine[None, None], 32 // size)[0, 0]
    known = torch.ones_like(hu, dtype=torch.bool)
    known[: size // 8] = False
    return Pair(hu, known, films)


def few(count: int = 2, size: int = 16) -> Few:
    """The items of some pairs, with the plainest look."""
    window = load_preset("tiny").hu_window
    items = []
    for seed in range(count):
        p = pair(seed, size)
        films = p.log_films / p.log_films.max() * 2 - 1
        items.append((films, window.encode(p.hu)[None], torch.where(p.known, 1.0, 0.1)[None]))
    return Few(items)


def write_pairs(folder: Path, count: int, size: int = 16, first: int = 0) -> Path:
    """A folder of pairs, as `recipe pairs` makes it."""
    folder.mkdir(parents=True)
    for seed in range(first, first + count):
        save_pair(pair(seed, size), folder / f"{seed}.npz")
    return folder


def tiny(seed: int = 0, trained: tuple[str, ...] = ()) -> AxonModel:
    """Networks of preset "tiny", of which the `trained` stages may be used by later ones."""
    torch.manual_seed(seed)
    return AxonModel(load_preset("tiny"), ModelCard(stages=trained))


def films(views: int = 2) -> torch.Tensor:
    """Two patients' films of noise, the same each time."""
    return torch.rand(2, views, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def model_with(**diffusion: Any) -> AxonModel:
    """All stages of preset "tiny" as if trained: silent outputs answer something, the control steers."""
    model = tiny(trained=tuple(PARTS))
    model.card = dataclasses.replace(model.card, default_stages=tuple(PARTS))
    changed = dataclasses.replace(model.config.diffusion, **diffusion)
    model.config = dataclasses.replace(model.config, diffusion=changed)
    torch.manual_seed(7)
    fine = (model.fine_bridge.net.out,) if changed.is_bridge else (model.prior.net.out, model.control.net)
    for network in (model.coarse.net.out, *fine):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


def settings(**values: Any) -> StageSettings:
    """Six steps of two samples, in float32."""
    return StageSettings(**{"steps": 6, "batch": 2, "lr": 1e-3, "warmup": 2, "ema": 0.9, "precision": "32", **values})


def stage_of(name: str, model: AxonModel | None = None, **values: Any) -> Stage:
    """A stage over fresh or given networks."""
    return EVERY[name](model or tiny(trained=("endpoint",)), settings(**values))


def batch_of(data: Few) -> Any:
    """All items as one batch."""
    return torch.utils.data.default_collate(data.items)


def train(stage: Stage, data: Any, folder: Path, **options: Any) -> None:
    """`trainer.train` on the CPU in this process, a state after every step."""
    fabric = trainer.make_fabric(stage.settings.precision, "cpu")
    trainer.train(stage, data, folder, fabric, **{"save_every": 0.0, **options})


# --- in processes of their own; here because a child imports the functions by name -----------------------------------

STEPS = 23  # so that the log has lines at 10, 20 and 23


def prior_run(folder: Path) -> Stage:
    """Train the prior for STEPS steps in two parts each, or for those that are left."""
    stage = stage_of("prior", tiny(), steps=STEPS, micro=1, validate=10)
    data = few()
    train(stage, data, folder, cases=data.items[:1])
    return stage


def killed_run(folder: Path, when: str, threads: int) -> None:
    """`prior_run`, ended by SIGKILL: in step 13, in step 22 with the last state at 15, or while saving step 13."""
    torch.set_num_threads(threads)
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    save, advance, write, replace = checkpoint.save_state, trainer._Training._advance, torch.save, os.replace
    writes = []

    def advance_or_die(self: Any, stop: Any) -> Any:
        def die() -> bool:
            return self.step == {"in a step": 12, "long after a save": 21}.get(when, -1) and bool(kill())

        return advance(self, die)

    def save_seldom(folder: Path, state: dict[str, Any]) -> None:
        if when != "long after a save" or state["step"] == 15:
            save(folder, state)

    def write_half(state: Any, file: Any) -> None:
        writes.append(state)
        if len(writes) == 13 and when == "while writing":
            file.write(b"half a state")
            file.flush()
            kill()
        write(state, file)

    def replace_one(source: Any, target: Any) -> None:
        replace(source, target)
        if len(writes) == 13 and when == "between renames":
            kill()

    trainer._Training._advance, trainer.save_state, torch.save = advance_or_die, save_seldom, write_half  # type: ignore[method-assign]
    os.replace = replace_one
    prior_run(folder)


JOBS = (("endpoint", 0), ("endpoint", 1), ("prior", 0), ("super-resolution", 1))  # stage and seed, one step each


def one_step(name: str, seed: int, folder: Path, fabric: Any, **values: Any) -> None:
    """A step on four chests."""
    data = few(4, 32 if name == "super-resolution" else 16)
    stage = stage_of(name, tiny(trained=("endpoint",)), steps=1, batch=4, clip=1e9, **values)  # clipping hides a factor
    trainer.train(stage, data, folder / f"{name}-{seed}", fabric, seed=seed)


def process_of_two(rank: int, port: int, folder: Path, threads: int) -> None:
    """One of two processes as ``torchrun`` would start them; each takes every job's step."""
    torch.set_num_threads(threads)
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({key: str(value) for key, value in {**places, **meeting}.items()})
    fabric = trainer.make_fabric("32", "cpu")
    for name, seed in JOBS:
        one_step(name, seed, folder, fabric, micro=1)

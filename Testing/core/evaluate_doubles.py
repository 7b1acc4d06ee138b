"""Cases and methods for tests of comparisons: drawn chests, and the truth with noise on it. Processes import them."""

from __future__ import annotations

import os
import signal
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
import training_data

from axon_core.errors import VolumeError
from axon_core.evaluation.cases import Chest
from axon_core.evaluation.methods import FACTS
from axon_core.intensity import WIDE, HuWindow

OPENED: list[Any] = []  # weak references to the chests


@dataclass(frozen=True)
class DrawnCase:
    """A drawn body of 32 voxels; the seeds -1, -2 and -9 stand for a torn file, a bug, and a process that is killed."""

    name: str
    seed: int

    @property
    def patient(self) -> str:
        return self.name

    def key(self) -> str:
        return f"drawn {self.seed}"

    def open(self) -> Chest:
        if self.seed == -1:
            raise VolumeError("test.torn", "The CT is torn.", "Mend it.")
        if self.seed == -2:
            raise KeyError("a bug")
        if self.seed == -9:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2.0 * (self.name == "late"))
        covered = torch.ones(32, dtype=torch.bool)
        covered[:4] = False
        origin = {"frontal": "drawn", "lateral": "drawn"}
        chest = Chest(training_data.body(self.seed, 32), covered, (360 / 32,) * 3, {}, origin)
        OPENED.append(weakref.ref(chest))
        return chest


class Noisy:
    """Everybody's mean body with noise of `sigma` HU; fails, or pauses, after so many volumes, if asked to."""

    film_size = 32
    random = True

    def __init__(
        self,
        label: str,
        sigma: float = 50.0,
        size: int = 16,
        window: HuWindow = WIDE,
        fails: BaseException | None = None,
        after: int = 0,
        pause: float = 0.0,
    ) -> None:
        self.label, self.sigma, self.size, self.window, self.fails, self.after = (
            label,
            sigma,
            size,
            window,
            fails,
            after,
        )
        self.pause, self.key, self.calls = pause, f"noisy {sigma} {size}", 0
        self.facts = dict.fromkeys(FACTS, "none") | {"parameters": 1234}

    def volume(self, films: torch.Tensor, seed: int) -> torch.Tensor:
        if self.fails and self.calls >= self.after:
            raise self.fails
        time.sleep(self.pause * (self.calls > 0))
        self.calls, self.seen = self.calls + 1, len(films)
        noise = torch.randn((self.size,) * 3, generator=torch.Generator().manual_seed(seed))
        return training_data.body(7, self.size) + self.sigma * noise


def noisy() -> list[Noisy]:
    return [Noisy("noisy")]


def slow() -> list[Noisy]:
    return [Noisy("slow", pause=60.0)]

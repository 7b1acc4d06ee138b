"""Everything random of a training step, as streams that follow from (seed, step, sample) alone.

So a resumed run draws what the uninterrupted one would have drawn, and it does not matter into how many parts or over
how many processes a batch is divided. Noise is drawn on the CPU whatever the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch

from axon_core.diffusion.sampling import standard_normal

SHARED = -1


def stream(*key: object) -> torch.Generator:
    """A generator whose draws follow from the key's text."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class Draws:
    """Random numbers for some samples of a step: a stream for each sample, and one that all samples share.

    Args:
        seed, step: name the step.
        samples: which of the step's samples, counted from 0.
        batch: how many samples the whole step has.
    """

    def __init__(self, seed: int, step: int, samples: Sequence[int], batch: int) -> None:
        self.samples, self.batch = list(samples), batch
        self.shared = stream(seed, step, SHARED)
        self.own = [stream(seed, step, sample) for sample in samples]

    def number(self) -> float:
        """In [0, 1), the same for all samples of the step."""
        return float(torch.rand((), generator=self.shared))

    def integers(self, end: int, count: int) -> list[int]:
        """`count` integers in [0, end), the same for all samples of the step."""
        return torch.randint(end, (count,), generator=self.shared).tolist()

    def uniform(self) -> torch.Tensor:
        """(B,) in [0, 1)."""
        return torch.stack([torch.rand((), generator=generator) for generator in self.own])

    def stratified(self) -> torch.Tensor:
        """(B,) in [0, 1): sample i of the step's n lies in [i/n, (i+1)/n), which steadies the loss over times."""
        return (torch.tensor(self.samples) + self.uniform().clamp_max(1 - 1e-6)) / self.batch

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        """Standard normal, with the shape and on the device of `like`."""
        return standard_normal(like, self.own)

    def seeds(self) -> list[int]:
        """One seed for each sample."""
        return [int(torch.randint(2**31, (), generator=generator)) for generator in self.own]


def case_index(seed: int, sample: int, cases: int) -> int:
    """Which item is sample 0, 1, ... of a run: every case once in each epoch, in an order of its own.

    The index is epoch * cases + case: data sets know the case by its remainder and draw another look for each epoch.
    """
    epoch, place = divmod(sample, cases)
    return epoch * cases + int(_order(seed, epoch, cases)[place])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, cases: int) -> torch.Tensor:
    return torch.randperm(cases, generator=stream("order", seed, epoch))

"""Exponential moving average of weights; the average is what is evaluated and shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class EMA:
    """Keeps w' <- d w' + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates: it warms up fast."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Fold the module's weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = module.state_dict()
        floating = [key for key, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[key] for key in floating], [current[key] for key in floating], 1 - decay)
        for key in current.keys() - set(floating):
            self.average[key].copy_(current[key])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards its own again, bit by bit."""
        own = {key: value.clone() for key, value in module.state_dict().items()}
        module.load_state_dict(self.average)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.updates = int(state["updates"])
        for key, value in state["average"].items():
            self.average[key].copy_(value)

"""A run's state on disk: written whole, read safely, with the one before it kept in case the last is damaged.

``state.pt`` and ``previous.pt`` are dictionaries of tensors and plain values:

- trained: weights at this step; ema: their average (`EMA.state_dict`);
- optimizer, scaler: as PyTorch gives them (scaler only in 16-bit floating point);
- step: optimiser steps done; records, seconds: what the next line of the log will be made of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from axon_core.errors import ModelError
from axon_core.files import atomic_file

STATE, PREVIOUS = "state.pt", "previous.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state; the one that was there becomes the previous one.

    Errors:
        OutputError: the disk is full or refuses; the old files are then as they were.
    """
    with atomic_file(folder / STATE, overwrite=True) as temporary:
        with open(temporary, "wb") as file:  # a path would hide the reason of a failure
            torch.save(state, file)
        if (folder / STATE).exists():
            os.replace(folder / STATE, folder / PREVIOUS)


def has_state(folder: Path) -> bool:
    """Whether a run has left anything here to go on from."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def read_state(folder: Path, network: nn.Module, repair: bool = False) -> dict[str, Any]:
    """The last whole state; a damaged or half-written one is passed over for the previous one.

    Nothing in the file is executed (``weights_only``). Files of older versions lack scaler, records and seconds.

    Args:
        folder: of the stage.
        network: the one that the state is meant for.
        repair: remove what is damaged or half-written, so that it never becomes the previous state.

    Errors:
        ModelError: no file is whole, or it is of a network of other sizes.
    """
    for path in (folder / STATE, folder / PREVIOUS):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = {key: value.shape for key, value in state["trained"].items()}
        except Exception:  # torch.load raises many kinds; all mean the same
            continue
        if found != {key: value.shape for key, value in network.state_dict().items()}:
            raise ModelError(
                "training.other-network",
                f"{folder.name}/{path.name} is of a network of other sizes.",
                "Use the preset with which this run was begun, or another folder.",
            )
        if repair:
            for ruin in [*folder.glob(f".partial-*{STATE}"), *([folder / STATE] if path.name == PREVIOUS else [])]:
                ruin.unlink(missing_ok=True)
        return state
    raise ModelError(
        "training.state", f"{folder.name}/{STATE} is damaged.", "Remove that folder to train this stage from the start."
    )

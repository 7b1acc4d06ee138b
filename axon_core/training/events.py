"""What a training tells while it runs: events for whoever listens, a log on disk, and TensorBoard.

An event is a dictionary of plain values, by its ``type``:

- ``progress``: stage, step of steps, loss, bins (loss of each quarter of the times, null where none fell; one number
  for stages without time), lr, norm (of the gradient), seconds (spent on the stage so far), step_s, eta_s;
- ``validation``: stage, step, loss and, where the stage aims at the target, mae and psnr [dB] on [0, 1] of the averaged
  weights, means over the fixed cases; picture: a PNG of their middle slices;
- ``note``: text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axon_core.files import atomic_file

Event = dict[str, Any]
Listener = Callable[[Event], None]
LOG = "log.jsonl"
BINS = 4


def bins_of(totals: list[float], counts: list[float]) -> list[float | None]:
    """Mean loss in each bin of times; bins without samples are None, and trailing ones of a stage without time go."""
    means = [round(total / count, 6) if count else None for total, count in zip(totals, counts, strict=True)]
    return means[:1] if not any(counts[1:]) else means


def read_log(folder: Path) -> list[Event]:
    """The events in a stage's log; a line that was cut off is left out."""
    events = []
    path = folder / LOG
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


class Log:
    """A stage's ``log.jsonl``: progress and validation, one JSON object a line."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open it to go on after `step`; what a lost end of the run has written beyond is removed."""
        kept = [event for event in read_log(folder) if event.get("step", 0) <= step]
        with atomic_file(folder / LOG, overwrite=True) as temporary:
            temporary.write_text("".join(json.dumps(event) + "\n" for event in kept), encoding="utf-8")
        self.file = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def __call__(self, event: Event) -> None:
        if event["type"] != "note":
            self.file.write(json.dumps(event) + "\n")
            self.file.flush()

    def close(self) -> None:
        """No more events."""
        self.file.close()


class TensorBoard:
    """The same as curves and pictures, in ``RUN/tensorboard``."""

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def __call__(self, event: Event) -> None:
        if event["type"] == "note":
            return
        stage, step = event["stage"], event["step"]
        for name in ("loss", "lr", "norm", "mae", "psnr"):
            if name in event:
                self.writer.add_scalar(f"{stage}/{event['type']}/{name}", event[name], step)
        for number, value in enumerate(event.get("bins", [])):
            if value is not None and len(event["bins"]) > 1:
                self.writer.add_scalar(f"{stage}/progress/t{number}of{BINS}", value, step)
        if event.get("picture"):
            import numpy as np
            from PIL import Image

            with Image.open(event["picture"]) as image:
                self.writer.add_image(f"{stage}/cases", np.asarray(image), step, dataformats="HW")
        self.writer.flush()

    def close(self) -> None:
        """No more events."""
        self.writer.close()

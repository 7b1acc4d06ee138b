"""How the commands that take long tell how far they are, to people and to programs, and how they are stopped."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from axon_core.cli_shared import console
from axon_core.errors import AxonError

if TYPE_CHECKING:
    from rich.table import Table


class Stop:
    """Whether somebody asked to stop: by SIGTERM, Ctrl-C, or by closing our output.

    A later Ctrl-C stops at once. Signals that follow soon are the same one: clusters and ``torchrun`` both pass it on.
    """

    PATIENCE_S = 5.0
    SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name))

    def __init__(self) -> None:
        self.asked, self.since = False, 0.0

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.asked and time.monotonic() - self.since > self.PATIENCE_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = True, time.monotonic()

    def __call__(self) -> bool:
        return self.asked


class Silent:
    """Of the processes beside the first."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: dict[str, Any]) -> None:
        pass


class JsonLines(Silent):
    """Events for programs, see `axon_core.training.events`; the last line is of type result or error."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def __call__(self, event: dict[str, Any]) -> None:
        try:
            line(event)
        except BrokenPipeError:  # the parent is gone: nobody waits for the result
            self.stop.asked = True
            sys.stdout = sys.stderr


def line(event: dict[str, Any]) -> None:
    """An event as a line of JSON."""
    print(json.dumps(event), flush=True)


class Screen(Silent):
    """A live table for people; a line now and then where the output is no terminal."""

    PAUSE_S = 30.0  # between two lines

    def __init__(self, stages: Iterable[str]) -> None:
        from rich.live import Live

        self.console = console(stderr=True)
        self.rows: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
        self.live = Live(self._table(), console=self.console, auto_refresh=False)
        self.last = -self.PAUSE_S

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        row = self.rows[event["stage"]]
        row.update({f"held_{k}" if event["type"] == "validation" else k: v for k, v in event.items() if k != "stage"})
        if self.console.is_terminal:
            self.live.update(self._table(), refresh=True)
        elif self._worth_a_line(event):
            self.last = time.monotonic()
            self.console.print(
                event["stage"], *(f"{key} {value}" for key, value in _shown(row).items()), soft_wrap=True
            )

    def _worth_a_line(self, event: dict[str, Any]) -> bool:
        last = event["type"] == "validation" or event["step"] == event["steps"]
        return last or time.monotonic() - self.last >= self.PAUSE_S

    def _table(self) -> Table:
        from rich.table import Table

        table = Table("stage", *_shown({}), box=None, header_style="bold")
        for stage, row in self.rows.items():
            table.add_row(stage, *_shown(row).values())
        return table


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """What people see of a stage."""
    if "step" not in row:
        return dict.fromkeys(("step", "loss", "held out", "PSNR", "rate", "s/step", "left"), "")
    return {
        "step": f"{row['step']}/{row['steps']}",
        "loss": f"{row['loss']:.4g}",
        "held out": f"{row['held_loss']:.4g}" if "held_loss" in row else "",
        "PSNR": f"{row['held_psnr']:.2f}" if "held_psnr" in row else "",
        "rate": f"{row['lr']:.2g}",
        "s/step": f"{row['step_s']:.3g}",
        "left": duration(row["eta_s"]),
    }


def duration(seconds: float) -> str:
    """For people: 12 s, 3 min, 4.5 h, 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def errors_as_lines(as_json: bool) -> Iterator[None]:
    """For programs, an error is the last line of events; people are told as everywhere."""
    try:
        yield
    except AxonError as error:
        if not as_json:
            raise
        line({"type": "error", **error.to_dict()})
        raise typer.Exit(error.exit_code) from error

"""One table as Markdown, HTML and CSV, and numbers as its cells show them."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """One table of a report.

    Attributes:
        title: above it.
        header: of its columns.
        rows: cells as text.
        kinds: of each row: "measured", "paper" or "missing".
        notes: sentences below it.
    """

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, cells: Iterable[Any], kind: str = "measured") -> None:
        """Append a row."""
        self.rows.append([str(cell) for cell in cells])
        self.kinds.append(kind)

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [f"## {self.title}", ""]
        if self.rows:
            marks = [" --- " if column < 2 else " ---: " for column in range(len(self.header))]
            body = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
            lines += [f"| {' | '.join(body[0])} |", f"|{'|'.join(marks)}|"]
            lines += [f"| {' | '.join(row)} |" for row in body[1:]]
            lines.append("")
        lines += [f"{note}\n" for note in self.notes]
        return "\n".join(lines)

    def html(self) -> str:
        """A section of a page."""
        parts = [f"<h2>{html.escape(self.title)}</h2>"]
        if self.rows:
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
            body = "".join(
                f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row, kind in zip(self.rows, self.kinds, strict=True)
            )
            parts.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')
        parts += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        return "".join(parts)


def as_csv(header: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Lines under the header; what a line lacks stays empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def mean_sd(found: Mapping[str, Any] | None, digits: int) -> str:
    """As a cell; "-" for nothing, no deviation of a single value."""
    if found is None:
        return "-"
    sd = "" if math.isnan(found["sd"]) else f" ± {found['sd']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{sd}"


def interval(found: Mapping[str, Any] | None, digits: int) -> str:
    """Mean with its interval as a cell; "-" for nothing."""
    if not found:
        return "-"
    ends = "" if math.isnan(found["low"]) else f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return f"{found['mean']:.{digits}f}{ends}"


def fact(value: Any) -> str:
    """As a cell, thousands apart."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def number(value: float) -> str:
    """As a CSV shows it; nothing for not a number."""
    return "" if math.isnan(value) else f"{value:.6g}"

"""The paper's four tables: which rows they have, what the paper measured in them, and which model makes which row."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from axon_core.baselines.models import open_model
from axon_core.baselines.registry import find
from axon_core.errors import AxonError, ConfigError
from axon_core.evaluation.compare import Failure
from axon_core.evaluation.methods import FixedMethod, Method, ModelMethod, trivial_methods
from axon_core.geometry import CanonicalGrid
from axon_core.model import AxonModel, find_model
from axon_core.pipeline import COARSE, FINE, SUPER
from axon_core.walks import Quality

SUITES = {
    "table1": ("Methods with one film", (1,)),
    "table2": ("One film and two", (1, 2)),
    "table3": ("Super-resolution: twice the voxels along each edge", (1, 2)),
    "table4": ("Ablations: models trained otherwise", (1,)),
}
MAIN = ("MAE", "MSE", "PSNR", "SSIM")  # what the paper gives


@dataclass(frozen=True)
class PaperRow:
    """One line of a table of arXiv 2603.26509: `values` are (mean, sd) by the names of MAIN; `n` cases of `data`."""

    row: str
    data: str
    n: int
    method: str
    views: int
    grid: int
    values: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """One line to be measured.

    Attributes:
        row: key of the paper's row, "" where it has none.
        label: for the table.
        model: name or folder.
        stages: after F(x).
        enlarged: see `methods.ModelMethod`.
    """

    row: str
    label: str
    model: str
    stages: tuple[str, ...] = ()
    enlarged: bool = False


@cache
def paper_rows(suite: str) -> tuple[PaperRow, ...]:
    """The lines of one of the paper's tables, in its order."""
    text = (Path(__file__).parent / "paper.csv").read_text(encoding="utf-8")
    return tuple(
        PaperRow(
            line["row"],
            line["data"],
            int(line["n"]),
            line["method"],
            int(line["views"]),
            int(line["grid"]),
            {name: (line[name], line[f"{name} sd"]) for name in MAIN},
        )
        for line in csv.DictReader(text.splitlines())
        if line["table"] == suite
    )


def rows_of(suite: str, models: Sequence[str]) -> tuple[list[Row], list[Failure]]:
    """The lines that the named models make, and those models that cannot be read.

    Args:
        suite: key of SUITES.
        models: names or folders, or ROW=NAME; in table 3 and 4 ROW says which row of the paper's it is, elsewhere it is
            a name for the table.

    Errors:
        ConfigError: no such table, no model, or a row that the table does not have.
    """
    if suite not in SUITES:
        raise ConfigError("evaluate.suite", f"There is no table {suite!r}.", f"Use one of {', '.join(SUITES)}.")
    if not models:
        raise ConfigError("evaluate.models", "No model was named.", "Give --models axon-small, or folders of models.")
    rows: list[Row] = []
    failures: list[Failure] = []
    for spec in models:
        name, model = _parted(spec)
        if suite == "table4" and name not in _row_names(suite):
            raise ConfigError(
                "evaluate.row",
                f"Table 4 has no row {name!r}." if name else f"Which row of table 4 is {spec!r}?",
                f"Give ROW=FOLDER with a ROW of {', '.join(_row_names(suite))}.",
            )
        try:
            rows += _rows_of_model(suite, name, model)
        except AxonError as error:
            failures.append(Failure("", name or os.path.basename(model.rstrip("/")), 0, error.title))
    return _told_apart(rows), failures


def missing_rows(suite: str, rows: Sequence[Row]) -> list[PaperRow]:
    """Rows of the paper's table that no model was named for, each once for each number of films."""
    given = {row.row for row in rows}
    first: dict[tuple[str, int], PaperRow] = {}
    for line in paper_rows(suite):
        first.setdefault((line.row, line.views), line)
    return [line for line in first.values() if line.row not in given]


def open_rows(
    rows: Sequence[Row], quality: Quality, device: str, trivial: Sequence[Path] = ()
) -> tuple[list[Method], list[Failure]]:
    """The methods of a table, and those that cannot be opened.

    Args:
        rows: see `rows_of`.
        quality: steps of the bridge and of FineDiff.
        device: of the models.
        trivial: .npy files with mean volumes of the training CTs, whose methods come first.
    """
    methods: list[Method] = []
    failures: list[Failure] = []
    for path in trivial:
        methods += trivial_methods(np.load(path, allow_pickle=False))
    opened: dict[str, AxonModel] = {}
    for row in rows:
        try:
            if row.model not in opened:
                opened[row.model] = open_model(row.model).to(device)
            methods.append(ModelMethod(opened[row.model], row.label, row.stages, quality, row.enlarged))
        except AxonError as error:
            failures.append(Failure("", row.label, 0, error.title))
        except Exception as error:  # weights that no network fits, memory
            failures.append(Failure("", row.label, 0, f"Internal error: {type(error).__name__}."))
    return methods, failures


def methods_of(rows: Sequence[Row], quality: Quality, device: str, trivial: Sequence[Path] = ()) -> list[Method]:
    """The methods alone, for a process that opens what another has opened before."""
    return open_rows(rows, quality, device, trivial)[0]


def is_trivial(method: Method) -> bool:
    """Whether it does not look at films."""
    return isinstance(method, FixedMethod)


def _parted(spec: str) -> tuple[str, str]:
    """ROW=FOLDER, or a name or folder alone."""
    if "=" not in spec or os.path.isdir(spec):
        return "", spec
    name, model = spec.split("=", 1)
    return name.strip(), model


def _row_names(suite: str) -> list[str]:
    return list(dict.fromkeys(line.row for line in paper_rows(suite)))


def _rows_of_model(suite: str, name: str, model: str) -> list[Row]:
    info = find_model(model)
    if info.config.extent_mm != CanonicalGrid.extent_mm:
        raise ConfigError("evaluate.extent", f"Its volumes are {info.config.extent_mm:g} mm wide, the data not.", "")
    trained = tuple(stage for stage in (COARSE, FINE) if stage in info.card.stages)
    titles = {line.row: line.method for line in paper_rows(suite)}
    called = titles.get(name, name)
    if info.baseline:
        key = str(info.baseline["name"])
        return [Row(name if name in titles else key, called or find(key).title, model)]
    prefix = name or "AXON"
    if suite == "table4":
        if name.startswith("coarse"):
            return [Row(name, called, model, (COARSE,))]
        return [Row(name, called, model, (FINE,) if name.startswith("fine") else trained)]
    if suite == "table3":
        best = tuple(stage for stage in trained if stage in info.card.default_stages)
        own = "" if name in titles else "axon"
        label = f"{prefix}, {' + '.join(('F(x)', *best))}"
        fine = Row(
            name if name in titles else "", called if name in titles else f"{prefix} γ = 2", model, (*best, SUPER)
        )
        return [Row(own, label, model, best), Row("", f"{label}, trilinear x2", model, best, True), fine]
    rows = [Row("", f"{prefix} F(x)", model)]
    if COARSE in trained:
        rows.append(Row("axon-coarse", f"{prefix} CoarseDiff", model, (COARSE,)))
    if FINE in trained:
        rows.append(Row("axon", prefix, model, trained))
    return rows


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """With the model's name added to labels that would stand twice."""
    labels = [row.label for row in rows]
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        Row(row.row, f"{row.label} ({os.path.basename(row.model.rstrip('/'))})", row.model, row.stages, row.enlarged)
        if row.label in twice
        else row
        for row in rows
    ]

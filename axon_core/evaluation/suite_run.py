"""`axon evaluate`: from models and data to a folder with tables and pictures.

report.md, report.html, report.csv   the tables; the page holds its pictures
scores.csv                           every sample of every case
figures/                             PNG, 200 dpi
scores/                              the records from which a later run goes on, and volumes for the pictures
evaluation.json                      what was asked
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.data.plan import read_plan
from axon_core.devices import resolve_device
from axon_core.errors import ConfigError, ModelError, OutputError
from axon_core.evaluation import figures
from axon_core.evaluation.cases import EvalCase, cache_cases, ct_cases, mean_volume, same_patients
from axon_core.evaluation.compare import Comparison, Failure, Record, Settings, mean_label, volumes_of
from axon_core.evaluation.methods import Method
from axon_core.evaluation.processes import evaluate_in_processes
from axon_core.evaluation.suites import SUITES, is_trivial, methods_of, open_rows, rows_of
from axon_core.evaluation.table_formats import Table
from axon_core.evaluation.tables import Data, Report, scores_csv
from axon_core.evaluation.uncertainty import Calibration
from axon_core.files import atomic_file
from axon_core.pipeline import PRESETS

MARK = "evaluation.json"
COLUMNS = 7  # methods in a figure

Told = Callable[[int, int, Record | Failure | None], None]  # done, of how many, the last


@dataclass(frozen=True)
class SuiteJob:
    """What to compare, on which data, and where to write it.

    Attributes:
        suite: key of `suites.SUITES`.
        models: names, folders, or ROW=NAME.
        output: folder; one that an earlier run has begun is gone on with.
        data: cache of `axon prepare`; or
        cts: CT files, whose films are drawn, with
        train_cts: those of training, for the trivial rows.
        split: part of the cache.
        seeds: of methods that draw samples.
        views: numbers of films; empty for the table's own.
        window: HU window of the errors; "" for the widest that all methods cover.
        preset: steps of AXON's stages, key of `pipeline.PRESETS`.
        reference: label of the row from which those of its grid are subtracted; "" for the mean volume of each grid.
        pictures: number of cases that are pictured.
        processes: 0 for as many as there are cores on a CPU, one on a GPU.
        device: "auto", "cpu", "cuda" or "mps".
    """

    suite: str
    models: tuple[str, ...]
    output: str
    data: str = ""
    cts: tuple[str, ...] = ()
    train_cts: tuple[str, ...] = ()
    split: str = "test"
    seeds: tuple[int, ...] = (0,)
    views: tuple[int, ...] = ()
    window: str = ""
    preset: str = "fast"
    reference: str = ""
    pictures: int = 1
    processes: int = 0
    device: str = "auto"


@dataclass
class SuiteResult:
    """What a job has made: kind -> path, the tables, and the records."""

    files: dict[str, Path]
    report: Report
    comparison: Comparison
    pictures: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "files": {kind: str(path) for kind, path in self.files.items()},
            "pictures": [str(path) for path in self.pictures],
            "window": self.report.window,
            "references": self.report.references,
            "rows": [
                {"method": label, "films": views, "metrics": _finite(row)}
                for (label, views), row in self.report.rows.items()
            ],
            "failures": [dataclasses.asdict(failure) for failure in self.comparison.failures],
        }


def run_suite(job: SuiteJob, told: Told = lambda *_: None) -> SuiteResult:
    """Compare, and write the report.

    Args:
        job: see `SuiteJob`.
        told: called when the work is known (with None), and after each unit of it.

    Errors:
        ConfigError: unusable options or data. ModelError: no model can be opened. OutputError: the disk refuses.
    """
    if job.preset not in PRESETS:
        raise ConfigError("evaluate.preset", f"Unknown quality preset {job.preset!r}.", f"Use {', '.join(PRESETS)}.")
    if bool(job.data) == bool(job.cts):
        raise ConfigError("evaluate.data", "Either --data CACHE or --ct CT.", "Name one of them.")
    rows, failures = rows_of(job.suite, job.models)
    views = job.views or SUITES[job.suite][1]
    device = resolve_device(job.device)
    quality = PRESETS[job.preset]
    methods, unopened = open_rows(rows, quality, device)
    failures += unopened
    if not methods:
        raise ModelError("evaluate.no-model", f"No model can be compared: {failures[0].reason}", "Name others.")
    cases, train, data = _cases(job, max(method.size for method in methods))
    output = Path(job.output)
    _claim(output, job)
    trivial = [_mean_file(output, train, size) for size in sorted({method.size for method in methods})] if train else []
    good = {method.label for method in methods}
    opener = partial(methods_of, [row for row in rows if row.label in good], quality, device, trivial)
    methods = opener()
    references = _references(job, methods, len(job.seeds))
    settings = Settings(views, job.seeds, job.window, tuple(case.name for case in cases[: job.pictures]))
    total = len(cases) * len(methods) * len(views)
    told(0, total, None)
    done = 0

    def count(outcome: Record | Failure) -> None:
        nonlocal done
        done += 1
        told(done, total, outcome)

    processes = job.processes or (_cores() if device == "cpu" else 1)
    comparison = evaluate_in_processes(methods, opener, cases, output / "scores", settings, processes, count)
    comparison.failures[:0] = failures
    report = Report(job.suite, _title(job), comparison, rows, data, views, references)
    pictures = _draw(comparison, methods, settings, output) if job.pictures else []
    return SuiteResult(_write(output, report, comparison, pictures), report, comparison, pictures)


# --- before the work -------------------------------------------------------------------------------------------------


def _cases(job: SuiteJob, largest: int) -> tuple[Sequence[EvalCase], Sequence[EvalCase], Data]:
    """Cases to compare on, those of training, and what the tables say about them."""
    if job.data:
        plan = read_plan(job.data)
        train = cache_cases(job.data, "train") if plan.split("train") else []
        name = Path(job.data).resolve().name
        return cache_cases(job.data, job.split), train, Data(name, job.split, plan.layout.stretched, _note(train))
    cases, train_cts = ct_cases(job.cts, largest), ct_cases(job.train_cts, largest)
    if both := same_patients(train_cts, cases):
        raise ConfigError("evaluate.leak", f"{both[0]} is named for training and for the test.", "Name it once.")
    return cases, train_cts, Data("CT files", "-", False, _note(train_cts))


def _note(train: Sequence[EvalCase]) -> tuple[str, ...]:
    if train:
        return (f"The constant and the mean volume are those of {len(train)} training CTs.",)
    return ("Constant and mean volume: not given, as no training CTs were named.",)


def _claim(output: Path, job: SuiteJob) -> None:
    """Make the folder ours, or find it so."""
    if output.is_dir() and any(output.iterdir()) and not (output / MARK).is_file():
        raise OutputError("output.foreign-folder", f"{output.name} holds other things.", "Choose a new folder.")
    record = {"version": __version__, "job": dataclasses.asdict(job)}
    _write_text(output / MARK, json.dumps(record, indent=1) + "\n")


def _mean_file(output: Path, train: Sequence[EvalCase], size: int) -> Path:
    """The mean volume of the training CTs, made once."""
    told = json.dumps([size, sorted(case.key() for case in train)])
    path = output / "scores" / f"mean-{hashlib.sha256(told.encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        volume = mean_volume(train, size)
        with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
            np.save(file, volume)
    return path


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _title(job: SuiteJob) -> str:
    return f"Table {job.suite[-1]}. {SUITES[job.suite][0]}"


def _references(job: SuiteJob, methods: Sequence[Method], seeds: int) -> dict[int, str]:
    """Voxels along an edge -> the row with which those of this grid are compared; see `SuiteJob`."""
    sizes = {method.label: method.size for method in methods}
    sizes |= {mean_label(method.label, seeds): method.size for method in methods if method.random and seeds > 1}
    if not job.reference:
        return {method.size: method.label for method in methods if is_trivial(method)}  # the last is the mean volume
    if job.reference not in sizes:
        raise ConfigError("evaluate.reference", f"There is no row {job.reference!r}.", f"Rows: {'; '.join(sizes)}.")
    return {sizes[job.reference]: job.reference}


# --- pictures --------------------------------------------------------------------------------------------------------


def _draw(comparison: Comparison, methods: Sequence[Method], settings: Settings, output: Path) -> list[Path]:
    """Every picture of the report, drawn anew."""
    made: list[Path] = []
    folder = output / "figures"
    for views in settings.views:
        for case in settings.pictures:
            records = [r for r in comparison.records if (r["case"], r["views"]) == (case, views)]
            if records:
                made += _draw_case(records, case, views, folder, output / "scores")
        curves: dict[str, list[Calibration]] = {}
        for record in comparison.records:
            if record["calibration"] and record["views"] == views:
                curves.setdefault(record["method"], []).append(Calibration(**record["calibration"]))
        if curves:
            path = folder / f"calibration-{views}.png"
            figures.calibration_curve({label: _pooled(many) for label, many in curves.items()}, path)
            made.append(path)
    return made


def _draw_case(records: Sequence[Record], case: str, views: int, folder: Path, scores: Path) -> list[Path]:
    volumes: dict[str, np.ndarray] = {}
    seeds: dict[str, dict[str, np.ndarray]] = {}
    truth, films, known, extent = np.empty((0,)), np.empty((0,)), np.empty((0,)), (1.0, 1.0, 1.0)
    for record in records:
        with np.load(volumes_of(scores, record), allow_pickle=False) as file:
            label, samples = record["method"], file["samples"]
            if np.ptp(samples[0]):  # a constant is no picture
                volumes[label] = samples[0]
            if record["mean"] is not None:
                mean = mean_label(label, len(record["seeds"]))
                volumes[mean] = file["mean"]
                shown = zip(record["seeds"], samples, strict=False)
                seeds[label] = {f"seed {seed}": sample for seed, sample in shown} | {"mean": file["mean"]}
            if len(file["truth"]) > len(truth):
                truth, known = file["truth"], file["known"]
            films = file["films"] if file["films"].size and record["films"] else films
            extent = tuple(float(value) for value in file["extent_mm"])  # type: ignore[assignment]
    title = f"{case}, {views} film{'s' * (views > 1)}"
    stem = re.sub(r"[^\w.-]", "_", case)
    made = []

    def path(kind: str) -> Path:
        made.append(folder / f"{stem}-{views}-{kind}.png")
        return made[-1]

    shown_films = list(films) if films.size else []
    labels = list(volumes)
    for first in range(0, len(labels), COLUMNS):
        part = {label: volumes[label] for label in labels[first : first + COLUMNS]}
        number = f"-{first // COLUMNS + 1}" if len(labels) > COLUMNS else ""
        figures.compare(
            {**part, "CT": truth}, path(f"slices{number}"), films=shown_films, title=title, extent_mm=extent
        )
        figures.errors(part, truth, path(f"errors{number}"), known=known, title=title, extent_mm=extent)
    for place, (label, shown_seeds) in enumerate(seeds.items(), 1):
        columns = {**shown_seeds, "CT": truth}
        figures.compare(columns, path(f"seeds-{place}"), title=f"{title}: {label}", extent_mm=extent, solid=False)
    return made


def _pooled(curves: Sequence[Calibration]) -> Calibration:
    """The mean over cases, of the curve bin by bin as root mean squares."""

    def mean(name: str) -> Any:
        return np.mean([getattr(curve, name) for curve in curves], 0)

    def rms(name: str) -> tuple[float, ...]:
        squares = np.square([getattr(curve, name) for curve in curves])
        return tuple(np.sqrt(squares.mean(0)).tolist())

    return Calibration(
        float(mean("pearson")),
        float(mean("spearman")),
        tuple(mean("coverage").tolist()),
        tuple(mean("expected").tolist()),
        rms("predicted"),
        rms("found"),
        curves[0].seeds,
    )


# --- files -----------------------------------------------------------------------------------------------------------


def _write(output: Path, report: Report, comparison: Comparison, pictures: Sequence[Path]) -> dict[str, Path]:
    files = {
        "markdown": output / "report.md",
        "page": output / "report.html",
        "table": output / "report.csv",
        "scores": output / "scores.csv",
    }
    shown = [f"![{path.stem}](figures/{path.name})" for path in pictures]
    heading = f"# {report.title}\n\n**{SYNTHETIC_NOTICE}.** axon-core {__version__}.\n"
    _write_text(files["markdown"], "\n".join([heading, *(table.markdown() for table in report.tables), *shown]) + "\n")
    _write_text(files["page"], _page(report.title, report.tables, pictures))
    _write_text(files["table"], report.csv())
    _write_text(files["scores"], scores_csv(comparison))
    return files


def _page(title: str, tables: Sequence[Table], pictures: Sequence[Path]) -> str:
    template = Path(__file__).with_name("comparison.html").read_text(encoding="utf-8")
    images = "".join(
        f'<figure><img alt="{html.escape(path.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for path in pictures
    )
    values = {
        "title": html.escape(title),
        "notice": html.escape(SYNTHETIC_NOTICE),
        "version": __version__,
        "first": tables[0].html(),
        "pictures": images,
        "others": "".join(table.html() for table in tables[1:]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    """For JSON: None for what is no number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value if not isinstance(value, float) or np.isfinite(value) else None

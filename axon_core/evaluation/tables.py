"""From the records of a comparison to the tables of its report, and to CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from axon_core.evaluation.compare import Comparison, Failure, Record
from axon_core.evaluation.methods import FACTS, NOT_STATED
from axon_core.evaluation.scores import METRICS
from axon_core.evaluation.statistics import table as estimates
from axon_core.evaluation.suites import MAIN, PaperRow, Row, missing_rows, paper_rows
from axon_core.evaluation.table_formats import Table, as_csv, fact, interval, mean_sd, number
from axon_core.evaluation.uncertainty import KS
from axon_core.intensity import WINDOWS

NOT_GIVEN = "not given"
SECOND = ("edges", "spectrum", "SSIM zero-padded", "SSIM slice-wise", "PSNR X2CT")
TISSUE = ("MAE body", "MAE lung", "MAE bone", "lung volume error", "NCC frontal", "NCC lateral")
COMPARED = ("MAE", "PSNR", "SSIM")  # whose intervals and differences are printed


@dataclass(frozen=True)
class Data:
    """Which data were compared on, for the tables.

    Attributes:
        name: of the cache, or "CT files".
        split: "test", ...; "-" for CT files.
        stretched: whether CTs were rescaled to the cube axis by axis, as the paper's.
        notes: sentences that belong below the tables.
    """

    name: str
    split: str
    stretched: bool = False
    notes: tuple[str, ...] = ()


class Report:
    """All tables of a comparison.

    Attributes:
        rows: (label, views) -> metric -> estimate, see `statistics.table`.
        references: labels of the rows from which differences are taken, each by the rows of its grid.
        window: name of the HU window of the errors.
        tables: in order.
    """

    def __init__(
        self,
        suite: str,
        title: str,
        comparison: Comparison,
        rows: Sequence[Row],
        data: Data,
        views: Sequence[int],
        references: Mapping[int, str],
    ) -> None:
        self.suite, self.title, self.comparison, self.data, self.views = suite, title, comparison, data, views
        self.slots = {row.label: row.row for row in rows}
        self.missing = [line for line in missing_rows(suite, rows) if line.views in views]
        self.first: dict[tuple[str, int], Record] = {}
        for record in comparison.records:
            self.first.setdefault((record["method"], record["views"]), record)
        self.rows: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        self.of: dict[str, str] = {}  # label of a row -> label of its method
        for count in views:
            scores = comparison.scores(count)
            labels = sorted(self._methods(), key=len, reverse=True)
            self.of |= {label: next(method for method in labels if label.startswith(method)) for label in scores}
            size_of = {label: self.first[self.of[label], count]["size"] for label in scores}
            found: dict[str, dict[str, dict[str, Any]]] = {}
            for size in set(size_of.values()):  # errors on different grids are not subtracted
                same = {label: cases for label, cases in scores.items() if size_of[label] == size}
                reference = references.get(size)
                found |= estimates(same, reference if reference in same else None, comparison.patients())
            self.rows |= {(label, count): found[label] for label in scores}
        self.shown = [
            (label, count)
            for label, count in self.rows
            if count == views[0] or self.first[self.of[label], count]["films"]  # what looks at no film is shown once
        ]
        self.references = list(references.values())
        self.window = comparison.records[0]["window"] if comparison.records else ""
        self.tables = [
            self._main(),
            *self._other_windows(),
            self._intervals(),
            self._more("Sharpness and other conventions", SECOND),
            self._more("Tissue, in HU, and films", TISSUE),
            *self._uncertainty(),
            self._made(),
            *self._failures(comparison.failures),
            self._definitions(),
        ]

    def _films(self, label: str, views: int) -> str:
        return str(views) if self.first[self.of[label], views]["films"] else "-"

    def _methods(self) -> set[str]:
        return {label for label, _ in self.first}

    # --- the tables ---

    def _main(self) -> Table:
        window = WINDOWS[self.window] if self.window else None
        where = f"HU window [{window.low:g}, {window.high:g}]" if window else "nothing was measured"
        table = Table(f"{self.title}: {where}", ["method", "from", "films", "grid", "n", *map(_head, MAIN)])
        self._fill(table, "")
        table.notes += [
            "Mean ± standard deviation over patients. Rows marked paper are printed from arXiv 2603.26509 and are not "
            f"compared with the others: {'; '.join(self._differences())}.",
            *self.data.notes,
        ]
        return table

    def _other_windows(self) -> list[Table]:
        tables = []
        for window in WINDOWS.values():
            suffix = f" [{window.name}]"
            if any(f"PSNR{suffix}" in row for row in self.rows.values()):
                title = f"The same volumes in the HU window [{window.low:g}, {window.high:g}]"
                table = Table(title, ["method", "from", "films", "grid", "n", *map(_head, MAIN)])
                self._fill(table, suffix)
                tables.append(table)
        return tables

    def _fill(self, table: Table, suffix: str) -> None:
        """Trivial rows, rows that the paper does not have, then the paper's in its order, each beside ours."""
        for label, count in self.shown:
            if not self.slots.get(self.of[label], ""):
                self._measured(table, label, count, suffix)
        placed: set[tuple[str, int]] = set()
        for line in paper_rows(self.suite):
            if line.views not in self.views:
                continue
            if (line.row, line.views) not in placed:
                placed.add((line.row, line.views))
                for label in self._labels(line.views, line.row):
                    self._measured(table, label, line.views, suffix)
                if line in self.missing:
                    table.add([line.method, "measured", line.views, "", 0, *[NOT_GIVEN] * len(MAIN)], "missing")
            self._printed(table, line)

    def _labels(self, views: int, slot: str) -> list[str]:
        return [label for label, count in self.shown if count == views and self.slots.get(self.of[label], "") == slot]

    def _measured(self, table: Table, label: str, views: int, suffix: str) -> None:
        row = self.rows[label, views]
        record = self.first[self.of[label], views]
        n = row.get("MAE", {}).get("n", 0)
        cells = [mean_sd(row.get(name + suffix), METRICS[name].digits) for name in MAIN]
        table.add([label, "measured", self._films(label, views), f"{record['size']}³", n, *cells])

    def _printed(self, table: Table, line: PaperRow) -> None:
        cells = [f"{mean} ± {sd}" for mean, sd in (line.values[name] for name in MAIN)]
        table.add([f"{line.method}, {line.data}", "paper", line.views, f"{line.grid}³", line.n, *cells], "paper")

    def _intervals(self) -> Table:
        title = "95 % intervals" + (f", and difference from {' or '.join(self.references)}" if self.references else "")
        header = ["method", "films", *(f"{name} {part}" for name in COMPARED for part in ("mean", "difference", "p"))]
        table = Table(title, header)
        for label, views in self.shown:
            row = self.rows[label, views]
            cells: list[Any] = [label, self._films(label, views)]
            for name in COMPARED:
                digits, found = METRICS[name].digits, row.get(name, {})
                cells.append(interval(found, digits))
                difference = found.get("difference")
                cells += [interval(difference, digits), f"{difference['p']:.3f}"] if difference else ["", ""]
            table.add(cells)
        table.notes.append(
            "Bootstrap over patients, 10,000 draws, the interval expanded for few patients (Hesterberg 2015); of two "
            "or three patients it is only the range of what they can give. p: paired sign-flip test, exact up to 14 "
            "patients; with n patients it is never below 2 / 2^n."
        )
        return table

    def _more(self, title: str, names: Sequence[str]) -> Table:
        shown = [name for name in names if any(name in self.rows[key] for key in self.shown)]
        table = Table(title, ["method", "films", *map(_head, shown)])
        for label, views in self.shown:
            row = self.rows[label, views]
            cells = (mean_sd(row.get(name), METRICS[name].digits) for name in shown)
            table.add([label, self._films(label, views), *cells])
        ceilings: dict[str, list[float]] = {}
        for record in self.first.values():
            for name, value in record["ct"].items():
                ceilings.setdefault(name, []).append(value)
        if names == TISSUE and ceilings:
            told = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in ceilings.items())
            table.notes.append(f"The CTs themselves, re-projected the same way, give {told}: no method need be above.")
        return table

    def _uncertainty(self) -> list[Table]:
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for record in self.comparison.records:
            if record["calibration"]:
                found.setdefault((record["method"], record["views"]), []).append(record["calibration"])
        if not found:
            return []
        names = [f"within {k:g} spread (calibrated)" for k in KS]
        table = Table("Spread over seeds against error", ["method", "films", "seeds", "Pearson", "Spearman", *names])
        for (label, views), curves in found.items():
            covered, expected = (np.mean([curve[key] for curve in curves], 0) for key in ("coverage", "expected"))
            shares = [f"{a:.2f} ({b:.2f})" for a, b in zip(covered, expected, strict=True)]
            ranks = [f"{np.mean([curve[key] for curve in curves]):.2f}" for key in ("pearson", "spearman")]
            table.add([label, views, curves[0]["seeds"], *ranks, *shares])
        table.notes.append(
            "Voxels of the CT's body, means over cases: correlation of the spread with the absolute error of the mean, "
            "and the share of voxels whose CT lies within the mean ± k spread, beside what it would be if CT and "
            "samples were draws from one law."
        )
        return [table]

    def _made(self) -> Table:
        header = ["method", "films", "data", "split", "n", "films shown", "seeds", "HU window of errors", *FACTS]
        table = Table("How each row was made", header)
        for label, views in self.shown:
            if label not in self._methods():  # the mean of a method that stands there
                continue
            record = self.first[label, views]
            same = [r for r in self.comparison.records if (r["method"], r["views"]) == (label, views)]
            shown = Counter(f"{name} {kind}" for r in same for name, kind in r["films"].items())
            films = ", ".join(f"{count} {what}" for what, count in shown.items())
            seeds = ", ".join(map(str, record["seeds"])) if record["random"] else "-"
            facts = record["facts"]
            told = [fact(facts.get(name, NOT_STATED)) for name in FACTS]
            table.add(
                [
                    label,
                    self._films(label, views),
                    self.data.name,
                    self.data.split,
                    len(same),
                    films,
                    seeds,
                    self.window,
                    *told,
                ]
            )
        return table

    def _failures(self, failures: Sequence[Failure]) -> list[Table]:
        if not failures:
            return []
        table = Table("What could not be done", ["method", "case", "films", "why"])
        for failure in failures:
            table.add([failure.method, failure.case or "every case", failure.views or "", failure.reason], "missing")
        return [table]

    def _definitions(self) -> Table:
        table = Table("What the numbers mean", ["name", "unit", "best", "definition"])
        for metric in METRICS.values():
            table.add([metric.name, metric.unit or "-", metric.best, metric.definition])
        table.notes.append(
            "Volumes are clipped to the HU window and judged over the slices that the CT covers. LPIPS and other "
            "distances between features of a network are left out: their weights would have to be fetched."
        )
        return table

    def _differences(self) -> list[str]:
        """Why the paper's figures are not comparable."""
        found = ["the paper's split is not published"]
        if self.window and self.window != "axon-paper":
            found.append("its HU window is [-100, 900]")
        if not self.data.stretched:
            found.append("it stretches each CT to the grid")
        sizes = {record["size"] for record in self.first.values()}
        if sizes - {128, 256}:
            found.append("its grid has 128 voxels along each edge, in table 3 also 256")
        if any(kind != "real" for r in self.comparison.records for kind in r["films"].values()):
            found.append("its test films are real, with 25 patients (16 with two films)")
        return found

    # --- for other programs ---

    def csv(self) -> str:
        """One line for each row of the tables, the paper's included: estimates of every metric, and how it was made."""
        names = list(dict.fromkeys([*MAIN, *(name for row in self.rows.values() for name in row)]))
        keys = ("mean", "sd", "low", "high")
        extra = ("difference", "difference low", "difference high", "p")
        made = ["data", "split", "films shown", "seeds", "window of errors", *FACTS]
        header = ["method", "from", "row", "films", "grid", "n", *made]
        header += [f"{name} {key}" for name in names for key in (*keys, *extra)]
        lines: list[dict[str, Any]] = []
        for (label, views), row in self.rows.items():
            record = self.first[self.of[label], views]
            line: dict[str, Any] = {
                "method": label,
                "from": "measured",
                "row": self.slots.get(self.of[label], ""),
                "films": views,
                "grid": record["size"],
                "n": row["MAE"]["n"],
                "data": self.data.name,
                "split": self.data.split,
                "films shown": " ".join(f"{name}:{kind}" for name, kind in record["films"].items()),
                "seeds": " ".join(map(str, record["seeds"])) if record["random"] else "-",
                "window of errors": self.window,
                **record["facts"],
            }
            for name, found in row.items():
                line |= {f"{name} {key}": number(found[key]) for key in keys}
                if difference := found.get("difference"):
                    told = (difference["mean"], difference["low"], difference["high"], difference["p"])
                    line |= {f"{name} {key}": number(value) for key, value in zip(extra, told, strict=True)}
            lines.append(line)
        for paper in paper_rows(self.suite):
            line = {"method": paper.method, "from": "paper", "row": paper.row, "films": paper.views}
            line |= {"grid": paper.grid, "n": paper.n, "data": paper.data}
            for name, (mean, sd) in paper.values.items():
                line |= {f"{name} mean": mean, f"{name} sd": sd}
            lines.append(line)
        return as_csv(header, lines)


def scores_csv(comparison: Comparison) -> str:
    """One line for each sample of each method on each case, and for the means over seeds."""
    lines = []
    for record in comparison.records:
        told = {"case": record["case"], "method": record["method"], "films": record["views"], "grid": record["size"]}
        for seed, values in zip(record["seeds"], record["samples"], strict=True):
            lines.append({**told, "seed": seed, **values})
        if record["mean"] is not None:
            lines.append({**told, "seed": "mean", **record["mean"]})
    names = list(dict.fromkeys(name for line in lines for name in line))
    return as_csv(names or ["case"], lines)


def _head(name: str) -> str:
    metric = METRICS[name]
    return f"{name} [{metric.unit}]" if metric.unit else name

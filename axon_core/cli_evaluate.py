"""`axon evaluate`: models and baselines on the same cases, as the paper's tables. Heavy imports are inside."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from axon_core.cli_shared import Debug, Json, console, examples, told

if TYPE_CHECKING:
    from axon_core.evaluation.compare import Failure, Record
    from axon_core.evaluation.suite_run import SuiteResult


class Suite(str, Enum):
    """The paper's tables."""

    table1 = "table1"
    table2 = "table2"
    table3 = "table3"
    table4 = "table4"


class Split(str, Enum):
    """Parts of a cache."""

    train = "train"
    val = "val"
    test = "test"


class _SeveralValues(TyperCommand):
    """Lets ``--models a b c`` stand for ``--models a --models b --models c``."""

    lists = ("--models", "-m", "--ct", "--train-ct")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-") and arg != "-":
                option = arg if arg in self.lists else ""
                spread += [] if option else [arg]
            else:
                spread += [option, arg] if option else [arg]
        return super().parse_args(ctx, spread)


def register(app: typer.Typer) -> None:
    """Add this command to `axon`."""
    app.command(
        cls=_SeveralValues,
        epilog=examples(
            "axon evaluate --suite table1 --data cache --models axon-small runs/x2ct runs/rc -o report",
            "axon evaluate --suite table2 --ct test/*.nii.gz --train-ct train/*.nii.gz --models axon-small -o report",
            "axon evaluate --suite table3 --data cache --models with-syn=runs/a without-syn=runs/b -o report",
            "axon evaluate --suite table4 --data cache --models coarse-l2=runs/a coarse-l2-edge=runs/b -o report",
            "axon evaluate --suite table1 --data cache --models axon-small --seeds 4 --split val -o report",
        ),
    )(evaluate)


@told
def evaluate(
    suite: Annotated[
        Suite, typer.Option(help="Which of the paper's tables: methods, films, super-resolution, ablations.")
    ],
    models: Annotated[
        list[str],
        typer.Option(
            "--models", "-m", metavar="MODEL...", help="Names or folders; ROW=MODEL names a row of the table."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report; goes on in an unfinished one.")],
    data: Annotated[Path | None, typer.Option(help="Cache of `axon prepare`.")] = None,
    ct: Annotated[
        list[str] | None, typer.Option(metavar="CT...", help="CTs in place of a cache; films are drawn from them.")
    ] = None,
    train_ct: Annotated[
        list[str] | None, typer.Option(metavar="CT...", help="With --ct: the CTs of training, for the trivial rows.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Part of the cache.")] = Split.test,
    seeds: Annotated[str, typer.Option(help="Samples of random methods: a count (3), or a list (0,7,42).")] = "1",
    views: Annotated[str, typer.Option(help="Films: 1, 2 or 1,2. Default: the table's own.")] = "",
    window: Annotated[
        str, typer.Option(help="HU window of the errors: wide or axon-paper. Default: the widest that all cover.")
    ] = "",
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="Steps of AXON's stages: fast, quality or paper.")
    ] = "fast",
    reference: Annotated[
        str, typer.Option(help="Row from which those of its grid are subtracted. Default: the mean volume.")
    ] = "",
    pictures: Annotated[int, typer.Option(min=0, help="Cases to draw.")] = 1,
    processes: Annotated[int, typer.Option(min=0, help="0 for one per core, or one for a GPU.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare models and baselines on the same cases, beside the paper's figures: Markdown, CSV and a page.

    Goes on where an earlier run into the same folder stopped: what was computed for the same weights, case and settings
    is not computed again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from axon_core.config import parse_seeds
    from axon_core.errors import Cancelled
    from axon_core.evaluation.suite_run import SuiteJob, run_suite

    job = SuiteJob(
        suite=suite.value,
        models=tuple(models),
        output=str(output),
        data="" if data is None else str(data),
        cts=tuple(ct or ()),
        train_cts=tuple(train_ct or ()),
        split=split.value,
        seeds=parse_seeds(seeds),
        views=_views(views),
        window=window,
        preset=preset,
        reference=reference,
        pictures=pictures,
        processes=processes,
        device=device,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, disable=json_) as bar:
        task = bar.add_task("opening", total=None)

        def show(done: int, total: int, last: Record | Failure | None) -> None:
            bar.update(task, description="evaluating", completed=done, total=total)
            if last is not None and not isinstance(last, dict) and not json_:
                _tell_failure(last, bar.console)

        try:
            result = run_suite(job, show)
        except KeyboardInterrupt:
            stopped = Cancelled()
            stopped.advice = "What was finished is kept: the same command goes on."
            raise stopped from None
    if json_:
        print(json.dumps(result.to_dict()))
    else:
        _tell(result)


def _views(text: str) -> tuple[int, ...]:
    from axon_core.errors import ConfigError

    known = {"": (), "1": (1,), "2": (2,), "1,2": (1, 2)}
    if text not in known:
        raise ConfigError("evaluate.views", f"--views {text!r}.", "Give 1, 2 or 1,2.")
    return known[text]


def _tell(result: SuiteResult) -> None:
    from rich.markup import escape
    from rich.table import Table

    first = result.report.tables[0]
    shown = Table(*(escape(name) for name in first.header), box=None, header_style="bold", title=escape(first.title))
    for row, kind in zip(first.rows, first.kinds, strict=True):
        shown.add_row(*(escape(cell) for cell in row), style={"paper": "dim italic", "missing": "red"}.get(kind, ""))
    console().print(shown)
    for failure in result.comparison.failures:
        if not failure.case:
            _tell_failure(failure, console())
    for kind, path in result.files.items():
        console().print(f"  {kind:<9} {escape(str(path))}", soft_wrap=True)


def _tell_failure(failure: Failure, console: Any) -> None:
    from rich.markup import escape

    where = ", ".join(part for part in (failure.method, failure.case) if part)
    console.print(f"[red]left out[/] {escape(where)}: {escape(failure.reason)}", soft_wrap=True)

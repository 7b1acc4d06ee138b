"""`axon reproduce`: from CTs to the paper's tables in one command. Heavy libraries are imported inside."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axon_core.cli_data import percent
from axon_core.cli_progress import Stop, duration, errors_as_lines, line
from axon_core.cli_shared import Debug, console, examples, told
from axon_core.cli_train import Lines

if TYPE_CHECKING:
    from axon_core.reproduction.cost import Data
    from axon_core.reproduction.job import Job
    from axon_core.reproduction.record import Record

PAUSE_S = 30.0  # between two lines on a step at work, where the output is no terminal


def register(app: typer.Typer) -> None:
    """Add this command to `axon`."""
    app.command(
        epilog=examples(
            "axon reproduce -o reproduction --preset axon-paper --dry-run",
            "axon reproduce -o reproduction --preset base --yes",
            "axon reproduce -o reproduction --data my-cts --preset small --kept 3000",
            "axon reproduce -o reproduction --patients 1,3,10 --no-distill --baselines x2ct-gan",
        )
    )(reproduce)


@told
def reproduce(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything; goes on in an unfinished one.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="CTs of your own: a manifest (CSV) or a folder. Default: download LIDC-IDRI.")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", "-p", help="tiny, small, base, paper, or axon-paper.")] = "small",
    patients: Annotated[str, typer.Option(help="Of LIDC-IDRI, only these: 1,3,LIDC-IDRI-0010. Default: all.")] = "",
    split: Annotated[str, typer.Option(help="Percent of the patients for train,val,test.")] = "85,5,10",
    baselines: Annotated[
        str, typer.Option(help="Other methods to train, or none.")
    ] = "nearest,regression,repeat-concat,x2ct-gan,xray2ctpa",
    distill: Annotated[bool, typer.Option("--distill/--no-distill", help="Train few-step students too.")] = True,
    tables: Annotated[str, typer.Option(help="Of the paper's.")] = "table1,table2,table3",
    pictures: Annotated[int, typer.Option(min=0, help="Cases to draw for each table.")] = 1,
    seeds: Annotated[str, typer.Option(help="Samples of random methods: a count (4), or a list (0,7,42).")] = "4",
    kept: Annotated[
        int, typer.Option(min=0, help="Draw so many training chests once and keep them; 0 draws one per sample.")
    ] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps of every stage; 0 for the preset's.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random in training.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare; 0 for one per core.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell the plan.")] = False,
    json_: Lines = False,
    debug: Debug = False,
) -> None:
    """Data, training, other methods and the paper's tables in one go, with a plan of time and disk before it starts.

    Stop it any time: the same command goes on, and skips what is done.
    """
    from axon_core.config import parse_seeds
    from axon_core.data.prepare import default_workers
    from axon_core.reproduction.job import Job
    from axon_core.reproduction.record import Record

    with errors_as_lines(json_):
        job = Job(
            output,
            data,
            preset,
            _names(patients),
            percent(split),
            () if baselines == "none" else _names(baselines),
            distill,
            _names(tables),
            pictures,
            parse_seeds(seeds),
            seed,
            kept,
            steps,
            workers or default_workers(),
            device,
        )
        _tell_plan(job, Record.of(output), json_)
        if dry_run:
            return
        if not (yes or json_ or typer.confirm("Start?")):
            raise typer.Exit
        _go(job, json_)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


# --- the plan --------------------------------------------------------------------------------------------------------


def _tell_plan(job: Job, record: Record, as_json: bool) -> None:
    from axon_core.reproduction.cost import Cost, costs, device_rate
    from axon_core.reproduction.steps import steps
    from axon_core.training.trainer import make_fabric

    plan = steps(job)
    device = make_fabric("32", job.device).device
    data = _data(job)
    found = costs(job, data, device_rate(job, device))
    rows = [(step.name, found.get(step.name, Cost(0, 0)), record.done(step)) for step in plan]
    left = [cost for _, cost, is_done in rows if not is_done]
    seconds, size = sum(cost.seconds for cost in left), sum(cost.bytes for cost in left)
    place = next(path for path in (job.output, *job.output.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if as_json:
        facts = [{"step": name, "done": is_done, **vars(cost)} for name, cost, is_done in rows]
        line({"type": "plan", "cases": data.cases, "device": str(device), "free_bytes": free, "steps": facts})
        return
    from rich.table import Table

    table = Table("step", "time", "disk", "", box=None, header_style="bold")
    for name, cost, is_done in rows:
        table.add_row(name, duration(cost.seconds), _size(cost.bytes), "[green]done[/]" if is_done else "")
    console().print(table)
    console().print(
        f"{data.cases} CTs, preset {job.preset!r}, on {device}: about {duration(seconds)} and {_size(size)} to go; "
        f"{_size(free)} are free. Drawing chests and validation come on top.",
        soft_wrap=True,
    )
    if size > free:
        console().print("[yellow]Note:[/] the disk does not suffice.")


def _data(job: Job) -> Data:
    from axon_core.data import lidc
    from axon_core.data.manifest import read_source
    from axon_core.reproduction.cost import Data

    if job.data is not None:
        return Data(sum(row.ct is not None for row in read_source(job.data)))
    patients = lidc.chosen(lidc.paired(lidc.read_series(lidc.open_index())), job.patients)
    return Data(len(patients), 1e6 * lidc.missing(patients, job.lidc).megabytes)


def _size(count: float) -> str:
    """For people: 12 MB, 3.4 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return "-" if count < 1e4 else f"{count / 1e6:.2g} MB"


# --- the work --------------------------------------------------------------------------------------------------------


def _go(job: Job, as_json: bool) -> None:
    from axon_core.reproduction.record import Watch
    from axon_core.reproduction.steps import reproduce as run

    shown = console(stderr=True)
    last = time.monotonic()
    with Stop() as stop, shown.status("starting") as status:

        def tell(text: str) -> None:
            nonlocal last
            status.update(text)
            if not shown.is_terminal and text and time.monotonic() - last > PAUSE_S:
                last = time.monotonic()
                line({"type": "progress", "text": text}) if as_json else shown.print(f"  {text}", markup=False)

        def finished(number: int, count: int, name: str, told: str, seconds: float | None) -> None:
            if as_json:
                line({"type": "finished", "step": name, "result": told, "seconds": seconds})
                return
            took = "done before" if seconds is None else duration(seconds)
            console().print(f"{number}/{count} {name}: {told} ({took})", markup=False, soft_wrap=True)

        report = run(job, finished, Watch(tell, stop))
    line({"type": "result", "report": str(report)}) if as_json else print(report)

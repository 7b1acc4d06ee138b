"""The commands that bring training data into shape: `axon prepare`, `axon data lidc`, `axon data anatomy`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from axon_core.cli_shared import Debug, Force, Json, console, examples, told
from axon_core.errors import ConfigError

if TYPE_CHECKING:
    from axon_core.data.lidc import Patient
    from axon_core.data.plan import Plan
    from axon_core.data.prepare import Outcome

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Find and fetch public training data; make more of few CTs.",
    epilog=examples(
        "axon data lidc --list",
        "axon data lidc --download lidc --patients 1,3 --dry-run",
        "axon data anatomy cache -o shapes.safetensors",
    ),
)


def register(app: typer.Typer) -> None:
    """Add these commands to `axon`."""
    app.add_typer(data, name="data")
    app.command(
        epilog=examples(
            "axon prepare manifest.csv -o cache --preset small",
            "axon prepare folder-of-cts -o cache --workers 8 --split 80,10,10",
            "axon prepare lidc -o cache --preset axon-paper",
        )
    )(prepare)


# --- data ------------------------------------------------------------------------------------------------------------


@data.command(
    epilog=examples(
        "axon data lidc --list",
        "axon data lidc --download lidc --dry-run",
        "axon data lidc --download lidc --patients 1,3,LIDC-IDRI-0010",
        "axon data lidc --download lidc --resume && axon prepare lidc -o cache",
    )
)
@told
def lidc(
    list_: Annotated[bool, typer.Option("--list", help="Tell which patients have a CT and films.")] = False,
    download: Annotated[Path | None, typer.Option(metavar="DIR", help="Fetch them, with a manifest.")] = None,
    patients: Annotated[str, typer.Option(help="Only these: 1,3,LIDC-IDRI-0010. Default: all.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier download stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be fetched; no network.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """LIDC-IDRI patients with CT and X-ray films (CC BY 3.0), from the Imaging Data Commons. Needs the extra "lidc"."""
    from axon_core.data import lidc as source

    if list_ == (download is not None):
        raise ConfigError("cli.data", "Either --list or --download DIR.", "See `axon data lidc --help`.")
    client = source.open_index()
    every = source.paired(source.read_series(client))
    some = source.chosen(every, [name.strip() for name in patients.split(",") if name.strip()])
    if download is None:
        _tell_patients(some, json_)
        return
    wanted = source.missing(some, download)
    if not json_:
        console().print(
            f"Patients: {len(some)}; {len(wanted.series)} series to fetch ({wanted.megabytes / 1e3:.2f} GB; "
            f"{wanted.free_megabytes / 1e3:.0f} GB are free), {wanted.complete} are there."
        )
    manifest = None
    if not dry_run:
        manifest = source.download(
            client, some, download, resume, lambda *done: None if json_ else _tell_fetched(*done)
        )
    if json_:
        print(json.dumps({"manifest": None if manifest is None else str(manifest), **wanted.to_dict()}))
    elif manifest is not None:
        console().print(f"  {manifest}", soft_wrap=True)


@data.command(
    epilog=examples(
        "axon data anatomy cache -o shapes.safetensors",
        "axon data anatomy cache -o shapes.safetensors --device cuda",
        "axon train coarse cache -o run --anatomy shapes.safetensors",
    )
)
@told
def anatomy(
    cache: Annotated[Path, typer.Argument(help="Cache of `axon prepare`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the shapes, .safetensors.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Learn how the cache's training CTs differ in shape, so that training draws chests between and beyond them."""
    from axon_core.data.anatomy_fit import fit
    from axon_core.data.cache import CacheDataset
    from axon_core.devices import resolve_device

    if output.exists() and not force:
        raise ConfigError("cli.exists", f"{output.name} is there already.", "Choose another name, or use --force.")
    chests = list(CacheDataset(cache).chests)
    console().print(f"Registering {len(chests)} CTs to their mean: minutes on a CPU, seconds on a GPU.")
    fit(chests, device=resolve_device(device), progress=console().print).save(output)
    print(f"{output}: {len(chests)} shapes. Next: axon train coarse {cache} -o run --anatomy {output}")


def _tell_fetched(number: int, count: int, patient: Patient) -> None:
    console(stderr=True).print(f"{number}/{count} {patient.name}, {patient.megabytes:.0f} MB")


def _tell_patients(patients: list[Patient], as_json: bool) -> None:
    facts = [patient.to_dict() for patient in patients]
    if as_json:
        print(json.dumps({"patients": facts}))
        return
    from rich.table import Table

    table = Table("patient", "CTs", "CT slices", "films", "MB", "licence", box=None, header_style="bold")
    for one in facts:
        row = (one["cts"], one["ct_slices"], one["film_images"], f"{one['megabytes']:.0f}", ", ".join(one["licence"]))
        table.add_row(one["patient"], *map(str, row))
    console().print(table)
    several = sum(patient.film_images >= 2 for patient in patients)
    size = sum(patient.megabytes for patient in patients) / 1e3
    console().print(
        f"[bold]{len(patients)}[/] patients with CT and film, {several} of them with two or more images; "
        f"{size:.1f} GB. Which view a film shows is found when it is there."
    )


# --- prepare ---------------------------------------------------------------------------------------------------------


@told
def prepare(
    source: Annotated[Path, typer.Argument(help="Manifest (CSV: patient, ct, frontal, lateral), or a folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the cache; goes on in an unfinished one.")],
    preset: Annotated[str, typer.Option("--preset", "-p", help="tiny, small, base, paper, or axon-paper.")] = "small",
    split: Annotated[str, typer.Option(help="Percent of the patients for train,val,test.")] = "85,5,10",
    seed: Annotated[int, typer.Option(min=0, help="Of the division into train, val and test.")] = 0,
    similarity: Annotated[
        float | None, typer.Option(min=0, max=1, help="Real films that agree less with their CT are left out.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one per core.")] = 0,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Bring CTs and films into the form that training reads, with a page that shows each case."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from axon_core.data.prepare import PrepareOptions, default_workers, sheet
    from axon_core.data.prepare import prepare as run
    from axon_core.data.real_films import LEAST_SIMILARITY

    options = PrepareOptions(
        preset,
        percent(split),
        seed,
        LEAST_SIMILARITY if similarity is None else similarity,
        workers or default_workers(),
    )
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, disable=json_) as bar:
        task = bar.add_task("preparing", total=None)

        def show(done: int, count: int, outcome: Outcome) -> None:
            bar.update(task, completed=done, total=count)
            if not json_:
                _tell_outcome(outcome, bar.console)

        plan = run(source, output, options, show)
    if json_:
        print(json.dumps({"cache": str(output), "sheet": str(sheet(output)), **_facts(plan)}))
        return
    facts = _facts(plan)
    parts = ", ".join(f"{count} {part}" for part, count in facts["cases"].items())
    console().print(f"{len(plan.cases)} cases ({parts}), {len(plan.skipped)} skipped.")
    for part in ("train", "val"):
        if not facts["cases"][part]:
            console().print(f"[yellow]Note:[/] no case fell to {part}: add patients, or divide otherwise (--split).")
    console().print(f"  {sheet(output)}", soft_wrap=True)


def _tell_outcome(outcome: Outcome, console: Any) -> None:
    from rich.markup import escape

    from axon_core.data.plan import Skipped

    if isinstance(outcome, Skipped):
        console.print(f"[red]skipped[/] {escape(outcome.name)}: {escape(outcome.reason)}", soft_wrap=True)
        return
    for text in outcome.warnings:
        console.print(f"[yellow]{escape(outcome.name)}[/]: {escape(text)}", soft_wrap=True)


def _facts(plan: Plan) -> dict[str, Any]:
    from axon_core.data.plan import SPLITS

    return {
        "preset": plan.preset,
        "plan_sha256": plan.sha256,
        "cases": {part: len(plan.split(part)) for part in (*SPLITS, "films")},
        "skipped": [{"name": case.name, "reason": case.reason} for case in plan.skipped],
    }


def percent(text: str) -> tuple[float, float, float]:
    """ "85,5,10" -> shares of train, val and test."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("prepare.split", f"--split {text!r} is not three numbers.", "Give 85,5,10.") from None
    return train, val, test

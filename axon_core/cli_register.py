"""`axon register`: the pose in which a CT casts a film. Heavy libraries are imported inside."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from axon_core.cli_drr import parse_pose
from axon_core.cli_reconstruct import Frontal, Mirrored, film_choices
from axon_core.cli_shared import Debug, Force, Json, console, examples, tell_notes, told
from axon_core.errors import OutputError


def register(app: typer.Typer) -> None:
    """Add this command to `axon`."""
    app.command(
        "register",
        epilog=examples(
            "axon register --ct ct.nii.gz --frontal chest.dcm -o pose.json --overlay overlay.png",
            "axon register --ct ct-folder --frontal pa.png --lateral lat.png --pixel-size 0.143 -o pose.json",
        ),
    )(register_film)


@told
def register_film(
    ct: Annotated[Path, typer.Option(help="CT volume of the patient: file or DICOM folder.")],
    frontal: Annotated[Path, typer.Option(help="Frontal film of the same patient.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file for the pose and how sure it is.")],
    lateral: Annotated[Path | None, typer.Option(help="Lateral film in the same posture: fixes the depth.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="PNG that shows film and DRR over each other.")] = None,
    view: Annotated[Frontal | None, typer.Option(help="View of the frontal film, if its file is wrong.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Millimetres at the detector, of both films, whatever their files say.")
    ] = None,
    mirrored: Mirrored = False,
    sdd: Annotated[float | None, typer.Option(help="Source to detector, in mm, whatever the files say.")] = None,
    start: Annotated[str | None, typer.Option(help="Where to begin: as --pose of `axon drr`.")] = None,
    search: Annotated[bool, typer.Option("--search/--no-search", help="Look beyond the start's neighbourhood.")] = True,
    force: Force = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Find the pose in which a CT casts a film: lays a real X-ray onto the CT of the same patient."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from axon_core.files import atomic_file
    from axon_core.registration.files import register_files
    from axon_core.registration.overlay import draw_overlay

    for file, ending in ((output, ".json"), (overlay, ".png")):
        if file is not None and file.suffix.lower() != ending:
            raise OutputError("output.format", f"{file.name} is no {ending} file.", f"Let its name end in {ending}.")
    begin = parse_pose(start)
    columns = (TextColumn("registering"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with (
        atomic_file(output, force) as pose_file,  # both are refused before the work is done, and appear together
        atomic_file(overlay, force) if overlay else contextlib.nullcontext() as picture_file,
        Progress(*columns, console=console(stderr=True), transient=True, disable=json_) as bar,
    ):
        task = bar.add_task("registering", total=1.0)
        result = register_files(
            ct,
            *film_choices(frontal, lateral, view, pixel_size, mirrored),
            sdd_mm=sdd,
            start=begin,
            global_search=search,
            told=lambda fraction: bar.update(task, completed=fraction),
        )
        record = result.to_dict()
        pose_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if picture_file is not None:
            draw_overlay(result.registration, result.films, result.registrar, begin).save(picture_file, "PNG")
    if json_:
        print(json.dumps({"output": str(output), "overlay": None if overlay is None else str(overlay), **record}))
        return
    _tell_registration(record)
    for file in (output, overlay):
        if file is not None:
            print(f"  {file}")


def _tell_registration(record: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    colour = {"good": "green", "doubtful": "yellow", "failed": "red"}[record["verdict"]]
    pairs = ", ".join(f"{film['before']:.2f} -> {film['after']:.2f}" for film in record["similarity"])
    screen = console()
    screen.print(f"[bold {colour}]{record['verdict']}[/]: similarity {pairs}")
    for reason in record["reasons"]:
        screen.print(f"[yellow]because[/] {escape(reason)}", soft_wrap=True)
    table = Table("", "found", "uncertainty (1 sd)", box=None, header_style="bold")
    values = [*record["rotation_deg"], *record["translation_mm"]]
    for name, value in zip(record["parameters"], values, strict=False):
        table.add_row(name["name"], f"{value:.1f} {name['unit']}", f"{name['sd']:.1f} {name['unit']}")
    screen.print(table)
    tell_notes(record["warnings"])

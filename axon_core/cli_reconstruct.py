"""`axon reconstruct` and `axon demo`: from films to a volume. Heavy libraries are imported inside."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axon_core import SYNTHETIC_NOTICE
from axon_core.cli_shared import Debug, Force, Json, console, examples, tell_notes, told

if TYPE_CHECKING:
    from axon_core.film_choice import FilmChoice
    from axon_core.job import ReconstructJob, Result
    from axon_core.pipeline import Progress as PipelineProgress

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of an installed model (see `axon models`) or a folder.")
]
Preset = Annotated[str, typer.Option("--preset", "-p", help="preview, fast, quality or paper.")]
Seeds = Annotated[str, typer.Option("--seeds", help="How many volumes to draw (3), or a list of seeds (0,7,42 or 5,).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Mirrored = Annotated[
    bool, typer.Option("--mirrored", help="The frontal film shows the patient's left on its left: flip it.")
]


class Format(str, Enum):
    """Of the written volume; the values are those of `job.FORMATS`."""

    nrrd = "nrrd"
    nifti = "nii.gz"
    mha = "mha"
    dicom = "dicom"


class Frontal(str, Enum):
    """Views of a frontal film."""

    PA = "PA"
    AP = "AP"


def register(app: typer.Typer) -> None:
    """Add these commands to `axon`."""
    app.command(
        epilog=examples(
            "axon reconstruct chest.dcm -o result",
            "axon reconstruct pa.png --lateral lat.png -o result --preset quality --seeds 4",
            "axon reconstruct chest.png --pixel-size 0.143 -o result --format dicom",
        )
    )(reconstruct)
    app.command(epilog=examples("axon demo", "axon demo -o here --preset quality --force"))(demo)


@told
def reconstruct(
    frontal: Annotated[Path, typer.Argument(help="Frontal film: DICOM, PNG, JPEG, TIFF, NIfTI, NRRD.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for volume, report and provenance.")],
    lateral: Annotated[Path | None, typer.Option(help="Lateral film of the same patient.")] = None,
    model: Model = "axon-small",
    preset: Preset = "fast",
    seeds: Seeds = "1",
    device: Device = "auto",
    view: Annotated[Frontal | None, typer.Option(help="View of the frontal film, if its file is wrong.")] = None,
    invert: Annotated[
        bool | None,
        typer.Option("--invert/--no-invert", help="Bone is dark / bright in the files. Default: automatic."),
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Millimetres at the detector, of both films, whatever their files say.")
    ] = None,
    mirrored: Mirrored = False,
    align: Annotated[
        bool, typer.Option("--align", help="Turn, scale and shift a single frontal film that lies far off.")
    ] = False,
    format: Annotated[Format, typer.Option("--format", help="Of the volume.")] = Format.nrrd,
    force: Force = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Make a CT volume from a film, with a report (HTML and PNG) and its provenance."""
    from axon_core.config import parse_seeds
    from axon_core.job import ReconstructJob

    front, side = film_choices(frontal, lateral, view, pixel_size, mirrored, invert)
    job = ReconstructJob(
        frontal=front,
        output=str(output),
        lateral=side,
        model=model,
        preset=preset,
        seeds=parse_seeds(seeds),
        device=device,
        align=align,
        format=format.value,
        overwrite=force,
    )
    _tell(_run(job, quiet=json_), as_json=json_)


@told
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the result.")] = Path("axon-demo"),
    preset: Preset = "fast",
    seeds: Seeds = "1",
    force: Force = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Reconstruct the bundled film with the bundled model."""
    from axon_core.config import parse_seeds
    from axon_core.film_choice import FilmChoice
    from axon_core.job import ReconstructJob
    from axon_core.resources import demo_film

    film = FilmChoice(str(demo_film()), view="PA")
    job = ReconstructJob(film, str(output), preset=preset, seeds=parse_seeds(seeds), overwrite=force)
    _tell(_run(job, quiet=json_), as_json=json_)


def film_choices(
    frontal: Path,
    lateral: Path | None,
    view: Frontal | None,
    pixel_size: float | None,
    mirrored: bool,
    invert: bool | None = None,
) -> tuple[FilmChoice, FilmChoice | None]:
    """The frontal and the lateral film, from the options' words on one or both."""
    from axon_core.film_choice import FilmChoice

    front = FilmChoice(str(frontal), None if view is None else view.value, invert, pixel_size, mirrored)
    return front, None if lateral is None else FilmChoice(str(lateral), None, invert, pixel_size)


def _run(job: ReconstructJob, quiet: bool) -> Result:
    """Do the job under a progress bar on standard error."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=1.0, eta="")

        def show(progress: PipelineProgress) -> None:
            eta = "" if progress.eta_s is None else f"about {max(progress.eta_s, 0):.0f} s left"
            bar.update(task, description=progress.stage, completed=progress.fraction, eta=eta)

        return job.run(job.staging(), show)


def _tell(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    from rich.markup import escape

    tell_notes(result.warnings)
    screen = console()
    ncc = ", ".join(f"{view} {value:.3f}" for view, value in result.ncc.items())
    screen.print(f"Agreement with the film (NCC): {ncc}. Time: {sum(result.timings.values()):.1f} s.")
    for kind, path in result.files.items():
        screen.print(f"  {kind:<12} {escape(str(path))}", soft_wrap=True)
    screen.print(f"[bold red]{SYNTHETIC_NOTICE}[/]")

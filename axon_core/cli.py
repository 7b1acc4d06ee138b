"""The door for people: `axon`. Everything heavy is imported inside the commands, so that ``axon --help`` is instant."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from axon_core import (
    SYNTHETIC_NOTICE,
    __version__,
    cli_baseline,
    cli_data,
    cli_distill,
    cli_evaluate,
    cli_reproduce,
    cli_train,
)
from axon_core.cli_shared import Debug, Force, Json, told
from axon_core.cli_shared import console as _console
from axon_core.cli_shared import examples as _examples
from axon_core.errors import AxonError, ConfigError, OutputError

if TYPE_CHECKING:
    from axon_core.film_choice import FilmChoice
    from axon_core.geometry import RigidPose
    from axon_core.job import ReconstructJob, Result
    from axon_core.pipeline import Progress as PipelineProgress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"AXON: chest CT volumes from one or two plain X-rays. [bold red]{SYNTHETIC_NOTICE}.[/]",
    epilog=_examples("axon demo", "axon reconstruct chest.dcm -o result", "axon reconstruct --help"),
)

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of an installed model (see `axon models`) or a folder.")
]
Preset = Annotated[str, typer.Option("--preset", "-p", help="preview, fast, quality or paper.")]
Seeds = Annotated[str, typer.Option("--seeds", help="How many volumes to draw (3), or a list of seeds (0,7,42 or 5,).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]


class Format(str, Enum):
    """Of the written volume; the values are those of `job.FORMATS`."""

    nrrd = "nrrd"
    nifti = "nii.gz"
    mha = "mha"
    dicom = "dicom"


Mirrored = Annotated[
    bool, typer.Option("--mirrored", help="The frontal film shows the patient's left on its left: flip it.")
]


class Frontal(str, Enum):
    """Views of a frontal film."""

    PA = "PA"
    AP = "AP"


def _version(asked: bool) -> None:
    if asked:
        print(f"axon {__version__}")
        raise typer.Exit


@app.callback()
def axon(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass  # the function carries the option; the commands do the work


# --- reconstruct -----------------------------------------------------------------------------------------------------


@app.command(
    epilog=_examples(
        "axon reconstruct chest.dcm -o result",
        "axon reconstruct pa.png --lateral lat.png -o result --preset quality --seeds 4",
        "axon reconstruct chest.png --pixel-size 0.143 -o result --format dicom",
    )
)
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


@app.command(epilog=_examples("axon demo", "axon demo -o here --preset quality --force"))
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
    with Progress(*columns, console=_console(stderr=True), transient=True, disable=quiet) as bar:
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

    console = _console()
    for text in result.warnings:
        console.print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)
    ncc = ", ".join(f"{view} {value:.3f}" for view, value in result.ncc.items())
    console.print(f"Agreement with the film (NCC): {ncc}. Time: {sum(result.timings.values()):.1f} s.")
    for kind, path in result.files.items():
        console.print(f"  {kind:<12} {escape(str(path))}", soft_wrap=True)
    console.print(f"[bold red]{SYNTHETIC_NOTICE}[/]")


# --- models, info ----------------------------------------------------------------------------------------------------


@app.command(epilog=_examples("axon models", "axon models --json"))
@told
def models(json_: Json = False, debug: Debug = False) -> None:
    """List the installed models."""
    from axon_core.model import available_models

    found = [model_facts(info) for info in available_models()]
    if json_:
        print(json.dumps({"models": found}))
        return
    from rich.table import Table

    table = Table("name", "what", "grid", "stages", "MB", "licence", "trained on", box=None, header_style="bold")
    for facts in found:
        table.add_row(
            facts["name"],
            facts["title"],
            f"{facts['grid']}³",
            ", ".join(facts["stages"]),
            f"{facts['size_bytes'] / 1e6:.1f}",
            facts["licence"],
            facts["data"],
        )
    _console().print(table if found else "No model is installed.")


def model_facts(info: Any) -> dict[str, Any]:
    """A `ModelInfo` as plain values."""
    return {
        "name": info.name,
        "title": info.card.title,
        "grid": info.config.size,
        "extent_mm": info.config.extent_mm,
        "film_size": info.config.film_size,
        "window": info.config.window,
        "stages": list(info.card.stages),
        "default_stages": list(info.card.default_stages),
        "baseline": info.baseline.get("name", ""),
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
        "licence": info.card.licence,
        "data": info.card.data,
        "notes": info.card.notes,
        "folder": str(info.folder),
    }


@app.command(epilog=_examples("axon info chest.dcm", "axon info ct-folder --json", "axon info Models/axon-small"))
@told
def info(
    file: Annotated[Path, typer.Argument(help="A film, a CT volume (file or DICOM folder), or a model's folder.")],
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Say what AXON understands of a file."""
    facts = understand(file)
    if json_:
        print(json.dumps(facts))
        return
    from rich.markup import escape

    for key, value in facts.items():
        for line in value if isinstance(value, list) and value and isinstance(value[0], str) else [value]:
            _console().print(f"[bold]{key.replace('_', ' '):<14}[/] {escape(str(line))}", soft_wrap=True)


def understand(path: Path) -> dict[str, Any]:
    """Facts about a model, film or volume; which one it is is found out by trying."""
    if not os.path.exists(path):  # unlike Path.exists, it answers for impossible names too
        raise ConfigError("info.missing", f"There is no {path.name}.", "Check the path.")
    refused: list[AxonError] = []
    for attempt in (_model, _film, _volume):
        try:
            return attempt(path)
        except AxonError as error:
            refused.append(error)
    model, film, volume = refused
    if model.code != "model.not-found":
        raise model
    # a film's reader says so when a file is clearly a volume; then the volume's reader knows better what is wrong
    raise volume if path.is_dir() or film.code in {"film.is-ct", "film.volume"} else film


def _model(path: Path) -> dict[str, Any]:
    from axon_core.errors import ModelError
    from axon_core.model import WEIGHTS, inspect

    folder = path.parent if path.name == WEIGHTS else path
    if not (folder / WEIGHTS).is_file():
        raise ModelError("model.not-found", f"{path.name} holds no model.", "")
    return {"kind": "model", **model_facts(inspect(folder))}


def _film(path: Path) -> dict[str, Any]:
    from axon_core.radiograph import Radiograph, standardise

    film = Radiograph.load(path)
    standard = standardise(film)
    return {
        "kind": "film",
        "pixels": list(film.pixels.shape),
        "spacing_mm": None if film.spacing_mm is None else list(film.spacing_mm),
        "view": None if film.view is None else film.view.value,
        "sdd_mm": film.sdd_mm,
        "scale_known": standard.scale_known,
        "source": film.source,
        "steps": [step["op"] for step in standard.steps],
        "warnings": list(standard.warnings),
    }


def _volume(path: Path) -> dict[str, Any]:
    from axon_core.ctvolume import CTVolume

    volume = CTVolume.load(path)
    z, y, x = volume.hu.shape
    return {
        "kind": "volume",
        "voxels": [x, y, z],
        "spacing_mm": [round(s, 4) for s in volume.spacing_mm],
        "center_lps": [round(c, 2) for c in volume.center_lps],
        "hu": [float(volume.hu.min()), float(volume.hu.max())],
        "source": volume.source,
        "notes": list(volume.notes),
    }


# --- view ------------------------------------------------------------------------------------------------------------


@app.command(epilog=_examples("axon view result", "axon view result ct.nii.gz", "axon view ct-folder --port 8080"))
@told
def view(
    volumes: Annotated[list[Path], typer.Argument(help="Results (their folders) or CT volumes, one below the other.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1. Default: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    debug: Debug = False,
) -> None:
    """Show volumes side by side in the browser, slices and 3D, until Ctrl-C. Needs the extra "viewer"."""
    from axon_core.ctvolume import CTVolume
    from axon_core.job import volume_of
    from axon_core.viewer import serve

    serve([(path.name, CTVolume.load(volume_of(path))) for path in volumes], port, browser)


# --- drr -------------------------------------------------------------------------------------------------------------


class DrrView(str, Enum):
    """Views of a simulated film."""

    PA = "PA"
    AP = "AP"
    LL = "LL"
    RL = "RL"


class DrrLook(str, Enum):
    """How a simulated film is made."""

    clinic = "clinic"
    linear = "linear"


@app.command(
    epilog=_examples(
        "axon drr ct.nii.gz -o film.png",
        "axon drr ct-folder -o lateral.dcm --view LL --size 2048",
        "axon drr ct.nrrd -o film.png --pose 5,0,-3,0,10,20",
        "axon drr ct.nrrd -o integrals.nii.gz --preset linear --pose pose.json",
    )
)
@told
def drr(
    ct: Annotated[Path, typer.Argument(help="CT volume: file or DICOM folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG, DICOM (.dcm) or NIfTI (.nii.gz) file.")],
    view: Annotated[DrrView, typer.Option(help="Position of the patient; LL and RL are left and right lateral.")] = (
        DrrView.PA
    ),
    pose: Annotated[
        str | None,
        typer.Option(
            help="Turn and move the patient: degrees about and mm along L, P, S (six numbers), or a pose file."
        ),
    ] = None,
    preset: Annotated[
        DrrLook, typer.Option(help="clinic: X-ray physics and a film's look. linear: line integrals of one energy.")
    ] = DrrLook.clinic,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Pixels along each edge.")] = 1024,
    sdd: Annotated[float, typer.Option(help="Source to detector, in mm.")] = 1800.0,
    detector: Annotated[float, typer.Option(help="Edge of the detector, in mm.")] = 430.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the noise of the clinic preset.")] = 0,
    force: Force = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Simulate the X-ray film of a CT volume (digitally reconstructed radiograph, bone bright)."""
    from axon_core.ctvolume import CTVolume
    from axon_core.drr.film import simulate
    from axon_core.drr.physics import Exposure
    from axon_core.files import atomic_file
    from axon_core.film_write import check_name, is_nifti, write_film
    from axon_core.geometry import XrayGeometry, XrayView

    check_name(output.name)
    motion = parse_pose(pose)
    geometry = XrayGeometry(XrayView("LAT" if view is DrrView.LL else view.value), size, sdd, detector_mm=detector)
    with atomic_file(output, overwrite=force) as temporary:  # refuses an existing file before the work is done
        with _console(stderr=True).status("reading the CT"):
            volume = CTVolume.load(ct)
        with _console(stderr=True).status("projecting"):
            film, record = simulate(volume, geometry, motion, preset.value, Exposure(seed=seed))
        shown = film / film.max() if preset is DrrLook.linear and not is_nifti(output.name) else film
        write_film(temporary, output.name, shown, geometry, record)
    facts = {"output": str(output), **record}
    told_facts = f"{output}: {view.value}, {size} x {size} pixels of {geometry.pitch_mm:.3f} mm"
    print(json.dumps(facts) if json_ else told_facts)
    if not json_:
        _tell_notes(record["warnings"])
        _console().print(f"[bold red]{SYNTHETIC_NOTICE}[/]")


def _tell_notes(notes: list[str]) -> None:
    from rich.markup import escape

    for text in notes:
        _console().print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)


def parse_pose(text: str | None) -> RigidPose:
    """Six numbers in degrees and mm, or the name of a file that `axon register` wrote; None is the pose at rest."""
    import math

    from axon_core.geometry import RigidPose
    from axon_core.registration.files import read_pose

    if text is None:
        return RigidPose()
    if text.lower().endswith(".json"):
        return read_pose(Path(text))
    try:
        a, b, c, x, y, z = (float(part) for part in text.split(","))
        if not all(math.isfinite(value) for value in (a, b, c, x, y, z)):
            raise ValueError
    except ValueError:
        raise ConfigError(
            "cli.pose",
            f"--pose {text!r} is neither six numbers nor a pose file.",
            "Give degrees and millimetres, as 5,0,-3,0,10,20, or a .json file of `axon register`.",
        ) from None
    return RigidPose((math.radians(a), math.radians(b), math.radians(c)), (x, y, z))


# --- register --------------------------------------------------------------------------------------------------------


@app.command(
    epilog=_examples(
        "axon register --ct ct.nii.gz --frontal chest.dcm -o pose.json --overlay overlay.png",
        "axon register --ct ct-folder --frontal pa.png --lateral lat.png --pixel-size 0.143 -o pose.json",
    )
)
@told
def register(
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
        Progress(*columns, console=_console(stderr=True), transient=True, disable=json_) as bar,
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
    console = _console()
    console.print(f"[bold {colour}]{record['verdict']}[/]: similarity {pairs}")
    for reason in record["reasons"]:
        console.print(f"[yellow]because[/] {escape(reason)}", soft_wrap=True)
    table = Table("", "found", "uncertainty (1 sd)", box=None, header_style="bold")
    values = [*record["rotation_deg"], *record["translation_mm"]]
    for name, value in zip(record["parameters"], values, strict=False):
        table.add_row(name["name"], f"{value:.1f} {name['unit']}", f"{name['sd']:.1f} {name['unit']}")
    console.print(table)
    _tell_notes(record["warnings"])


# --- selfcheck -------------------------------------------------------------------------------------------------------


@app.command(epilog=_examples("axon selfcheck", "axon selfcheck --json && echo well"))
@told
def selfcheck(json_: Json = False, debug: Debug = False) -> None:
    """Check the installation: versions, weights, devices, and one short computation."""
    checks = [_checked(name, check, debug) for name, check in _CHECKS.items()]
    well = all(check["well"] for check in checks)
    if json_:
        print(json.dumps({"well": well, "version": __version__, "checks": checks}))
    else:
        from rich.markup import escape

        for check in checks:
            mark = "[green]well  [/]" if check["well"] else "[bold red]FAILED[/]"
            _console().print(f"{mark} [bold]{check['name']:<12}[/] {escape(check['text'])}", soft_wrap=True)
    raise typer.Exit(0 if well else 1)


def _checked(name: str, check: Callable[[], str], debug: bool) -> dict[str, Any]:
    try:
        return {"name": name, "well": True, "text": check()}
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        text = str(error) if isinstance(error, AxonError | ImportError) else f"{type(error).__name__}: {error}"
        return {"name": name, "well": False, "text": text}


def _check_packages() -> str:
    import importlib
    from importlib.metadata import version

    packages = {
        "torch": "torch",
        "numpy": "numpy",
        "SimpleITK": "SimpleITK",
        "pydicom": "pydicom",
        "Pillow": "PIL",
        "monai": "monai",
        "safetensors": "safetensors",
    }
    for module in packages.values():
        importlib.import_module(module)
    python = ".".join(str(part) for part in sys.version_info[:3])
    return ", ".join([f"axon {__version__}", f"Python {python}", *(f"{name} {version(name)}" for name in packages)])


def _check_devices() -> str:
    from axon_core.devices import devices

    return "; ".join(f"{device.name}: {device.text}" for device in devices() if device.available)


def _check_weights() -> str:
    from axon_core import resources
    from axon_core.errors import ModelError
    from axon_core.model import WEIGHTS, inspect

    found = [inspect(path.parent) for path in sorted(resources.folder().glob(f"Models/*/{WEIGHTS}"))]
    if not found:
        raise ModelError("model.not-found", "No model is installed.", "Install axon-core again.")
    return ", ".join(f"{info.name} {info.sha256[:12]} ({info.size_bytes / 1e6:.1f} MB)" for info in found)


def _check_numbers() -> str:
    from axon_core.errors import ModelError
    from axon_core.model import AxonModel
    from axon_core.pipeline import reconstruct as compute
    from axon_core.radiograph import Radiograph
    from axon_core.resources import demo_film

    made = compute(
        Radiograph.load(demo_film()), model=AxonModel.from_pretrained("axon-small"), preset="preview", device="cpu"
    )
    hu = made.final.hu
    if not (float(hu.std()) > 1.0 and -1100.0 < float(hu.mean()) < 500.0):
        raise ModelError("model.numbers", "The bundled model's output is implausible.", "Install axon-core again.")
    return f"{sum(made.timings.values()):.2f} s, mean {hu.mean():.0f} HU, NCC {made.ncc['frontal']:.2f}"


_CHECKS: dict[str, Callable[[], str]] = {
    "packages": _check_packages,
    "devices": _check_devices,
    "weights": _check_weights,
    "computation": _check_numbers,
}


cli_data.register(app)
cli_baseline.register(cli_train.app)
cli_distill.register(cli_train.app)
app.add_typer(cli_train.app, name="train")
cli_evaluate.register(app)
cli_reproduce.register(app)


def main() -> None:
    """Entry point of the `axon` command."""
    signal.signal(signal.SIGTERM, _interrupt)  # a polite kill cleans up like Ctrl-C
    app(prog_name="axon")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt

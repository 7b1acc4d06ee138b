"""`axon drr`: the film that a CT would cast. Heavy libraries are imported inside."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from axon_core import SYNTHETIC_NOTICE
from axon_core.cli_shared import Debug, Force, Json, console, examples, tell_notes, told
from axon_core.errors import ConfigError

if TYPE_CHECKING:
    from axon_core.geometry import RigidPose


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


def register(app: typer.Typer) -> None:
    """Add this command to `axon`."""
    app.command(
        epilog=examples(
            "axon drr ct.nii.gz -o film.png",
            "axon drr ct-folder -o lateral.dcm --view LL --size 2048",
            "axon drr ct.nrrd -o film.png --pose 5,0,-3,0,10,20",
            "axon drr ct.nrrd -o integrals.nii.gz --preset linear --pose pose.json",
        )
    )(drr)


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
    from axon_core.drr.exposure import Exposure
    from axon_core.drr.film import simulate
    from axon_core.files import atomic_file
    from axon_core.film_write import check_name, is_nifti, write_film
    from axon_core.geometry import XrayGeometry, XrayView

    check_name(output.name)
    motion = parse_pose(pose)
    geometry = XrayGeometry(XrayView("LAT" if view is DrrView.LL else view.value), size, sdd, detector_mm=detector)
    with atomic_file(output, overwrite=force) as temporary:  # refuses an existing file before the work is done
        with console(stderr=True).status("reading the CT"):
            volume = CTVolume.load(ct)
        with console(stderr=True).status("projecting"):
            film, record = simulate(volume, geometry, motion, preset.value, Exposure(seed=seed))
        shown = film / film.max() if preset is DrrLook.linear and not is_nifti(output.name) else film
        write_film(temporary, output.name, shown, geometry, record)
    facts = {"output": str(output), **record}
    told_facts = f"{output}: {view.value}, {size} x {size} pixels of {geometry.pitch_mm:.3f} mm"
    print(json.dumps(facts) if json_ else told_facts)
    if not json_:
        tell_notes(record["warnings"])
        console().print(f"[bold red]{SYNTHETIC_NOTICE}[/]")


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

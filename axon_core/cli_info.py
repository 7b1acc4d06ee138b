"""`axon models`, `axon info`, `axon view`: what is installed and what files hold. Heavy imports are inside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from axon_core.cli_shared import Debug, Json, console, examples, told
from axon_core.errors import AxonError, ConfigError


def register(app: typer.Typer) -> None:
    """Add these commands to `axon`."""
    app.command(epilog=examples("axon models", "axon models --json"))(models)
    app.command(
        epilog=examples(
            "axon info chest.dcm",
            "axon info ct-folder --json",
            "axon info Models/axon-small",
        )
    )(info)
    app.command(
        epilog=examples(
            "axon view result",
            "axon view result ct.nii.gz",
            "axon view ct-folder --port 8080",
        )
    )(view)


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
    console().print(table if found else "No model is installed.")


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
        "fine": info.config.diffusion.described() if "fine" in info.card.stages else "",
        "baseline": info.baseline.get("name", ""),
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
        "licence": info.card.licence,
        "data": info.card.data,
        "notes": info.card.notes,
        "folder": str(info.folder),
    }


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
            console().print(f"[bold]{key.replace('_', ' '):<14}[/] {escape(str(line))}", soft_wrap=True)


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

"""`axon selfcheck`: whether this installation works, told check by check. Heavy libraries are imported inside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import typer

from axon_core import __version__
from axon_core.cli_shared import Debug, Json, console, examples, told
from axon_core.errors import AxonError


def register(app: typer.Typer) -> None:
    """Add this command to `axon`."""
    app.command(epilog=examples("axon selfcheck", "axon selfcheck --json && echo well"))(selfcheck)


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
            console().print(f"{mark} [bold]{check['name']:<12}[/] {escape(check['text'])}", soft_wrap=True)
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

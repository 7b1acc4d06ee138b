"""What this installation has, and what is wrong with it.

Nothing heavy is imported before it is tried, so that a missing or broken library is told and not suffered.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axon_core import __version__
from axon_core.errors import AxonError

PACKAGES = {  # module -> what to install
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "Pillow",
    "SimpleITK": "SimpleITK",
    "pydicom": "pydicom",
    "torch": "torch",
    "safetensors": "safetensors",
    "einops": "einops",
    "monai": "monai",
}
TRAINING_PACKAGES = {"lightning_fabric": "lightning-fabric", "matplotlib": "matplotlib"}  # only training needs these
_INSTALL = "Install it, for example by: python -m pip install"
MODEL_KEYS = (
    "name",
    "title",
    "folder",
    "size_bytes",
    "sha256",
    "checksum_ok",
    "parameters",
    "views",
    "grid_size",
    "grid_spacing_mm",
    "licence",
    "stages",
    "default_stages",
    "problem",
)


def report(models_elsewhere: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values for JSON.

    Args:
        models_elsewhere: folders of further models, told of with their folder as name.

    Returns:
        version, python; torch and monai: their versions, None if they cannot be imported;
        devices: name, available, text for each; default_device: the best of them;
        models: `MODEL_KEYS` for each that is installed; of one with a `problem` (code, title, advice) the keys that
        cannot be known are None; checksum_ok is None too where no sum is recorded;
        problems: code, title, advice of everything that keeps the program from working. Devices and models stay empty
        when libraries fail that are needed to look for them;
        training: the same of what keeps it from training alone.
    """
    failed = [problem for module in PACKAGES if (problem := package_problem(module))]
    problems = [error.to_dict() for error in failed]
    devices: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    if not problems:
        from axon_core.devices import devices as known

        devices = [{"name": one.name, "available": one.available, "text": one.text} for one in known()]
        try:
            models = _models() + [{**_model(Path(folder)), "name": folder} for folder in models_elsewhere]
        except AxonError as error:
            problems.append(error.to_dict())
        else:
            if not any(model["problem"] is None for model in models):
                none = AxonError("model.none", "No usable model is installed.", "Install axon-core again.")
                problems.append(none.to_dict())
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "monai": _version("monai"),
        "devices": devices,
        "default_device": next((one["name"] for one in devices if one["available"]), None),
        "models": models,
        "problems": problems,
        "training": [
            AxonError("package.missing", f"Training needs the Python package {name}.", f"{_INSTALL} {name}").to_dict()
            for module, name in TRAINING_PACKAGES.items()
            if not _is_found(module)
        ],
    }


def package_problem(module: str) -> AxonError | None:
    """What is wrong with one of `PACKAGES`."""
    name = PACKAGES[module]
    advice = f"{_INSTALL} {name}"
    if name == "torch":
        advice = "Install PyTorch, in 3D Slicer by the PyTorch extension."
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return AxonError("package.missing", f"The Python package {name} is not installed.", advice)
        return AxonError("package.missing", f"{name} needs {error.name}, which is not installed.", advice)
    except Exception as error:  # a half-installed library raises anything
        words = (str(error).splitlines() or [""])[0]
        title = f"The Python package {name} is broken: {type(error).__name__}: {words}"
        return AxonError("package.broken", title, advice.replace("Install", "Remove it and install", 1))
    return None


def _is_found(module: str) -> bool:
    """Whether it is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(module: str) -> str | None:
    """Of a module that was imported before."""
    try:
        return str(importlib.import_module(module).__version__)
    except Exception:  # absent or broken, which was told before
        return None


def _models() -> list[dict[str, Any]]:
    from axon_core import resources
    from axon_core.model import WEIGHTS

    return [_model(path.parent) for path in sorted(resources.folder().glob(f"Models/*/{WEIGHTS}"))]


def _model(folder: Path) -> dict[str, Any]:
    from axon_core.model import WEIGHTS, file_sha256, inspect

    facts: dict[str, Any] = dict.fromkeys(MODEL_KEYS)
    facts |= {"name": folder.name, "folder": str(folder)}
    recorded = (folder / (WEIGHTS + ".sha256")).is_file()
    try:
        info = inspect(folder)
        facts["parameters"] = _parameters(folder / WEIGHTS)
    except FileNotFoundError:
        text = f"There is no model in {folder.name}."
        facts["problem"] = AxonError("model.not-found", text, "Choose another model, or export it again.").to_dict()
    except AxonError as error:
        facts |= {
            "size_bytes": (folder / WEIGHTS).stat().st_size,
            "sha256": file_sha256(folder / WEIGHTS),
            "checksum_ok": error.code != "model.damaged" if recorded else None,
            "problem": error.to_dict(),
        }
    except OSError as error:
        text = f"{folder.name} cannot be read: {error.strerror}."
        facts["problem"] = AxonError("model.unreadable", text, "Check the permissions.").to_dict()
    else:
        facts |= {
            "title": info.card.title,
            "size_bytes": info.size_bytes,
            "sha256": info.sha256,
            "checksum_ok": True if recorded else None,
            "views": [1, 2],  # the weights serve a frontal film alone or with a lateral one
            "grid_size": info.config.size,
            "grid_spacing_mm": info.config.grid.spacing_mm,
            "licence": info.card.licence,
            "stages": list(info.card.stages),
            "default_stages": list(info.card.default_stages),
        }
    return facts


def _parameters(weights: Path) -> int:
    """Numbers in the file, by its table of contents."""
    from safetensors import safe_open

    with safe_open(str(weights), framework="pt") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118

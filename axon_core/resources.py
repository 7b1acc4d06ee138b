"""Where the bundled weights and sample films lie."""

from __future__ import annotations

import os
from pathlib import Path

from axon_core.errors import ConfigError


def folder() -> Path:
    """The folder that holds ``Models/`` and ``Samples/``.

    The environment variable ``AXON_RESOURCES`` wins; then ``Resources/`` of a source checkout; then the data inside the
    installed package.

    Raises:
        ConfigError: none of these holds ``Models/``.
    """
    package = Path(__file__).resolve().parent
    override = os.environ.get("AXON_RESOURCES")
    candidates = [Path(override)] if override else [package.parent / "Resources", package / "_resources"]
    for candidate in candidates:
        if (candidate / "Models").is_dir():
            return candidate
    raise ConfigError(
        "resources.missing",
        f"No folder Models in {' or '.join(str(candidate) for candidate in candidates)}.",
        "Set AXON_RESOURCES to the folder that holds Models and Samples, or install axon-core again.",
    )


def demo_film() -> Path:
    """The bundled film of `axon demo`: the first by name in ``Samples/``.

    Raises:
        ConfigError: there is none.
    """
    samples = folder() / "Samples"
    films = sorted(path for path in samples.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".dcm"})
    if not films:
        raise ConfigError("resources.no-film", f"No film in {samples}.", "Install axon-core again.")
    return films[0]

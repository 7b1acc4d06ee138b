"""A film as the user chose it: the file, and what is known better than the file says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from axon_core.config import from_dict
from axon_core.errors import ConfigError

if TYPE_CHECKING:
    from axon_core.radiograph import Radiograph

VIEWS = ("PA", "AP", "LAT")


@dataclass(frozen=True)
class FilmChoice:
    """A film file and the user's word on it. None leaves a question to the file.

    Attributes:
        file: anything `Radiograph.load` reads.
        view: "PA", "AP" or "LAT".
        invert: True exchanges bright and dark of the stored values, False keeps them.
        pixel_size_mm: at the detector.
        mirrored: the picture shows the patient's left (of a lateral film: the front) on its left.
    """

    file: str
    view: str | None = None
    invert: bool | None = None
    pixel_size_mm: float | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        size = self.pixel_size_mm
        number = isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < 10
        _check("file", isinstance(self.file, str) and self.file != "", "the name of a file")
        _check("view", self.view is None or self.view in VIEWS, f"{', '.join(VIEWS)} or null")
        _check("invert", self.invert is None or isinstance(self.invert, bool), "true, false or null")
        _check("pixel_size_mm", size is None or number, "millimetres between 0 and 10, or null")
        _check("mirrored", isinstance(self.mirrored, bool), "true or false")

    @classmethod
    def of(cls, value: Any, where: str = "film") -> FilmChoice:
        """From plain JSON, a file's name or an object with the attributes as keys; ConfigError if it is neither."""
        if isinstance(value, FilmChoice):
            return value
        if isinstance(value, dict):
            return from_dict(cls, value, where)
        if isinstance(value, str):
            return cls(value)
        raise ConfigError("config.type", f"{where}: {value!r} is no film.", "Give a file's name, or an object.")

    def load(self) -> Radiograph:
        """Read the film; errors as `Radiograph.load`."""
        from axon_core.radiograph import Radiograph

        spacing = None if self.pixel_size_mm is None else (float(self.pixel_size_mm),) * 2
        return Radiograph.load(
            self.file, view=self.view, invert=self.invert, spacing_mm=spacing, mirrored=self.mirrored
        )


def _check(key: str, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"film.{key.replace('_', '-')}", f"Wrong value for a film's {key}.", f"Give {expected}.")

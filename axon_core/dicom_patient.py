"""Whether DICOM files are of one patient. What is read here is compared and forgotten: never stored, never logged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from axon_core.errors import FilmError

_LOOKED_INTO = 20  # files of a folder, of which the first DICOM file counts


def check_same_patient(paths: Iterable[str | Path]) -> None:
    """Compare Patient ID (0010,0020) of all files and folders that have one.

    Errors:
        FilmError: two of them differ.
    """
    if len({patient for path in paths if (patient := _patient(Path(path)))}) > 1:
        raise FilmError(
            "film.other-patient",
            "The files are of different patients, by their DICOM Patient ID.",
            "Choose a film and a CT of one patient.",
        )


def _patient(path: Path) -> str:
    """The Patient ID, or "" where there is none."""
    import pydicom

    files = sorted(path.iterdir())[:_LOOKED_INTO] if path.is_dir() else [path]
    for file in files:
        try:
            return str(pydicom.dcmread(file, specific_tags=["PatientID"], stop_before_pixels=True).get("PatientID", ""))
        except Exception:  # not DICOM, or unreadable: whoever loads it will say so
            continue
    return ""

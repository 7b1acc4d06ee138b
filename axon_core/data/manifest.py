"""Which files belong to which patient: a table (CSV), or what a folder shows by itself.

The table has the columns patient, ct, frontal, lateral (paths relative to it; empty where there is none), and may have
split (train, val or test). One line is one CT with its films; a patient may have several lines.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axon_core.ctvolume import SUFFIXES
from axon_core.data.plan import SPLITS
from axon_core.dicom_series import is_dicom
from axon_core.errors import AxonError, ConfigError
from axon_core.files import atomic_file
from axon_core.film_area import film_area, looks_lateral
from axon_core.radiograph import Radiograph

COLUMNS = ("patient", "ct", "frontal", "lateral")
FILM_MODALITIES = ("CR", "DX")
DOUBTFUL_VIEW = 0.05  # |looks_lateral| below which the look alone decides nothing


@dataclass(frozen=True)
class Row:
    """One line of a manifest.

    Attributes:
        name: unique; the patient's label, numbered where it repeats.
        patient: a label chosen by the user, or a hash; never what DICOM says.
        ct: volume file or DICOM folder, or None.
        frontal, lateral: film files, or None.
        split: asked for, or "".
    """

    name: str
    patient: str
    ct: Path | None = None
    frontal: Path | None = None
    lateral: Path | None = None
    split: str = ""

    @property
    def films(self) -> dict[str, Path]:
        """View -> file, of those that there are."""
        return {view: path for view in ("frontal", "lateral") if (path := getattr(self, view)) is not None}


def read_source(source: Path) -> list[Row]:
    """The rows of a manifest, or of a folder without one.

    Errors:
        ConfigError: nothing there, no such columns, or a line that names no file.
    """
    if source.is_dir():
        source = source / "manifest.csv" if (source / "manifest.csv").is_file() else source
    if not source.exists():
        raise ConfigError("manifest.missing", f"There is no {source.name}.", "Name a manifest (CSV) or a folder.")
    rows = _numbered(find_rows(source) if source.is_dir() else _read_table(source))
    if not rows:
        raise ConfigError(
            "manifest.empty",
            f"{source.name} holds no case.",
            "Give a folder with CTs (DICOM, NIfTI, NRRD, MHA), or a CSV with the columns " + ", ".join(COLUMNS) + ".",
        )
    asked: dict[str, str] = {}
    for row in rows:
        if asked.setdefault(row.patient, row.split) != row.split:
            raise ConfigError(
                "manifest.two-splits",
                f"{source.name}: the lines of patient {row.patient} ask for different parts.",
                "All data of a patient belong to one part: correct the column split.",
            )
    return rows


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a table, paths relative to it."""
    with atomic_file(path, overwrite=True) as part, open(part, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for row in rows:
            files = (row.ct, row.frontal, row.lateral)
            table.writerow([row.patient, *("" if f is None else f.relative_to(path.parent).as_posix() for f in files)])


def _read_table(path: Path) -> Iterator[Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = [name.strip() for name in table.fieldnames or ()]
            table.fieldnames = columns
            lines = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("manifest.unreadable", f"{path.name} is no CSV file.", "Save it as CSV, UTF-8.") from error
    missing = [name for name in COLUMNS[:2] if name not in columns]
    unknown = [name for name in columns if name not in (*COLUMNS, "split")]
    if missing or unknown:
        wrong = f"lacks the column {missing[0]!r}" if missing else f"has an unknown column {unknown[0]!r}"
        raise ConfigError("manifest.columns", f"{path.name} {wrong}.", f"Columns: {', '.join(COLUMNS)}, split.")
    for number, line in enumerate(lines, 2):
        values = {key: (value or "").strip() for key, value in line.items() if isinstance(key, str)}
        files = {key: path.parent / values[key] if values.get(key) else None for key in COLUMNS[1:]}
        if not values["patient"] or not any(files.values()) or values.get("split", "") not in ("", *SPLITS):
            raise ConfigError(
                "manifest.line",
                f"{path.name}, line {number}: a patient, a file, and for split nothing or one of {', '.join(SPLITS)}.",
                "Correct the line.",
            )
        yield Row("", values["patient"], files["ct"], files["frontal"], files["lateral"], values.get("split", ""))


def _numbered(rows: Iterable[Row]) -> list[Row]:
    """With a unique name each."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.patient] += 1
        named.append(replace(row, name=row.patient if seen[row.patient] == 1 else f"{row.patient}#{seen[row.patient]}"))
    return named


# --- a folder by itself ----------------------------------------------------------------------------------------------


def find_rows(folder: Path) -> Iterator[Row]:
    """Every CT below a folder, with the films of the same DICOM patient; films without a CT come last.

    Patients are told apart by Patient ID (0010,0020) and labelled by its hash; a volume file is a patient of its own,
    labelled by its name. Of several films of one view the first by path is taken. Films that are no DICOM cannot be
    told from other pictures: they need a table.
    """
    cts: list[tuple[str, Path]] = []
    films: dict[str, dict[str, Path]] = {}
    for place in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        for patient, modality, path in _dicom_in(place):
            if modality == "CT":
                cts.append((patient, place))
                break  # the other slices of a CT folder are its reader's business
            if modality in FILM_MODALITIES:
                films.setdefault(patient, {}).setdefault(film_view(path)[0], path)
        for path in sorted(path for path in place.iterdir() if path.name.lower().endswith(SUFFIXES)):
            stem = path.name[: -next(len(s) for s in sorted(SUFFIXES, key=len)[::-1] if path.name.lower().endswith(s))]
            cts.append((stem, path))
    for patient, ct in cts:
        yield Row("", patient, ct, **_both(films.get(patient, {})))
    for patient in films.keys() - {patient for patient, _ in cts}:
        yield Row("", patient, None, **_both(films[patient]))


def _both(films: dict[str, Path]) -> dict[str, Any]:
    return {view: films.get(view) for view in ("frontal", "lateral")}


def _dicom_in(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(patient's label, modality, path) of the DICOM files directly in a folder."""
    import pydicom

    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if not is_dicom(path):
            continue
        try:
            tags = pydicom.dcmread(path, specific_tags=["PatientID", "Modality"], stop_before_pixels=True)
        except Exception:  # a damaged file among others; whoever loads the case will say so
            continue
        identity = str(tags.get("PatientID", "") or "") or str(folder.resolve())
        label = f"case-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"
        yield label, str(tags.get("Modality", "") or ""), path


def film_view(path: Path) -> tuple[str, str]:
    """ "frontal" or "lateral", and how that is known: "tags", "look", or "guess" where the look is doubtful.

    View Position (0018,5101) or View Code Sequence (0054,0220) decide, else Patient Orientation (0020,0020), else what
    the film looks like. A film that cannot be read counts as a guessed frontal one: its reader will say what is wrong.
    """
    try:
        return known_view(Radiograph.load(path))
    except AxonError:
        return "frontal", "guess"


def known_view(film: Radiograph) -> tuple[str, str]:
    """See `film_view`."""
    if film.view is not None:
        return "frontal" if film.view.is_frontal else "lateral", "tags"
    if film.orientation is not None:
        return "lateral" if set(film.orientation) & set("AP") else "frontal", "tags"
    top, bottom, left, right = film_area(film.pixels)
    look = looks_lateral(film.pixels[top:bottom, left:right])
    return "lateral" if look > 0 else "frontal", "look" if abs(look) > DOUBTFUL_VIEW else "guess"

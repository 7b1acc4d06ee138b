"""LIDC-IDRI patients with a CT and X-ray films, from the index of the Imaging Data Commons.

The index ships with the package idc-index (extra "lidc"), so that listing needs no network; downloads are done by the
same package. The index does not know which view a film shows: that is in each file, see `manifest.film_view`.

Data: S. G. Armato et al., LIDC-IDRI, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axon_core.data.manifest import Row, film_view, write_manifest
from axon_core.errors import ConfigError, OutputError

COLLECTION = "lidc_idri"
FILM_MODALITIES = ("CR", "DX")
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Series:
    """One series of the index. `images` is its number of files; `megabytes` are 10^6 bytes."""

    patient: str
    modality: str
    uid: str
    images: int
    megabytes: float
    licence: str

    def folder(self, root: Path) -> Path:
        """Where it is downloaded to."""
        return root / self.patient / f"{self.modality}_{self.uid}"

    def is_complete(self, root: Path) -> bool:
        """Whether all its files are there."""
        return sum(1 for _ in self.folder(root).glob("*.dcm")) >= self.images


@dataclass(frozen=True)
class Patient:
    """A patient with at least one CT and one film."""

    name: str
    cts: tuple[Series, ...]
    films: tuple[Series, ...]

    @property
    def series(self) -> tuple[Series, ...]:
        return self.cts + self.films

    @property
    def film_images(self) -> int:
        """Number of film files, of any view."""
        return sum(series.images for series in self.films)

    @property
    def megabytes(self) -> float:
        return sum(series.megabytes for series in self.series)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "patient": self.name,
            "cts": len(self.cts),
            "ct_slices": sum(series.images for series in self.cts),
            "film_series": len(self.films),
            "film_images": self.film_images,
            "megabytes": round(self.megabytes, 1),
            "licence": sorted({series.licence for series in self.series}),
        }


def open_index() -> Any:
    """idc-index's client; no network is needed to make it.

    Errors:
        ConfigError: the package is not installed.
    """
    try:
        from idc_index import IDCClient
    except ImportError as error:
        raise ConfigError(
            "lidc.no-index", "The index of the Imaging Data Commons is missing.", "pip install 'axon-core[lidc]'"
        ) from error
    logging.getLogger("idc_index").setLevel(logging.WARNING)  # it tells sizes, as we do
    return IDCClient()


def read_series(client: Any) -> list[Series]:
    """The CT and film series of the collection."""
    table = client.index
    table = table[(table["collection_id"] == COLLECTION) & table["Modality"].isin(["CT", *FILM_MODALITIES])]
    columns = ["PatientID", "Modality", "SeriesInstanceUID", "instanceCount", "series_size_MB", "license_short_name"]
    return [
        Series(str(patient), str(modality), str(uid), int(images), float(size), str(licence))
        for patient, modality, uid, images, size, licence in table[columns].itertuples(index=False)
    ]


def paired(series: Sequence[Series]) -> list[Patient]:
    """The patients with both, by name."""
    patients = []
    for name in sorted({one.patient for one in series}):
        own = sorted((one for one in series if one.patient == name), key=lambda one: one.uid)
        cts = tuple(one for one in own if one.modality == "CT")
        films = tuple(one for one in own if one.modality in FILM_MODALITIES)
        if cts and films:
            patients.append(Patient(name, cts, films))
    return patients


def chosen(patients: Sequence[Patient], names: Sequence[str]) -> list[Patient]:
    """Those of the given names ("LIDC-IDRI-0001", or "1"); all of them if no name is given.

    Errors:
        ConfigError: no such patient.
    """
    wanted = [f"LIDC-IDRI-{int(name):04d}" if name.isdigit() else name for name in names]
    known = {patient.name: patient for patient in patients}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            "lidc.patient", f"{unknown[0]} has no CT with films in the index.", "See `axon data lidc --list`."
        )
    return [known[name] for name in dict.fromkeys(wanted)] if wanted else list(patients)


@dataclass(frozen=True)
class Wanted:
    """What a download has to bring: the series that are not complete yet, and the room for them."""

    series: tuple[Series, ...]
    complete: int
    megabytes: float
    free_megabytes: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "series": len(self.series),
            "complete": self.complete,
            "megabytes": round(self.megabytes, 1),
            "free_megabytes": round(self.free_megabytes, 1),
        }


def missing(patients: Sequence[Patient], root: Path) -> Wanted:
    """What is not yet below `root`, without any network."""
    series = [one for patient in patients for one in patient.series]
    left = tuple(one for one in series if not one.is_complete(root))
    place = next(path for path in (root, *root.absolute().parents) if path.exists())
    return Wanted(
        left, len(series) - len(left), sum(one.megabytes for one in left), shutil.disk_usage(place).free / 1e6
    )


def download(
    client: Any,
    patients: Sequence[Patient],
    root: Path,
    resume: bool = False,
    told: Callable[[int, int, Patient], None] = lambda *_: None,
) -> Path:
    """Fetch CTs and films, patient after patient, and write a manifest of what is there.

    Args:
        client: see `open_index`.
        patients: see `chosen`.
        root: a new or empty folder, or with `resume` one that an earlier run has begun.
        resume: series that are complete are left alone.
        told: called after each patient with the number done, how many, and which.

    Returns:
        The manifest: patient, ct, frontal, lateral; of several CTs or films of one view the first.

    Errors:
        OutputError: the folder is not empty, the disk is too small, or files are missing in the end.
    """
    if not resume and root.exists() and any(root.iterdir()):
        raise OutputError("lidc.not-empty", f"{root.name} is not empty.", "Choose another folder, or add --resume.")
    wanted = missing(patients, root)
    if wanted.megabytes > wanted.free_megabytes:
        raise OutputError(
            "lidc.space",
            f"{wanted.megabytes / 1e3:.1f} GB are wanted, the disk has {wanted.free_megabytes / 1e3:.1f} GB left.",
            "Choose another disk, or some --patients only.",
        )
    root.mkdir(parents=True, exist_ok=True)
    for number, patient in enumerate(patients, 1):
        left = [one for one in patient.series if not one.is_complete(root)]
        if left:
            try:
                client.download_from_selection(
                    downloadDir=str(root),
                    seriesInstanceUID=[one.uid for one in left],
                    dirTemplate="%PatientID/%Modality_%SeriesInstanceUID",
                    show_progress_bar=False,
                )
            except Exception as error:  # idc-index and the program it runs fail in many ways
                raise OutputError(
                    "lidc.failed",
                    f"{patient.name} could not be fetched ({type(error).__name__}).",
                    "Check the network and the disk, then run again with --resume.",
                ) from error
        told(number, len(patients), patient)
    lacking = missing(patients, root).series
    if lacking:
        raise OutputError(
            "lidc.incomplete",
            f"{len(lacking)} of {sum(len(patient.series) for patient in patients)} series did not arrive.",
            "Check the network, then run again with --resume.",
        )
    write_manifest(root / MANIFEST, [row_of(patient, root) for patient in patients])
    return root / MANIFEST


def row_of(patient: Patient, root: Path) -> Row:
    """The manifest's line for a downloaded patient; the views are found from the films themselves."""
    films: dict[str, Path] = {}
    doubtful: dict[str, Path] = {}
    for path in sorted(path for one in patient.films for path in one.folder(root).glob("*.dcm")):
        view, source = film_view(path)
        (doubtful if source == "guess" else films).setdefault(view, path)
    films = {**doubtful, **films}
    return Row(patient.name, patient.name, patient.cts[0].folder(root), films.get("frontal"), films.get("lateral"))

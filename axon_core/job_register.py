"""One registration from files to a file: the pose in which a CT casts the films."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axon_core.errors import ConfigError
from axon_core.film_choice import FilmChoice
from axon_core.geometry import RigidPose
from axon_core.job import check, job_from_dict
from axon_core.staging import StagedFile

if TYPE_CHECKING:
    from axon_core.pipeline import Progress


@dataclass(frozen=True)
class Start:
    """Where a search begins, in the words of its record."""

    rotation_deg: tuple[float, ...] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for values in (self.rotation_deg, self.translation_mm):
            check("start", len(values) == 3 and all(map(math.isfinite, values)), "three degrees and three millimetres")

    @property
    def pose(self) -> RigidPose:
        a, b, c = np.deg2rad(self.rotation_deg).tolist()
        x, y, z = self.translation_mm
        return RigidPose((a, b, c), (x, y, z))


@dataclass(frozen=True)
class RegisterJob:
    """What to register, and where to write the record.

    Attributes:
        ct: volume file, or folder of DICOM slices.
        frontal: film of the same patient.
        output: JSON file for the record.
        lateral: film in the same posture, or None.
        frontal_mask, lateral_mask: .npy files, (512, 512) bool, True where film and DRR are compared, on the film as
            `standardise` lays it; None = found from collimation, frame and markers.
        sdd_mm: source to detector, of both films, whatever their files say.
        start: where to begin; the priors are centred there.
        global_search: look beyond the neighbourhood of the start.
        overwrite: replace an earlier record.
    """

    ct: str
    frontal: FilmChoice
    output: str
    lateral: FilmChoice | None = None
    frontal_mask: str | None = None
    lateral_mask: str | None = None
    sdd_mm: float | None = None
    start: Start = field(default_factory=Start)
    global_search: bool = True
    overwrite: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RegisterJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, {key: value for key, value in values.items() if (key, value) != ("start", None)})

    def __post_init__(self) -> None:
        sdd = self.sdd_mm
        number = isinstance(sdd, int | float) and not isinstance(sdd, bool) and math.isfinite(sdd)
        check("sdd_mm", sdd is None or number, "millimetres, or null")
        for key in ("frontal_mask", "lateral_mask"):
            check(key, isinstance(getattr(self, key), str | None), "the name of a .npy file, or null")
        check("lateral_mask", self.lateral is not None or self.lateral_mask is None, "a lateral film with its mask")

    def staging(self) -> StagedFile:
        """For `run`."""
        return StagedFile(self.output, self.overwrite)

    def run(self, staging: StagedFile, callback: Callable[[Progress], None]) -> Registered:
        """Do the job; the record appears at ``output`` when it returns.

        Raises:
            AxonError: whatever a user can cause; nothing is written then.
        """
        with staging:
            masks = [_mask(name) for name in (self.frontal_mask, self.lateral_mask)]

            from axon_core.pipeline import Progress
            from axon_core.registration.files import register_files

            callback(Progress("reading", 0.0))
            started = time.perf_counter()

            def told(done: float) -> None:
                left = (time.perf_counter() - started) * (1 - done) / done if done > 0 else None
                callback(Progress("registration", done, left))

            found = register_files(
                Path(self.ct),
                self.frontal,
                self.lateral,
                masks=(masks[0], masks[1]),
                sdd_mm=self.sdd_mm,
                start=self.start.pose,
                global_search=self.global_search,
                told=told,
            )
            record = found.to_dict()
            staging.file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return Registered(staging.output, record)


@dataclass(frozen=True)
class Registered:
    """The record of a registration, and the file that holds it."""

    output: Path
    record: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"output": str(self.output), "record": self.record, "warnings": self.record["warnings"]}


def _mask(name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    try:
        mask = np.load(name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            "register.mask", f"{Path(name).name} cannot be read as a mask.", "Give a .npy file of truth values."
        ) from error
    if mask.dtype != bool:
        raise ConfigError("register.mask", f"{Path(name).name} holds {mask.dtype}.", "Give truth values (bool).")
    return mask

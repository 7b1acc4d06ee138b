"""A reconstruction beside the true CT: the truth on the result's lattice, their difference, and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.ctvolume import AIR_HU, CTVolume
from axon_core.errors import VolumeError
from axon_core.geometry import RigidPose
from axon_core.intensity import WIDE
from axon_core.job import check, job_from_dict, volume_of
from axon_core.staging import Product, StagedFolder

if TYPE_CHECKING:
    from axon_core.pipeline import Progress

EDGE = 1e-6  # voxels: on the very edge, rounding decides whether the resampling finds a value
PRODUCT = Product("metrics.json", ("truth.nrrd", "difference.nrrd", "metrics.json"))


@dataclass(frozen=True)
class CompareJob:
    """What to compare, and where to write it.

    Attributes:
        result: the reconstruction: a volume file, or a result's folder.
        truth: the true CT: volume file, or folder of DICOM slices.
        truth_to_result: (4, 4), the truth's LPS -> the result's LPS, in millimetres; rigid.
        output: folder for the results; made if missing.
        overwrite: replace an earlier comparison in `output`; other files there are never touched.
    """

    result: str
    truth: str
    truth_to_result: tuple[tuple[float, ...], ...]
    output: str
    overwrite: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompareJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, values)

    def __post_init__(self) -> None:
        rows = self.truth_to_result
        good = len(rows) == 4 and all(len(row) == 4 and all(map(math.isfinite, row)) for row in rows)
        check("truth_to_result", good and tuple(rows[3]) == (0, 0, 0, 1), "a 4 x 4 matrix of a rigid motion")
        RigidPose.from_matrix(np.array(rows))  # refuses other motions

    def staging(self) -> StagedFolder:
        """For `run`."""
        return StagedFolder(self.output, PRODUCT, self.overwrite)

    def run(self, staging: StagedFolder, callback: Callable[[Progress], None]) -> Comparison:
        """Do the job; its files appear in ``output`` when it returns.

        Raises:
            AxonError: whatever a user can cause; nothing is written then.
        """
        with staging:
            from axon_core.pipeline import Progress

            callback(Progress("reading", 0.0))
            result = CTVolume.load(volume_of(Path(self.result)))
            read = CTVolume.load(self.truth)
            callback(Progress("resampling", 0.4))
            moved = CTVolume(read.hu, np.array(self.truth_to_result) @ read.affine, read.notes, read.source)
            inside = _inside(moved, result)
            truth = moved.resampled(result.affine, result.hu.shape, AIR_HU)
            callback(Progress("comparing", 0.7))
            metrics = compared(result.hu, truth.hu, inside)
            callback(Progress("writing", 0.9))
            record = {
                "notice": SYNTHETIC_NOTICE,
                "version": __version__,
                "truth_to_result": [list(row) for row in self.truth_to_result],
                "metrics": [asdict(metric) for metric in metrics],
            }
            difference = np.where(inside, np.rint(result.hu - truth.hu), 0.0).clip(-32768, 32767)
            files = {
                "truth": truth.save(staging.folder / "truth.nrrd"),
                "difference": CTVolume(difference, result.affine).save(staging.folder / "difference.nrrd", record),
                "metrics": staging.folder / "metrics.json",
            }
            files["metrics"].write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            callback(Progress("done", 1.0))
        placed = {kind: staging.output / path.name for kind, path in files.items()}
        return Comparison(staging.output, placed, metrics, tuple(dict.fromkeys([*result.notes, *read.notes])))


@dataclass(frozen=True)
class Metric:
    """One number, None where it is not defined, and what it means."""

    name: str
    value: float | None
    unit: str
    definition: str


@dataclass(frozen=True)
class Comparison:
    """What a comparison made: "truth", "difference" and "metrics" -> path, and the numbers."""

    output: Path
    files: dict[str, Path]
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "output": str(self.output),
            "files": {kind: str(path) for kind, path in self.files.items()},
            "metrics": [asdict(metric) for metric in self.metrics],
            "warnings": list(self.warnings),
        }


def compared(result_hu: np.ndarray, truth_hu: np.ndarray, inside: np.ndarray) -> tuple[Metric, ...]:
    """The metrics of two volumes (z, y, x) of HU where `inside`.

    Errors:
        VolumeError: nothing is inside.
    """
    from axon_core.evaluation.metrics import SSIM_NAMES, mae, psnr, ssim3d

    if not inside.any():
        raise VolumeError(
            "compare.no-overlap",
            "The CT and the reconstruction do not overlap.",
            "Register the CT to the film first, or check that it is the right one.",
        )
    low, high = WIDE.low, WIDE.high
    p, t = (0.5 * (WIDE.encode(hu.astype(np.float64)) + 1.0) for hu in (result_hu, truth_hu))
    window = f"both clipped to [{low:.0f}, {high:.0f}] HU, data range {high - low:.0f} HU"
    where = "over the voxels of the reconstruction whose centres lie in the true CT"
    noise = psnr(p[inside], t[inside])
    try:
        similar: float | None = ssim3d(p, t, mask=inside)
    except VolumeError:  # the overlap is too small for its window
        similar = None
    return (
        Metric("MAE", mae(result_hu[inside], truth_hu[inside]), "HU", f"mean |reconstruction - true CT|, {where}"),
        Metric("PSNR", noise if math.isfinite(noise) else None, "dB", f"{window}, {where}; none if equal"),
        Metric("SSIM", similar, "", f"{SSIM_NAMES['valid']}; {window}; mean over the windows that lie in the true CT"),
        Metric(
            "compared",
            100.0 * float(inside.mean()),
            "%",
            "of the reconstruction's voxels; the others lie outside of the true CT and are not counted",
        ),
    )


def _inside(truth: CTVolume, result: CTVolume) -> np.ndarray:
    """(z, y, x) bool on the result's lattice: the voxel's centre lies in the box of the truth's voxels."""
    mapping = np.linalg.inv(truth.affine) @ result.affine
    z, y, x = (np.arange(n, dtype=np.float64) for n in result.hu.shape)
    inside = np.ones(result.hu.shape, bool)
    for axis, length in enumerate(truth.hu.shape[::-1]):  # the truth's index x, then y, then z
        by_x, by_y, by_z, offset = mapping[axis]
        index = by_z * z[:, None, None] + by_y * y[:, None] + by_x * x + offset
        inside &= (index > -0.5 + EDGE) & (index < length - 0.5 - EDGE)
    return inside

"""CT volumes that know where they lie.

`CTVolume` holds Hounsfield units ``[z, y, x]`` and an affine to DICOM patient coordinates (LPS, millimetres). It is
read from a DICOM series, NIfTI, NRRD or MetaImage, resampled onto any grid, and saved again; whatever came out of the
networks stays marked as synthetic through every format.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE
from axon_core.dicom_series import is_dicom, read_dicom
from axon_core.dicom_write import write_dicom
from axon_core.errors import OutputError, VolumeError
from axon_core.files import atomic_file, atomic_folder
from axon_core.geometry import CanonicalGrid
from axon_core.volume_readers import LOWEST_HU, MAX_VOXELS, RawVolume, check_shape, read_volume_file

AIR_HU = -1000.0
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

NIFTI_HEADER_BYTES = 352
FWHM_PER_SIGMA = 2.3548  # of a Gaussian

_PERPENDICULAR = 1e-3  # largest cosine between two axes that still counts as a right angle
_SPACING_MM = (0.01, 100.0)
_EXTENT_MM = 5000.0
_GROWTH = 4.0  # setting sheared slices upright may need this many times the voxels


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT volume in LPS.

    Attributes:
        hu: (z, y, x) float32, Hounsfield units, finite.
        affine: (4, 4) float64: index (x, y, z, 1) -> LPS millimetres of the voxel's centre; axes at right angles,
            either handedness.
        notes: what was decided or repaired on the way, in plain words.
        source: name, format, and where known ``synthetic``, ``provenance``; nothing that identifies a patient.
    """

    hu: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hu = np.asarray(self.hu, dtype=np.float32)
        affine = np.array(self.affine, dtype=np.float64)
        if hu.ndim != 3 or hu.size == 0:
            raise VolumeError("volume.not-3d", f"A CT volume has three axes, not shape {hu.shape}.", "Give [z, y, x].")
        if not np.isfinite(hu.sum(dtype=np.float64)):
            raise VolumeError(
                "volume.not-finite", "The volume holds NaN or infinite voxels.", "Replace them by -1000 HU."
            )
        check_affine("The volume", affine)
        if shear(affine) > _PERPENDICULAR:
            raise VolumeError("volume.sheared", "The volume's axes are not at right angles.", "Resample it first.")
        object.__setattr__(self, "hu", hu)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CTVolume:
        """Read a volume file, a folder of DICOM slices, or the whole series to which one DICOM slice belongs.

        Sheared data (gantry tilt) are resampled upright; NaN becomes air; values below -1024 HU (padding outside the
        field of view) become -1024. Each such step is told in `notes`.

        Raises:
            VolumeError: missing, unknown, damaged, not one 3D CT, or with unusable geometry.
        """
        path = Path(os.path.abspath(path))
        try:
            with np.errstate(all="ignore"):  # absurd numbers are found by asking whether results are finite
                return _judged(_read(path))
        except MemoryError as error:
            raise VolumeError(
                "volume.memory", f"{path.name} does not fit into memory.", "Crop or resample it."
            ) from error

    @classmethod
    def from_grid(cls, hu: Any, grid: CanonicalGrid, source: dict[str, Any] | None = None) -> CTVolume:
        """A volume from an array on the canonical grid; VolumeError if the shapes differ."""
        if tuple(hu.shape) != grid.shape:
            raise VolumeError(
                "volume.shape",
                f"Array of shape {tuple(hu.shape)} on a grid of {grid.shape}.",
                "Use the grid it came from.",
            )
        return cls(np.asarray(hu), grid.affine, source=dict(source or {}))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edges along the index axes (x, y, z)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def center_lps(self) -> tuple[float, float, float]:
        """The middle of the volume in LPS millimetres."""
        middle = 0.5 * (np.array(self.hu.shape[::-1]) - 1.0)
        x, y, z = self.affine[:3, :3] @ middle + self.affine[:3, 3]
        return float(x), float(y), float(z)

    def resampled(self, affine: np.ndarray, shape_zyx: Sequence[int], fill: float = AIR_HU) -> CTVolume:
        """The same patient on another lattice, trilinear; antialiased along the axes on which it is coarser.

        Before sampling f times coarser, an axis is smoothed by a Gaussian with FWHM² = f² - 1 input voxels, so that a
        voxel's own width grows from 1 to f (Cardoso et al., Scale factor point spread function matching, MICCAI 2015).
        `fill` is used outside of the volume.
        """
        check_affine("The new lattice", np.asarray(affine, dtype=np.float64))
        steps = np.linalg.inv(self.affine[:3, :3]) @ np.asarray(affine, dtype=np.float64)[:3, :3]
        coarser = np.linalg.norm(steps, axis=1)
        sigma = np.sqrt(np.where(coarser > 1.0 + 1e-6, coarser**2 - 1.0, 0.0)) / FWHM_PER_SIGMA
        smooth = _smoothed(self.hu, sigma)
        hu = _interpolated(smooth, self.affine, affine, shape_zyx, fill)
        return CTVolume(hu, affine, self.notes, self.source)

    def onto(self, grid: CanonicalGrid, fill: float = AIR_HU) -> CTVolume:
        """The part of the patient inside the canonical cube; `fill` where the cube reaches beyond the volume."""
        return self.resampled(grid.affine, grid.shape, fill)

    def to_sitk(self) -> Any:
        """The volume as a SimpleITK image (float32), which shares LPS with us."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(self.hu)
        self._place(image)
        return image

    def _place(self, image: Any) -> None:
        u, _, vt = np.linalg.svd(self.affine[:3, :3] / self.spacing_mm)
        image.SetSpacing(self.spacing_mm)
        image.SetDirection((u @ vt).ravel().tolist())  # the nearest exact rotation (or reflection)
        image.SetOrigin(self.affine[:3, 3].tolist())

    def save(
        self, path: str | os.PathLike[str], provenance: dict[str, Any] | None = None, overwrite: bool = False
    ) -> Path:
        """Write NIfTI (.nii, .nii.gz), NRRD (.nrrd) or MetaImage (.mha); the file appears whole or not at all.

        Whole numbers are stored as int16, anything else as float32: nothing is lost. `provenance` (JSON-able) goes into
        the header under the key ``axon`` (NRRD, MHA); synthetic volumes say so in NIfTI's ``descrip``.

        Raises:
            OutputError: unknown ending, existing file without `overwrite`, or the disk refuses.
        """
        import SimpleITK as sitk

        path = Path(path)
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix is None:
            raise OutputError(
                "output.format", f"Unknown volume format: {path.name}.", f"Use one of {', '.join(SUFFIXES)}."
            )
        stored = _compact(self.hu)
        image = sitk.GetImageFromArray(stored)
        self._place(image)
        record = self._record(provenance)
        if record is not None and suffix in (".nrrd", ".mha"):
            image.SetMetaData("axon", _one_line(record))
        elif record is not None:
            image.SetMetaData("ITK_FileNotes", SYNTHETIC_NOTICE)  # becomes NIfTI's descrip
        with atomic_file(path, overwrite) as temporary:
            try:
                sitk.WriteImage(image, str(temporary), suffix != ".nii", compressionLevel=3)
            except RuntimeError as error:
                raise _disk_refused(path) from error
            if suffix in (".nii", ".nii.gz") and not _is_whole(temporary, stored.nbytes):
                raise _disk_refused(path)
        return path

    def save_dicom(
        self,
        folder: str | os.PathLike[str],
        provenance: dict[str, Any] | None = None,
        film: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write a DICOM CT series, one file per slice, marked DERIVED, SECONDARY and synthetic whatever the source.

        Voxels are rounded to whole HU within [-33792, 31743]. `film`: the source film's (or films') ``sop_class_uid``,
        ``sop_instance_uid``, ``study_instance_uid``, to be referenced; no patient data are copied. The series is a new
        study with a frame of reference of its own. With `overwrite`, an existing folder is replaced if it holds
        nothing but .dcm files.

        Raises:
            OutputError: the folder exists, holds other things, or cannot be written.
        """
        record = self._record(provenance) or {"notice": SYNTHETIC_NOTICE}
        _one_line(record)
        films = [film] if isinstance(film, dict) else list(film or ())
        with atomic_folder(folder, overwrite) as temporary:
            write_dicom(temporary, self.hu, self.affine, record, films)
        return Path(folder)

    def _record(self, provenance: dict[str, Any] | None) -> dict[str, Any] | None:
        """The provenance to write: the given one, else the source's; a synthetic volume always has one."""
        record = provenance if provenance is not None else self.source.get("provenance")
        return {"notice": SYNTHETIC_NOTICE} if record is None and self.source.get("synthetic") else record


def check_affine(what: str, affine: np.ndarray) -> None:
    """VolumeError unless `affine` is a finite, invertible (4, 4) matrix."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise VolumeError("volume.geometry", f"{what} has no usable position matrix.", "Check its header.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths <= 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 0.1:
        raise VolumeError("volume.geometry", f"{what} has axes that do not span space.", "Check its header.")


def shear(affine: np.ndarray) -> float:
    """The largest cosine between two of the index axes; 0 when all are at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> RawVolume:
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise VolumeError("volume.missing", f"{path.name} does not exist.", "Check the path.")
    return read_dicom(path) if path.is_dir() or is_dicom(path) else read_volume_file(path)


def _judged(raw: RawVolume) -> CTVolume:
    """Turn what a file says into a usable volume, or say why not."""
    name = raw.source["name"]
    check_shape(name, list(raw.voxels.shape[::-1]))
    check_affine(name, raw.affine)
    _check_size(name, raw)
    notes = list(raw.notes)
    hu = raw.voxels.astype(np.float32)
    _fill_holes(name, hu, notes)
    lowest, highest = float(hu.min()), float(hu.max())
    if lowest == highest:
        raise VolumeError("volume.constant", f"{name}: all voxels are the same.", "Choose another file.")
    if lowest < LOWEST_HU:
        np.maximum(hu, LOWEST_HU, out=hu)
        notes.append(f"Padding below {LOWEST_HU:.0f} HU (down to {lowest:.0f}) was raised to {LOWEST_HU:.0f}.")
    if lowest > -200.0 or highest > 40000.0:
        notes.append(
            f"The values run from {lowest:.5g} to {highest:.5g}, where a chest CT runs from about -1000 to 3000 HU: "
            "these may be raw values. If so, apply the scanner's rescaling (usually: subtract 1024) first."
        )
    affine = raw.affine
    if shear(affine) > _PERPENDICULAR:
        hu, affine = _upright(name, hu, affine)
        notes.append("The slices were sheared (gantry tilt); the volume was resampled upright.")
    return CTVolume(hu, affine, tuple(notes), raw.source)


def _check_size(name: str, raw: RawVolume) -> None:
    spacing = np.linalg.norm(raw.affine[:3, :3], axis=0)
    extent = spacing * raw.voxels.shape[::-1]
    if spacing.min() < _SPACING_MM[0] or spacing.max() > _SPACING_MM[1] or extent.max() > _EXTENT_MM:
        raise VolumeError(
            "volume.spacing",
            f"{name}: voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm are impossible for a CT.",
            "The voxel size in the header is wrong or not in millimetres: correct it.",
        )


def _fill_holes(name: str, hu: np.ndarray, notes: list[str]) -> None:
    if np.isfinite(hu.sum(dtype=np.float64)):
        return
    holes = ~np.isfinite(hu)
    share = float(holes.mean())
    if share > 0.5:
        raise VolumeError(
            "volume.not-finite", f"{name}: {share:.0%} of the voxels are not numbers.", "Export it again."
        )
    hu[holes] = AIR_HU
    notes.append(f"{int(holes.sum()):,} voxels that were not finite numbers are taken as air.")


def _upright(name: str, hu: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample sheared slices onto right angles: x kept, z along the slices' normal, in a box holding all voxels."""
    columns = affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if shear(affine) > 0.75:
        raise VolumeError("volume.sheared", f"{name}: the axes are sheared by more than 48°.", "Check its header.")
    x = columns[:, 0] / spacing[0]
    z = np.cross(columns[:, 0], columns[:, 1])
    z /= np.linalg.norm(z)
    axes = np.stack([x, np.cross(z, x), z], axis=1)
    steps = np.abs(np.diag(axes.T @ columns))
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(hu.shape[::-1]) - 1)
    inside = (corners @ columns.T) @ axes
    low, high = inside.min(axis=0), inside.max(axis=0)
    shape = np.floor((high - low) / steps + 1e-3).astype(int) + 1
    if np.prod(shape.astype(float)) > min(MAX_VOXELS, _GROWTH * hu.size):
        raise VolumeError("volume.sheared", f"{name} is sheared too far to be set upright.", "Crop or resample it.")
    upright = np.eye(4)
    upright[:3, :3] = axes * steps
    upright[:3, 3] = affine[:3, 3] + axes @ low
    return _interpolated(hu, affine, upright, shape[::-1].tolist(), AIR_HU), upright


# --- resampling ------------------------------------------------------------------------------------------------------


def _smoothed(hu: np.ndarray, sigma_xyz: np.ndarray) -> np.ndarray:
    """Gaussian along each axis, standard deviations in voxels; borders continue their last value."""
    if not sigma_xyz.any():
        return hu
    hu = hu.copy()
    for planes, axis, sigma in ((hu, 1, sigma_xyz[0]), (hu, 0, sigma_xyz[1]), (hu.swapaxes(0, 1), 0, sigma_xyz[2])):
        if sigma > 0:
            half = _half_gaussian(sigma)
            for plane in planes:  # plane by plane, because a plane fits into the processor's cache
                plane[:] = _smoothed_plane(plane, axis, half)
    return hu


def _half_gaussian(sigma: float) -> np.ndarray:
    """Weights at 0, 1, 2 ... voxels up to four standard deviations; the full kernel sums to 1."""
    half = np.exp(-0.5 * (np.arange(np.ceil(4.0 * sigma) + 1) / sigma) ** 2)
    return (half / (2.0 * half.sum() - half[0])).astype(np.float32)


def _smoothed_plane(plane: np.ndarray, axis: int, half: np.ndarray) -> np.ndarray:
    reach, n = len(half) - 1, plane.shape[axis]
    padded = np.pad(plane, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")

    def moved(by: int) -> np.ndarray:
        where = slice(reach + by, reach + by + n)
        return padded[where] if axis == 0 else padded[:, where]

    smooth = half[0] * plane
    for by in range(1, reach + 1):
        smooth += half[by] * (moved(-by) + moved(by))
    return smooth


def _interpolated(hu: np.ndarray, affine: np.ndarray, target: np.ndarray, shape_zyx: Sequence[int], fill: float) -> Any:
    """Trilinear samples of `hu` at the voxel centres of another lattice; (z, y, x) float32.

    Works in index space, so that any affine will do, sheared ones included.
    """
    import SimpleITK as sitk

    if np.prod(np.asarray(shape_zyx, dtype=float)) > MAX_VOXELS:
        raise VolumeError("volume.too-large", f"A grid of {tuple(shape_zyx)} is too large.", "Use fewer voxels.")
    mapping = np.linalg.inv(affine) @ target
    transform = sitk.AffineTransform(mapping[:3, :3].ravel().tolist(), mapping[:3, 3].tolist())
    size = [int(n) for n in shape_zyx[::-1]]
    image, unit = sitk.GetImageFromArray(hu), np.eye(3).ravel().tolist()
    moved = sitk.Resample(image, size, transform, sitk.sitkLinear, (0.0,) * 3, (1.0,) * 3, unit, fill, sitk.sitkFloat32)
    return sitk.GetArrayFromImage(moved)


# --- writing ---------------------------------------------------------------------------------------------------------


def _disk_refused(path: Path) -> OutputError:
    return OutputError("output.cannot-write", f"{path.name} cannot be written.", "Check the free space on the disk.")


def _is_whole(nifti: Path, voxel_bytes: int) -> bool:
    """Whether header and voxels have all arrived: SimpleITK does not tell when the disk is full."""
    length, opened = 0, gzip.open if nifti.suffix == ".gz" else open
    try:
        with opened(nifti, "rb") as stream:
            while block := stream.read(1 << 20):
                length += len(block)
    except (EOFError, OSError, zlib.error):
        return False
    return length >= NIFTI_HEADER_BYTES + voxel_bytes


def _compact(hu: np.ndarray) -> np.ndarray:
    """int16 when that loses nothing."""
    if hu.min() >= -32768 and hu.max() <= 32767:
        whole = hu.astype(np.int16)
        if np.array_equal(whole, hu):
            return whole
    return hu


def _one_line(provenance: dict[str, Any]) -> str:
    try:
        return json.dumps(provenance, ensure_ascii=True, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise OutputError(
            "output.provenance", "The provenance cannot be written as JSON.", "Use plain values."
        ) from error

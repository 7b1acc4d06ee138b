"""Writing a synthetic CT volume as a DICOM CT series that nobody can take for a scan.

Every slice says that it is derived and synthetic, in the places where archives and viewers look: Image Type, Study and
Series Description, Image Comments, Derivation Description. No patient is invented or copied: the patient's attributes
stay empty. The films are referenced as the source images when they were DICOM.

Sources: PS3.3 A.3 CT Image IOD and its modules; PS3.16 CID 7202 for the purpose of reference.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.dicom_series import PRIVATE_CREATOR, PRIVATE_GROUP

INTERCEPT = -1024  # HU of the stored value 0

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_EMPTY = (  # type 2: must be there, may be empty
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyID",
    "AccessionNumber", "PatientPosition", "PositionReferenceIndicator", "AcquisitionNumber", "KVP",
)  # fmt: skip


def write_dicom(
    folder: Path,
    hu: np.ndarray,
    affine: np.ndarray,
    provenance: dict[str, Any] | None = None,
    films: Sequence[dict[str, Any]] = (),
) -> None:
    """Write one file per slice, ``0001.dcm`` and up, into an existing folder.

    The axes are reordered so that slices are as axial as the volume allows and follow each other upwards along their
    normal; voxels are rounded to whole HU. The UIDs follow from content, provenance and time, so they are new for every
    volume.

    Args:
        hu: (z, y, x) Hounsfield units.
        affine: (4, 4) index (x, y, z, 1) -> LPS millimetres, axes at right angles.
        provenance: JSON-able; kept in a private element. Its ``created`` (ISO 8601) dates the series, else now does.
        films: for every source film ``sop_class_uid``, ``sop_instance_uid`` and, if known, ``study_instance_uid`` and
            ``series_instance_uid``; films without UIDs are skipped.
    """
    hu, affine = as_axial(hu, affine)
    stored = np.clip(np.rint(hu) - INTERCEPT, -32768, 32767).astype("<i2")
    created = _created(provenance)
    record = json.dumps(provenance or {}, sort_keys=True)
    seed = hashlib.sha256(stored.tobytes() + affine.tobytes() + f"{record}{created.isoformat()}".encode()).hexdigest()
    shared = _series_attributes(affine, stored.shape, created, seed)
    _add_films(shared, films)
    block = shared.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "UT", record)
    for index, pixels in enumerate(stored):
        one = _slice(shared, pixels, affine @ [0, 0, index, 1], new_uid(seed, f"slice {index}"), index)
        one.save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)


def as_axial(hu: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels with the axes permuted and flipped to be as close to +Left, +Posterior, +Superior as they can.

    That makes the axes right-handed, so that slices follow each other along their normal.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = _best_order(np.abs(directions))
    hu = hu.transpose([2 - order[2], 2 - order[1], 2 - order[0]])
    affine = affine[:, [*order, 3]].copy()
    for axis in range(3):
        if affine[axis, axis] < 0:
            affine[:3, 3] += affine[:3, axis] * (hu.shape[2 - axis] - 1)
            affine[:3, axis] *= -1
            hu = np.flip(hu, 2 - axis)
    return np.ascontiguousarray(hu), affine


def _best_order(size: np.ndarray) -> tuple[int, int, int]:
    """Which index axis runs along x, y and z: the permutation with the largest sum of cosines."""
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    return max(orders, key=lambda order: sum(size[world, axis] for world, axis in enumerate(order)))


def _created(provenance: dict[str, Any] | None) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(str((provenance or {})["created"]).replace("Z", "+00:00"))
    except (KeyError, ValueError):
        return datetime.datetime.now()


def new_uid(seed: str, role: str) -> str:
    """A UID of the UUID form (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{seed} {role}').int}"


def _series_attributes(affine: np.ndarray, shape: tuple[int, ...], created: datetime.datetime, seed: str) -> Any:
    """What all slices share."""
    from pydicom.dataset import Dataset
    from pydicom.valuerep import format_number_as_ds

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :2] / spacing[:2]
    ds = Dataset()
    for keyword in _EMPTY:
        setattr(ds, keyword, None)
    ds.SOPClassUID = _CT_IMAGE
    ds.Modality = "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(seed, "study"), new_uid(seed, "series")
    ds.FrameOfReferenceUID = new_uid(seed, "frame of reference")
    for what in ("Study", "Series", "Content", "InstanceCreation"):
        setattr(ds, f"{what}Date", created.strftime("%Y%m%d"))
        setattr(ds, f"{what}Time", created.strftime("%H%M%S"))
    if created.tzinfo is not None:
        ds.TimezoneOffsetFromUTC = created.strftime("%z")[:5]
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "AXON", "axon_core", __version__
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.StudyDescription = "SYNTHETIC chest CT from plain X-rays"
    ds.SeriesDescription = SYNTHETIC_NOTICE
    ds.ImageComments = f"{SYNTHETIC_NOTICE}. Computed from plain X-rays by AXON {__version__}; no scan took place."
    ds.DerivationDescription = f"{SYNTHETIC_NOTICE}. Volume generated by a neural network from plain X-rays."
    ds.BodyPartExamined = "CHEST"
    ds.SeriesNumber = 1
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.Rows, ds.Columns = shape[1], shape[2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, INTERCEPT, "HU"
    ds.WindowCenter, ds.WindowWidth = [-600, 40], [1500, 400]
    ds.WindowCenterWidthExplanation = ["LUNG", "MEDIASTINUM"]
    ds.PixelSpacing = [format_number_as_ds(float(spacing[1])), format_number_as_ds(float(spacing[0]))]
    ds.SliceThickness = ds.SpacingBetweenSlices = format_number_as_ds(float(spacing[2]))
    ds.ImageOrientationPatient = [format_number_as_ds(float(c)) for c in cosines.T.ravel()]
    return ds


def _slice(shared: Any, pixels: np.ndarray, origin: np.ndarray, instance: str, index: int) -> Any:
    import copy

    from pydicom.dataset import FileMetaDataset
    from pydicom.valuerep import format_number_as_ds

    ds = copy.copy(shared)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE
    ds.SOPInstanceUID = instance
    ds.InstanceNumber = index + 1
    ds.ImagePositionPatient = [format_number_as_ds(float(c)) for c in origin[:3]]
    ds.PixelData = pixels.tobytes()
    return ds


def _add_films(ds: Any, films: Sequence[dict[str, Any]]) -> None:
    """Source Image Sequence (0008,2112), and where the films' study and series are known (0008,1200)."""
    from pydicom.dataset import Dataset

    sources, studies = [], []
    for film in films:
        uids = {key: str(film.get(key) or "") for key in ("sop_class_uid", "sop_instance_uid")}
        if not all(_is_uid(uid) for uid in uids.values()):
            continue
        reference = Dataset()
        reference.ReferencedSOPClassUID = uids["sop_class_uid"]
        reference.ReferencedSOPInstanceUID = uids["sop_instance_uid"]
        item = Dataset()
        item.update(reference)
        item.PurposeOfReferenceCodeSequence = [code_item("121322", "Source image for image processing operation")]
        sources.append(item)
        study, series = str(film.get("study_instance_uid") or ""), str(film.get("series_instance_uid") or "")
        if _is_uid(study) and _is_uid(series):
            inner, outer = Dataset(), Dataset()
            inner.SeriesInstanceUID, inner.ReferencedInstanceSequence = series, [reference]
            outer.StudyInstanceUID, outer.ReferencedSeriesSequence = study, [inner]
            studies.append(outer)
    if sources:
        ds.SourceImageSequence = sources
    if studies:
        ds.StudiesContainingOtherReferencedInstancesSequence = studies


def code_item(value: str, meaning: str, scheme: str = "DCM") -> Any:
    """One item of a code sequence (PS3.3 8.8)."""
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _is_uid(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)+", text) is not None and len(text) <= 64

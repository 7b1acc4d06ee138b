"""Writing a simulated film: PNG for people, NIfTI for programs, DICOM DX for archives. All say that it is synthetic.

Sources: PS3.3 A.26 Digital X-Ray Image IOD and its modules; PS3.3 C.8.11.3 for the meaning of pixel values.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.dicom_series import PRIVATE_CREATOR, PRIVATE_GROUP
from axon_core.dicom_write import code_item, new_uid
from axon_core.errors import OutputError
from axon_core.geometry import XrayGeometry, XrayView

SUFFIXES = (".png", ".dcm", ".nii", ".nii.gz")

_DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_DEPTH = 4095  # highest stored value: 12 bits
_EMPTY = (  # type 2: must be there, may be empty
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyID",
    "AccessionNumber", "InstanceNumber",
)  # fmt: skip
_DICOM_VIEW = {XrayView.PA: "PA", XrayView.AP: "AP", XrayView.LAT: "LL", XrayView.RL: "RL"}
_VIEW_CODES = {  # PS3.16 CID 4010, SNOMED CT
    XrayView.PA: ("272479007", "postero-anterior"),
    XrayView.AP: ("399348003", "antero-posterior"),
    XrayView.LAT: ("399173006", "left lateral"),
    XrayView.RL: ("399198007", "right lateral"),
}
_TOWARDS = {  # Patient Orientation (0020,0020): where columns and rows go
    XrayView.PA: ["L", "F"],
    XrayView.AP: ["L", "F"],
    XrayView.LAT: ["A", "F"],
    XrayView.RL: ["P", "F"],
}


def write_film(path: Path, name: str, film: np.ndarray, geometry: XrayGeometry, record: dict[str, Any]) -> None:
    """Write a film in the format of `name`'s ending.

    Args:
        path: where to write.
        name: the film's final name, which decides on the format.
        film: (h, h) float32. PNG and DICOM show the range from 0 to 1 and clip the rest; NIfTI keeps the values.
        geometry: of the film.
        record: how it was made, JSON-able; kept in every format.

    Errors:
        OutputError: unknown ending.
    """
    check_name(name)
    if name.lower().endswith(".png"):
        _write_png(path, film, geometry, record)
    elif name.lower().endswith(".dcm"):
        _write_dicom(path, film, geometry, record)
    else:
        _write_nifti(path, film, geometry, record)


def is_nifti(name: str) -> bool:
    """Whether values are kept as they are."""
    return name.lower().endswith((".nii", ".nii.gz"))


def check_name(name: str) -> None:
    """Refuse a name whose ending is no film's, before any work is done.

    Errors:
        OutputError: unknown ending.
    """
    if not name.lower().endswith(SUFFIXES):
        raise OutputError(
            "output.format", f"{name} is not a film's name.", f"Give a name that ends in {', '.join(SUFFIXES)}."
        )


def _write_png(path: Path, film: np.ndarray, geometry: XrayGeometry, record: dict[str, Any]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("Comment", SYNTHETIC_NOTICE)
    texts.add_text("axon", json.dumps(record))
    pixels = np.rint(film.clip(0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG", dpi=(25.4 / geometry.pitch_mm,) * 2, pnginfo=texts)


def _write_nifti(path: Path, film: np.ndarray, geometry: XrayGeometry, record: dict[str, Any]) -> None:
    """One slice, standing where the detector stands in the X-ray room: origin at the isocentre, LPS."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(film, np.float32)[None])
    view = geometry.view
    image.SetSpacing((geometry.pitch_mm, geometry.pitch_mm, 1.0))
    image.SetDirection(np.stack([view.column, view.row, np.cross(view.column, view.row)], 1).ravel().tolist())
    image.SetOrigin((geometry.source + geometry.rays()[0]).tolist())
    image.SetMetaData("descrip", f"SYNTHETIC DRR, AXON {__version__}"[:79])
    image.SetMetaData("intent_name", "SYNTHETIC"[:15])
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OutputError(
            "output.cannot-write", f"{path.name} cannot be written.", "Check the folder and the free space on the disk."
        ) from error


def _write_dicom(path: Path, film: np.ndarray, geometry: XrayGeometry, record: dict[str, Any]) -> None:
    """A DX image for presentation, derived and synthetic; nobody's name in it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.valuerep import format_number_as_ds

    stored = np.rint(film.clip(0, 1) * _DEPTH).astype("<u2")
    now = datetime.datetime.now().astimezone()
    text = json.dumps(record, sort_keys=True)
    seed = hashlib.sha256(stored.tobytes() + f"{text}{now.isoformat()}".encode()).hexdigest()

    def number(value: float) -> str:
        return format_number_as_ds(float(value))

    ds: Any = Dataset()
    for keyword in _EMPTY:
        setattr(ds, keyword, None)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE
    ds.SOPClassUID = _DX_FOR_PRESENTATION
    for level in ("SOP", "Study", "Series"):
        setattr(ds, f"{level}InstanceUID", new_uid(seed, level))
    for what in ("Study", "Series", "Content", "Acquisition", "InstanceCreation"):
        setattr(ds, f"{what}Date", now.strftime("%Y%m%d"))
        setattr(ds, f"{what}Time", now.strftime("%H%M%S"))
    ds.Modality, ds.PresentationIntentType, ds.SeriesNumber, ds.InstanceNumber = "DX", "FOR PRESENTATION", 1, 1
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "AXON", "axon_core", __version__
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.StudyDescription = "SYNTHETIC chest film from a CT"
    ds.SeriesDescription = SYNTHETIC_NOTICE
    ds.ImageComments = f"{SYNTHETIC_NOTICE}. Projected from a CT by AXON {__version__}; no film was taken."
    ds.DerivationDescription = f"{SYNTHETIC_NOTICE}. Digitally reconstructed radiograph of a CT."
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", _DICOM_VIEW[geometry.view]
    ds.ImageLaterality, ds.PatientOrientation = "U", _TOWARDS[geometry.view]
    ds.AnatomicRegionSequence = [code_item("43799004", "Chest", "SCT")]
    ds.ViewCodeSequence = [code_item(*_VIEW_CODES[geometry.view], "SCT")]
    ds.AcquisitionContextSequence = []
    ds.DetectorType, ds.DetectorConfiguration, ds.PositionerType = None, None, None
    ds.DistanceSourceToDetector = number(geometry.sdd_mm)
    ds.DistanceSourceToPatient = number(geometry.sdd_mm - geometry.isocentre_to_detector_mm)
    ds.EstimatedRadiographicMagnificationFactor = number(geometry.magnification)
    ds.ImagerPixelSpacing = [number(geometry.pitch_mm)] * 2
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PresentationLUTShape = 1, "MONOCHROME2", "IDENTITY"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.WindowCenter, ds.WindowWidth = number((_DEPTH + 1) / 2), number(_DEPTH + 1)
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True).add_new(0x01, "UT", text)
    ds.PixelData = stored.tobytes()
    ds.save_as(path, enforce_file_format=True)

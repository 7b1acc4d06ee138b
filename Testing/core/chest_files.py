"""Chests on disk: drawn CTs as volumes and as DICOM series, small enough to prepare in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axon_core.ctvolume import CTVolume
from axon_core.data import plan, prepare

SPACING = 6.0  # mm


def drawn(slices: int = 44, seed: int = 0) -> CTVolume:
    """A body of water 264 mm long with lungs, a spine and a heart on the patient's left, on a couch, off the origin."""
    y, x = (np.mgrid[:60, :60] - 29.5) * SPACING
    z = ((np.arange(slices) - 0.5 * (slices - 1)) * SPACING)[:, None, None]
    wide = 135 + 8 * np.sin(seed)
    hu = np.full((slices, 60, 60), -1000.0, np.float32)
    hu[:, (x / wide) ** 2 + (y / 95) ** 2 < 1] = 40.0
    for side in (-62, 62):
        hu[((x - side) / 42) ** 2 + (y / 65) ** 2 + ((z - 10) / 105) ** 2 < 1] = -850.0
    hu[((x - 25) / 45) ** 2 + ((y + 25) / 40) ** 2 + ((z + 30) / 45) ** 2 < 1] = 50.0
    hu[:, (x**2 + (y - 60) ** 2) < 18**2] = 500.0
    hu[:, (np.abs(x) < 150) & (y > 110) & (y < 125)] = 100.0
    hu += np.random.default_rng(seed).normal(0, 5, hu.shape).astype(np.float32)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = (-150.0, -250.0, 900.0)
    return CTVolume(np.rint(hu), affine)


def save(path: Path, **options: Any) -> Path:
    """A drawn CT as NRRD."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return drawn(**options).save(path)


def series(folder: Path, change: Callable[[Any, int], Any] | None = None, volume: CTVolume | None = None) -> Path:
    """A drawn CT as a DICOM series; `change(dataset, index)` may alter a slice, or leave it out by returning "skip"."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    volume = volume or drawn()
    folder.mkdir(parents=True, exist_ok=True)
    uid, study = generate_uid(), generate_uid()
    for index, image in enumerate(volume.hu):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = study, uid, "CT"
        ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
        ds.ImageType, ds.SeriesNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 3
        (ds.Rows, ds.Columns), ds.SamplesPerPixel = image.shape, 1
        ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelSpacing, ds.ImageOrientationPatient = [SPACING, SPACING], [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = (volume.affine @ [0, 0, index, 1])[:3].tolist()
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1100
        ds.PixelData = (image + 1100).clip(0).astype("<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if change is None or change(ds, index) != "skip":
            ds.save_as(folder / f"{index:03d}.dcm", enforce_file_format=True)
    return folder


def prepared(folder: Path) -> Path:
    """The cache, for preset tiny, of two patients to train on and two to test."""
    lines = ["patient,ct,split"]
    for number, part in enumerate(("train", "train", "test", "test")):
        save(folder / f"{number}.nrrd", seed=number, slices=58)
        lines.append(f"p{number},{number}.nrrd,{part}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALLEST_RENDER", 32)
        prepare.prepare(folder / "manifest.csv", folder / "cache", prepare.PrepareOptions("tiny"))
    return folder / "cache"

"""A CT as training and evaluation see it: couch removed, on the canonical cube, its cut ends continued.

A chest CT is shorter than the field of a chest film. What lies beyond its first and last slice is unknown, yet light
passes there: the body is continued by its end slices, so that no film shows a cut edge, and `known` marks where the
truth is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from axon_core.ctvolume import CTVolume
from axon_core.dicom_write import as_axial
from axon_core.errors import VolumeError
from axon_core.geometry import CanonicalGrid

AIR_HU = -1000.0


@dataclass(frozen=True)
class Case:
    """One chest on the canonical cube.

    Attributes:
        name: the file's stem.
        hu: (n, n, n) float32 HU, ``[z, y, x]``; air outside the body.
        known: (n,) bool along z: slices that the CT covers.
        grid: the cube; its centre is the body's centre in the CT's own LPS frame.
    """

    name: str
    hu: np.ndarray
    known: np.ndarray
    grid: CanonicalGrid


def body_mask(hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """The patient without couch, clothes and cables.

    Tissue (> -500 HU), opened by 4 mm to cut the bridges to the couch; the largest piece, grown back and with the air
    inside it (lungs, bowel) filled slice by slice. What touches it here and there but is thin, as the surface of a
    couch, then falls to an opening of each filled slice by 10 mm.

    Args:
        hu: (z, y, x) HU.
        spacing_mm: (x, y, z).

    Returns:
        (z, y, x) bool.
    """
    tissue = hu > -500
    radius = np.maximum(1, np.round(4.0 / spacing_mm[::-1])).astype(int)
    ball = np.ones(tuple(2 * radius + 1), bool)
    opened = ndimage.binary_opening(tissue, ball)
    labels, count = ndimage.label(opened)
    if count == 0:
        raise VolumeError("ct.no-body", "The volume shows no body.", "Is this a CT in Hounsfield units?")
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    body = ndimage.binary_dilation(largest, ball) & tissue | largest
    body &= np.stack([_opened(ndimage.binary_fill_holes(plane), 10.0, spacing_mm[:2]) for plane in body])
    closed = ndimage.binary_closing(np.pad(body, ((0, 0), (8, 8), (8, 8))), np.ones((1, 9, 9), bool))[:, 8:-8, 8:-8]
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed | body])
    return ndimage.binary_dilation(filled, np.ones((1, 3, 3), bool))  # keep the skin's partial-volume rim


def _opened(plane: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """(y, x) mask opened by a disc, by distances; the border of the image counts as inside."""
    sampling = spacing_mm[::-1]
    padded = np.pad(plane, 1 + int(radius_mm / spacing_mm.min()), mode="edge")
    core = ndimage.distance_transform_edt(padded, sampling) > radius_mm
    if not core.any():
        return np.zeros_like(plane)
    grown = ndimage.distance_transform_edt(~core, sampling) <= radius_mm
    trim = (padded.shape[0] - plane.shape[0]) // 2
    return grown[trim:-trim, trim:-trim]


def load_case(path: str, size: int = 128) -> Case:
    """Read a chest CT and lay it onto the canonical cube around the centre of the body.

    Args:
        path: anything `CTVolume.load` reads.
        size: voxels along each edge of the 360 mm cube.

    Errors:
        VolumeError: unreadable, or no body in it.
    """
    volume = CTVolume.load(path)
    return place_case(volume, volume.source["name"].split(".")[0], size)


def place_case(volume: CTVolume, name: str, size: int = 128) -> Case:
    """Lay a chest CT onto the canonical cube; see `load_case`."""
    hu, affine = as_axial(volume.hu, volume.affine)
    volume = CTVolume(hu, affine, volume.notes, volume.source)
    body = body_mask(volume.hu, np.asarray(volume.spacing_mm))
    clean = CTVolume(np.where(body, volume.hu, AIR_HU).astype(np.float32), volume.affine, volume.notes, volume.source)
    _, y, x = np.nonzero(body)
    middle = [0.5 * (axis.min() + axis.max()) for axis in (x, y)] + [0.5 * (volume.hu.shape[0] - 1)]
    center = (volume.affine @ np.array([*middle, 1.0]))[:3]
    grid = CanonicalGrid(size, center_lps=(float(center[0]), float(center[1]), float(center[2])))
    marked = clean.resampled(grid.affine, grid.shape, fill=-9999.0).hu
    inside = marked > -2000
    known: np.ndarray = np.asarray(inside.any((1, 2)))
    slices = np.nonzero(known)[0]
    if len(slices) < size // 3:
        raise VolumeError("ct.short", f"{name}: the CT covers only part of a chest.", "Use a CT of the whole chest.")
    first, last = slices[0] + 1, slices[-1] - 1  # the outermost slices are blends with the outside
    known[:first], known[last + 1 :] = False, False
    hu = np.where(inside, marked, AIR_HU).astype(np.float32)
    hu[:first], hu[last + 1 :] = hu[first], hu[last]
    return Case(name, hu, known, grid)

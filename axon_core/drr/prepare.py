"""A CT made ready for the X-ray beam: no couch, no cut ends.

A chest CT shows its couch, is shorter than a chest film, and its field of view may clip the arms and the skin. None of
that may put an edge into a film: what is not body becomes air; where the scan ends the body goes on, blurred more and
more along its axis and fading out at its sides.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from axon_core.ctvolume import AIR_HU, CTVolume
from axon_core.dicom_write import as_axial
from axon_core.errors import VolumeError
from axon_core.volume_readers import check_shape

COARSE_MM = 4.2  # in-plane voxels in which the body is sought
LENGTH_MM = 480.0  # along z: more than a film shows of it, with the beam diverging and the patient shifted by 50 mm
SHORTEST_MM = 60.0  # a shorter scan's film would be nearly all continuation
FADE_MM = 40.0  # over which a body that the field of view clips fades out sideways
FADE_BLUR_MM = 10.0  # standard deviation along z, so that a limb which is clipped in part does not end in a step
BLUR_MM2_PER_MM = 0.8  # variance by which the continuation is blurred, for every millimetre along z


def prepare_ct(volume: CTVolume) -> CTVolume:
    """Axial slices of the patient alone, continued beyond the scan's ends and sides.

    The anatomy stays where it was: the result's affine says where its (larger) lattice lies.

    Errors:
        VolumeError: no body in it, too short, or too fine for the memory.
    """
    scanned, affine = as_axial(volume.hu, volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if len(scanned) * spacing[2] < SHORTEST_MM:
        raise VolumeError(
            "ct.short",
            f"The scan covers only {len(scanned) * spacing[2]:.0f} mm of the patient.",
            f"Use a CT of at least {SHORTEST_MM:.0f} mm; a chest has about 300.",
        )
    body, unseen = _coarse_body_mask(scanned, spacing), _unseen_columns(scanned)
    rows, columns = (_span(np.asarray(body.any(axes))) for axes in ((0, 2), (0, 1)))
    scanned, body, unseen = scanned[:, rows, columns], body[:, rows, columns], unseen[rows, columns]
    x, y = np.ceil(FADE_MM / spacing[:2]).astype(int)
    z = max(0, int(np.ceil((LENGTH_MM / spacing[2] - len(scanned)) / 2)))
    shape = [int(n) for n in np.add(scanned.shape, (2 * z, 2 * y, 2 * x))]
    check_shape("The CT with its continuation", shape)
    hu = np.full(shape, AIR_HU, np.float32)
    patient = hu[z : z + len(scanned)]
    np.copyto(patient[:, y:-y, x:-x], scanned, where=body)
    _fade_sideways(patient, np.pad(unseen, ((y, y), (x, x)), constant_values=True), spacing)
    _continue_along(hu, z, spacing)
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [columns.start - x, rows.start - y, -z]
    return CTVolume(hu, affine, volume.notes, volume.source)


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

    Errors:
        VolumeError: no tissue at all.
    """
    tissue = hu > -500
    box = tuple(2 * np.maximum(1, (4.0 / spacing_mm[::-1]).astype(int)) + 1)
    labels, count = ndimage.label(_grown(_shrunk(tissue, box), box))
    if count == 0:
        raise VolumeError("ct.no-body", "The volume shows no body.", "Is this a CT in Hounsfield units?")
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    body = _grown(largest, box) & tissue | largest
    body &= np.stack([_opened(ndimage.binary_fill_holes(plane), 10.0, spacing_mm[:2]) for plane in body])
    padded = np.pad(body, ((0, 0), (8, 8), (8, 8)))
    closed = _shrunk(_grown(padded, (1, 9, 9)), (1, 9, 9))[:, 8:-8, 8:-8]
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed | body])
    return _grown(filled, (1, 3, 3))  # keep the skin's partial-volume rim


def _grown(mask: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
    """Dilated by a box, axis by axis: many times faster than by a general shape."""
    return ndimage.maximum_filter(mask.view(np.uint8), box, mode="constant").view(bool)


def _shrunk(mask: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
    """Eroded by a box; nothing lies beyond the border."""
    return ndimage.minimum_filter(mask.view(np.uint8), box, mode="constant").view(bool)


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


def _coarse_body_mask(hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """`body_mask` found on larger voxels and brought back: the same patient in a tenth of the time."""
    factor = [max(1, round(COARSE_MM / step)) for step in spacing[1::-1]]  # of y and x
    small = F.avg_pool2d(torch.from_numpy(hu)[:, None], factor, ceil_mode=True)[:, 0]
    mask = torch.from_numpy(body_mask(small.numpy(), spacing * [factor[1], factor[0], 1]))
    smooth = F.interpolate(mask[:, None].float(), scale_factor=factor, mode="bilinear")[:, 0]
    return (smooth[:, : hu.shape[1], : hu.shape[2]] > 0.5).numpy()


def _span(occupied: np.ndarray) -> slice:
    """From the first to the last True, and one more on either side."""
    where = np.flatnonzero(occupied)
    return slice(max(0, int(where[0]) - 1), int(where[-1]) + 2)


def _unseen_columns(hu: np.ndarray) -> np.ndarray:
    """(y, x) bool: outside the scanner's field of view, where every slice holds the one padding value."""
    padding = hu.min()
    return np.logical_and.reduce([plane == padding for plane in hu])


def _fade_sideways(hu: np.ndarray, unseen: np.ndarray, spacing: np.ndarray) -> None:
    """Write into `unseen` columns the nearest voxel that was seen, blurred along z and fading into air over FADE_MM.

    Where that voxel is air already, as everywhere around an unclipped body, it stays air.
    """
    distance, (row, column) = ndimage.distance_transform_edt(unseen, spacing[1::-1], return_indices=True)
    rows, columns = np.nonzero(unseen & (distance < FADE_MM))
    nearest = hu[:, row[rows, columns], column[rows, columns]]
    body = (nearest > AIR_HU).any(0)  # elsewhere there is nothing to continue
    rows, columns = rows[body], columns[body]
    fade = np.cos(0.5 * np.pi * distance[rows, columns] / FADE_MM) ** 2
    blurred = ndimage.gaussian_filter1d(nearest[:, body], FADE_BLUR_MM / spacing[2], axis=0)
    hu[:, rows, columns] = AIR_HU + fade * (blurred - AIR_HU)


def _continue_along(hu: np.ndarray, count: int, spacing: np.ndarray) -> None:
    """Fill the first and last `count` slices: the scan's end slices, each blurred once more than the one before it."""
    sigma = (BLUR_MM2_PER_MM * spacing[2]) ** 0.5 / spacing[1::-1]
    for k in range(count, 0, -1):
        ndimage.gaussian_filter(hu[k], sigma, output=hu[k - 1], mode="nearest", truncate=2.0)
        ndimage.gaussian_filter(hu[-k - 1], sigma, output=hu[-k], mode="nearest", truncate=2.0)

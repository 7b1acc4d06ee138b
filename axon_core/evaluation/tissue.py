"""Which voxels are body, lung and bone, by thresholds and shape alone, and what follows: errors in HU, lung volume.

The masks of a comparison come from the truth, so that every method is judged on the same voxels; a volume's own lungs
are found by the same rule when its lung volume is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from axon_core.intensity import WIDE

BODY_HU = -500.0  # above it: tissue
LUNG_HU = -400.0  # below it, inside the body: air and lung parenchyma; halfway from lung (-850) to soft tissue (50)
BONE_HU = 300.0  # above it: bone; contrast medium reaches it in the heart and the great vessels of some scans
CLOSED_MM = 10.0  # gaps in a chest wall up to twice this wide are bridged: thin walls between large voxels are blurred
LEAST_LUNG = 0.1  # of the largest piece: smaller pieces are bowel gas


@dataclass(frozen=True)
class Tissues:
    """Masks (z, y, x) bool of one volume."""

    body: np.ndarray
    lung: np.ndarray
    bone: np.ndarray


def tissues(hu: Any, spacing_mm: float) -> Tissues:
    """Body, lung and bone of a chest without couch, as `data.cases` lays it on its cube.

    - body: the largest piece above BODY_HU, with what it encloses in each slice;
    - lung: voxels below LUNG_HU inside the body, not at its surface; of their connected pieces the largest, and those
      of at least a tenth of it. Large vessels are left out, the trachea is not;
    - bone: above BONE_HU inside the body.

    On LIDC-IDRI-0001 at 2.8 mm the lungs measure 3720 ml; the lobes of its label map measure 3705 ml (Dice 0.97).

    Args:
        hu: (z, y, x) HU, axial slices.
        spacing_mm: edge of a voxel.
    """
    array = np.asarray(hu, np.float32)
    tissue, count = ndimage.label(array > BODY_HU)
    if count == 0:
        nothing = np.zeros(array.shape, bool)
        return Tissues(nothing, nothing, nothing)
    largest = tissue == 1 + int(np.argmax(np.bincount(tissue.ravel())[1:]))
    body = _filled(largest, max(1, round(CLOSED_MM / spacing_mm)))
    return Tissues(body, _lungs(array, body), body & (array > BONE_HU))


def lung_volume_ml(hu: Any, spacing_mm: float, known: Any = None) -> float:
    """Volume of the lungs (see `tissues`) in millilitres.

    Args:
        hu: (z, y, x) HU.
        spacing_mm: edge of a voxel.
        known: (z,) bool, the slices that count; all if None.
    """
    return ml(tissues(hu, spacing_mm).lung, spacing_mm, known)


def ml(mask: np.ndarray, spacing_mm: float, known: Any = None) -> float:
    """Volume of a (z, y, x) mask in millilitres, in the `known` slices."""
    inside = mask if known is None else mask[np.asarray(known, bool)]
    return float(inside.sum()) * spacing_mm**3 / 1000.0


def mae_hu(pred: Any, truth: Any, mask: np.ndarray) -> float:
    """Mean |p - t| in HU over the voxels of `mask`, both clipped to [-1000, 1000]; nan for an empty mask."""
    if not mask.any():
        return float("nan")
    p, t = (np.asarray(v, np.float64)[mask].clip(WIDE.low, WIDE.high) for v in (pred, truth))
    return float(np.abs(p - t).mean())


def _filled(tissue: np.ndarray, reach: int) -> np.ndarray:
    """With what it encloses in each axial slice, after a closing by `reach` voxels."""
    padded = np.pad(tissue, ((0, 0), (reach, reach), (reach, reach))).view(np.uint8)
    grown = ndimage.maximum_filter(padded, _box(reach))
    closed = ndimage.minimum_filter(grown, _box(reach)).view(bool)[:, reach:-reach, reach:-reach]
    return np.stack([ndimage.binary_fill_holes(plane) for plane in closed | tissue])


def _lungs(hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Lungs inside a body; see `tissues`."""
    inner = ndimage.minimum_filter(body.view(np.uint8), _box(1)).view(bool)
    labels, count = ndimage.label(inner & (hu < LUNG_HU))
    if count == 0:
        return np.zeros_like(body)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.flatnonzero(sizes >= LEAST_LUNG * sizes.max()))


def _box(reach: int) -> tuple[int, int, int]:
    """In-plane: the body goes on beyond both ends."""
    return 1, 2 * reach + 1, 2 * reach + 1

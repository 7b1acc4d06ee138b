"""How alike a film and a DRR are: masked local NCC and gradient NCC, as the cosine of two feature vectors.

Films and DRRs share edges and local contrast, not grey values: tone curves, scatter and beam hardening lie between
them. So both are reduced to a local-contrast image (the mean and spread of a neighbourhood taken out, as in local NCC)
and to their gradients, squashed so that no lead marker outshines the anatomy.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from axon_core.film_area import film_area, robust_range
from axon_core.geometry import XrayGeometry

NEIGHBOURHOOD = 0.1  # standard deviation of the neighbourhood, of the film's edge
CONTRAST_FLOOR = 0.3  # of the mean local spread: flat regions stay flat instead of showing noise
EDGE_SCALE = 2.0  # gradients of this many times the mean count half
MARKER_SHARE = 0.02  # of the film: nothing larger is a marker


def features(films: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Unit vectors whose dot product is the mean of local NCC and gradient NCC inside the mask.

    Args:
        films: (B, h, w), bone bright, any scale.
        mask: (h, w) bool, where the film is valid.

    Returns:
        (B, 3 h w) float32.
    """
    inside = mask.to(films.dtype)[None, None]
    smooth = _box(films[:, None], 1, 2)
    across = F.pad(smooth[..., :, 2:] - smooth[..., :, :-2], (1, 1, 0, 0))
    down = F.pad(smooth[..., 2:, :] - smooth[..., :-2, :], (0, 0, 1, 1))
    edges = torch.cat([across, down], 1)
    usual = ((edges.square().sum(1, keepdim=True) + 1e-12).sqrt() * inside).mean((-1, -2), keepdim=True)
    edges = edges / (EDGE_SCALE * usual + 1e-12)
    edges = edges / (1 + edges.abs()) * inside
    contrast = _local_contrast(smooth, inside)
    return torch.cat([_unit(contrast), _unit(edges)], 1) / 2**0.5


def local_and_gradient_ncc(wanted: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Both parts, in [-1, 1], of the similarity of two feature vectors (3 h w,), whose dot product is their mean."""
    products = 2 * wanted * found
    pixels = len(products) // 3
    return float(products[:pixels].sum()), float(products[pixels:].sum())


def shrunk(film: torch.Tensor, pixels: int) -> torch.Tensor:
    """(h, w) of any type -> (pixels, pixels) float32 by area means."""
    return F.interpolate(film[None, None].float(), size=(pixels, pixels), mode="area")[0, 0]


def _local_contrast(film: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """(film - local mean) / (local spread + floor), zero mean, inside the mask."""
    radius = max(1, round(NEIGHBOURHOOD * film.shape[-1] * 3**0.5 / 2**0.5))  # two boxes of this have that deviation
    share = _box(inside, radius, 2) + 1e-3
    difference = (film - _box(film * inside, radius, 2) / share) * inside
    spread = (_box(difference.square(), radius, 2) / share).clamp_min(0).sqrt()
    contrast = difference / (spread + CONTRAST_FLOOR * spread.mean((-1, -2), keepdim=True) + 1e-12)
    return (contrast - contrast.sum((-1, -2), keepdim=True) / inside.sum()) * inside


def _box(films: torch.Tensor, radius: int, times: int) -> torch.Tensor:
    """Mean over (2 radius + 1)^2 pixels by running sums, `times` over; edges are replicated."""
    for _ in range(times):
        for axis in (-1, -2):
            sides = (radius + 1, radius, 0, 0) if axis == -1 else (0, 0, radius + 1, radius)
            sums = F.pad(films, sides, mode="replicate").cumsum(axis)
            n, width = films.shape[axis], 2 * radius + 1
            films = (sums.narrow(axis, width, n) - sums.narrow(axis, 0, n)) / width
    return films


def _unit(parts: torch.Tensor) -> torch.Tensor:
    """(B, c, h, w) -> (B, c h w) of length one."""
    return F.normalize(parts.flatten(1), dim=1)


def valid_mask(film: torch.Tensor, without_markers: bool = True) -> torch.Tensor:
    """(h, w) bool: inside collimation and frame, without lead markers unless these are to stay.

    A marker is a small, compact patch at the very top of the film's range.
    """
    pixels = film.numpy()
    top, bottom, left, right = film_area(pixels)
    mask = torch.zeros(film.shape, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    if not without_markers:
        return mask
    low, high = robust_range(pixels[top:bottom, left:right])
    labels, count = ndimage.label(pixels >= high - 0.005 * (high - low))
    sizes = ndimage.sum_labels(pixels >= high, labels, range(count + 1))
    reach = max(1, round(0.004 * film.shape[0]))
    for label in range(1, count + 1):
        patch = labels == label
        if reach**2 <= sizes[label] <= MARKER_SHARE * patch.size and _compact(patch):
            mask &= torch.from_numpy(~ndimage.binary_dilation(patch, iterations=reach + 1))
    return mask


def box_mask(geometry: XrayGeometry, box: np.ndarray, size_mm: np.ndarray) -> np.ndarray:
    """(h, w) bool: the detector's pixels before or behind which, at right angles to it, a box lies.

    Args:
        geometry: of the detector.
        box: (4, 4) rigid, the box's own frame -> LPS mm about the isocentre; its middle is its origin.
        size_mm: (3,) its edges.
    """
    turn = box[:3, :3].T
    at, beam = (geometry.detector() - box[:3, 3]) @ turn.T, turn @ geometry.view.beam
    enter, leave = np.full(at.shape[:2], -np.inf), np.full(at.shape[:2], np.inf)
    for axis, half in enumerate(0.5 * np.asarray(size_mm, float)):
        if abs(beam[axis]) < 1e-6:  # the box's sides along the beam
            leave[np.abs(at[..., axis]) > half] = -np.inf
        else:
            ends = np.sort([(-half - at[..., axis]) / beam[axis], (half - at[..., axis]) / beam[axis]], axis=0)
            np.maximum(enter, ends[0], out=enter)
            np.minimum(leave, ends[1], out=leave)
    return enter <= leave


def _compact(patch: np.ndarray) -> bool:
    """Whether a patch fills its bounding box as a letter does, and ends in a sharp outline."""
    rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    return bool(patch.sum() > 0.3 * height * width and max(height, width) < 0.15 * max(patch.shape))

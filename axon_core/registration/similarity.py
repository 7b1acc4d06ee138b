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


def valid_mask(film: torch.Tensor) -> torch.Tensor:
    """(h, w) bool: inside collimation and frame, without lead markers.

    A marker is a small, compact patch at the very top of the film's range.
    """
    pixels = film.numpy()
    top, bottom, left, right = film_area(pixels)
    mask = torch.zeros(film.shape, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    low, high = robust_range(pixels[top:bottom, left:right])
    labels, count = ndimage.label(pixels >= high - 0.005 * (high - low))
    sizes = ndimage.sum_labels(pixels >= high, labels, range(count + 1))
    reach = max(1, round(0.004 * film.shape[0]))
    for label in range(1, count + 1):
        patch = labels == label
        if reach**2 <= sizes[label] <= MARKER_SHARE * patch.size and _compact(patch):
            mask &= torch.from_numpy(~ndimage.binary_dilation(patch, iterations=reach + 1))
    return mask


def _compact(patch: np.ndarray) -> bool:
    """Whether a patch fills its bounding box as a letter does, and ends in a sharp outline."""
    rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    return bool(patch.sum() > 0.3 * height * width and max(height, width) < 0.15 * max(patch.shape))

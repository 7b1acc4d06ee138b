"""Films laid along their rays: what a film alone says of a volume (paper: "repeat and concatenate")."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from axon_core.nets.encoder import lift


def repeat_along_ray(maps: torch.Tensor, lateral: bool) -> torch.Tensor:
    """Repeat 2D maps along the ray of their film (parallel rays), antero-posterior or left-right.

    Args:
        maps: (B, C, n, n), rows and columns as on the film.

    Returns:
        (B, C, z, y, x), LPS index order, each edge n.
    """
    n = maps.shape[-1]
    depth = maps.flatten(0, 1)[:, None].expand(-1, n, -1, -1)
    return lift(depth, lateral).view(*maps.shape[:2], n, n, n)


def repeated_films(films: torch.Tensor, size: int) -> torch.Tensor:
    """Both films as volumes: (B, V, p, p) -> (B, 2, n, n, n), each pooled and repeated along its ray.

    A missing lateral film is a volume of zeros, so that the same weights serve one view or two.
    """
    small = F.adaptive_avg_pool2d(films, size)
    frontal = repeat_along_ray(small[:, :1], lateral=False)
    lateral = repeat_along_ray(small[:, 1:], lateral=True) if films.shape[1] == 2 else torch.zeros_like(frontal)
    return torch.cat([frontal, lateral], 1)


def mean_of_repeated(films: torch.Tensor, size: int) -> torch.Tensor:
    """One volume of one film or two: (B, V, p, p) -> (B, 1, n, n, n), the mean of the `repeated_films` there are."""
    return repeated_films(films, size)[:, : films.shape[1]].mean(1, keepdim=True)

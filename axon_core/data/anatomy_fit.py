"""Fit the shape model of `anatomy`: all CTs are registered to their common mean at once.

Minimised over the logarithms (L_i, v_i), which sum to zero, is the variance of the CTs' tissue in the atlas,

    mean over x, channels c: weight_c sum_i m_i(x) (I_ic(x) - mean_j I_jc(x))^2  +  stiffness |grad v_i|^2,

where I_i(x) is CT i at A_i(exp(v_i)(x)) and m_i is 0 beyond the slices that the CT covers (group-wise registration as
by Joshi et al., NeuroImage 2004, with stationary velocities, Ashburner, NeuroImage 2007).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.data.anatomy import AnatomyModel, at, exponential, matrix, moved, smoothed
from axon_core.data.cases import Case
from axon_core.data.findings import lung_mask
from axon_core.errors import ConfigError

LATTICE = 33  # control points along each edge, 11 mm apart
LEVELS = ((32, 60, False), (32, 60, True), (64, 50, True))  # voxels, steps, deformable?
WEIGHTS = (1.0, 1.5, 0.6, 0.6)  # of the channels: body, lung, soft tissue, bone
STIFFNESS = 0.02
RATE = 0.004  # Adam's, of velocities and logarithms, in half cubes


def digest_of(cases: Sequence[Case]) -> str:
    """sha256 over the CTs' names and rounded HU."""
    total = hashlib.sha256()
    for case in cases:
        total.update(case.name.encode())
        total.update(case.hu.round().astype("<i2").tobytes())
    return total.hexdigest()


def tissues(hu: np.ndarray) -> torch.Tensor:
    """(z, y, x) HU -> (4, z, y, x) in [0, 1]: body, lungs, fat to soft tissue, bone.

    Gas in stomach and bowel counts as soft tissue: it lies elsewhere in every patient.
    """
    from scipy import ndimage

    solid = hu > -400
    body: np.ndarray = np.stack([ndimage.binary_fill_holes(plane) for plane in solid])
    lungs = lung_mask(hu)
    volume = torch.from_numpy(np.where(body & ~solid & ~lungs, np.float32(40.0), hu))
    return torch.stack(
        [
            torch.from_numpy(body).float(),
            torch.from_numpy(lungs).float(),
            ((volume + 200) / 400).clamp(0, 1),
            ((volume - 250) / 400).clamp(0, 1),
        ]
    )


def fit(
    cases: Sequence[Case],
    device: torch.device | str = "cpu",
    levels: Sequence[tuple[int, int, bool]] = LEVELS,
    progress: Callable[[str], None] = lambda line: None,
) -> AnatomyModel:
    """Fit the shapes of CTs that lie on equal cubes; about half a minute a CT on two cores.

    Args:
        cases: two or more.
        device: where to compute; the model comes back on the CPU.
        levels: one after the other, coarse to fine: voxels along each edge, steps, and whether the velocities move
            too or only the affine parts.
        progress: told a line now and then.

    Errors:
        ConfigError: fewer than two CTs.
    """
    if len(cases) < 2:
        raise ConfigError("anatomy.few", "An anatomy model needs two CTs or more.", "Name more training CTs.")
    known = torch.stack([torch.from_numpy(case.known).float() for case in cases])
    size = known.shape[1]
    known = known.view(-1, 1, size, 1, 1).expand(-1, 1, size, size, size)
    images = torch.cat([torch.stack([tissues(case.hu) for case in cases]) * known, known], 1).to(device)
    affine = torch.zeros(len(cases), 3, 4, device=device, requires_grad=True)
    raw = torch.zeros(len(cases), 3, LATTICE, LATTICE, LATTICE, device=device, requires_grad=True)

    def centred() -> tuple[torch.Tensor, torch.Tensor]:
        velocity = smoothed(smoothed(raw, 1), 1)
        return affine - affine.mean(0), velocity - velocity.mean(0)

    for voxels, steps, deformable in levels:
        level = F.adaptive_avg_pool3d(images, voxels)
        optimiser = torch.optim.Adam([affine, raw] if deformable else [affine], RATE, betas=(0.9, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 0.1 * RATE)
        for step in range(steps):
            logarithm, velocity = centred()
            loss = disagreement(level, logarithm, velocity if deformable else None)
            steepness = torch.stack([velocity.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()
            roughness = STIFFNESS * ((LATTICE - 1) / 2) ** 2 * steepness
            optimiser.zero_grad()
            (loss + roughness).backward()
            optimiser.step()
            schedule.step()
            if step % 10 == 9:
                progress(f"{voxels} voxels, step {step + 1}: {loss.item():.5f} + {roughness.item():.5f}")
    with torch.no_grad():
        logarithm, velocity = centred()
    return AnatomyModel(tuple(case.name for case in cases), digest_of(cases), logarithm.double().cpu(), velocity.cpu())


def in_atlas(images: torch.Tensor, logarithm: torch.Tensor, velocity: torch.Tensor | None) -> torch.Tensor:
    """(b, c, n, n, n) images brought into the atlas; nothing (0) beyond their cubes."""
    n = images.shape[-1]
    identity = torch.eye(3, 4, device=images.device)[None]
    points = F.affine_grid(identity, [1, 1, n, n, n], align_corners=False).permute(0, 4, 1, 2, 3)
    points = points.expand(len(images), 3, n, n, n)
    if velocity is not None:
        points = points + at(exponential(velocity), points)
    points = moved(matrix(logarithm), points)
    return F.grid_sample(images, points.permute(0, 2, 3, 4, 1), align_corners=False)


def disagreement(images: torch.Tensor, logarithm: torch.Tensor, velocity: torch.Tensor | None) -> torch.Tensor:
    """Weighted variance over the CTs of their channels in the atlas, where known; the last channel says where."""
    seen = in_atlas(images, logarithm, velocity)
    tissue, known = seen[:, :-1], seen[:, -1:]
    count = known.sum(0).clamp(min=1e-3)
    tissue = tissue / known.clamp(min=1e-3)
    mean = (known * tissue).sum(0) / count
    variance = (known * (tissue - mean) ** 2).sum(0) / count
    return (
        (variance * torch.tensor(WEIGHTS, device=images.device).view(-1, 1, 1, 1)).mean() * len(WEIGHTS) / sum(WEIGHTS)
    )

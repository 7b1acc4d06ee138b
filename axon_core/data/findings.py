"""Densities that differ between patients: smooth fields in lung, soft tissue and bone, and now and then a finding.

Findings are painted into the CT before it is deformed, so that film and volume agree. They resemble nodules, masses,
consolidation, effusion and emphysema in size, place and HU; no more than that is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.data.augment import EXTENT_MM

SMALLEST_L = 0.2  # litres: smaller pieces of air in the body are bowel
CANDIDATES = 4096  # places at which findings may be centred
SHARES = {"nodules": 0.3, "mass": 0.08, "consolidation": 0.1, "effusion": 0.1, "emphysema": 0.12}


@dataclass(frozen=True)
class Lungs:
    """The lungs of one CT, found once.

    Attributes:
        mask: (n, n, n) float32 in [0, 1], on the device where volumes are varied; it fades within one voxel outside, so
            that what fills a lung leaves no rim of air.
        places: (k, 3) float32 on the CPU, x, y, z in millimetres from the cube's centre: points spread over the lungs.
    """

    mask: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of(cls, hu: np.ndarray, device: torch.device | str = "cpu") -> Lungs:
        """Find them in (z, y, x) HU without a couch; see `lung_mask`."""
        mask = lung_mask(hu)
        found = np.stack(np.nonzero(mask)[::-1], 1)
        chosen = found[np.linspace(0, len(found) - 1, min(CANDIDATES, len(found))).astype(int)] if len(found) else found
        places = (torch.from_numpy(chosen).float() + 0.5) * (EXTENT_MM / len(hu)) - EXTENT_MM / 2
        soft = F.avg_pool3d(torch.from_numpy(mask)[None, None].float(), 3, 1, 1)[0, 0]
        return cls((2 * soft).clamp(max=1).to(device), places)


def lung_mask(hu: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: lungs with their vessels, without bowel; from HU on the 360 mm cube.

    Air (< -400 HU) that the body encloses in axial slices: pieces of more than 0.2 litres that are not empty as the air
    between an arm and the chest is (mean above -970 HU), closed by 8 mm.
    """
    from scipy import ndimage

    solid = hu > -400
    air = np.stack([ndimage.binary_fill_holes(plane) for plane in solid]) & ~solid
    labels, count = ndimage.label(air)
    if count == 0:
        return air
    litres = np.bincount(labels.ravel(), minlength=count + 1) * (EXTENT_MM / len(hu) / 100) ** 3
    keep = (litres > SMALLEST_L) & (ndimage.mean(hu, labels, np.arange(count + 1)) > -970)
    keep[0] = False
    steps = max(1, round(8.0 / (EXTENT_MM / len(hu))))
    closed = ndimage.binary_closing(np.pad(keep[labels], steps, mode="edge"), iterations=steps)
    return closed[(slice(steps, -steps),) * 3]


def vary(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """Another patient's densities in the same chest: `density_fields`, then each finding with its share of patients.

    Args:
        hu: (n, n, n) HU of the CT in which `lungs` were found.
        lungs: of that CT, on the same device.
        generator: on the CPU, so that a seed gives the same chest on every device.
    """
    hu = density_fields(hu, lungs, generator)
    if len(lungs.places) == 0:
        return hu
    for name, paint in FINDINGS.items():
        if float(torch.rand((), generator=generator)) < SHARES[name]:
            hu = paint(hu, lungs, generator)
    return hu


def density_fields(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """Smooth fields (90 mm) of sd 25 HU in the lungs and 8 HU in soft tissue, of 8 % in bone (above 150 HU).

    The lungs' density also falls or grows along the body's depth and height, by sd 15 HU per 100 mm.
    """
    n = hu.shape[0]
    lung, soft, bone = _noise(3, 5, n, generator, hu.device)
    slope = torch.randn(2, generator=generator) * (15.0 * EXTENT_MM / 200)
    axis = torch.linspace(-1, 1, n, device=hu.device)
    tilt = float(slope[0]) * axis[:, None, None] + float(slope[1]) * axis[:, None]
    hu = hu + lungs.mask * _below(hu, -500.0) * (25.0 * lung + tilt)
    hu = hu + ((hu + 200) / 100).clamp(0, 1) * (8.0 * soft)
    return hu + (hu - 150).clamp(min=0) * (0.08 * bone)


def nodules(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """One to three, 3 to 13 mm in radius, of 0 to 60 HU."""
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        hu = _blob(hu, lungs, generator, (3.0, 13.0), (0.0, 60.0), 0.25)
    return hu


def mass(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """One, 15 to 35 mm in radius, of 10 to 50 HU, lobulated."""
    return _blob(hu, lungs, generator, (15.0, 35.0), (10.0, 50.0), 0.5)


def consolidation(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """A patchy cloud, 25 to 60 mm in radius, that fills the lung by 40 to 95 %, with HU of -60 to 40."""
    inside = _inside(hu, lungs, generator, (25.0, 60.0), 0.6, 12.0)
    patches = (0.7 + 0.5 * _noise(1, 24, hu.shape[0], generator, hu.device)[0]).clamp(0, 1)
    filled, density = _uniform(generator, 0.4, 0.95), _uniform(generator, -60.0, 40.0)
    return _fill(hu, inside * patches * (filled * lungs.mask), density)


def effusion(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """Water (0 to 20 HU) in the lowest 4 to 30 % of one side; "low" lies between the feet and the back.

    Its surface climbs the chest wall, by 25 mm at 60 mm from the lung's axis (the meniscus).
    """
    side = 1.0 if float(torch.rand((), generator=generator)) < 0.5 else -1.0
    lean, share = _uniform(generator, 0.0, 1.0), _uniform(generator, 0.04, 0.3)
    middle = lungs.places[:, 0].mean()
    places = lungs.places[(lungs.places[:, 0] - middle) * side > 0]
    centre = places.mean(0).tolist()

    def height(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return z - lean * y - 25.0 / 60.0**2 * ((x - centre[0]).square() + (y - centre[1]).square())

    level = float(torch.quantile(height(*places.unbind(1)), share))
    x, y, z = _axes(hu)
    below = ((level - height(x, y, z)) / 6.0 + 0.5).clamp(0, 1) * ((x - float(middle)) * side / 6.0).clamp(0, 1)
    return _fill(hu, below * lungs.mask, _uniform(generator, 0.0, 20.0))


def emphysema(hu: torch.Tensor, lungs: Lungs, generator: torch.Generator) -> torch.Tensor:
    """Holes of -970 HU and 8 to 20 mm in 1 to 20 % of the lung, more of them above than below or the reverse."""
    holes = _noise(1, int(torch.randint(18, 40, (), generator=generator)), hu.shape[0], generator, hu.device)[0]
    zone = _uniform(generator, -0.5, 1.5) * torch.linspace(-1, 1, hu.shape[0], device=hu.device)[:, None, None]
    amount = _uniform(generator, 1.0, 1.8)
    cover = ((holes + zone - amount) * 2).clamp(0, 1) * lungs.mask * _below(hu, -600.0)
    return hu + cover * (-970.0 - hu).clamp(max=0)


FINDINGS = {
    "nodules": nodules,
    "mass": mass,
    "consolidation": consolidation,
    "effusion": effusion,
    "emphysema": emphysema,
}


def _blob(
    hu: torch.Tensor,
    lungs: Lungs,
    generator: torch.Generator,
    radii: tuple[float, float],
    density: tuple[float, float],
    bumps: float,
) -> torch.Tensor:
    """A solid thing in the lung with an edge of 3 mm."""
    return _fill(hu, _inside(hu, lungs, generator, radii, bumps, 3.0) * lungs.mask, _uniform(generator, *density))


def _inside(
    hu: torch.Tensor, lungs: Lungs, generator: torch.Generator, radii: tuple[float, float], bumps: float, edge: float
) -> torch.Tensor:
    """(n, n, n) in [0, 1]: an ellipsoid around a place in the lung whose surface is uneven by `bumps` of its radius."""
    place = lungs.places[int(torch.randint(len(lungs.places), (), generator=generator))].tolist()
    radius = _uniform(generator, *radii)
    stretch = torch.exp(0.2 * torch.randn(3, generator=generator)).tolist()
    x, y, z = (((axis - p) / s).square() for axis, p, s in zip(_axes(hu), place, stretch, strict=True))
    distance = (x + y + z).sqrt()
    knots = min(32, round(EXTENT_MM / radius))
    surface = radius * (1 + bumps * _noise(1, knots, hu.shape[0], generator, hu.device)[0])
    return ((surface - distance) / edge + 0.5).clamp(0, 1)


def _fill(hu: torch.Tensor, cover: torch.Tensor, density: float) -> torch.Tensor:
    """What is lighter than `density` is filled up to it."""
    return hu + cover * (density - hu).clamp(min=0)


def _below(hu: torch.Tensor, threshold: float) -> torch.Tensor:
    """1 in air, 0 from `threshold` upwards, over 100 HU."""
    return ((threshold - hu) / 100).clamp(0, 1)


def _axes(hu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, y, z in millimetres from the centre, each shaped to meet (z, y, x)."""
    n = hu.shape[0]
    axis = ((torch.arange(n, device=hu.device) + 0.5) / n - 0.5) * EXTENT_MM
    return axis, axis[:, None], axis[:, None, None]


def _noise(count: int, knots: int, size: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """(count, size, size, size) smooth noise of about unit spread, random at `knots` points along each edge."""
    coarse = torch.randn(1, count, knots, knots, knots, generator=generator).to(device)
    finer = F.interpolate(coarse, scale_factor=2, mode="trilinear")
    finer = F.avg_pool3d(finer, 3, 1, 1, count_include_pad=False)  # rounds what else would be boxes
    return 2.8 * F.interpolate(finer, size=[size] * 3, mode="trilinear", align_corners=True)[0]


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))

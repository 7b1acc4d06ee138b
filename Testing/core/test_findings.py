"""Densities painted into a chest stay where they belong; lungs are found in a chest drawn from simple shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axon_core.data.findings import (
    FINDINGS,
    Lungs,
    consolidation,
    density_fields,
    effusion,
    emphysema,
    lung_mask,
    mass,
    nodules,
    vary,
)

N = 64
MM = 360.0 / N
z, y, x = np.meshgrid(*[(np.arange(N) + 0.5) * MM - 180.0] * 3, indexing="ij")
BODY = (x / 160) ** 2 + (y / 110) ** 2 < 1
LUNG_SIDES = [((x - side * 70) / 50) ** 2 + (y / 75) ** 2 + ((z - 10) / 110) ** 2 < 1 for side in (-1, 1)]
LUNGS = LUNG_SIDES[0] | LUNG_SIDES[1]
VESSEL = ((x - 70) ** 2 + (z - 10) ** 2 < 6**2) & LUNGS
BOWEL = (x / 18) ** 2 + ((y + 60) / 18) ** 2 + ((z + 140) / 18) ** 2 < 1  # 24 ml of gas
ARM = ((np.abs(x) - 165) ** 2 + (y - 20) ** 2 < 14**2) & (z > 0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def chest() -> tuple[torch.Tensor, Lungs]:
    hu = np.full((N, N, N), -1000.0, np.float32)
    hu[BODY | ARM], hu[LUNGS], hu[VESSEL], hu[BOWEL] = 40.0, -850.0, 50.0, -940.0
    hu[BODY & (np.hypot(x, y - 70) < 15)] = 600.0  # spine
    return torch.from_numpy(hu), Lungs.of(hu)


def test_lungs_are_found_with_their_vessels_and_without_bowel(chest):
    hu, lungs = chest
    found = lung_mask(hu.numpy())
    assert 2 * (found & LUNGS).sum() / (found.sum() + LUNGS.sum()) > 0.97
    assert found[VESSEL].mean() > 0.9
    assert not found[BOWEL].any()
    assert lungs.places.shape[1] == 3
    inside = ((lungs.places + 180.0) / MM).long()
    assert LUNGS[inside[:, 2], inside[:, 1], inside[:, 0]].mean() > 0.95


def test_air_between_arm_and_chest_is_no_lung():
    hu = np.full((N, N, N), -1000.0, np.float32)
    hu[(np.abs(x) < 170) & (np.abs(y) < 110)] = 40.0
    hu[(np.abs(x) > 120) & (np.abs(x) < 160) & (np.abs(y) < 90)] = -1000.0  # enclosed in every slice
    hu[LUNGS & (np.abs(x) < 115)] = -850.0
    assert not lung_mask(hu)[hu == -1000.0].any()


def test_a_volume_without_lungs_keeps_its_soft_tissue_in_bounds():
    hu = torch.full((16, 16, 16), 40.0)
    lungs = Lungs.of(hu.numpy())
    assert len(lungs.places) == 0 and lungs.mask.sum() == 0
    assert (vary(hu, lungs, seeded(0)) - hu).abs().max() < 60


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_touches_the_lungs_alone(chest, name):
    hu, lungs = chest
    changed = torch.zeros_like(hu)
    for seed in range(8):
        varied = FINDINGS[name](hu, lungs, seeded(seed))
        assert torch.equal(varied[lungs.mask == 0], hu[lungs.mask == 0])
        assert varied.min() >= -1000 and varied.max() <= 600
        changed += (varied - hu).abs() > 20
    assert (changed > 0).float().sum() * MM**3 / 1e6 > 0.002  # litres


def test_nodules_are_small_and_solid_and_a_mass_is_larger(chest):
    hu, lungs = chest

    def litres(paint, seed: int) -> float:
        solid = (paint(hu, lungs, seeded(seed)) > -300) & (hu < -800)
        return float(solid.sum()) * MM**3 / 1e6

    small, large = ([litres(paint, seed) for seed in range(12)] for paint in (nodules, mass))
    assert 0.0005 < np.mean(small) < 0.02
    assert 0.03 < np.mean(large) < 0.2


def test_water_lies_low_on_one_side(chest):
    hu, lungs = chest
    sides = set()
    for seed in range(8):
        water = ((effusion(hu, lungs, seeded(seed)) - hu) > 400).numpy()
        left, right = (water & LUNG_SIDES[1]).sum(), (water & LUNG_SIDES[0]).sum()
        assert min(left, right) == 0
        sides.add(left > right)
        side = LUNG_SIDES[int(left > right)]
        assert 0.01 < water.sum() / side.sum() < 0.4
        assert (z - y)[water].mean() < (z - y)[side].mean() - 20
    assert sides == {False, True}


def test_consolidation_is_denser_and_emphysema_thinner(chest):
    hu, lungs = chest
    lung = torch.from_numpy(LUNGS & ~VESSEL)
    assert consolidation(hu, lungs, seeded(1))[lung].mean() > hu[lung].mean() + 5
    thinner = [emphysema(hu, lungs, seeded(seed))[lung] - hu[lung] for seed in range(8)]
    assert all(change.max() <= 0 for change in thinner)
    assert -60 < torch.stack(thinner).mean() < -3


def test_fields_keep_the_air_and_are_smooth(chest):
    hu, lungs = chest
    changes = torch.stack([density_fields(hu, lungs, seeded(seed)) - hu for seed in range(10)])
    outside = torch.from_numpy(~(BODY | ARM | LUNGS))
    assert (changes[:, outside] == 0).all()
    lung = torch.from_numpy(LUNGS & ~VESSEL)
    assert 15 < changes[:, lung & (lungs.mask == 1)].std() < 50
    for axis in (1, 2, 3):
        step = changes.diff(dim=axis)
        deep = (lungs.mask == 1) & (hu < -800)
        both = deep.narrow(axis - 1, 1, N - 1) & deep.narrow(axis - 1, 0, N - 1)
        assert step[:, both].abs().max() < 12


def test_a_seed_names_a_patient(chest):
    hu, lungs = chest
    state = torch.get_rng_state()
    assert torch.equal(vary(hu, lungs, seeded(5)), vary(hu, lungs, seeded(5)))
    assert not torch.equal(vary(hu, lungs, seeded(5)), vary(hu, lungs, seeded(6)))
    assert torch.equal(state, torch.get_rng_state())

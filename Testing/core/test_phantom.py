"""The procedural chest: the right things in the right places, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from axon_core.data.phantom import thorax
from axon_core.data.phantom_body import dome_height, heart_shapes
from axon_core.data.phantom_canvas import Canvas
from axon_core.data.phantom_lungs import grow_tree, tree_radii
from axon_core.data.phantom_person import LEFT, RIGHT, Anatomy
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid

GRID = CanonicalGrid(64)
SEEDS = range(8)


@pytest.fixture(scope="module")
def chests() -> dict[int, np.ndarray]:
    return {seed: thorax(seed, GRID) for seed in SEEDS}


def person_of(seed: int) -> Anatomy:
    return Anatomy.sample(np.random.default_rng(seed))


def axis(grid: CanonicalGrid = GRID) -> np.ndarray:
    return Canvas(grid).axis


def around(volume: np.ndarray, low: tuple[float, float, float], high: tuple[float, float, float]) -> np.ndarray:
    """The voxels between two corners (x, y, z) in mm from the centre."""
    return volume[Canvas(GRID).box(low, high)]


def test_same_seed_same_chest() -> None:
    np.testing.assert_array_equal(thorax(3, GRID), thorax(3, GRID))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError):
        thorax(-1, GRID)


def test_seeds_differ(chests: dict[int, np.ndarray]) -> None:
    for seed in SEEDS[1:]:
        assert np.abs(chests[seed] - chests[0]).mean() > 50.0


def test_form_and_range(chests: dict[int, np.ndarray]) -> None:
    for hu in chests.values():
        assert hu.shape == GRID.shape
        assert hu.dtype == np.float32
        assert np.isfinite(hu).all()
        assert -1024.0 <= hu.min() < -950.0
        assert 350.0 < hu.max() <= 1500.0  # bone is there


def test_one_person_on_every_grid() -> None:
    fine = thorax(5, GRID.refined(2))
    coarse = thorax(5, GRID)
    blocks = fine.reshape(64, 2, 64, 2, 64, 2).mean((1, 3, 5))
    assert np.corrcoef(blocks.ravel(), coarse.ravel())[0, 1] > 0.97


def test_the_centre_of_the_grid_does_not_matter() -> None:
    np.testing.assert_array_equal(
        thorax(1, CanonicalGrid(32, center_lps=(5.0, -90.0, 700.0))), thorax(1, CanonicalGrid(32))
    )


def lungs_of(hu: np.ndarray) -> np.ndarray:
    """Air that does not touch the outside; trunk slices only."""
    air = hu < -500.0
    labels, _ = label(air)
    outside = np.unique(
        np.concatenate([labels[:, 0].ravel(), labels[:, -1].ravel(), labels[:, :, 0].ravel(), labels[:, :, -1].ravel()])
    )
    return air & ~np.isin(labels, outside)


def test_lungs_have_a_plausible_size(chests: dict[int, np.ndarray]) -> None:
    litres = [lungs_of(hu).sum() * GRID.spacing_mm**3 * 1e-6 for hu in chests.values()]
    assert all(1.8 < v < 9.0 for v in litres), litres
    for hu in chests.values():
        assert -930.0 < np.median(hu[lungs_of(hu)]) < -700.0


def test_two_lungs_of_similar_size(chests: dict[int, np.ndarray]) -> None:
    for hu in chests.values():
        lungs = lungs_of(hu)
        right, left = lungs[:, :, :32].sum(), lungs[:, :, 32:].sum()
        assert 0.9 < right / left < 2.5  # the heart takes its room from the left lung


def test_the_body_is_centred(chests: dict[int, np.ndarray]) -> None:
    for hu in chests.values():
        body = hu[20:44] > -300.0
        assert abs((body.sum((0, 1)) * axis()).sum() / body.sum()) < 12.0
        assert abs((body.sum((0, 2)) * axis()).sum() / body.sum()) < 40.0


def test_heart_lies_to_the_left_and_in_front(chests: dict[int, np.ndarray]) -> None:
    for seed, hu in chests.items():
        person = person_of(seed)
        x, y, z = person.heart_centre
        assert 0.0 < x < 50.0
        assert y < float(person.spine_at(z)[1]) - 40.0
        left = around(hu, (35, y - 15, z - 15), (70, y + 15, z + 15))
        right = around(hu, (-70, y - 15, z - 15), (-35, y + 15, z + 15))
        assert left.mean() > right.mean()


def test_heart_mask_is_where_the_volume_is_soft() -> None:
    person, canvas = person_of(2), Canvas(GRID)
    hu = thorax(2, GRID)
    for shape in heart_shapes(person, canvas):
        inside = hu[shape.box][shape.mask > 0.9]
        assert inside.size > 50
        assert np.percentile(inside, 5) > -250.0


def test_liver_right_stomach_gas_left(chests: dict[int, np.ndarray]) -> None:
    for seed, hu in chests.items():
        person = person_of(seed)
        low, high = person.dome - 75.0, person.dome - 25.0
        y = float(person.section_at(low)[1])
        liver = around(hu, (-85, y - 30, low), (-50, y + 30, high))
        assert np.percentile(liver, 10) > 0.0
        gas = {side: np.zeros(0) for side in (RIGHT, LEFT)}
        gas[RIGHT] = around(hu, (-90, y - 75, low), (-20, y + 30, high))
        gas[LEFT] = around(hu, (20, y - 75, low), (90, y + 30, high))
        assert (gas[LEFT] < -400).sum() > (gas[RIGHT] < -400).sum()


def test_right_diaphragm_is_higher(chests: dict[int, np.ndarray]) -> None:
    for seed, hu in chests.items():
        person, canvas = person_of(seed), Canvas(GRID)
        height = dome_height(person, canvas)[0]
        assert height[:, :32].max() == pytest.approx(person.dome, abs=2.0)
        assert height[:, 32:].max() == pytest.approx(person.dome - person.dome_step, abs=2.0)
        y, x = (int(np.searchsorted(canvas.axis, v)) for v in (0.0, -0.55 * person.half_width))
        top = int(np.searchsorted(canvas.axis, height[y, x]))
        assert np.median(hu[top - 4, y - 2 : y + 3, x - 2 : x + 3]) > 0.0  # liver under the dome
        assert np.median(hu[top + 3, y - 2 : y + 3, x - 2 : x + 3]) < -150.0  # lung over it, perhaps diseased


def test_spine_is_behind_and_bony(chests: dict[int, np.ndarray]) -> None:
    for seed, hu in chests.items():
        person = person_of(seed)
        x, y = (float(v) for v in person.spine_at(0.0))
        assert y > 15.0
        assert around(hu, (x - 8, y - 8, -60), (x + 8, y + 8, 60)).mean() > 80.0


def test_the_body_reaches_both_ends(chests: dict[int, np.ndarray]) -> None:
    for hu in chests.values():
        middle = hu[:, 20:50, 24:40]
        assert (middle[0] > -300).mean() > 0.5
        assert (middle[-1] > -300).any()


def test_tree_joins_every_target_by_short_ways() -> None:
    targets = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    nodes, parent = grow_tree(np.zeros(3), targets)
    assert len(nodes) == 51
    assert (parent[1:] < np.arange(1, 51)).all()  # a parent comes first, so every node hangs on the root
    np.testing.assert_allclose(np.sort(nodes[1:], 0), np.sort(targets, 0))
    assert np.linalg.norm(nodes - nodes[parent], axis=1).sum() < np.linalg.norm(targets, axis=1).sum()


def test_tree_radii_follow_murray() -> None:
    parent = np.array([0, 0, 1, 1, 2])
    radii = tree_radii(parent, twig=0.5, exponent=3.0)
    np.testing.assert_allclose(radii[[3, 4]], 0.5)
    np.testing.assert_allclose(radii[1] ** 3, radii[2] ** 3 + radii[3] ** 3 + 0.5**3)


def test_shapes_have_their_volume() -> None:
    canvas = Canvas(CanonicalGrid(96, 96.0))
    ball = canvas.ellipsoid((3.0, -7.0, 11.0), (20.0, 20.0, 20.0))
    assert ball.mask.sum() == pytest.approx(4 / 3 * np.pi * 20.0**3, rel=0.01)
    egg = canvas.ellipsoid((0.0, 0.0, 0.0), (10.0, 20.0, 30.0))
    assert egg.mask.sum() == pytest.approx(4 / 3 * np.pi * 6000.0, rel=0.02)
    rod = canvas.capsule((-20.0, 0.0, 0.0), (20.0, 0.0, 0.0), 6.0)
    assert rod.mask.sum() == pytest.approx(np.pi * 36.0 * 40.0 + 4 / 3 * np.pi * 216.0, rel=0.02)
    outside = canvas.capsule((200.0, 0.0, 0.0), (300.0, 0.0, 0.0), 6.0)
    assert outside.mask.size == 0


def test_shapes_lie_where_they_are_asked_to() -> None:
    canvas = Canvas(CanonicalGrid(96, 96.0))
    canvas.paint(canvas.ellipsoid((12.0, -20.0, 30.0), (5.0, 5.0, 5.0)), 100.0)
    z, y, x = (canvas.axis[i].mean() for i in np.nonzero(canvas.hu > 0.0))
    np.testing.assert_allclose([x, y, z], [12.0, -20.0, 30.0], atol=0.5)

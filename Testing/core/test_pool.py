"""Chests drawn at once and held in memory, each with ever new looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axon_core.data.anatomy import AnatomyModel
from axon_core.data.cases import Case
from axon_core.data.pairs import make_pair
from axon_core.data.pool import PairPool
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid
from axon_core.intensity import WINDOWS

GRID = CanonicalGrid(32)


def box(name: str, hu: float) -> Case:
    """A box of one density in air, of which all but the lowest four slices are known."""
    volume = np.full(GRID.shape, -1000.0, np.float32)
    volume[:, 8:24, 6:26] = hu
    return Case(name, volume, np.arange(32) >= 4, GRID)


SOFT = box("a", 40.0)


def pool(cases=(SOFT,), count: int = 6, **more) -> PairPool:
    return PairPool(list(cases), count, 16, 32, WINDOWS["wide"], "cpu", **more)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_items_follow_from_the_seed_and_the_index_alone():
    first, again, other = pool(seed=3), pool(seed=3, count=4), pool(seed=4)
    films, target, weight = first[2]
    assert (films.shape, target.shape, weight.shape) == ((2, 32, 32), (1, 16, 16, 16), (1, 16, 16, 16))
    assert same(first[2], again[2]) and not same(first[2], other[2])
    for together, alone in zip(first.__getitems__([1, 8])[1], first[8], strict=True):
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_an_index_beyond_the_chests_is_another_look_of_the_same():
    chests = pool()
    (films, target, weight), (others, again, _) = chests[1], chests[1 + len(chests)]
    assert torch.equal(target, again) and not torch.equal(films, others)
    assert weight.unique().tolist() == [pytest.approx(0.1), 1.0]
    assert float(films.min()) >= -1 and float(films.max()) <= 1


def test_a_chest_is_drawn_as_pairs_are():
    """The films are those of the volume: a denser box casts a denser shadow, at the same place."""
    integrals = pool(count=1, seed=9).log_films[0].float()
    denser = pool([box("a", 400.0)], count=1, seed=9).log_films[0].float()
    assert float(((integrals > 1) == (denser > 1)).float().mean()) > 0.97
    assert float(denser.max()) > 1.2 * float(integrals.max())


def test_phantoms_are_drawn_as_often_as_asked():
    chests = pool([box("ct", 40.0)], count=60, phantoms=[box("phantom", 800.0)], phantom_share=0.3)
    dense = sum(float(hu.max()) > 500 for hu in chests.hu)
    assert 8 <= dense <= 30
    assert all(float(hu.max()) > 500 for hu in pool([], count=4, phantoms=[box("p", 800.0)], phantom_share=1.0).hu)


def test_shapes_come_from_the_anatomy_of_the_same_ct():
    still = AnatomyModel(("a", "b"), "", torch.zeros(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, 5, 5, 5))
    wide = torch.zeros(2, 3, 4, dtype=torch.float64)
    wide[0, 0, 0], wide[1, 0, 0] = 0.4, -0.4  # CT a is wider than the mean, b narrower
    apart = AnatomyModel(("a", "b"), "", wide, still.velocity)
    for model in (still, apart):
        widths = [(hu > -500).any(0).any(0).sum().item() for hu in pool(count=40, anatomy=model).hu.float()]
        spread = np.std(widths)
        if model is still:
            reference = spread
    assert spread > 1.2 * reference
    assert not same(pool(count=1)[0], pool(count=1, anatomy=apart)[0])
    with pytest.raises(ConfigError) as refused:
        pool([box("unknown", 40.0)], anatomy=still)
    assert refused.value.code == "anatomy.unknown-case"
    with pytest.raises(ConfigError):
        make_pair([box("unknown", 40.0)], 1, 16, 32, 0.0, 32, still)


def test_findings_change_densities_and_no_shape(tmp_path):
    """Without lungs, densities alone vary: a box stays the box, and its inside is no longer even."""
    plain, varied = pool(count=1, seed=9), pool(count=1, seed=9, findings=True)
    assert float(((plain.hu > -500) == (varied.hu > -500)).float().mean()) > 0.99
    inside = [float(chests.hu[chests.hu > -100].float().std()) for chests in (plain, varied)]
    assert inside[1] > inside[0] + 1


def test_chests_survive_a_file(tmp_path):
    chests = pool(seed=5)
    chests.save(tmp_path / "pool.safetensors")
    loaded = PairPool.load(tmp_path / "pool.safetensors", WINDOWS["wide"], "cpu", seed=5)
    assert len(loaded) == 6 and all(same(chests[i], loaded[i]) for i in (0, 5, 13))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"cases": ()}, "pool.none"),
        ({"phantom_share": 0.5}, "pool.none"),
        ({"cases": [Case("odd", np.zeros((24,) * 3, np.float32), np.ones(24, bool), CanonicalGrid(24))]}, "pool.size"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, code):
    with pytest.raises(ConfigError) as refused:
        pool(**arguments)
    assert refused.value.code == code

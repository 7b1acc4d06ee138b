"""Shapes between and beyond a few CTs: exact where the truth is known, smooth, never folded, never mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from axon_core.data.anatomy import AnatomyModel, at, exponential, lattice_points, matrix, sampling_grid
from axon_core.data.anatomy_fit import digest_of, fit
from axon_core.data.augment import random_affine, random_deformation, warp
from axon_core.data.cases import Case
from axon_core.data.phantom import thorax
from axon_core.errors import ConfigError, ModelError
from axon_core.geometry import CanonicalGrid

MM = 180.0  # half the cube

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> AnatomyModel:
    """Five made-up shapes: affine parts of a few per cent and degrees, velocities of about 10 mm."""
    rough = torch.randn(5, 3, 6, 6, 6, generator=seeded(0)) * (20.0 / MM)
    velocity = F.interpolate(rough, size=[33] * 3, mode="trilinear", align_corners=True)
    for _ in range(3):
        velocity = F.avg_pool3d(velocity, 5, 1, 2, count_include_pad=False)
    affine = 0.04 * torch.randn(5, 3, 4, generator=seeded(1)).double()
    return AnatomyModel(tuple("abcde"), "0" * 64, affine - affine.mean(0), velocity - velocity.mean(0))


def jacobian(displacement: torch.Tensor) -> torch.Tensor:
    """Determinants of the map's derivative in every lattice cell, (b, cells, cells, cells)."""
    points = (lattice_points(displacement.shape[-1]) + displacement) * (displacement.shape[-1] - 1) / 2
    columns = [points.diff(dim=axis)[:, :, :32, :32, :32] for axis in (4, 3, 2)]
    return torch.linalg.det(torch.stack(columns, -1).permute(0, 2, 3, 4, 1, 5))


def interior(field: torch.Tensor) -> torch.Tensor:
    return field[..., 6:-6, 6:-6, 6:-6]


# --- exponentials and grids ------------------------------------------------------------------------------------------


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    generator = torch.tensor([[0.05, -0.1, 0.0], [0.1, -0.04, 0.03], [0.02, 0.0, 0.06]])
    here = lattice_points(33)
    velocity = torch.einsum("ij,bjzyx->bizyx", generator, here)
    expected = torch.einsum("ij,bjzyx->bizyx", torch.matrix_exp(generator), here) - here
    error = interior(exponential(velocity) - expected).abs().max() * MM
    assert error < 0.6  # of displacements up to 20 mm


def test_exponential_of_the_negative_is_the_inverse(model):
    forth, back = exponential(model.velocity), exponential(-model.velocity)
    here = lattice_points(33).expand_as(back)
    assert interior(back + at(forth, here + back)).norm(dim=1).max() * MM < 1.0


def test_affine_logarithm_of_a_scale():
    scale = matrix(torch.tensor([[0.1, 0, 0, 0], [0, -0.2, 0, 0], [0, 0, 0, 0.3]]))
    torch.testing.assert_close(scale[:, :3], torch.diag(torch.tensor([0.1, -0.2, 0.0]).exp()))
    torch.testing.assert_close(scale[:, 3], torch.tensor([0.0, 0.0, 0.3]))


def test_sampling_grid_runs_through_the_outer_deformation_first():
    displacement = 0.2 * lattice_points(33)  # carries p to 1.2 p
    outer = F.affine_grid(0.5 * torch.eye(3, 4)[None], [1, 1, 10, 10, 10], align_corners=False) + 0.1
    torch.testing.assert_close(sampling_grid(displacement, outer), 1.2 * outer)


def test_no_displacement_leaves_the_outer_deformation():
    outer = random_deformation(12, seeded(3))
    torch.testing.assert_close(sampling_grid(torch.zeros(1, 3, 33, 33, 33), outer), outer)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_at_no_strength_every_ct_keeps_its_shape(model):
    unchanged = model.shapes(range(5), [seeded(i) for i in range(5)], 0.0)
    assert interior(unchanged).norm(dim=1).max() * MM < 1.0


def test_between_two_cts_and_back_is_the_way_home(model):
    there, back = model.between(0, 3)[None], model.between(3, 0)[None]
    assert there.norm(dim=1).mean() * MM > 5  # far enough to tell
    here = lattice_points(33)
    assert interior(there + at(back, here + there)).norm(dim=1).max() * MM < 1.5


def test_shapes_never_fold_and_keep_left_left(model):
    for seed in range(12):
        shape = model.shapes(range(5), [seeded(5 * seed + i) for i in range(5)], 1.3)
        assert jacobian(shape).min() > 0.05
        grid = interior(lattice_points(33) + shape)
        assert (grid[:, 0].diff(dim=-1) > 0).all()  # x grows to the left before and after
    assert shape.norm(dim=1).mean() * MM > 4


def test_a_seed_names_a_chest_alone_and_in_any_batch(model):
    alone = model.shape(2, seeded(7))
    batch = model.shapes([4, 2], [seeded(6), seeded(7)])
    torch.testing.assert_close(batch[1], alone)
    assert (model.shape(2, seeded(8)) - alone).abs().max() * MM > 2


def test_global_random_numbers_are_neither_used_nor_touched(model):
    state = torch.get_rng_state()
    model.shape(0, seeded(1))
    assert torch.equal(state, torch.get_rng_state())


def test_depth_varies_as_it_does_between_the_cts():
    """CTs that differ only in depth give chests that differ only in depth, by about as much, and each CT gives many."""
    affine = torch.zeros(4, 3, 4, dtype=torch.float64)
    affine[:, 1, 1] = torch.tensor([-0.15, -0.05, 0.05, 0.15])
    model = AnatomyModel(tuple("abcd"), "", affine, torch.zeros(4, 3, 9, 9, 9))
    slopes = []
    for seed in range(200):
        grid = lattice_points(9)[0] + model.shape(seed % 4, seeded(seed))
        torch.testing.assert_close(grid[[0, 2]], lattice_points(9)[0, [0, 2]], atol=1e-5, rtol=0)
        slopes.append(0.5 * float(grid[1, 4, -1, 4] - grid[1, 4, 0, 4]))
    depth = affine[torch.arange(200) % 4, 1, 1].numpy() - np.log(slopes)  # of the new chest
    assert abs(depth.mean()) < 0.03
    assert 0.06 < depth.std() < 0.15  # the CTs: 0.13 about the mean
    assert 0.03 < depth[2::4].std() < 0.09  # of one CT, whose own is 0.05


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back(model, tmp_path: Path):
    path = tmp_path / "anatomy.safetensors"
    model.save(path)
    again = AnatomyModel.load(path)
    assert (again.names, again.digest) == (model.names, model.digest)
    torch.testing.assert_close(again.affine, model.affine)
    assert (again.velocity - model.velocity).abs().max() * MM < 0.05
    model.save(path)  # replaces


def test_another_file_is_told_in_one_line(tmp_path: Path):
    path = tmp_path / "anatomy.safetensors"
    path.write_bytes(b"not weights")
    for wrong, told in ((path, "not an anatomy model"), (tmp_path / "nothing", "There is no file")):
        with pytest.raises(ModelError, match=told):
            AnatomyModel.load(wrong)


def test_an_unknown_ct_is_told_with_those_known(model):
    assert model.index("c") == 2
    with pytest.raises(ConfigError, match=r"CT z.*a, b, c, d, e"):
        model.index("z")


# --- fit -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known_warp() -> tuple[Case, Case, torch.Tensor, AnatomyModel]:
    """A drawn chest, the same chest through a known smooth deformation, that deformation, and the model of both."""
    n = 48
    first = torch.from_numpy(thorax(3, CanonicalGrid(n)))
    bulge = (
        14.0
        / MM
        * torch.stack(
            [torch.sin(3 * lattice_points(n)[0, 2]), torch.cos(2 * lattice_points(n)[0, 0]), torch.zeros(n, n, n)], -1
        )
    )
    outer = F.affine_grid(random_affine(seeded(4), 0.7)[None], [1, 1, n, n, n], align_corners=False) + bulge[None]
    second = warp(first, outer, -1000.0)
    known = np.ones(n, bool)
    cases = [Case(name, hu.numpy(), known, CanonicalGrid(n)) for name, hu in (("a", first), ("b", second))]
    return *cases, outer, fit(cases, levels=((24, 30, False), (24, 30, True), (48, 15, True)))


def test_fit_recovers_a_known_deformation(known_warp):
    first, second, outer, model = known_warp
    identity = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *outer.shape[1:4]], align_corners=False)
    found = sampling_grid(model.between(1, 0)[None], identity)
    body = torch.from_numpy(second.hu > -900)
    body[:4] = body[-4:] = False
    error = ((found - outer)[0].norm(dim=-1) * MM)[body]
    before = ((identity - outer)[0].norm(dim=-1) * MM)[body]
    assert before.median() > 12
    assert error.median() < 3.75  # half a voxel
    assert error.quantile(0.95) < 9.0  # there is nothing to see inside a uniform organ
    resampled = warp(torch.from_numpy(first.hu), found, -1000.0)
    assert (resampled - torch.from_numpy(second.hu)).abs()[4:-4].mean() < 35


def test_fitted_shapes_are_centred_and_do_not_fold(known_warp):
    first, second, _, model = known_warp
    assert model.affine.sum(0).abs().max() < 1e-5
    assert model.velocity.sum(0).abs().max() < 1e-5
    assert jacobian(model.to_case).min() > 0.1
    assert (model.names, model.digest) == (("a", "b"), digest_of([first, second]))
    assert digest_of([second, first]) != model.digest


def test_slices_beyond_the_ct_have_no_say():
    """Rubbish in unknown slices changes nothing."""
    rng = np.random.default_rng(0)
    cases = []
    for name in "ab":
        known = np.ones(16, bool)
        known[:3] = False
        cases.append(Case(name, rng.normal(40, 80, (16, 16, 16)).astype(np.float32), known, CanonicalGrid(16)))
    levels = ((16, 2, False), (16, 2, True))
    plain = fit(cases, levels=levels)
    cases[0].hu[:3] = 3000.0
    torch.testing.assert_close(fit(cases, levels=levels).velocity, plain.velocity)


def test_one_ct_makes_no_model():
    case = Case("a", np.zeros((8, 8, 8), np.float32), np.ones(8, bool), CanonicalGrid(8))
    with pytest.raises(ConfigError, match="two CTs"):
        fit([case])

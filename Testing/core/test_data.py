"""Deformations, CTs on the canonical cube, and pairs of films and volumes that agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from axon_core.ctvolume import CTVolume
from axon_core.data import pairs
from axon_core.data.augment import centred_in_depth, density_jitter, random_affine, random_deformation, warp
from axon_core.data.cases import BEHIND_MIDDLE_MM, Case, body_mask, depth_centre, load_case, place_case
from axon_core.data.pairs import Pair, PairDataset, expose_pair, load_pair, make_pair, save_pair
from axon_core.drr.exposure import IDEAL, USUAL
from axon_core.errors import ConfigError, VolumeError
from axon_core.geometry import CanonicalGrid, XrayView
from axon_core.intensity import WIDE

AIR, LUNG, TISSUE, LEAD = -1000.0, -850.0, 40.0, 3000.0

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- augment ---------------------------------------------------------------------------------------------------------


def test_deformation_of_no_strength_changes_nothing():
    volume = torch.randn(20, 20, 20, generator=seeded(0))
    torch.testing.assert_close(warp(volume, random_deformation(20, seeded(1), 0.0), -1.0), volume, atol=1e-4, rtol=0)


def test_affine_keeps_left_left():
    for seed in range(300):
        matrix = random_affine(seeded(seed))[:, :3]
        assert torch.linalg.det(matrix) > 0
        cosines = matrix.diagonal() / matrix.norm(dim=0)
        assert cosines.min() > 0.8  # every axis still points the way it did


def test_deformation_never_folds_and_keeps_left_left():
    """Along every axis the sampled position grows with the index: nothing is mirrored, nothing is seen twice."""
    for seed in range(40):
        grid = random_deformation(24, seeded(seed))[0]
        for axis, dimension in ((0, 2), (1, 1), (2, 0)):
            assert (grid[..., axis].diff(dim=dimension) > 0).all()


def test_elastic_field_has_the_documented_spread():
    moves = []
    for seed in range(30):
        straight = torch.nn.functional.affine_grid(
            random_affine(seeded(seed))[None], [1, 1, 16, 16, 16], align_corners=False
        )
        moves.append((random_deformation(16, seeded(seed)) - straight) * 180.0)
    assert float(torch.stack(moves).std()) == pytest.approx(4.0, rel=0.1)  # millimetres


def test_deformation_follows_its_seed():
    assert torch.equal(random_deformation(8, seeded(3)), random_deformation(8, seeded(3)))
    assert not torch.equal(random_deformation(8, seeded(3)), random_deformation(8, seeded(4)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_warp_brings_air_from_the_sides_and_repeats_the_end_slices(axis):
    volume = torch.randn(8, 8, 8, generator=seeded(0))
    grid = random_deformation(8, seeded(0), 0.0)
    grid[..., axis] += 3 * 2 / 8  # three voxels on
    moved = warp(volume, grid, -7.0)
    where = 2 - axis  # dimension of the volume
    torch.testing.assert_close(moved.narrow(where, 0, 5), volume.narrow(where, 3, 5), atol=1e-5, rtol=0)
    beyond = moved.narrow(where, 5, 3)
    end = volume.narrow(where, 7, 1).expand_as(beyond) if axis == 2 else torch.full_like(beyond, -7.0)
    torch.testing.assert_close(beyond, end, atol=1e-5, rtol=0)


def test_deformed_bodies_lie_where_cts_are_laid():
    """A place that one film cannot tell must not differ between training and use."""
    size, off = 96, []
    belongs = 0.5 * (size - 1) + BEHIND_MIDDLE_MM * size / 360
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    plane = (y >= 34) & (y < 80) | (y >= 20) & (y < 34) & (x < 40)  # a body with a fold
    body = torch.where(plane, TISSUE, AIR).expand(size, size, size)
    for seed in range(8):
        moved = warp(body, centred_in_depth(random_deformation(size, seeded(seed), 0.5), body), AIR)
        off.append(depth_centre(moved > -500) - belongs)
    assert abs(np.mean(off)) < 0.4 and np.abs(off).max() < 1.0  # voxels


def test_the_depth_of_a_body_counts_what_it_encloses_and_not_how_far_it_reaches():
    body = torch.zeros(4, 40, 10, dtype=torch.bool)
    body[:, 10:30] = True
    assert depth_centre(body) == pytest.approx(19.5)
    body[:, 12:20] = False  # lungs
    assert depth_centre(body) == pytest.approx(19.5)
    body[:, 0:10, 0] = True  # a fold over a tenth of the width
    assert depth_centre(body) == pytest.approx((10 * 20 * 19.5 + 10 * 4.5) / 210)


def test_a_deformation_of_air_is_left_alone():
    grid = random_deformation(8, seeded(0))
    assert torch.equal(centred_in_depth(grid, torch.full((8, 8, 8), AIR)), grid)


def test_density_jitter_leaves_air_and_varies_each_tissue():
    hu = torch.tensor([-1024.0, -1000.0, -980.0, LUNG, TISSUE, 1000.0])
    drawn = torch.stack([density_jitter(hu, seeded(seed)) for seed in range(400)]) - hu
    assert (drawn[:, :3] == 0).all()
    sd = drawn.std(0)
    assert float(sd[3]) == pytest.approx(35, rel=0.12)
    assert float(sd[4]) == pytest.approx(10, rel=0.12)
    assert float(sd[5]) == pytest.approx(np.hypot(10, 0.12 * 850), rel=0.12)


# --- cases -----------------------------------------------------------------------------------------------------------

SPACING = 4.0  # of the drawn CTs [mm]


def drawn_chest(
    slices: int = 60, couch: bool = True, at: tuple[float, float] = (0.0, 0.0), bridge: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """An elliptic body with two lungs, lying above a couch; (HU, body) on 90 x 90 pixels of 4 mm, `at` (x, y) mm."""
    y, x = (np.mgrid[:90, :90] - 44.5) * SPACING
    x, y = x - at[0], y - at[1]
    body = (x / 130) ** 2 + (y / 90) ** 2 < 1
    plane = np.where(body, TISSUE, AIR)
    for side in (-60, 60):
        plane[((x - side) / 40) ** 2 + (y / 60) ** 2 < 1] = LUNG
    if couch:
        plane[(np.abs(x) < 165) & (y > 102) & (y < 126)] = 100.0
    if bridge:
        plane[(np.abs(x) < 3) & (y > 80) & (y < 110)] = 100.0  # a cable from the body to the couch
    shape = (slices, 90, 90)
    noise = np.random.default_rng(0).normal(0, 5, shape)
    return (np.broadcast_to(plane, shape) + noise).astype(np.float32), np.broadcast_to(body, shape)


def placed(hu: np.ndarray, affine: np.ndarray | None = None) -> CTVolume:
    return CTVolume(
        hu, np.diag([SPACING, SPACING, SPACING, 1.0]) if affine is None else affine, source={"name": "ct.nii"}
    )


@pytest.mark.parametrize("bridge", [False, True])
def test_body_mask_drops_the_couch_and_keeps_the_lungs(bridge):
    hu, body = drawn_chest(slices=20, bridge=bridge)
    found = body_mask(hu, np.full(3, SPACING))
    assert found[body].all()  # the lungs lie inside
    # a rim of a voxel or two for the skin, no more
    assert not (found & ~binary_dilation(body, np.ones((1, 5, 5)))).any()


def test_body_mask_drops_a_couch_surface_that_touches_the_back():
    """A mat 4 mm thick, tangent to the body: the couch of a real scanner, which no 3D opening of 4 mm parts from it."""
    hu, body = drawn_chest(slices=20, couch=False)
    y, x = (np.mgrid[:90, :90] - 44.5) * SPACING
    hu[:, (np.abs(x) < 110) & (y > 88) & (y < 93)] = 100.0
    found = body_mask(hu, np.full(3, SPACING))
    assert found[body].mean() > 0.995
    lowest = y[np.nonzero(found.any(0))]
    assert not found[:, (np.abs(x) > 60) & (y > 88)].any() and lowest.max() < 105


def test_place_case_turns_coronal_and_sagittal_stacks_upright():
    """The same voxels stored with another axis first are the same patient; lungs open at the top, as cut CTs have."""
    hu, _ = drawn_chest(couch=False, at=(36.0, 20.0))
    one = place_case(placed(hu), "one", 64)
    for order in ((1, 0, 2), (2, 0, 1)):  # array axes (z, y, x) in another order
        affine = np.eye(4)
        affine[:3, :3] = SPACING * np.eye(3)[:, [2 - axis for axis in order[::-1]]]
        other = place_case(placed(hu.transpose(order), affine), "other", 64)
        np.testing.assert_allclose(one.grid.center_lps, other.grid.center_lps, atol=1e-6)
        np.testing.assert_allclose(one.hu, other.hu, atol=1.0)


def test_body_mask_of_air_is_refused():
    with pytest.raises(VolumeError) as caught:
        body_mask(np.full((10, 20, 20), AIR, np.float32), np.full(3, SPACING))
    assert caught.value.code == "ct.no-body" and caught.value.advice


def test_place_case_centres_the_body_in_patient_space():
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = (100.0, -250.0, 900.0)
    case = place_case(placed(drawn_chest(at=(36.0, 20.0))[0], affine), "one", 64)
    middle = 44.5 * SPACING
    center = np.array([100 + middle + 36, -250 + middle + 20 - BEHIND_MIDDLE_MM, 900 + 29.5 * SPACING])
    np.testing.assert_allclose(case.grid.center_lps, center, atol=SPACING / 2 + 1e-6)
    _, y, x = np.nonzero(case.hu > -500)
    assert 0.5 * (x.min() + x.max()) == pytest.approx(31.5, abs=1)
    assert 0.5 * (y.min() + y.max()) == pytest.approx(31.5 + BEHIND_MIDDLE_MM / case.grid.spacing_mm, abs=1)


def test_place_case_turns_flipped_volumes_upright():
    """A CT stored right to left, front to back and top to bottom is the same patient."""
    hu, _ = drawn_chest(couch=False, at=(36.0, 20.0))
    hu = hu.copy()
    hu[40:, 44:46, 30:34] = 1500.0  # a mark that has no symmetry
    flip = np.diag([-SPACING, -SPACING, -SPACING, 1.0])
    flip[:3, 3] = [89 * SPACING, 89 * SPACING, 59 * SPACING]
    one = place_case(placed(hu), "one", 64)
    other = place_case(placed(hu[::-1, ::-1, ::-1], flip), "other", 64)
    np.testing.assert_allclose(one.grid.center_lps, other.grid.center_lps, atol=1e-6)
    np.testing.assert_allclose(one.hu, other.hu, atol=1.0)


def test_place_case_marks_the_known_slices_and_continues_the_ends():
    hu, _ = drawn_chest(slices=60)
    hu += np.linspace(-20, 20, 60, dtype=np.float32)[:, None, None] * (hu > -500)
    case = place_case(placed(hu), "one", 64)
    covered = 60 * SPACING / case.grid.spacing_mm  # 42.7 slices of the cube
    known = np.nonzero(case.known)[0]
    assert covered - 4 <= len(known) <= covered
    assert len(known) == known[-1] - known[0] + 1
    assert known[0] + known[-1] == pytest.approx(63, abs=1)  # in the middle
    assert (case.hu[: known[0]] == case.hu[known[0]]).all()
    assert (case.hu[known[-1] + 1 :] == case.hu[known[-1]]).all()
    assert case.hu.min() > -1100  # nothing of the marker that stands for "outside" is left
    center = case.hu[:, 34, 32]
    assert center[known[0]] < TISSUE - 12 and center[known[-1]] > TISSUE + 12  # not turned over


def test_place_case_has_no_couch():
    case = place_case(placed(drawn_chest()[0]), "one", 64)
    below = round(31.5 + (BEHIND_MIDDLE_MM + 108) / case.grid.spacing_mm)
    assert case.hu[:, below:].max() < -500


@pytest.mark.parametrize(("slices", "refused"), [(25, True), (40, False)])
def test_a_short_ct_is_refused(slices, refused):
    volume = placed(drawn_chest(slices=slices)[0])
    if not refused:
        place_case(volume, "one", 64)
        return
    with pytest.raises(VolumeError) as caught:
        place_case(volume, "one", 64)
    assert caught.value.code == "ct.short"


@pytest.mark.parametrize("name", ["made.nrrd", "made.nii.gz", "series"])
def test_a_synthetic_volume_is_no_case(tmp_path, name):
    """Whichever format carried it here: what a model drew must not become another's truth."""
    volume = placed(drawn_chest()[0])
    made = CTVolume(volume.hu, volume.affine, source={"name": "axon", "synthetic": True})
    path = tmp_path / name
    made.save(path) if path.suffix else made.save_dicom(path)
    with pytest.raises(VolumeError, match="synthetic") as caught:
        load_case(str(path), 48)
    assert caught.value.code == "ct.synthetic"


def test_load_case_reads_a_file(tmp_path):
    volume = placed(drawn_chest()[0].round())
    case = load_case(str(volume.save(tmp_path / "someone.nii.gz")), 48)
    assert case.name == "someone"
    np.testing.assert_allclose(case.hu, place_case(volume, "someone", 48).hu, atol=1.0)


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A phantom's pair as in training."""
    return make_pair([], 5, 64, 128, phantom_share=1.0)


@pytest.fixture
def rendered_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films rendered from 64 voxels: eight times faster."""
    monkeypatch.setattr(pairs, "RENDER_SIZE", 64)


@pytest.fixture
def folder(tmp_path: Path, pair: Pair) -> Path:
    """Two files of pairs."""
    save_pair(pair, tmp_path / "0.npz")
    save_pair(Pair(pair.hu + 100, torch.rand(pair.hu.shape) > 0.5, pair.log_films), tmp_path / "1.npz")
    return tmp_path


def marked_case(size: int = 64) -> Case:
    """A ball of lead at the patient's left, front and top, in a body of skin alone, front and back."""
    grid = CanonicalGrid(size)
    z, y, x = (np.mgrid[:size, :size, :size] - 0.5 * (size - 1)) * grid.spacing_mm
    ball = (x - 80) ** 2 + (y + 70) ** 2 + (z - 75) ** 2 < 20**2
    hu = np.where(ball, LEAD, np.where((np.hypot(x, z) < 60) & (np.abs(np.abs(y) - 116) < 4), -400.0, AIR))
    return Case("mark", hu.astype(np.float32), np.ones(size, bool), grid)


def test_pair_has_the_promised_shapes(pair):
    assert pair.hu.shape == pair.known.shape == (64, 64, 64)
    assert pair.log_films.shape == (2, 128, 128)
    assert pair.hu.dtype == pair.log_films.dtype == torch.float32 and pair.known.dtype == torch.bool
    assert (pair.log_films > -0.1).all() and float(pair.log_films.max()) > 2  # a body stops light; quanta are noisy


def test_film_and_volume_agree(pair):
    """The volume that is taught casts the films that are shown, up to its coarser voxels and another exposure."""

    def alike(view: XrayView, which: int) -> float:
        films = expose_pair(pair.hu, CanonicalGrid(64), 128, view)[which], pair.log_films[which]
        return float(torch.corrcoef(torch.stack(films).flatten(1))[0, 1])

    frontals = sorted(alike(view, 0) for view in (XrayView.PA, XrayView.AP))
    assert frontals[1] > 0.997 and alike(XrayView.PA, 1) > 0.994
    assert 1 - frontals[0] > 2 * (1 - frontals[1])  # a film from the other side is told apart


def test_each_film_has_an_exposure_of_its_own():
    """With one energy and without scatter, what is dense stands out most."""
    hu = torch.from_numpy(marked_case().hu)
    first, second = (
        expose_pair(hu, CanonicalGrid(64), 64, exposures=each) for each in ((IDEAL, USUAL), (USUAL, IDEAL))
    )
    assert float(first[0].max()) > 1.05 * float(second[0].max())
    assert float(second[1].max()) > 1.05 * float(first[1].max())


def test_pair_follows_its_seed(rendered_small):
    cases = [marked_case()]
    first, again, other = (make_pair(cases, seed, 32, 32, 0.5) for seed in (8, 8, 9))
    assert torch.equal(first.hu, again.hu) and torch.equal(first.log_films, again.log_films)
    assert not torch.equal(first.hu, other.hu)


def test_left_front_and_top_are_where_a_radiologist_looks_for_them(rendered_small):
    """The patient's left is on the right of a frontal film, PA or AP; the front is on the right of a lateral film."""
    for seed in range(12):
        made = make_pair([marked_case()], seed, 32, 48, phantom_share=0.0)
        row, column = (torch.arange(48.0) - 23.5).view(-1, 1), (torch.arange(48.0) - 23.5).view(1, -1)
        for film in made.log_films:
            ball = (film > 0.6 * film.max()).float()
            assert float((ball * column).sum() / ball.sum()) > 1
            assert float((ball * row).sum() / ball.sum()) < -1
        z, y, x = np.nonzero(made.hu.numpy() > 500)
        assert x.mean() > 18 and y.mean() < 14 and z.mean() > 18


def test_both_frontal_views_and_both_sources_occur(monkeypatch):
    seen, drawn = [], []
    monkeypatch.setattr(pairs, "RENDER_SIZE", 8)
    monkeypatch.setattr(
        pairs, "expose_pair", lambda hu, grid, pixels, view, _: seen.append(view) or torch.zeros(2, 4, 4)
    )
    monkeypatch.setattr(pairs, "thorax", lambda seed, grid: drawn.append(seed) or marked_case(8).hu)
    for seed in range(100):
        make_pair([marked_case(8)], seed, 4, 4, phantom_share=0.3)
    assert 5 <= seen.count(XrayView.AP) <= 28 and seen.count(XrayView.AP) + seen.count(XrayView.PA) == 100
    assert 18 <= len(drawn) <= 43


def test_known_follows_the_deformation(rendered_small):
    """Where the CT's own slices went, there the volume is known."""
    case = marked_case()
    known = np.zeros(64, bool)
    known[20:50] = True
    hu = np.where(known[:, None, None], TISSUE, LEAD) * np.ones((64, 64, 64), np.float32)
    made = make_pair([Case("half", hu.astype(np.float32), known, case.grid)], 3, 32, 8, phantom_share=0.0)
    tissue = (made.hu < 500) & (made.hu > -500)
    inside = made.hu > -500  # not the air that came in from the sides
    agree = (tissue == made.known)[inside].float().mean()
    assert 0.2 < float(made.known.float().mean()) < 0.8
    assert float(agree) > 0.93  # a voxel's blend of both counts either way


def test_nothing_to_draw_from_is_told():
    with pytest.raises(ConfigError) as caught:
        make_pair([], 0, 64, 64, phantom_share=0.5)
    assert caught.value.code == "pairs.no-ct"


@pytest.mark.parametrize("size", [48, 256])
def test_sizes_that_do_not_divide_the_rendered_cube_are_told(size):
    with pytest.raises(ConfigError) as caught:
        make_pair([], 0, size, 64, phantom_share=1.0)
    assert caught.value.code == "pairs.size"


def test_pair_survives_the_disk(tmp_path, pair):
    path = tmp_path / "pair.npz"
    save_pair(pair, path)
    again = load_pair(path)
    torch.testing.assert_close(again.hu, pair.hu.clamp(-1024, 3071), atol=0.5, rtol=0)
    assert torch.equal(again.known, pair.known)
    torch.testing.assert_close(again.log_films, pair.log_films, atol=1e-3, rtol=1e-3)
    assert path.stat().st_size < 2.2 * 64**3 + 4.2 * 128**2 + 2000


def test_a_pair_of_another_version_is_told(tmp_path):
    np.savez(tmp_path / "old.npz", hu=np.zeros((4,) * 3, np.int16), known=np.zeros(8, np.uint8))
    with pytest.raises(ConfigError) as caught:
        load_pair(tmp_path / "old.npz")
    assert caught.value.code == "pairs.format"


def test_an_interrupted_write_leaves_the_old_pair(tmp_path, pair, monkeypatch):
    path = tmp_path / "pair.npz"
    save_pair(pair, path)
    before = path.read_bytes()

    def fail(file: object, **arrays: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        save_pair(pair, path)
    assert path.read_bytes() == before
    assert len(PairDataset(tmp_path, WIDE)) == 1  # the ruin is not taken for a pair


def test_items_are_in_range(folder):
    data = PairDataset(folder, WIDE, unknown_weight=0.25)
    assert len(data) == 2
    films, target, weight = data[1]
    assert films.shape == (2, 128, 128) and target.shape == weight.shape == (1, 64, 64, 64)
    for values in (films, target):
        assert -1 <= float(values.min()) < float(values.max()) <= 1
    stored = load_pair(folder / "1.npz")
    assert torch.equal(weight[0] == 1, stored.known)
    assert sorted(weight.unique().tolist()) == [0.25, 1.0]
    torch.testing.assert_close(WIDE.decode(target[0]), stored.hu.clamp(-1000, 1000), atol=1e-3, rtol=0)


def test_an_index_beyond_the_files_is_another_look_at_the_same_chest(folder):
    data = PairDataset(folder, WIDE, seed=4)
    films, target, weight = data[1]
    other_films, other_target, other_weight = data[3]
    assert torch.equal(target, other_target) and torch.equal(weight, other_weight)
    assert float((films - other_films).abs().mean()) > 0.005
    assert torch.equal(films, data[1][0])
    assert not torch.equal(films, PairDataset(folder, WIDE, seed=5)[1][0])


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ConfigError) as caught:
        PairDataset(tmp_path, WIDE)
    assert caught.value.code == "pairs.none"

"""The plan of a cache, and the samples that are drawn from it."""

from __future__ import annotations

import json
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import chest_files

from axon_core.config import load_preset
from axon_core.data import cache, plan, prepare
from axon_core.data.cache import CacheDataset, before_the_films, lone_films, read_films, read_hu, validation_cases
from axon_core.data.cases import BEHIND_MIDDLE_MM
from axon_core.data.plan import CaseEntry, Layout, Plan, Skipped, paper_parts, part_of, read_plan
from axon_core.data.real_films import RealFilms, _on_drr, _true_to_scale
from axon_core.drr.film import simulate
from axon_core.drr.projector import Projector
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView
from axon_core.intensity import hu_to_mu
from axon_core.training import sources

pytestmark = pytest.mark.usefixtures("plain_convolutions")


@pytest.fixture(autouse=True, scope="module")
def small_cubes():
    """Caches of 32 voxels: many times faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALLEST_RENDER", 32)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of four patients, three to train on; one has a film that is stored as it is."""
    folder = tmp_path_factory.mktemp("prepared")
    lines = ["patient,ct,frontal,lateral,split"]
    for number, part in enumerate(("train", "train", "train", "val")):
        chest_files.save(folder / f"{number}.nrrd", seed=number)
        lines.append(f"p{number},{number}.nrrd,,,{part}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    prepare.prepare(folder / "manifest.csv", folder / "cache", prepare.PrepareOptions("tiny"))
    return folder / "cache"


def with_film(folder: Path, name: str, **changes: Any) -> np.ndarray:
    """Give a case of a cache a frontal film of noise; returns it."""
    whole = json.loads((folder / "plan.json").read_text())
    case = next(case for case in whole["cases"] if case["name"] == name)
    case.update({"films": {"frontal": "real"}, **changes})
    (folder / "plan.json").write_text(json.dumps(whole))
    film = np.random.default_rng(0).integers(-32767, 32767, (2, 32, 32)).astype(np.int16)
    np.save(folder / "cases" / case["key"] / "films.npy", film)
    return film[0] / 32767


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of the cache that a test may change."""
    import shutil

    return shutil.copytree(made, tmp_path / "cache")


# --- the division ----------------------------------------------------------------------------------------------------


def test_a_patient_stays_in_its_part_when_others_come():
    names = [f"p{k}" for k in range(4000)]
    parts = Counter(part_of(name, (85, 5, 10)) for name in names)
    assert 0.83 < parts["train"] / 4000 < 0.87 and 0.04 < parts["val"] / 4000 < 0.06
    assert 0.09 < parts["test"] / 4000 < 0.115
    assert [part_of(name, (85, 5, 10), 1) for name in names] != [part_of(name, (85, 5, 10)) for name in names]
    wider = {name: part_of(name, (80, 10, 10)) for name in names}
    assert all(wider[name] == "test" for name in names if part_of(name, (85, 5, 10)) == "test")


def test_the_papers_cohort_is_divided_in_the_papers_numbers():
    both, one = {"frontal": "real", "lateral": "real"}, {"frontal": "real", "lateral": "drr"}
    cases = [CaseEntry(f"b{k}", f"b{k}", "", films=both) for k in range(173)]
    cases += [CaseEntry(f"o{k}", f"o{k}", "", films=one) for k in range(59)]
    cases += [CaseEntry(f"o{k}#2", f"o{k}", "") for k in range(20)]  # second CTs of the same patients
    cases += [CaseEntry(f"u{k}", f"u{k}", "") for k in range(786)]
    parts = paper_parts(cases)
    assert Counter(parts[f"b{k}"] for k in range(173)) == {"train": 149, "val": 8, "test": 16}
    films = [f"b{k}" for k in range(173)] + [f"o{k}" for k in range(59)]
    assert Counter(parts[name] for name in films) == {"train": 197, "val": 10, "test": 25}
    assert {parts[f"u{k}"] for k in range(786)} == {"train"}


# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_plan_comes_back_as_it_was(tmp_path):
    case = CaseEntry(
        "a#2", "a", "key", "val", (3, 9), {"frontal": "real"}, ((1.0, 0.0, 0.0, 0.5),) * 3, (2.5,) * 3, ("w",)
    )
    written = Plan(Layout.of("small"), (case,), (Skipped("b", "why"),)).write(tmp_path)
    assert read_plan(tmp_path) == written == read_plan(tmp_path / "plan.json")
    assert len(written.sha256) == 64 and written.split("val") == (case,) and written.split("train") == ()


def test_a_plan_refuses_another_preset():
    small = Plan(Layout.of("small"), ())
    small.check(load_preset("small"))
    for other in ("tiny", "paper"):
        with pytest.raises(ConfigError, match="prepared for preset small") as caught:
            small.check(load_preset(other))
        assert caught.value.code == "plan.other-preset" and other in caught.value.advice
    with pytest.raises(ConfigError, match="window"):
        Plan(Layout.of("axon-paper"), ()).check(load_preset("paper"))


def test_the_paper_preset_is_the_papers():
    layout = Layout.of("axon-paper")
    window = layout.model.hu_window
    assert (window.low, window.high, layout.model.size, layout.model.film_size) == (-100, 900, 128, 1024)
    assert layout.stretched and layout.render == 256


def test_a_preset_of_ones_own_gets_a_cube_that_it_divides(tmp_path):
    text = (Path(plan.__file__).parents[1] / "presets" / "tiny.toml").read_text()
    (tmp_path / "own.toml").write_text(
        text.replace("size = 16", "size = 12").replace("film_size = 32", "film_size = 24")
    )
    assert Layout.of(str(tmp_path / "own.toml")).render == 48
    (tmp_path / "own.toml").write_text(text.replace("[encoder]", "extent_mm = 400.0\n[encoder]"))
    with pytest.raises(ConfigError, match="400 mm") as caught:
        Layout.of(str(tmp_path / "own.toml"))
    assert caught.value.code == "plan.extent"


def test_what_is_no_plan_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_plan(tmp_path)
    assert caught.value.code == "plan.missing" and "axon prepare" in caught.value.advice
    whole = Plan(Layout.of("tiny"), ()).write(tmp_path)
    text = (tmp_path / "plan.json").read_text()
    for wrong, code in (
        (text[:-9], "plan.damaged"),
        ("[]", "plan.damaged"),
        (text.replace("cache-3", "cache-2"), "plan.format"),
    ):
        (tmp_path / "plan.json").write_text(wrong)
        with pytest.raises(ConfigError) as caught:
            read_plan(tmp_path)
        assert caught.value.code == code
    assert whole.preset == "tiny"


# --- samples ---------------------------------------------------------------------------------------------------------


def test_items_are_as_training_wants_them(made):
    data = CacheDataset(made)
    assert len(data) == 3
    films, target, weight = data[2**31 - 1]
    assert films.shape == (2, 32, 32) and target.shape == weight.shape == (1, 16, 16, 16)
    for part in (films, target, weight):
        assert part.dtype == torch.float32 and torch.isfinite(part).all()
    assert -1 <= films.min() < films.max() <= 1 and -1 <= target.min() < target.max() <= 1
    assert set(weight.unique().tolist()) == {torch.tensor(0.1).item(), 1.0}
    assert CacheDataset(made, size=32)[0][1].shape == (1, 32, 32, 32)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_item_follows_from_its_number_alone(made, copied):
    data = CacheDataset(made, seed=4)
    first = data[7]
    data[8]
    torch.manual_seed(1)
    assert same(first, data[7]) and same(first, pickle.loads(pickle.dumps(data))[7])
    assert same(first, CacheDataset(copied / "plan.json", seed=4)[7])
    assert not same(first, data[8]) and not same(first, CacheDataset(made, seed=5)[7])


def test_all_cases_are_drawn_and_phantoms_as_often_as_asked(made, monkeypatch):
    asked = []
    empty = cache.Pair(torch.zeros(16, 16, 16), torch.ones(16, 16, 16) > 0, torch.rand(2, 32, 32))
    monkeypatch.setattr(cache, "make_pair", lambda *args: asked.append(args) or empty)
    data = CacheDataset(made, phantom_share=0.25)
    for index in range(20):
        data[index]
    cases, seeds, sizes = asked[0][0], {args[1] for args in asked}, {args[2:] for args in asked}
    assert len(cases) == 3 and len(seeds) == 20 and sizes == {(16, 32, 0.25, 32, None, None)}
    drawn = cases[1]
    entry = read_plan(made).split("train")[1]
    assert torch.equal(torch.from_numpy(drawn.hu), read_hu(made, entry))
    assert np.flatnonzero(drawn.known).tolist() == list(range(*entry.known))


def test_kept_chests_are_drawn_once_and_look_new(copied, monkeypatch):
    data = CacheDataset(copied, kept=2)
    items = [data[index] for index in range(4)]
    assert same(items[0][1:], items[2][1:]) and not torch.equal(items[0][0], items[2][0])
    assert not torch.equal(items[0][1], items[1][1])
    assert len(list(data.drawn.glob("[!.]*"))) == 2
    monkeypatch.setattr(cache, "make_pair", None)
    assert same(items[3], CacheDataset(copied, kept=2)[3])
    with pytest.raises(TypeError):  # others are not mistaken for them
        CacheDataset(copied, kept=2, seed=1)[3]


def test_half_the_samples_of_a_patient_with_a_film_show_it(copied):
    film = torch.from_numpy(with_film(copied, "p0")).float()
    data = CacheDataset(copied)
    shown = [torch.allclose(data[index][0][0], film, atol=1e-4) for index in range(60)]
    assert 3 <= sum(shown) <= 20  # a sixth
    index = shown.index(True)
    films, target, _ = data[index]
    assert films[1].std() > 0.1 and not torch.allclose(films[1], films[0])  # the lateral one is drawn
    rest = before_the_films(read_hu(copied, data.real[0]), data.real[0])[0]
    pooled = torch.nn.functional.avg_pool3d(rest[None], 2)
    torch.testing.assert_close(target, data.plan.layout.model.hu_window.encode(pooled))


def test_validation_cases_are_fixed_and_judged_where_the_ct_is(made, copied):
    one, again = validation_cases(made), validation_cases(made)
    assert [case.name for case in one] == ["p3"] and same(one[0].films, again[0].films)
    case = read_plan(made).split("val")[0]
    inside = one[0].weight[0, :, 0, 0]
    assert set(inside.tolist()) == {0.0, 1.0} and int(inside.sum()) == pytest.approx(
        (case.known[1] - case.known[0]) / 2, abs=1
    )
    film = with_film(copied, "p3")
    np.testing.assert_allclose(validation_cases(copied)[0].films[0], film, atol=1e-4)
    assert validation_cases(made, "test") == []


def test_errors_tell_the_way_on(made, copied):
    for call, code in (
        (lambda: CacheDataset(made, "test"), "cache.empty-split"),
        (lambda: CacheDataset(made, size=24), "cache.size"),
        (lambda: validation_cases(made, size=24), "cache.size"),
        (lambda: CacheDataset(made.parent), "plan.missing"),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == code and caught.value.advice
    for folder in (copied / "cases").iterdir():
        (folder / "hu.npy").write_bytes((folder / "hu.npy").read_bytes()[:-1])
    with pytest.raises(ConfigError) as caught:
        CacheDataset(copied)[0]
    assert caught.value.code == "cache.damaged"


def test_volumes_are_mapped_int16(made):
    for folder in (made / "cases").iterdir():
        assert (folder / "hu.npy").stat().st_size == 128 + 2 * 32**3
    array = cache._array(made, read_plan(made).cases[0], "hu.npy")
    assert isinstance(array, np.memmap) and array.dtype == np.int16


def test_films_without_a_ct_are_kept_apart(copied):
    with_film(copied, "p1", split="films", spacing_mm=[])
    found = lone_films(copied)
    assert list(found) == ["p1"] and found["p1"].shape == (1, 32, 32)
    assert len(CacheDataset(copied)) == 2


# --- the films' frame ------------------------------------------------------------------------------------------------

POSE = RigidPose((0.1, -0.06, 0.12), (14.0, -9.0, 11.0))


def test_the_ct_is_shown_in_the_pose_of_its_films():
    """A ball of the CT lies where the pose moves it."""
    grid = CanonicalGrid(64, center_lps=(20.0, -300.0, 700.0))
    isocentre, ball = np.array([8.0, -280.0, 725.0]), np.array([70.0, -330.0, 760.0])
    z, y, x = np.mgrid[:64, :64, :64]
    lps = np.stack([x, y, z], -1) * grid.spacing_mm + grid.affine[:3, 3]
    hu = torch.from_numpy(np.where(((lps - ball) ** 2).sum(-1) < 25**2, 500.0, -1000.0).astype(np.float32))
    frame = RealFilms(pose=POSE, isocentre_lps=isocentre).frame(grid)
    case = CaseEntry("a", "a", "", known=(40, 64), films={"frontal": "real", "lateral": "real"}, film_frame=frame)
    moved, known = before_the_films(hu, case)
    wanted = POSE.matrix[:3, :3] @ (ball - isocentre) + POSE.matrix[:3, 3]
    room = CanonicalGrid(64).affine
    found = np.argwhere(moved.numpy() > -200).mean(0)[::-1] * grid.spacing_mm + room[:3, 3]
    np.testing.assert_allclose(found, wanted, atol=2.0)
    assert (known[torch.from_numpy(moved.numpy() > -200)] == 1).float().mean() > 0.8 and known[:20].sum() == 0
    alone = CaseEntry("a", "a", "", known=(0, 64), films={"frontal": "real"}, film_frame=frame)
    moved, known = before_the_films(hu, alone)
    y = np.argwhere(moved.numpy() > -200)[:, 1]
    assert known.min() == 0, "what comes from beyond the cube is not known"
    belongs = 31.5 + BEHIND_MIDDLE_MM / grid.spacing_mm
    assert 0.5 * (y.min() + y.max()) == pytest.approx(belongs, abs=1.5)  # nobody knows its depth


def cast(geometry: XrayGeometry, pose: RigidPose | None = None) -> np.ndarray:
    """The plain film of the drawn CT about its box's centre."""
    return 2 * simulate(chest_files.drawn(), geometry, pose)[0] - 1


def alike(one: np.ndarray, other: np.ndarray) -> float:
    inside = (slice(16, -16),) * 2
    return float(np.corrcoef(one[inside].ravel(), other[inside].ravel())[0, 1])


@pytest.mark.parametrize("view", [XrayView.PA, XrayView.LAT])
def test_a_film_is_warped_onto_the_drr_at_rest(view):
    found = XrayGeometry(view, 128, 1500.0, detector_mm=390.0)
    pose = RigidPose((0.0, 0.12, 0.0) if view.is_frontal else (0.12, 0.0, 0.0), (18.0, 18.0, -12.0))
    rest, film = cast(XrayGeometry(view, 128)), cast(found, pose)
    warped = _on_drr(film, found, pose)
    assert alike(warped, rest) > 0.98 > 0.9 > alike(film, rest)


def test_a_film_of_another_detector_comes_to_its_true_size():
    """A rod of lead 80 mm off the isocentre's axis lies where the canonical detector shows it."""
    found = XrayGeometry(XrayView.PA, 128, 1400.0, detector_mm=380.0)
    z, y, x = (np.mgrid[:96, :96, :96] - 47.5) * 3.75
    hu = torch.from_numpy(np.where((np.abs(x - 80) < 6) & (np.abs(y) < 6) & (np.abs(z - 60) < 40), 3000.0, -1000.0))
    mu, affine = hu_to_mu(hu.float()), CanonicalGrid(96).affine
    film, usual = (Projector(mu, affine, g.view.beam)(g)[0].numpy() for g in (found, XrayGeometry(XrayView.PA, 128)))
    middles = [
        np.argwhere(image > 0.5 * image.max()).mean(0) for image in (film, _true_to_scale(film - 1, found) + 1, usual)
    ]
    np.testing.assert_allclose(middles[1], middles[2], atol=0.6)
    assert np.abs(middles[0] - middles[2]).max() > 3
    assert read_films is not None


def test_a_gpus_pool_holds_the_caches_chests(made):
    """On CUDA devices `kept` chests are drawn into their memory; here that memory is the CPU's."""
    data = CacheDataset(made, kept=3, phantom_share=0.0, seed=2)
    pool = sources._pool(data, None, "cpu")
    assert len(pool) == 3
    assert [part.shape for part in pool[4]] == [part.shape for part in data[0]]
    assert pool.names == [case.name for case in read_plan(made).split("train")]

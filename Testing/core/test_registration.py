"""Pose of a CT to films: known poses come back, and what cannot be known is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axon_core.ctvolume import CTVolume
from axon_core.data.phantom import thorax
from axon_core.drr.appearance import blur
from axon_core.drr.prepare import prepare_ct
from axon_core.drr.projector import Projector
from axon_core.errors import AxonError, Cancelled
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView
from axon_core.intensity import hu_to_mu
from axon_core.registration.landmarks import Landmarks, pose_from_landmarks
from axon_core.registration.pose import Film, RegisterOptions, Registrar, register
from axon_core.registration.similarity import features, valid_mask

PIXELS = 192
TRUTH = RigidPose((0.07, -0.05, 0.06), (8.0, 14.0, -11.0))


@pytest.fixture(scope="module")
def ct() -> CTVolume:
    """A phantom somewhere in scanner space, not at its origin."""
    grid = CanonicalGrid(96, 360.0, (30.0, -200.0, 1500.0))
    return CTVolume(thorax(3, grid), grid.affine)


@pytest.fixture(scope="module")
def registrar(ct) -> Registrar:
    return Registrar(ct)


def film_of(ct: CTVolume, geometry: XrayGeometry, pose: RigidPose = TRUTH, marker: bool = True) -> np.ndarray:
    """A film with another tone curve, scatter, noise, collimation and a lead marker."""
    prepared = prepare_ct(ct)
    affine = prepared.affine.copy()
    affine[:3, 3] -= ct.center_lps
    integrals = Projector(hu_to_mu(torch.from_numpy(prepared.hu)), affine, geometry.view.beam)(geometry, pose)[0]
    light = torch.exp(-integrals)
    light = 0.7 * light + 0.3 * blur(light, geometry.pixels / 12)
    light = light * (1 + 0.02 * torch.randn(light.shape, generator=torch.Generator().manual_seed(0)))
    film = -light.clamp_min(1e-4).log()
    film = ((film - film.min()) / (film.max() - film.min())) ** 0.7
    n = geometry.pixels
    mask = torch.zeros(n, n)
    mask[n // 16 : -n // 20, n // 12 : -n // 16] = 1
    film = film * mask
    if marker:
        film[n // 8 : n // 6, n // 7 : n // 6] = 1.2
    return film.numpy()


def distance_mm(found: RigidPose, truth: RigidPose, beam: np.ndarray) -> float:
    """Mean distance across the beam between points of the chest in two poses."""
    points = np.random.default_rng(0).uniform(-110, 110, (200, 3))
    shift = points @ (found.matrix - truth.matrix)[:3, :3].T + np.subtract(found.translation, truth.translation)
    return float(np.linalg.norm(shift - np.outer(shift @ beam, beam), axis=1).mean())


def test_a_frontal_film_gives_the_pose(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    heard: list[float] = []
    found = registrar.register([Film(film_of(ct, geometry), geometry)], RigidPose(), RegisterOptions(), heard.append)
    assert distance_mm(found.pose, TRUTH, geometry.view.beam) < 1.5
    assert found.after[0] > 0.9 > 0.8 > found.before[0]
    assert found.verdict == "good", found.reasons
    assert heard == sorted(heard) and heard[-1] == 1.0
    errors = np.subtract([*found.pose.rotation, *found.pose.translation], [*TRUTH.rotation, *TRUTH.translation])
    assert (np.abs(errors) < 4 * found.sd).all()
    np.testing.assert_allclose(found.matrix @ [*ct.center_lps, 1], [*found.pose.translation, 1], atol=1e-6)


def test_two_films_give_the_depth(ct, registrar):
    films = [
        Film(film_of(ct, geometry), geometry)
        for geometry in (XrayGeometry(XrayView.PA, PIXELS), XrayGeometry(XrayView.LAT, PIXELS))
    ]
    one = registrar.register(films[:1], RigidPose(), RegisterOptions(), lambda _: None)
    both = registrar.register(films, RigidPose(), RegisterOptions(), lambda _: None)
    assert abs(both.pose.translation[1] - TRUTH.translation[1]) < 2.0
    assert both.sd[4] < 0.3 * one.sd[4]
    assert len(both.after) == 2 and both.verdict == "good"


def test_unknown_pixel_size_is_estimated(ct, registrar):
    geometry = XrayGeometry(XrayView.AP, PIXELS)
    image = film_of(ct, geometry)
    believed = XrayGeometry(XrayView.AP, PIXELS, detector_mm=1.08 * geometry.detector_mm)
    found = registrar.register([Film(image, believed, scale_sd=0.1)], RigidPose(), RegisterOptions(), lambda _: None)
    assert found.names[-1] == "scale of film 1"
    assert found.geometry[0].detector_mm == pytest.approx(geometry.detector_mm, rel=0.02)
    assert distance_mm(found.pose, TRUTH, geometry.view.beam) < 3.0


def test_global_search_finds_what_a_descent_cannot_reach(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    film = Film(film_of(ct, geometry), geometry)
    far = RigidPose((-0.05, 0.05, -0.05), (-45.0, 0.0, 50.0))
    found = registrar.register([film], far, RegisterOptions(global_search=True), lambda _: None)
    assert distance_mm(found.pose, TRUTH, geometry.view.beam) < 2.0


def test_another_picture_fails(registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    rows, columns = np.indices((PIXELS, PIXELS))
    stripes = np.sin(rows / 7.0) + np.cos(columns / 5.0)
    found = registrar.register([Film(stripes, geometry)], RigidPose(), RegisterOptions(), lambda _: None)
    assert found.verdict == "failed"
    assert "agree poorly" in found.reasons[0]


def test_a_sliver_of_film_leaves_doubts(ct, registrar):
    """What a film does not show, its pose cannot be sure of."""
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    mask = np.zeros((PIXELS, PIXELS), bool)
    mask[80:120, 40:150] = True
    found = registrar.register(
        [Film(film_of(ct, geometry), geometry, mask)], RigidPose(), RegisterOptions(), lambda _: None
    )
    whole = registrar.register([Film(film_of(ct, geometry), geometry)], RigidPose(), RegisterOptions(), lambda _: None)
    assert (found.sd[:3] > whole.sd[:3]).all()


def test_an_unexpected_pose_is_told(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    turned = RigidPose((0.0, 0.12, 0.0), (0.0, 0.0, 0.0))
    film = Film(film_of(ct, geometry, turned), geometry)
    found = registrar.register([film], RigidPose(), RegisterOptions(rotation_sd=0.05), lambda _: None)
    assert found.verdict == "doubtful"
    assert any("lean ends" in reason for reason in found.reasons)


def test_the_start_may_be_right_already(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    film = Film(film_of(ct, geometry), geometry)
    assert registrar.register([film], TRUTH, RegisterOptions(), lambda _: None).verdict == "good"


def test_a_shallow_strip_is_poorly_determined(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    mask = np.zeros((PIXELS, PIXELS), bool)
    mask[20:170, 20:54] = True
    options = RegisterOptions(rotation_sd=0.2, depth_sd=60.0)
    found = registrar.register([Film(film_of(ct, geometry), geometry, mask)], RigidPose(), options, lambda _: None)
    assert any("poorly determined" in reason for reason in found.reasons)


def test_unknown_distance_is_estimated_within_its_prior(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS, 1300.0)
    believed = XrayGeometry(XrayView.PA, PIXELS, 1500.0)
    film = Film(film_of(ct, geometry), believed, sdd_sd=0.15)
    found = registrar.register([film], RigidPose(), RegisterOptions(), lambda _: None)
    assert found.names[-1] == "sdd of film 1"
    assert 1200 < found.geometry[0].sdd_mm < 1450


def test_two_films_of_one_direction_are_refused(ct, registrar):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    film = Film(film_of(ct, geometry), geometry)
    with pytest.raises(AxonError) as caught:
        registrar.register([film, film], RigidPose(), RegisterOptions(), lambda _: None)
    assert caught.value.code == "register.same-view"


def test_it_can_be_stopped(ct):
    def stop(fraction: float) -> None:
        if fraction > 0.1:
            raise Cancelled

    geometry = XrayGeometry(XrayView.PA, PIXELS)
    with pytest.raises(Cancelled):
        register(ct, [Film(film_of(ct, geometry), geometry)], told=stop)


@pytest.mark.parametrize(
    ("image", "mask", "code"),
    [
        (np.zeros((8, 8)), None, "register.film-empty"),
        (np.full((8, 8), np.nan), None, "register.film-empty"),
        (np.eye(9), None, "register.film-shape"),
        (np.eye(8), np.ones((4, 4), bool), "register.film-shape"),
    ],
)
def test_bad_films_are_refused(image, mask, code):
    with pytest.raises(AxonError) as caught:
        Film(image, XrayGeometry(pixels=8), mask)
    assert caught.value.code == code


def test_no_film_and_no_valid_pixels_are_refused(ct, registrar):
    with pytest.raises(AxonError) as caught:
        register(ct, [])
    assert caught.value.code == "register.no-film"
    geometry = XrayGeometry(pixels=64)
    film = Film(np.random.default_rng(0).random((64, 64)), geometry, np.zeros((64, 64), bool))
    with pytest.raises(AxonError) as caught:
        registrar.register([film], RigidPose(), RegisterOptions(), lambda _: None)
    assert caught.value.code == "register.mask"


# ----------------------------------------------------------------------------------------------------------- similarity


def test_similarity_ignores_grey_scale_and_what_lies_outside_the_mask(ct):
    geometry = XrayGeometry(XrayView.PA, 96)
    film = torch.from_numpy(film_of(ct, geometry, marker=False))
    mask = torch.zeros(96, 96, dtype=torch.bool)
    mask[10:80, 12:84] = True
    base = features(film[None], mask)[0]
    assert float(base.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(base @ features(5 * film[None] - 3, mask)[0]) == pytest.approx(1.0, abs=1e-3)
    assert float(base @ features(film[None].clamp_min(0) ** 1.5, mask)[0]) > 0.9
    assert float(base @ features(film[None].roll(9, 2), mask)[0]) < 0.5
    assert float(base @ features(-film[None], mask)[0]) < -0.99


def test_mask_leaves_out_collimation_and_marker(ct):
    geometry = XrayGeometry(XrayView.PA, PIXELS)
    mask = valid_mask(torch.from_numpy(film_of(ct, geometry)))
    n = PIXELS
    assert not mask[: n // 16 - 1].any() and not mask[:, : n // 12 - 1].any()
    assert not mask[n // 8 : n // 6, n // 7 : n // 6].any()
    assert float(mask.float().mean()) > 0.7


# ------------------------------------------------------------------------------------------------------------ landmarks


def landmarks(view: XrayView, noise: float = 0.0) -> Landmarks:
    random = np.random.default_rng(1)
    points = random.uniform(-100, 100, (7, 3))
    geometry = XrayGeometry(view, 1024)
    moved = points @ TRUTH.matrix[:3, :3].T + TRUTH.translation
    return Landmarks(points, geometry.project(moved) + random.normal(0, noise, (7, 2)), geometry)


def test_landmarks_give_the_pose():
    pose, left = pose_from_landmarks([landmarks(XrayView.PA)])
    assert distance_mm(pose, TRUTH, XrayView.PA.beam) < 0.2
    assert left.max() < 0.2


def test_a_misplaced_landmark_stands_out():
    pairs = landmarks(XrayView.PA)
    pairs.pixels[3] += 60.0
    _, left = pose_from_landmarks([pairs])
    assert left.argmax() == 3 and left[3] > 1.5 * np.delete(left, 3).max()


def test_landmarks_on_both_films_give_the_depth():
    one, _ = pose_from_landmarks([landmarks(XrayView.PA, 2.0)])
    both, _ = pose_from_landmarks([landmarks(XrayView.PA, 2.0), landmarks(XrayView.LAT, 2.0)])
    depth = TRUTH.translation[1]
    assert abs(both.translation[1] - depth) < min(1.0, abs(one.translation[1] - depth))


def test_too_few_landmarks_are_refused():
    pairs = landmarks(XrayView.PA)
    with pytest.raises(AxonError) as caught:
        pose_from_landmarks([Landmarks(pairs.points[:3], pairs.pixels[:3], pairs.geometry)])
    assert caught.value.code == "landmarks.few"
    with pytest.raises(AxonError) as caught:
        Landmarks(pairs.points, pairs.pixels[:3], pairs.geometry)
    assert caught.value.code == "landmarks.shape"
    pairs.points[0, 0] = np.nan
    with pytest.raises(AxonError) as caught:
        pose_from_landmarks([pairs])
    assert caught.value.code == "landmarks.not-finite"

"""Film and DRR in one picture, and the pixels that count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from axon_core.errors import AxonError
from axon_core.geometry import RigidPose, XrayGeometry, XrayView
from axon_core.registration.files import read_pose, write_pose
from axon_core.registration.landmarks import by_film
from axon_core.registration.overlay import MODES, TILES_ACROSS, Comparison, compare
from axon_core.registration.similarity import box_mask, features, local_and_gradient_ncc, valid_mask

N = 128


def cloud(seed: int) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).random((N, N)), N / 30).astype(np.float32)


FILM, DRR = cloud(0), cloud(1)

# ---------------------------------------------------------------------------------------------------------- one picture


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_a_colour_picture_that_depends_on_the_drr(mode: str) -> None:
    picture = compare(FILM, DRR, mode)
    assert picture.shape == (N, N, 3) and picture.dtype == np.uint8
    assert not np.array_equal(picture, compare(FILM, DRR.T, mode))


def test_equal_images_agree_whatever_their_scale() -> None:
    """The grey scale is one of ranks."""
    same = 40 * FILM - 3
    np.testing.assert_allclose(compare(FILM, same, "difference"), 128, atol=1)
    film = compare(FILM, same, "opacity", 0.0)
    for mode in ("checkerboard", "curtain", "red-cyan"):
        np.testing.assert_allclose(compare(FILM, same, mode).astype(int), film.astype(int), atol=1)
    red, green, blue = np.moveaxis(compare(FILM, FILM.copy(), "red-cyan"), -1, 0)
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)


def test_a_brighter_drr_is_bright_in_the_difference() -> None:
    half = FILM.copy()
    half[:, : N // 2] += np.ptp(FILM)
    difference = compare(FILM, half, "difference")[..., 0]
    assert difference[:, : N // 2].min() >= 128 >= difference[:, N // 2 :].max()
    assert np.ptp(difference) > 60


def test_opacity_goes_from_film_to_drr() -> None:
    shown = Comparison(FILM)
    film, drr = shown.film.astype(float), shown.grey(DRR).astype(float)
    for amount, wanted in ((-1.0, film), (0.0, film), (0.25, 0.75 * film + 0.25 * drr), (1.0, drr), (2.0, drr)):
        np.testing.assert_allclose(shown.picture(DRR, "opacity", amount)[..., 1], wanted, atol=1)


def test_the_curtain_shows_the_drr_left_and_the_film_right() -> None:
    shown = Comparison(FILM)
    picture, edge = shown.picture(DRR, "curtain", 0.3)[..., 0], int(np.ceil(0.3 * N))
    np.testing.assert_array_equal(picture[:, :edge], shown.grey(DRR)[:, :edge])
    np.testing.assert_array_equal(picture[:, edge:], shown.film[:, edge:])


def test_the_film_is_red_and_the_drr_cyan() -> None:
    shown = Comparison(FILM)
    red, green, blue = np.moveaxis(shown.picture(DRR, "red-cyan"), -1, 0)
    np.testing.assert_array_equal(red, shown.film)
    np.testing.assert_array_equal(green, shown.grey(DRR))
    np.testing.assert_array_equal(blue, shown.grey(DRR))


def test_the_checkerboard_alternates() -> None:
    shown, tile = Comparison(FILM), N // TILES_ACROSS
    picture = shown.picture(DRR, "checkerboard")[..., 0]
    for row in range(TILES_ACROSS):
        for column in range(TILES_ACROSS):
            where = np.s_[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
            wanted = shown.film if (row + column) % 2 == 0 else shown.grey(DRR)
            np.testing.assert_array_equal(picture[where], wanted[where])


@pytest.mark.parametrize("size", [128, 700, 1100])
def test_edges_lie_where_the_drr_has_them(size: int) -> None:
    """A disc's outline comes out in colour; away from it the film stays grey. Any size, also one to be halved."""
    row, column = np.indices((size, size))
    away = np.hypot(row - 0.4 * size, column - 0.55 * size) - 0.2 * size
    drr = (away < 0).astype(np.float32)
    picture = compare(ndimage.zoom(FILM, size / N, order=1), drr, "edges").astype(int)
    colour = picture[..., 0] - picture[..., 2]
    assert colour[np.abs(away) < 1].min() > 60
    assert np.abs(colour[np.abs(away) > 0.03 * size]).max() == 0


def test_edges_are_drawn_where_the_film_is_valid() -> None:
    """What lies outside neither shows nor outshines: a strong edge there leaves those inside as they are."""
    mask = np.zeros((N, N), bool)
    mask[:, 40:] = True
    drr = DRR.copy()
    drr[:, :20] += 100
    picture = compare(FILM, drr, "edges", mask=mask)
    np.testing.assert_array_equal(picture, compare(FILM, DRR, "edges", mask=mask))
    grey = picture[:, :40].astype(int)
    assert np.ptp(grey, axis=-1).max() == 0 and np.ptp(picture[:, 40:].astype(int), axis=-1).max() > 100


def test_grey_goes_by_the_valid_pixels() -> None:
    """What lies outside of the mask changes nothing inside, and the film fills the scale inside."""
    mask = np.zeros((N, N), bool)
    mask[30:90, 40:100] = True
    bright = np.where(mask, FILM, 100.0)
    inside = Comparison(bright, mask).film[mask]
    np.testing.assert_array_equal(inside, Comparison(FILM, mask).film[mask])
    assert inside.min() == 0 and inside.max() == 255 and abs(np.median(inside) - 127.5) < 2
    assert np.array_equal(Comparison(FILM, np.zeros((N, N), bool)).film, Comparison(FILM).film)


def test_equal_pixels_share_the_middle_of_their_ranks() -> None:
    """Air is one value in a DRR and many in a film: on average they come out equal."""
    film = np.linspace(0, 1, 1000).reshape(20, 50)
    drr = np.where(film < 0.4, 0.0, film)
    shown = Comparison(film)
    assert abs(shown.grey(drr)[film < 0.4].mean() - shown.film[film < 0.4].mean()) < 1


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(AxonError) as caught:
        compare(FILM, DRR, "blink")
    assert caught.value.code == "overlay.mode" and "curtain" in caught.value.advice


# ------------------------------------------------------------------------------------------------------ what is counted


def test_local_and_gradient_ncc_apart() -> None:
    mask = torch.ones(N, N, dtype=torch.bool)
    smooth, fine = torch.from_numpy(FILM), torch.from_numpy(cloud(5))
    film, same, other = features(torch.stack([smooth, smooth, fine]), mask)
    assert local_and_gradient_ncc(film, same) == pytest.approx((1.0, 1.0), abs=1e-5)
    local, gradient = local_and_gradient_ncc(film, other)
    assert (local + gradient) / 2 == pytest.approx(float(film @ other), abs=1e-5)
    noisy = smooth + smooth.std() * torch.randn(N, N, generator=torch.Generator().manual_seed(0))
    local, gradient = local_and_gradient_ncc(film, features(noisy[None], mask)[0])
    assert local > gradient + 0.05, "noise spoils edges first"


def test_markers_may_stay() -> None:
    film = torch.from_numpy(FILM.copy())
    film[20:28, 30:36] = film.max() + 0.5
    assert not valid_mask(film)[20:28, 30:36].any()
    assert valid_mask(film, without_markers=False).all()


@pytest.mark.parametrize("view", list(XrayView))
def test_a_box_is_projected_at_right_angles_to_the_detector(view: XrayView) -> None:
    """Against the distances of pixels from the box's axes; a box turned about the beam, before the detector."""
    geometry = XrayGeometry(view, N)
    across, along = geometry.view.column, geometry.view.beam
    angle = 0.4
    first, second = np.cos(angle) * across + np.sin(angle) * view.row, np.cos(angle) * view.row - np.sin(angle) * across
    box = np.eye(4)
    box[:3, :3] = np.stack([first, along, second], 1)
    box[:3, 3] = 0.5 * along + 30 * across - 20 * view.row
    offset = geometry.detector() - box[:3, 3]
    wanted = (np.abs(offset @ first) <= 60) & (np.abs(offset @ second) <= 35)
    np.testing.assert_array_equal(box_mask(geometry, box, np.array([120.0, 5.0, 70.0])), wanted)


def test_a_tilted_box_casts_its_whole_outline() -> None:
    """Every point of the box is over the mask, and the mask is no larger than the box's outline."""
    geometry = XrayGeometry(XrayView.PA, 256)
    box = RigidPose((0.5, 0.3, -0.7), (10.0, -180.0, 20.0)).matrix
    size = np.array([80.0, 120.0, 50.0])
    mask = box_mask(geometry, box, size)
    inside = np.random.default_rng(0).uniform(-0.5, 0.5, (200_000, 3)) * size @ box[:3, :3].T + box[:3, 3]
    beam = geometry.view.beam
    flat = inside + np.outer(geometry.isocentre_to_detector_mm - inside @ beam, beam)
    row, column = np.rint(geometry.project(flat)).astype(int).T
    seen = np.zeros_like(mask)
    seen[row, column] = True
    assert (mask & ~ndimage.binary_dilation(seen)).sum() == 0 and (seen & ~ndimage.binary_dilation(mask)).sum() == 0


# --------------------------------------------------------------------------------------------- landmarks and pose files


def test_landmarks_are_sorted_by_film() -> None:
    films = [XrayGeometry(XrayView.PA, N), XrayGeometry(XrayView.LAT, N)]
    pixels = np.array([[10.0, 20.0], [30.0, 5.0], [64.0, 100.0]])
    marks = np.array(
        [films[which].detector()[tuple(pixel.astype(int))] for which, pixel in zip((1, 0, 1), pixels, strict=True)]
    )
    points = np.arange(9.0).reshape(3, 3)
    sets, order = by_film(points, marks, films)
    np.testing.assert_array_equal(order, [1, 0, 2])
    np.testing.assert_allclose(sets[0].pixels, pixels[[1]], atol=1e-9)
    np.testing.assert_allclose(sets[1].pixels, pixels[[0, 2]], atol=1e-9)
    np.testing.assert_array_equal(sets[1].points, points[[0, 2]])
    with pytest.raises(AxonError) as caught:
        by_film(points, marks[:2], films)
    assert caught.value.code == "landmarks.numbers" and "3" in caught.value.title and "2" in caught.value.title


def test_a_pose_comes_back_from_its_file(tmp_path) -> None:
    pose = RigidPose((0.1, -0.2, 0.05), (3.0, 4.0, -5.0))
    path = tmp_path / "pose.json"
    write_pose(path, pose, np.array([1.0, -20.0, 300.0]))
    again = read_pose(path)
    np.testing.assert_allclose(again.matrix, pose.matrix, atol=1e-4)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["isocentre_lps_mm"] == [1.0, -20.0, 300.0] and "not for diagnosis" in record["note"]
    np.testing.assert_allclose(np.array(record["ct_to_xray_room"]) @ [1, -20, 300, 1], [3, 4, -5, 1], atol=1e-6)
    with pytest.raises(AxonError):
        write_pose(path, pose, np.zeros(3))
    write_pose(path, RigidPose(), np.zeros(3), overwrite=True)
    assert read_pose(path) == RigidPose()

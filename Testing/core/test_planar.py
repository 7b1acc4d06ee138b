"""Planar alignment: known similarities come back, millimetres go round, and what is no chest film is told apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from axon_core.errors import ConfigError, FilmError
from axon_core.geometry import XrayView
from axon_core.radiograph import Radiograph, StandardFilm, standardise
from axon_core.radiograph import replay as replay_standard
from axon_core.registration.atlas import AXIS_MM, Atlas, bundled_atlas
from axon_core.registration.placement import aligned, place, replay
from axon_core.registration.planar import Alignment, align

SIZE, PITCH_MM = 256, 430.0 / 256
KNOWN = (PITCH_MM, PITCH_MM)


def chest(truth: Alignment | None = None) -> np.ndarray:
    """(SIZE, SIZE) the atlas' mean film in [-1, 1], as a film that `truth` brings into place."""
    row, column = np.indices((SIZE, SIZE))
    on_film = (np.stack([column, row], -1) - 0.5 * (SIZE - 1)) * PITCH_MM
    x, y = np.moveaxis((truth or Alignment()).to_detector(on_film), -1, 0)
    index = [(axis - AXIS_MM[0]) / (AXIS_MM[1] - AXIS_MM[0]) for axis in (y, x)]
    image = ndimage.map_coordinates(bundled_atlas().film.astype(float), index, order=1, mode="nearest")
    return np.round(np.clip(1.6 * image + 0.2, -1, 1), 3) + 1e-3 * np.random.default_rng(0).normal(size=image.shape)


def standard(pixels: np.ndarray, spacing: tuple[float, float] | None = KNOWN) -> tuple[Radiograph, StandardFilm]:
    film = Radiograph(pixels, spacing, XrayView.PA)
    return film, standardise(film, SIZE)


@pytest.mark.parametrize(
    "truth",
    [Alignment(), Alignment(0.12, 0.85, (30.0, -25.0)), Alignment(-0.1, 1.2, (-35.0, 20.0))],
    ids=["identity", "small to the left", "large to the right"],
)
def test_a_known_similarity_comes_back(truth: Alignment) -> None:
    found = align(standard(chest(truth))[1], fit_scale=True)
    corners = np.array([(x, y) for x in (-140, 140) for y in (-140, 90)])
    error = found.to_detector(truth.to_film(corners)) - corners
    assert np.linalg.norm(error, axis=1).max() < 10.0
    assert found.plausible and found.score > 0.9


def test_a_film_of_known_size_keeps_it_and_its_lungs_come_to_the_middle() -> None:
    truth = Alignment(0.06, 1.15, (20.0, 15.0))
    found = align(standard(chest(truth))[1])
    assert found.scale == 1.0 and found.fitted_scale == pytest.approx(1.15, abs=0.03)
    middle = np.array(bundled_atlas().centre_mm)
    assert np.linalg.norm(found.to_detector(truth.to_film(middle)) - middle) < 4.0
    left, right, top, bottom = found.box_mm
    assert (right - left) == pytest.approx(284 / 1.15, rel=0.03) and 0.5 * (top + bottom) == pytest.approx(middle[1])


def test_points_go_to_the_detector_and_back() -> None:
    points = np.random.default_rng(1).uniform(-200, 200, (20, 2))
    turned = Alignment(0.3, 1.4, (12.0, -7.0))
    np.testing.assert_allclose(turned.to_film(turned.to_detector(points)), points, atol=1e-9)
    clockwise = Alignment(math.pi / 2).to_detector(np.array([1.0, 0.0]))  # y is down
    np.testing.assert_allclose(clockwise, [0.0, 1.0], atol=1e-12)


def test_a_placed_film_shows_each_point_where_the_alignment_says_and_knows_its_file_pixel() -> None:
    pixels = np.full((300, 200), 0.2) + 1e-3 * np.random.default_rng(2).normal(size=(300, 200))
    pixels[:4] = pixels[:, :3] = 0.0  # a frame to be cut away
    pixels[108:133, 68:93] = 1.0  # a marker around row 120, column 80
    film, laid = standard(pixels, (1.2, 1.2))
    placed = place(film, laid, Alignment(0.2, 1.1, (15.0, -10.0)))
    row, column = ndimage.center_of_mass(np.where(placed.image > 0.5, 1.0, 0.0))
    np.testing.assert_allclose(placed.to_original @ [row, column, 1], [120, 80, 1], atol=0.3)
    before = np.linalg.solve(laid.to_original, [120.0, 80.0, 1.0])[1::-1]
    mm = Alignment(0.2, 1.1, (15.0, -10.0)).to_detector((before - 0.5 * (SIZE - 1)) * PITCH_MM)
    np.testing.assert_allclose((np.array([column, row]) - 0.5 * (SIZE - 1)) * PITCH_MM, mm, atol=0.5)


def test_steps_replay_and_no_alignment_changes_nothing() -> None:
    film, laid = standard(chest(), None)
    placed = place(film, laid, Alignment(0.1, 0.9, (5.0, 5.0)))
    np.testing.assert_array_equal(replay(film, placed.steps), placed.image)
    np.testing.assert_array_equal(replay(film, laid.steps), replay_standard(film, laid.steps))
    assert (placed.image[~placed.mask] == -1).all() and 0.3 < placed.mask.mean() < 0.95
    same = place(film, laid, Alignment())
    inner = ndimage.binary_erosion(same.mask, iterations=2)
    assert np.abs(same.image - laid.image)[inner].max() < 0.05
    np.testing.assert_allclose(same.to_original, laid.to_original, atol=1e-9)


def test_only_a_film_that_lies_off_is_moved() -> None:
    film, laid = standard(chest())
    assert aligned(film, laid)[0] is laid
    film, laid = standard(chest(Alignment(0.12, 1.0, (30.0, 0.0))))
    moved, found = aligned(film, laid)
    assert found.needed and moved.steps[-1]["op"] == "turn" and moved.scale_known
    again = align(moved)
    assert abs(again.rotation) < 0.02 and math.hypot(*again.shift_mm) < 4.0


@pytest.mark.parametrize("picture", ["checks", "clouds", "inverted"])
def test_another_picture_is_not_plausible_and_stays_as_it_lies(picture: str) -> None:
    y, x = np.mgrid[-9 : 9 : SIZE * 1j, -9 : 9 : SIZE * 1j]
    clouds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(SIZE, SIZE)), 10)
    film, laid = standard({"checks": np.sin(x) * np.sin(y), "clouds": clouds, "inverted": -chest()}[picture])
    kept, found = aligned(film, laid)
    assert not found.plausible
    reason = {"checks": "hardly looks like", "inverted": "inverted?", "clouds": ""}[picture]
    assert reason in " ".join(found.reasons)
    assert kept.image is laid.image and found.reasons[0] in kept.warnings[-1]


def test_bad_input_is_told(tmp_path: Path) -> None:
    film, laid = standard(chest())
    cases = [
        (FilmError, "film.view", lambda: align(replace(laid, view=XrayView.LAT))),
        (FilmError, "film.constant", lambda: align(replace(laid, image=np.zeros_like(laid.image)))),
        (FilmError, "film.constant", lambda: align(replace(laid, mask=np.zeros_like(laid.mask)))),
        (ConfigError, "film.step", lambda: place(film, place(film, laid, Alignment()), Alignment())),
        (ConfigError, "atlas.unreadable", lambda: Atlas.load(tmp_path / "none.npz")),
    ]
    for kind, code, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.code == code and caught.value.title and caught.value.advice


def test_an_atlas_survives_its_file(tmp_path: Path) -> None:
    bundled_atlas().save(tmp_path / "atlas.npz")
    again = Atlas.load(tmp_path / "atlas.npz")
    np.testing.assert_array_equal(again.contrast, bundled_atlas().contrast)
    assert again.names == bundled_atlas().names and len(again.names) == 9
    assert not any("0010" in name or "a0001" in name for name in again.names)  # the test CTs

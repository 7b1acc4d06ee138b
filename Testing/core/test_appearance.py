"""What becomes of a logarithmic film: window, detail, tone, collimation and lead letter."""

import json
from dataclasses import replace

import pytest
import torch

from axon_core.drr.appearance import Look, Marker, clinic_look, random_look, stretch, toned, with_detail

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def chest() -> torch.Tensor:
    """(64, 64) line integrals: open field, a body, something dense inside it."""
    integrals = torch.zeros(64, 64)
    integrals[16:48, 16:48] = 4.0
    integrals[24:40, 24:40] = 7.0
    return integrals


def letters(marker: Marker, shape: tuple[int, ...] = (64, 64)) -> torch.Tensor:
    """What a marker adds to a black film."""
    film = torch.zeros(shape)
    marker.draw(film)
    return film


def test_stretch_maps_percentiles_onto_the_range():
    film = torch.linspace(3, 9, 10_001).view(1, -1).repeat(4, 1)
    out = stretch(film)
    assert float(out.min()) == -1 and float(out.max()) == 1
    assert float(out[0, 5000]) == pytest.approx(0, abs=0.01)
    assert float((out == -1).float().mean()) == pytest.approx(0.005, abs=0.0005)


@pytest.mark.parametrize("seed", range(20))
def test_random_looks_keep_bone_bright_stay_in_range_and_replay(seed):
    look = random_look(torch.Generator().manual_seed(seed))
    assert look == random_look(torch.Generator().manual_seed(seed))
    film = look.apply(chest())
    assert float(film.min()) >= -1 and float(film.max()) <= 1
    assert float(film[28:36, 28:36].mean()) > float(film[18:22, 18:46].mean())
    again = Look(**json.loads(json.dumps(look.to_dict())))
    assert again == look and torch.allclose(again.apply(chest()), film, atol=1e-5)


def test_clinic_look_is_the_default_and_deterministic():
    film = clinic_look(chest())
    assert torch.allclose(film, Look().apply(chest()), atol=1e-5)
    assert float(film[32, 32]) > float(film[20, 20]) > float(film[4, 4])


def test_window_is_the_bodys_not_the_open_fields():
    """The body's thinnest and densest become 0 and 1 of the tone curve, however much open field there is."""
    look = Look(detail=(0, 0, 0), gain=3.0)
    open_field, thin, dense = (float(toned(torch.tensor(x), look.gain, look.gamma)) for x in (-4 / 3, 0.0, 1.0))
    film = look.apply(chest())
    share = (film[20, 32] - film[4, 4]) / (film[32, 32] - film[4, 4])
    assert float(share) == pytest.approx((thin - open_field) / (dense - open_field), rel=1e-4)


def test_detail_weighs_bands_and_leaves_an_even_film_alone():
    film = chest()
    torch.testing.assert_close(with_detail(film, (0, 0, 0)), film)
    torch.testing.assert_close(with_detail(torch.full((64, 64), 2.0), (3, 2, 1)), torch.full((64, 64), 2.0))
    for gains in ((2.0, 0, 0), (0, 2.0, 0), (0, 0, 2.0)):
        boosted, smoothed = with_detail(film, gains), with_detail(film, tuple(-0.5 * g for g in gains))
        assert float(boosted.std()) > float(film.std()) > float(smoothed.std())
        assert float(boosted.mean()) == pytest.approx(float(film.mean()), rel=0.01)


def test_tone_curves_rise():
    ramp = torch.linspace(0, 1.4, 100)
    for look in (Look(gain=0.0, gamma=0.6), Look(gain=5.0, gamma=1.4)):
        assert float(toned(ramp, look.gain, look.gamma).diff().min()) > 0


def test_collimation_is_dark_and_the_letter_bright():
    look = Look(frame=(0.1, 0.1, 0.2, 0.2), marker=Marker("L", row=0.2, column=0.6, height=0.25))
    film = look.apply(chest())
    assert bool((film[:6] == -1).all()) and bool((film[:, :12] == -1).all()) and bool((film[:, -12:] == -1).all())
    letter = letters(look.marker, film.shape) > 0
    assert bool((film[letter] == 1).all())
    rows, columns = letter.nonzero().T
    assert (int(rows.min()), int(columns.min())) == (13, 38)
    assert bool(letter[rows.max(), columns.max()]) and not bool(letter[rows.min(), columns.max()])  # an L


def test_letter_beyond_the_edge_is_cut():
    assert float(letters(Marker("R", row=0.9, column=0.95, height=0.3, brightness=0.5)).max()) == 0.5


def test_gamma_darkens_the_middle_and_blur_softens_edges():
    plain = Look(detail=(0, 0, 0))
    between = [float(replace(plain, gamma=gamma).apply(chest())[20, 32]) for gamma in (0.6, 1.0, 1.8)]
    assert between == sorted(between, reverse=True) and between[0] > between[2] + 0.2
    steps = [float(replace(plain, blur=sigma).apply(chest()).diff().abs().max()) for sigma in (0.0, 1.5)]
    assert steps[1] < 0.6 * steps[0]


def test_noise_has_its_strength_and_its_seed():
    plain = Look(detail=(0, 0, 0))
    still, first, again, other = (
        replace(plain, noise=noise, seed=seed).apply(chest())
        for noise, seed in ((0.0, 1), (0.02, 1), (0.02, 1), (0.02, 2))
    )
    assert torch.allclose(first, again, atol=1e-5) and not torch.allclose(first, other, atol=1e-3)
    assert float((first - still)[26:38, 26:38].std()) > 0.005


def test_a_marker_may_stand_over_the_edge():
    mask = letters(Marker("L", -0.02, 0.95, 0.3))
    assert mask.shape == (64, 64) and 0 < float(mask.sum()) < float(letters(Marker("L", 0.3, 0.3, 0.3)).sum())

"""Spectrum, tissues and the scores of a whole volume, by analytic truths and on a real CT."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from axon_core.ctvolume import CTVolume
from axon_core.errors import VolumeError
from axon_core.evaluation.metrics import mae, psnr, ssim3d
from axon_core.evaluation.scores import METRICS, projection_ncc, scores
from axon_core.evaluation.spectrum import radial_spectrum, spectrum_ratio
from axon_core.evaluation.tissue import lung_volume_ml, mae_hu, ml, tissues
from axon_core.geometry import CanonicalGrid, XrayView
from axon_core.intensity import AXON_PAPER, WIDE
from axon_core.pipeline import reproject

REAL_CT = Path(__file__).parents[2] / "Resources" / "SampleData" / "acrin_042_ct.nrrd"


# --- spectrum --------------------------------------------------------------------------------------------------------


def test_white_noise_has_the_same_power_everywhere() -> None:
    noises = np.random.default_rng(0).normal(0, 3.0, (12, 36, 30, 33))
    found = [radial_spectrum(noise, 8) for noise in noises]
    assert found[0][0] == pytest.approx(np.arange(8) / 16 + 1 / 32)
    power = np.mean([power for _, power in found], 0)
    assert power[1:] == pytest.approx(9.0, rel=0.12)  # the first bin has lost the mean
    assert power[3:] == pytest.approx(9.0, rel=0.04)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_has_its_power_at_its_frequency(axis: int) -> None:
    wave = np.cos(2 * np.pi * 0.3 * np.arange(40)).reshape([40 if k == axis else 1 for k in range(3)])
    frequency, power = radial_spectrum(np.broadcast_to(wave, (40, 40, 40)) + 7.0, 10)
    assert np.nanargmax(power * frequency**2) in (5, 6) and frequency[5] < 0.3 < frequency[6]


@pytest.mark.parametrize("shape", [(12, 13, 18), (13, 18, 12), (18, 12, 13)])
def test_the_spectrum_does_not_know_the_order_of_the_axes(shape: tuple[int, ...]) -> None:
    volume = gaussian_filter(np.random.default_rng(2).normal(size=shape), (0.0, 0.5, 1.5))
    for other in (volume.transpose(2, 1, 0), volume.transpose(1, 2, 0)):
        np.testing.assert_allclose(radial_spectrum(other, 6)[1], radial_spectrum(volume, 6)[1], rtol=1e-9)


def test_spectrum_ratio() -> None:
    truth = np.random.default_rng(1).normal(0, 1, (24, 20, 22))
    assert spectrum_ratio(truth, truth) == pytest.approx(1.0)
    assert spectrum_ratio(0.5 * truth + 3.0, truth) == pytest.approx(0.25)
    assert spectrum_ratio(gaussian_filter(truth, 1.5), truth) < 0.1
    low, high = (0.0, 0.1), (0.3, 0.5)
    wave = 0.0 * truth + np.cos(2 * np.pi * 0.05 * np.arange(24))[:, None, None]
    assert spectrum_ratio(truth + 5 * wave, truth, low) > 5 > 1.1 > spectrum_ratio(truth + 5 * wave, truth, high)
    z, y, x = np.indices(truth.shape)
    assert spectrum_ratio(truth + 3 * (-1.0) ** (z + y + x), truth) == pytest.approx(1.0, abs=0.01)  # beyond the band
    assert math.isnan(spectrum_ratio(truth, np.ones_like(truth)))


# --- tissue ----------------------------------------------------------------------------------------------------------


def chest(size: int, spacing_mm: float) -> tuple[np.ndarray, dict[str, float]]:
    """An elliptic cylinder of water with two ellipsoids of lung, a column of bone and a bubble of gas; true ml."""
    z, y, x = np.meshgrid(*[(np.arange(size) - (size - 1) / 2) * spacing_mm] * 3, indexing="ij")
    hu = np.full((size,) * 3, -1000.0, np.float32)
    hu[(x / 150) ** 2 + (y / 100) ** 2 < 1] = 20.0
    for side, high in ((-65, 110), (65, 90)):
        hu[((x - side) / 45) ** 2 + (y / 60) ** 2 + (z / high) ** 2 < 1] = -850.0
    hu[(x**2 + (y - 75) ** 2 < 15**2)] = 700.0
    hu[((x - 20) / 20) ** 2 + ((y + 10) / 20) ** 2 + ((z + 130) / 20) ** 2 < 1] = -1000.0  # stomach: 33 ml
    lungs = 4 / 3 * np.pi * 45 * 60 * (110 + 90) / 1000
    return hu, {"lung": lungs, "bone": np.pi * 15**2 * size * spacing_mm / 1000}


@pytest.mark.parametrize("size", [64, 96])
def test_tissues_of_a_drawn_chest(size: int) -> None:
    spacing = 340.0 / size
    hu, true = chest(size, spacing)
    found = tissues(hu, spacing)
    assert ml(found.lung, spacing) == pytest.approx(true["lung"], rel=0.03)
    assert ml(found.bone, spacing) == pytest.approx(true["bone"], rel=0.06)
    assert ml(found.body, spacing) == pytest.approx(np.pi * 150 * 100 * 340 / 1000, rel=0.02)
    assert not found.lung[(hu == -1000.0)].any()  # neither outside nor in the stomach
    known = np.arange(size) >= size // 2
    upper = lung_volume_ml(hu, spacing, known)
    assert upper == pytest.approx(true["lung"] / 2, rel=0.03)


def test_a_thin_blurred_wall_does_not_let_the_lungs_out() -> None:
    hu, true = chest(80, 4.25)
    wall = hu[30:40, 38:42, :24]  # 17 mm wide, from the skin to the lung
    wall[wall > -500] = -600.0
    assert lung_volume_ml(hu, 4.25) == pytest.approx(true["lung"], rel=0.03)


def test_there_may_be_no_body_or_no_lung() -> None:
    air = np.full((20, 20, 20), -1000.0)
    assert lung_volume_ml(air, 5.0) == 0.0 and not tissues(air, 5.0).body.any()
    water = air.copy()
    water[5:15, 5:15, 5:15] = 0.0
    assert lung_volume_ml(water, 5.0) == 0.0 and ml(tissues(water, 5.0).body, 5.0) == pytest.approx(125.0)
    assert math.isnan(mae_hu(air, water, np.zeros(air.shape, bool)))


def test_the_lungs_of_a_real_ct() -> None:
    """About 5.8 l on a CT in free breathing, whatever the voxels."""
    from axon_core.data.cases import place_case

    case = place_case(CTVolume.load(REAL_CT), "ct", 64)
    volume = torch.from_numpy(case.hu)[None, None]
    at = {64: lung_volume_ml(case.hu, 360 / 64, case.known)}
    coarse = torch.nn.functional.avg_pool3d(volume, 2)[0, 0].numpy()
    at[32] = lung_volume_ml(coarse, 360 / 32, case.known.reshape(32, 2).all(1))
    assert at[64] == pytest.approx(5800, abs=150) and at[32] == pytest.approx(at[64], rel=0.04)


# --- scores of a volume ----------------------------------------------------------------------------------------------


def test_scores_are_those_of_their_names() -> None:
    truth, true = chest(32, 11.0)
    pred = truth + np.random.default_rng(0).normal(0, 60, truth.shape)
    known = np.arange(32) > 5
    found = scores(torch.from_numpy(pred), truth, 11.0, known=known)
    assert set(found) <= set(METRICS)
    a, b = (0.5 * (WIDE.encode(v[known]) + 1) for v in (pred, truth.astype(float)))
    assert found["MAE"] == mae(a, b) and found["PSNR"] == psnr(a, b) and found["SSIM"] == ssim3d(a, b)
    assert found["edges"] > 1.05 and found["spectrum"] > 1.05
    assert found["MAE body"] == pytest.approx(60 * math.sqrt(2 / math.pi), rel=0.03)  # of a normal error
    assert found["MAE lung"] == pytest.approx(found["MAE body"], rel=0.1)
    assert found["lung volume error"] < 0.05 * true["lung"]
    pred[~known] = 900.0  # nobody knows what is there
    assert scores(pred, truth, 11.0, known=known)["SSIM zero-padded"] == found["SSIM zero-padded"]
    narrow = scores(pred, truth, 11.0, AXON_PAPER, known)
    assert narrow["MAE"] != found["MAE"] and narrow["MAE body"] == found["MAE body"]  # HU know no window


def test_half_the_lungs_are_missed() -> None:
    truth, true = chest(48, 7.0)
    pred = truth.copy()
    pred[:, :, :24] = np.where(truth[:, :, :24] == -850.0, 0.0, truth[:, :, :24])
    found = scores(pred, truth, 7.0)
    assert found["lung volume error"] == pytest.approx(true["lung"] * 110 / 200, rel=0.06)
    assert found["MAE lung"] == pytest.approx(850 * 110 / 200, rel=0.06)


def test_scores_refuse_what_cannot_be_compared() -> None:
    volume = np.zeros((16, 16, 16))
    for pred, known in ((np.zeros((8, 8, 8)), None), (volume, np.arange(16) < 10)):
        with pytest.raises(VolumeError) as caught:
            scores(pred, volume, 5.0, known=known)
        assert caught.value.code == "scores.shape"


def test_a_volume_agrees_with_its_own_films_and_not_with_anothers() -> None:
    hu, _ = chest(32, 360 / 32)
    volume = CTVolume.from_grid(hu, CanonicalGrid(32))
    films = {"frontal": reproject(volume, XrayView.PA, 48), "lateral": reproject(volume, XrayView.LAT, 48)}
    found = projection_ncc(torch.from_numpy(hu), films)
    assert found == pytest.approx({"NCC frontal": 1.0, "NCC lateral": 1.0})
    swapped = projection_ncc(hu, {"frontal": films["lateral"], "lateral": films["frontal"]})
    assert max(swapped.values()) < 0.97
    margin = films["frontal"].copy()
    margin[:8], margin[:, 40:] = -1.0, -1.0  # collimated: not looked at
    assert projection_ncc(hu, {"frontal": margin})["NCC frontal"] == pytest.approx(1.0, abs=1e-6)
    assert projection_ncc(hu, {"frontal": np.full((16, 16), -1.0)}) == {"NCC frontal": 0.0}

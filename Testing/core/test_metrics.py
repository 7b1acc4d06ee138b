"""Metrics against their definitions, scikit-image and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from axon_core.errors import ConfigError, VolumeError
from axon_core.evaluation.metrics import (
    SSIM_NAMES,
    edge_sharpness,
    mae,
    mse,
    ncc,
    psnr,
    ssim3d,
    ssim_slices,
    summarise,
    x2ct_psnr,
)


@pytest.fixture(scope="module")
def volumes() -> tuple[np.ndarray, np.ndarray]:
    """A noisy, blurred copy and its truth; three different edges so that a mixed-up axis shows."""
    rng = np.random.default_rng(7)
    truth = gaussian_filter(rng.standard_normal((40, 22, 27)), (1.0, 2.0, 3.0))
    truth = (truth - truth.min()) / np.ptp(truth)
    pred = gaussian_filter(truth, 1.0) + rng.normal(0, 0.05, truth.shape)
    return pred.clip(0, 1), truth


def test_errors_by_hand() -> None:
    pred, truth = np.array([0.0, 0.5, 1.0, 0.6]), np.array([0.0, 0.0, 1.0, 0.8])
    assert mae(pred, truth) == pytest.approx(0.7 / 4)
    assert mse(pred, truth) == pytest.approx(0.29 / 4)
    assert psnr(pred, truth) == pytest.approx(10 * math.log10(4 / 0.29))
    assert psnr(np.zeros(5), np.full(5, 0.1)) == pytest.approx(20.0)
    assert psnr(truth, truth) == math.inf


def test_against_scikit_image(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

    pred, truth = volumes
    assert mse(pred, truth) == pytest.approx(mean_squared_error(truth, pred), abs=1e-9)
    assert psnr(pred, truth) == pytest.approx(peak_signal_noise_ratio(truth, pred, data_range=1.0), abs=1e-9)
    expected = structural_similarity(
        truth, pred, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim3d(pred, truth) == pytest.approx(expected, abs=1e-5)


def test_against_monai(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    from monai.metrics import MAEMetric, MSEMetric, PSNRMetric, SSIMMetric

    pred, truth = (torch.from_numpy(v)[None, None] for v in volumes)
    for ours, theirs, tolerance in (
        (mae, MAEMetric(), 1e-5),
        (mse, MSEMetric(), 1e-5),
        (psnr, PSNRMetric(max_val=1.0), 1e-5),
        (ssim3d, SSIMMetric(spatial_dims=3, data_range=1.0), 3e-5),  # MONAI's runs in float32 and cancels
    ):
        assert ours(pred[0, 0], truth[0, 0]) == pytest.approx(
            float(np.asarray(theirs(pred, truth)).mean()), abs=tolerance
        )


def test_ssim_against_monai_where_float32_does_not_cancel() -> None:
    from monai.metrics import SSIMMetric

    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(1, 1, 20, 17, 23, generator=generator)
    pred = (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    theirs = float(SSIMMetric(spatial_dims=3, data_range=1.0)(pred, truth))
    assert ssim3d(pred[0, 0], truth[0, 0]) == pytest.approx(theirs, abs=1e-5)


def test_slice_wise_ssim_against_scikit_image(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    """Slices of each axis as channels, as X2CT-GAN's code calls it."""
    from skimage.metrics import structural_similarity

    pred, truth = volumes
    expected = np.mean(
        [
            structural_similarity(np.moveaxis(truth, axis, 2), np.moveaxis(pred, axis, 2), data_range=1, channel_axis=2)
            for axis in range(3)
        ]
    )
    assert ssim_slices(pred, truth) == pytest.approx(expected, abs=1e-9)
    bright = pred > 0.7
    assert bright.any()  # what lies outside [0, 1] is clipped
    assert ssim_slices(np.where(bright, 7.0, pred), truth) == ssim_slices(np.where(bright, 1.0, pred), truth)
    assert ssim_slices(truth, truth) == pytest.approx(1.0)
    assert "slices" in SSIM_NAMES and abs(expected - ssim3d(pred, truth)) > 1e-3


def test_the_psnr_of_x2ct_is_its_own() -> None:
    truth = np.linspace(0.0, 1.0, 64)
    pred = truth + 0.05
    rmse = 2500.0 * 0.05  # on data of range 2500
    assert x2ct_psnr(pred, truth) == pytest.approx(20 * math.log10(4095 / rmse))
    assert x2ct_psnr(pred, truth) - psnr(pred, truth) == pytest.approx(4.286, abs=1e-3)


def test_zero_padding_by_direct_convolution(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    p, t = (torch.from_numpy(v)[None, None] for v in volumes)
    window = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / 4.5)
    kernel = (window[:, None, None] * window[:, None] * window)[None, None]
    kernel /= kernel.sum()

    def local(v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv3d(v, kernel, padding=5)

    mp, mt = local(p), local(t)
    vp, vt, cov = local(p * p) - mp**2, local(t * t) - mt**2, local(p * t) - mp * mt
    expected = ((2 * mp * mt + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mt**2 + 1e-4) * (vp + vt + 9e-4))).mean()
    assert ssim3d(*volumes, padding="zero") == pytest.approx(float(expected), abs=1e-9)
    assert abs(ssim3d(*volumes, padding="zero") - ssim3d(*volumes)) > 1e-3


def test_ssim_properties(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    pred, truth = volumes
    for padding in ("valid", "zero"):
        assert padding in SSIM_NAMES
        assert ssim3d(truth, truth, padding) == pytest.approx(1.0)
        assert ssim3d(pred, truth, padding) == pytest.approx(ssim3d(truth, pred, padding))
        assert ssim3d(1.0 - truth, truth, padding) < ssim3d(pred, truth, padding) < 1.0


def test_ssim_inside_a_box_is_that_of_the_box(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    pred, truth = (volume.copy() for volume in volumes)
    box = (slice(2, 16), slice(1, 17), slice(4, 18))
    mask = np.zeros(pred.shape, bool)
    mask[box] = True
    expected = ssim3d(pred[box], truth[box])
    truth[~mask] = 0.5  # what lies outside is not looked at
    assert ssim3d(pred, truth, mask=mask) == pytest.approx(expected)
    assert ssim3d(pred, truth, mask=np.ones(pred.shape)) == pytest.approx(ssim3d(pred, truth))
    mask[6] = False
    with pytest.raises(VolumeError):
        ssim3d(pred, truth, mask=mask)
    with pytest.raises(ConfigError):
        ssim3d(pred, truth, "zero", np.ones(pred.shape))


def test_numpy_and_torch_agree(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    tensors = [torch.from_numpy(v).requires_grad_() for v in volumes]
    for metric in (mae, mse, psnr, x2ct_psnr, ssim3d, ssim_slices, edge_sharpness, ncc):
        value = metric(*volumes)
        assert isinstance(value, float)
        assert metric(*tensors) == value


def test_edge_sharpness(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    _, truth = volumes
    assert edge_sharpness(truth, truth) == pytest.approx(1.0)
    assert edge_sharpness(0.5 * truth + 0.3, truth) == pytest.approx(0.5)
    assert edge_sharpness(gaussian_filter(truth, 2.0), truth) < 0.9
    assert math.isnan(edge_sharpness(truth, np.full_like(truth, 0.2)))
    ramp = np.zeros((4, 4, 4)) + np.arange(4.0)  # every axis counts alike
    assert edge_sharpness(ramp + ramp.transpose(0, 2, 1), ramp.transpose(2, 0, 1)) == pytest.approx(2.0)


def test_ncc(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (v[0] for v in volumes)
    assert ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert ncc(a, 3.0 * a - 7.0) == pytest.approx(1.0)
    assert ncc(a, -a) == pytest.approx(-1.0)
    assert ncc(a, np.ones_like(a)) == 0.0
    mask = np.zeros(a.shape, bool)
    mask[3:9, 4:12] = True
    spoiled = np.where(mask, a, 99.0)
    assert ncc(spoiled, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1])


def test_summary() -> None:
    mean, sd, count = summarise([1.0, 2.0, 4.0])
    assert (mean, count) == (pytest.approx(7 / 3), 3)
    assert sd == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))
    assert math.isnan(summarise(iter([5.0])).sd)
    assert summarise([math.inf, 20.0]).mean == math.inf
    with pytest.raises(ConfigError):
        summarise([])


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: mae(np.zeros((2, 3)), np.zeros((3, 2))), "metrics.shape"),
        (lambda: mse(np.zeros(0), np.zeros(0)), "metrics.shape"),
        (lambda: psnr(np.array([np.nan]), np.zeros(1)), "metrics.not-finite"),
        (lambda: ssim3d(np.zeros((10, 20, 20)), np.zeros((10, 20, 20))), "metrics.size"),
        (lambda: ssim3d(np.zeros((20, 20)), np.zeros((20, 20)), "zero"), "metrics.size"),
        (lambda: ssim_slices(np.zeros((6, 9, 9)), np.zeros((6, 9, 9))), "metrics.size"),
        (lambda: ncc(np.eye(3), np.eye(3), np.zeros((3, 3))), "metrics.mask"),
        (lambda: ncc(np.eye(3), np.eye(3), np.ones((3, 1))), "metrics.mask"),
    ],
)
def test_refuses(call, code: str) -> None:
    with pytest.raises(VolumeError) as caught:
        call()
    assert caught.value.code == code


def test_refuses_an_unknown_padding() -> None:
    with pytest.raises(ConfigError):
        ssim3d(np.zeros((12, 12, 12)), np.zeros((12, 12, 12)), "reflect")  # type: ignore[arg-type]

"""HU windows and attenuation: round trips and anchors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axon_core.errors import ConfigError
from axon_core.intensity import AXON_PAPER, MU_BONE_PER_MM, MU_WATER_PER_MM, WIDE, WINDOWS, HuWindow, hu_to_mu


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_round_trip_inside_the_window(window: HuWindow) -> None:
    hu = np.linspace(window.low, window.high, 401)
    u = window.encode(hu)
    np.testing.assert_allclose(window.decode(u), hu, atol=1e-9)
    np.testing.assert_allclose(u[[0, 200, 400]], [-1.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(np.diff(u, 2), 0.0, atol=1e-12)  # a straight line


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_outside_is_clipped(window: HuWindow) -> None:
    far = np.array([window.low - 5000.0, window.high + 5000.0])
    np.testing.assert_array_equal(window.encode(far), [-1.0, 1.0])
    np.testing.assert_array_equal(window.decode(np.array([-3.0, 3.0])), [window.low, window.high])


def test_the_windows() -> None:
    assert (WIDE.low, WIDE.high) == (-1000.0, 1000.0)
    assert (AXON_PAPER.low, AXON_PAPER.high) == (-100.0, 900.0)
    assert all(window.name == name for name, window in WINDOWS.items())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_keeps_its_type(dtype: type) -> None:
    hu: np.ndarray = np.array([[-800.0, 40.0]], dtype)
    for result in (WIDE.encode(hu), WIDE.decode(hu / 1000), hu_to_mu(hu)):
        assert result.dtype == dtype
        assert result.shape == (1, 2)


def test_torch_agrees_with_numpy() -> None:
    hu = np.linspace(-1500, 2500, 41)
    tensor = torch.from_numpy(hu)
    for function in (AXON_PAPER.encode, WIDE.decode, hu_to_mu):
        np.testing.assert_allclose(function(tensor).numpy(), function(hu), rtol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (10.0, -10.0), (0.0, float("nan"))])
def test_empty_window(low: float, high: float) -> None:
    with pytest.raises(ConfigError) as caught:
        HuWindow("mine", low, high)
    assert caught.value.code == "window.empty"
    assert "mine" in caught.value.title


def test_attenuation_anchors() -> None:
    mu = hu_to_mu(np.array([-2000.0, -1000.0, -500.0, 0.0, 500.0, 1000.0]))
    middle = 0.5 * (MU_WATER_PER_MM + MU_BONE_PER_MM)
    expected = [0.0, 0.0, 0.5 * MU_WATER_PER_MM, MU_WATER_PER_MM, middle, MU_BONE_PER_MM]
    np.testing.assert_allclose(mu, expected, atol=1e-15)


def test_attenuation_never_falls_nor_jumps() -> None:
    mu = hu_to_mu(np.arange(-1500.0, 3000.0))
    steps = np.diff(mu)
    assert (steps >= 0.0).all()
    assert (np.diff(hu_to_mu(np.arange(-1000.0, 3000.0))) > 0.0).all()
    assert steps.max() <= (MU_BONE_PER_MM - MU_WATER_PER_MM) / 1000.0 + 1e-12


def test_constants_are_those_of_diagnostic_x_rays() -> None:
    """NIST: water 0.0193/mm at 70 keV, cortical bone (1.92 g/cm3) 0.060/mm at 60 and 0.043/mm at 80 keV."""
    assert pytest.approx(0.0193, rel=0.03) == MU_WATER_PER_MM
    assert 0.045 < MU_BONE_PER_MM < 0.065

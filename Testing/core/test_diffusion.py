"""Laws of the bridge and of Gaussian diffusion, and of samplers driven by an exact denoiser."""

from __future__ import annotations

import pytest
import torch

from axon_core.diffusion import bridge, gaussian
from axon_core.diffusion.sampling import SeededNoise, Step, sample_bridge, sample_ddim

MEAN, SD = 0.3, 0.25  # the clean volumes of the toy problem: independent voxels of this normal law


def volume(seed: int = 0, n: int = 40) -> torch.Tensor:
    return torch.randn(1, 1, n, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_bridge_denoiser(y: torch.Tensor, s: float):
    """E[x0 | x_m] for x0 ~ N(MEAN, SD^2) voxel by voxel: the optimal linear estimate."""

    def denoise(x: torch.Tensor, m: float) -> torch.Tensor:
        residual = x - (1 - m) * MEAN - m * y
        variance = (1 - m) ** 2 * SD**2 + 2 * s * (m - m * m)
        return torch.full_like(x, MEAN) + ((1 - m) * SD**2 / variance * residual if variance > 0 else 0 * residual)

    return denoise


def test_bridge_ends_where_it_should():
    x0, y, noise = volume(0), volume(1), volume(2)
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    torch.testing.assert_close(bridge.forward(x0, y, zero, 1.0, noise), x0)
    torch.testing.assert_close(bridge.forward(x0, y, one, 1.0, noise), y)


def test_bridge_target_is_what_separates_state_from_truth():
    x0, y, noise, m = volume(0), volume(1), volume(2), torch.tensor(0.5, dtype=torch.float64)
    x = bridge.forward(x0, y, m, 1.0, noise)
    torch.testing.assert_close(x - bridge.gradient_target(x0, y, m, 1.0, noise), x0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_bridge_step_keeps_the_marginal(eta):
    """With the true x0, a step from m lands on the forward marginal at r, whatever eta is."""
    s, m, r = 1.0, 0.8, 0.3
    x0, y = volume(0), torch.zeros(1, 1, 40, 40, 40, dtype=torch.float64)
    x = bridge.forward(x0, y, torch.tensor(m), s, volume(1))
    stepped = bridge.step(x0, y, x, m, r, s, eta, volume(2))
    spread = stepped - (1 - r) * x0 - r * y
    assert spread.mean().abs() < 0.01
    assert float(spread.var()) == pytest.approx(2 * s * (r - r * r), rel=0.03)


def test_bridge_step_with_eta_one_is_the_posterior():
    """eta = 1 equals BBDM's closed-form posterior mean and variance."""
    s, m, r = 0.7, 0.6, 0.25
    x0, y, x = volume(0), volume(1), volume(2)
    d_m, d_r = 2 * s * (m - m * m), 2 * s * (r - r * r)
    d_mr = d_m - d_r * (1 - m) ** 2 / (1 - r) ** 2
    c_x = d_r / d_m * (1 - m) / (1 - r) + d_mr / d_m * (1 - r)
    c_y = r - m * (1 - m) / (1 - r) * d_r / d_m
    c_e = (1 - r) * d_mr / d_m
    mean = c_x * x + c_y * y - c_e * (x - x0)
    torch.testing.assert_close(bridge.step(x0, y, x, m, r, s, 1.0, torch.zeros_like(x)), mean)
    noise = volume(3)
    drawn = bridge.step(x0, y, x, m, r, s, 1.0, noise) - mean
    torch.testing.assert_close(drawn, (d_mr * d_r / d_m) ** 0.5 * noise)


@pytest.mark.parametrize(("s", "eta"), [(1.0, 1.0), (1.0, 0.0), (0.1, 1.0), (0.1, 0.5)])
def test_bridge_sampler_reproduces_mean_and_spread(s, eta):
    """With an exact denoiser the samples follow the law of the clean volumes."""
    y = torch.full((1, 1, 40, 40, 40), -0.5, dtype=torch.float64)
    sample = sample_bridge(exact_bridge_denoiser(y, s), y, bridge.times(60), s, eta, SeededNoise([4]))
    assert float(sample.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(sample.std()) == pytest.approx(SD, rel=0.1)


def test_bridge_without_a_first_draw_would_collapse():
    """eta = 0 still gives different volumes for different seeds."""
    y = torch.zeros(1, 1, 8, 8, 8, dtype=torch.float64)
    first, second = (
        sample_bridge(exact_bridge_denoiser(y, 1.0), y, bridge.times(10), 1.0, 0.0, SeededNoise([k])) for k in (1, 2)
    )
    assert float((first - second).std()) > 0.1


def test_preconditioning_gives_a_unit_target_and_the_best_linear_start():
    s, sigma, m = 0.1, 0.25, torch.tensor(0.4, dtype=torch.float64)
    x0, y, noise = sigma * volume(0), torch.zeros_like(volume(0)), volume(1)
    x = bridge.forward(x0, y, m, s, noise)
    c_skip, c_out, c_in = bridge.preconditioning(m, s, sigma)
    target = (x0 - c_skip * x) / c_out
    assert float(target.var()) == pytest.approx(1.0, rel=0.03)
    assert float((c_in * x).var()) == pytest.approx(1.0, rel=0.03)
    assert float((target * x).mean()) == pytest.approx(0.0, abs=0.01)  # nothing linear is left to predict


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_gaussian_prediction_inverts_the_target(prediction):
    x0, noise, alpha = volume(0), volume(1), torch.tensor(0.37, dtype=torch.float64)
    x = gaussian.add_noise(x0, alpha, noise)
    output = gaussian.target(x0, alpha, noise, prediction)
    torch.testing.assert_close(gaussian.predict_x0(x, alpha, output, prediction), x0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step_keeps_the_marginal(eta):
    x0, alpha_t, alpha_r = volume(0), 0.2, 0.6
    x = gaussian.add_noise(x0, torch.tensor(alpha_t), volume(1))
    spread = gaussian.step(x0, x, alpha_t, alpha_r, eta, volume(2)) - alpha_r**0.5 * x0
    assert float(spread.var()) == pytest.approx(1 - alpha_r, rel=0.03)


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_ddim_sampler_reproduces_mean_and_spread(zero_terminal):
    alphas = gaussian.alpha_bars(zero_terminal=zero_terminal)

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        a = float(alphas[int(t)])
        return MEAN + a**0.5 * SD**2 / (a * SD**2 + 1 - a) * (x - a**0.5 * MEAN)

    noise = SeededNoise([7])
    start = noise(torch.zeros(1, 1, 40, 40, 40, dtype=torch.float64))
    sample = sample_ddim(denoise, start, gaussian.times(100), alphas, 0.0, noise)
    assert float(sample.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(sample.std()) == pytest.approx(SD, rel=0.1)


def test_schedules():
    plain, rescaled = gaussian.alpha_bars(), gaussian.alpha_bars(zero_terminal=True)
    assert (plain.diff() < 0).all() and (rescaled.diff() < 0).all()
    assert float(rescaled[-1]) == 0.0
    assert float(plain[-1]) > 0
    assert float(rescaled[0]) == pytest.approx(float(plain[0]))
    assert bridge.times(4, 1.0) == [1.0, 0.75, 0.5, 0.25]
    assert gaussian.times(4) == [999, 749, 500, 250]
    assert gaussian.times(1) == [999]


def test_noise_depends_on_the_seed_alone():
    like = torch.zeros(2, 1, 4, 4, 4)
    together, alone = SeededNoise([5, 6])(like), SeededNoise([6])(like[:1])
    torch.testing.assert_close(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_callback_sees_every_step_and_may_stop():
    y = torch.zeros(1, 1, 4, 4, 4, dtype=torch.float64)
    seen: list[Step] = []
    sample = sample_bridge(exact_bridge_denoiser(y, 1.0), y, bridge.times(5), 1.0, 1.0, SeededNoise([0]), seen.append)
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    assert [step.time for step in seen] == bridge.times(5)
    torch.testing.assert_close(seen[-1].x0, sample)

    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_bridge(exact_bridge_denoiser(y, 1.0), y, bridge.times(5), 1.0, 1.0, SeededNoise([0]), stop)

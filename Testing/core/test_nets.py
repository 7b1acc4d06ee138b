"""Networks: where they start, what they are equal to, and that they learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from axon_core.config import EncoderConfig, UNetConfig, load_preset
from axon_core.model import AxonModel, parameter_count
from axon_core.nets.encoder import FilmToVolume, FusionBlock, lift
from axon_core.nets.parts import fold, unfold
from axon_core.nets.srnet import SRNet
from axon_core.nets.unet import ControlNet3d, UNet3d

UNET = UNetConfig((8, 16), (False, True), head_channels=8, patch=2)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patch", [1, 2])
def test_fusion_starts_as_the_mean_of_the_views_and_learns(patch):
    block, views = FusionBlock(8, patch), rand(1, 2, 8, 8, 8)
    out = block(views)
    torch.testing.assert_close(out, views.mean(1, keepdim=True))
    (out - rand(1, 1, 8, 8, 8, seed=1)).pow(2).mean().backward()
    assert float(block.gain.grad.abs()) > 0


def test_lift_puts_each_film_where_its_ray_runs():
    """A mark at one depth, row and column of a film lands at the matching patient position."""
    n = 6
    features = torch.zeros(1, n, n, n)
    features[0, 1, 0, 4] = 1  # depth 1, top row, column 4
    z, y, x = (int(i) for i in lift(features, lateral=False)[0, 0].nonzero()[0])
    assert (z, y, x) == (n - 1, 1, 4)  # superior, one from the front, toward the patient's left
    z, y, x = (int(i) for i in lift(features, lateral=True)[0, 0].nonzero()[0])
    assert (z, y, x) == (n - 1, n - 1 - 4, 1)  # superior, toward the front, one from the patient's right


def test_one_set_of_weights_serves_one_view_and_two():
    net = FilmToVolume(EncoderConfig((16, 16), 1, 8), 32, 16).eval()
    films = rand(2, 2, 32, 32)
    with torch.no_grad():
        one, two = net(films[:, :1]), net(films)
    assert one.shape == two.shape == (2, 1, 16, 16, 16)
    assert float(one.abs().max()) < 1 and float(two.abs().max()) < 1


def test_patients_of_a_batch_do_not_mix():
    net = FilmToVolume(EncoderConfig((16, 16), 1, 8), 32, 16).eval()
    torch.nn.init.normal_(net.encoder.attention.out.weight)
    films = rand(2, 2, 32, 32)
    torch.testing.assert_close(net(films)[1], net(films[1:])[0], atol=1e-5, rtol=1e-4)


def test_fold_and_unfold_are_inverse():
    x = rand(2, 3, 4, 6, 8)
    assert fold(x, 2).shape == (2, 24, 2, 3, 4)
    torch.testing.assert_close(unfold(fold(x, 2), 2), x)
    torch.testing.assert_close(fold(x, 2)[0, 0, 1, 2, 3], x[0, 0, 2, 4, 6])


def test_untrained_control_leaves_the_prior_as_it_is():
    torch.manual_seed(0)
    prior, control = UNet3d(UNET, 1).eval(), ControlNet3d(UNET).eval()
    for parameter in prior.net.out.parameters():  # the output starts at zero; wake it, or all nets are equal
        torch.nn.init.normal_(parameter)
    control.start_from(prior)
    x, time, hint = rand(1, 1, 16, 16, 16), torch.tensor([300.0]), rand(1, 1, 16, 16, 16, seed=2)
    torch.testing.assert_close(prior(x, time, control(x, time, hint)), prior(x, time))
    torch.testing.assert_close(control.net.conv_in.conv.weight, prior.net.conv_in.conv.weight)


def test_gradients_reach_control_through_the_frozen_prior():
    torch.manual_seed(0)
    prior, control = UNet3d(UNET, 1), ControlNet3d(UNET)
    for parameter in prior.net.out.parameters():
        torch.nn.init.normal_(parameter)
    control.start_from(prior)
    prior.requires_grad_(False)
    x, time, hint = rand(1, 1, 16, 16, 16), torch.tensor([300.0]), rand(1, 1, 16, 16, 16, seed=2)
    prior(x, time, control(x, time, hint)).pow(2).mean().backward()
    assert float(control.net.controlnet_mid_block.conv.weight.grad.abs().max()) > 0
    assert all(p.grad is None for p in prior.parameters())


def test_super_resolution_starts_as_trilinear_and_learns():
    torch.manual_seed(0)
    net, low = SRNet(8, 1, 4), rand(1, 1, 4, 6, 8)
    trilinear = F.interpolate(low, scale_factor=2.0, mode="trilinear", align_corners=False)
    torch.testing.assert_close(net(low), trilinear)
    (net(low) - trilinear - 1).pow(2).mean().backward()
    assert float(net.join.weight.grad.abs().max()) > 0


def test_super_resolution_has_no_checkerboard():
    """A constant volume stays constant away from the borders once the network is no longer trilinear."""
    torch.manual_seed(0)
    net = SRNet(8, 1, 4)
    torch.nn.init.constant_(net.join.weight, 0.01)
    inside = net(torch.full((1, 1, 8, 16, 16), 0.3)).detach()[..., 4:-4, 12:-12, 12:-12]
    assert float(inside.max() - inside.min()) < 1e-5


def test_paper_preset_has_the_paper_sizes():
    """85.7 M weights in the U-Net of CoarseDiff, counted without allocating them."""
    config = load_preset("paper")
    with torch.device("meta"):
        assert parameter_count(UNet3d(config.coarse, 2)) == pytest.approx(85.7e6, rel=0.005)
        assert parameter_count(SRNet(config.sr.width, config.sr.blocks, config.sr.growth)) == pytest.approx(
            1.7e6, rel=0.05
        )
        film = FilmToVolume(config.encoder, config.film_size, config.size)
    assert film.encoder.attention is None
    assert config.film_size // config.size == 8


def test_endpoint_overfits_one_chest_in_100_steps():
    torch.manual_seed(0)
    model = AxonModel.from_preset("tiny")
    net = model.film_to_volume.train()
    film, target = rand(1, 2, 32, 32), F.avg_pool3d(rand(1, 1, 20, 20, 20, seed=1), 5, 1).clamp(-0.9, 0.9)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    losses = []
    for _ in range(100):
        loss = (net(film) - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 10

"""Baselines: films along their rays, textbook gradients, the laws of each method, and one door with AXON's models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from axon_core.baselines import x2ct_gan, xray2ctpa
from axon_core.baselines.models import BaselineModel, new_baseline, open_model
from axon_core.baselines.predict import chosen_stages, is_random, predict, predict_mean
from axon_core.baselines.registry import BASELINES, load_sizes
from axon_core.baselines.run import estimate_baseline, new_stage, stage_settings
from axon_core.baselines.trivial import fit_items
from axon_core.config import load_preset
from axon_core.data.pairs import expose_pair
from axon_core.diffusion.sampling import SeededNoise
from axon_core.errors import ConfigError, ModelError
from axon_core.geometry import CanonicalGrid
from axon_core.model import AxonModel, ModelCard, inspect
from axon_core.nets.rays import repeat_along_ray, repeated_films
from axon_core.pipeline import autocast
from axon_core.training.draws import Draws
from axon_core.training.estimate import estimate
from axon_core.training.settings import load_settings

sys.path.insert(0, str(Path(__file__).parent))
from training_data import batch_of, few, settings, tiny

TRIVIAL = [name for name, kind in BASELINES.items() if not kind.stages]
LEARNED = [name for name in BASELINES if name not in TRIVIAL]
CARD = ModelCard(title="test", stages=("endpoint",), default_stages=("endpoint",))


def fresh(name: str, seed: int = 0) -> BaselineModel:
    """A baseline of preset "tiny"; layers that start at zero are stirred, so that every input makes a difference."""
    torch.manual_seed(seed)
    model = new_baseline(name, "tiny")
    for value in model.film_to_volume.parameters():
        if not value.any():
            nn.init.normal_(value, std=0.1)
    if name in TRIVIAL:
        fit_items(model.film_to_volume, few(8))
    return model


def films(count: int = 2, views: int = 2) -> torch.Tensor:
    return (torch.rand(count, 2, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1)[:, :views]


# --- films along their rays ------------------------------------------------------------------------------------------


def test_repeated_films_cross_where_the_chest_is_dense():
    """A bead's shadows, each repeated along its ray, meet at the bead; one view leaves its depth open."""
    n, bead = 32, (22, 9, 12)  # z, y, x
    hu = torch.full((n, n, n), -1000.0)
    hu[tuple(slice(i - 1, i + 2) for i in bead)] = 1000.0
    shadows = expose_pair(hu, CanonicalGrid(n), n)
    frontal, lateral = repeated_films(shadows[None], n)[0]
    crossing = torch.tensor(torch.unravel_index((frontal * lateral).argmax(), (n, n, n)))
    assert (crossing - torch.tensor(bead)).abs().max() <= 2  # rays are not quite parallel
    assert torch.equal(frontal, frontal[:, :1].expand(n, n, n))  # the same all along AP
    assert torch.equal(lateral, lateral[:, :, :1].expand(n, n, n))  # and all along LR


def test_a_missing_lateral_film_is_zeros():
    one, two = repeated_films(films(views=1), 16), repeated_films(films(), 16)
    assert torch.equal(one[:, 0], two[:, 0]) and not one[:, 1].any() and two[:, 1].any()


def test_channels_are_repeated_alike():
    maps = torch.randn(2, 3, 4, 4)
    together = repeat_along_ray(maps, lateral=True)
    for channel in range(3):
        torch.testing.assert_close(together[:, channel : channel + 1], repeat_along_ray(maps[:, [channel]], True))


# --- one door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_saved_and_opened_predicts_the_same(name: str, tmp_path: Path):
    model = fresh(name)
    info = model.save_pretrained(tmp_path / name, CARD, torch.float32)
    opened = open_model(tmp_path / name)
    assert isinstance(opened, BaselineModel) and opened.method == info.baseline["name"] == name
    for views in (1, 2):
        volume = predict(opened, films(views=views), seed=3)
        assert volume.shape == (2, 1, 16, 16, 16) and volume.dtype == torch.float32 and volume.abs().max() <= 1
        torch.testing.assert_close(volume, predict(model, films(views=views), seed=3), atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="baseline"):
        AxonModel.from_pretrained(tmp_path / name)


@pytest.mark.parametrize("name", LEARNED)
def test_a_case_does_not_depend_on_its_batch_and_both_films_count(name: str):
    model, both = fresh(name), films()
    together = predict(model, both, seed=5)
    torch.testing.assert_close(together[1:], predict(model, both[1:], seed=5), atol=2e-4, rtol=0)
    for view in (0, 1):
        changed = both.clone()
        changed[:, view] = changed[:, view].flip(-1)
        assert (predict(model, changed, seed=5) - together).abs().max() > 1e-3


def test_seeds_matter_where_something_is_random():
    model = fresh("xray2ctpa")
    assert is_random(model) and not is_random(fresh("x2ct-gan"))
    mean, sd = predict_mean(model, films(), [0, 1])
    a, b = (predict(model, films(), seed) for seed in (0, 1))
    torch.testing.assert_close(mean, (a + b) / 2)
    torch.testing.assert_close(sd, (a - b).abs() / 2**0.5)
    assert sd.max() > 1e-3
    assert predict_mean(fresh("x2ct-gan"), films(), [0, 1])[1] is None


def test_axon_runs_the_stages_that_are_asked_for():
    model = tiny(trained=("endpoint", "coarse", "fine"))
    with torch.no_grad(), autocast(model.device):
        endpoint = model.endpoint(films()).float()
    torch.testing.assert_close(predict(model, films(), stages=()), endpoint)
    for stages in (("coarse",), ("fine",), ("coarse", "fine")):
        assert is_random(model, stages)
        a, b = (predict(model, films(), seed, stages=stages) for seed in (0, 1))
        assert not torch.equal(a, b) and torch.equal(a, predict(model, films(), 0, stages=stages))
    assert chosen_stages(model, None) == ()  # none is a default
    with pytest.raises(ConfigError):
        predict(model, films(), stages=("fine", "coarse"))
    with pytest.raises(ModelError):
        predict(model, films(), stages=("super-resolution",))


def test_predict_is_what_the_pipeline_computes(film_png: Path, tiny_model: Path):
    from axon_core.pipeline import reconstruct
    from axon_core.radiograph import Radiograph

    model = open_model(tiny_model)
    assert not isinstance(model, BaselineModel)
    made = reconstruct(Radiograph.load(film_png), model=model, seeds=(4,), device="cpu")
    film = torch.from_numpy(made.films["frontal"].image)[None, None]
    volume = model.config.hu_window.decode(predict(model, film, 4))[0, 0]
    torch.testing.assert_close(volume, torch.from_numpy(made.final.hu.copy()), atol=0.5, rtol=0)


def test_inference_needs_no_training_extra():
    code = (
        "import sys; sys.modules['lightning_fabric'] = None; sys.modules['matplotlib'] = None\n"
        "from axon_core.baselines.models import new_baseline\nfrom axon_core.baselines.predict import predict\n"
        "import torch; print(predict(new_baseline('x2ct-gan', 'tiny'), torch.zeros(1, 1, 32, 32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "torch.Size([1, 1, 16, 16, 16])", done.stderr


# --- trivial ones ----------------------------------------------------------------------------------------------------


def weighted_error(volume: torch.Tensor, data: Any) -> float:
    """Of one volume for all cases."""
    return sum(float(((volume - target) ** 2 * weight).sum()) for _, target, weight in data.items)


@pytest.mark.parametrize("name", ["constant", "mean"])
def test_constant_and_mean_are_the_best_of_their_kind(name: str):
    data, model = few(8), fresh(name)
    data.items = [(shown, target, torch.rand_like(weight) + 0.1) for shown, target, weight in data.items]
    fit_items(model.film_to_volume, data)
    volume = model.endpoint(films(1))[0]
    best = weighted_error(volume, data)
    assert all(weighted_error(volume + step, data) > best for step in (-0.01, 0.01))
    if name == "mean":
        one_voxel = torch.zeros_like(volume)
        one_voxel[0, 8, 8, 4] = 0.05
        assert all(weighted_error(volume + sign * one_voxel, data) > best for sign in (-1, 1))
    else:
        assert volume.unique().numel() == 1


@pytest.mark.parametrize("views", [1, 2])
def test_nearest_finds_a_film_whatever_its_brightness(views: int):
    data, model = few(8), fresh("nearest")
    for number in (1, 6):
        shown, target, _ = data.items[number]
        volume = predict(model, 0.4 * shown[None, :views] - 0.3)[0]
        torch.testing.assert_close(volume, target, atol=1 / 255 + 1e-6, rtol=0)


# --- X2CT-GAN --------------------------------------------------------------------------------------------------------


def gan() -> x2ct_gan.X2CTStage:
    stage = new_stage(fresh("x2ct-gan"), "x2ct-gan", settings())
    assert isinstance(stage, x2ct_gan.X2CTStage)
    stage.trained.requires_grad_(True)
    return stage


def test_one_backward_pass_gives_the_gradients_of_both_textbook_losses(monkeypatch: pytest.MonkeyPatch):
    """Against the losses written out: each differentiated by itself, with respect to its own network."""
    monkeypatch.setattr(x2ct_gan, "drop_views", lambda films, *_: films)
    stage, batch = gan(), batch_of(few())
    shown, real, weight = batch
    stage(batch, Draws(0, 0, range(2), 2)).values.mean().backward()
    generator, discriminator = stage.model.film_to_volume, stage.discriminator
    found = {name: value.grad for name, value in stage.trained.named_parameters()}

    condition = repeated_films(shown, 16)
    fake = generator(shown)
    unit_fake, unit_real = (fake + 1) / 2, (real + 1) / 2
    planes = [
        F.l1_loss((weight * unit_fake).mean(a), (weight * unit_real).mean(a), reduction="none") for a in (2, 3, 4)
    ]
    share = weight.flatten(1).mean(1)
    adversarial = 0.5 * ((discriminator(fake, condition) - 1) ** 2).mean()
    squared = ((unit_fake - unit_real) ** 2 * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    projected = sum(plane.flatten(1).mean(1) for plane in planes) / 3 / share
    wanted = 0.1 * adversarial + 10 * squared.mean() + 10 * projected.mean()
    for (name, _), grad in zip(
        generator.named_parameters(),
        torch.autograd.grad(wanted, list(generator.parameters()), allow_unused=True),
        strict=True,
    ):
        if grad is not None:  # the head for one film is idle
            torch.testing.assert_close(found[f"generator.{name}"], grad, atol=1e-5, rtol=1e-3)
    judged = (
        0.5 * ((discriminator(real, condition) - 1) ** 2).mean()
        + 0.5 * (discriminator(fake.detach(), condition) ** 2).mean()
    )
    for (name, _), grad in zip(
        discriminator.named_parameters(), torch.autograd.grad(judged, list(discriminator.parameters())), strict=True
    ):
        torch.testing.assert_close(found[f"discriminator.{name}"], grad, atol=1e-5, rtol=1e-3)


def test_projection_error_sees_what_squared_error_forgets():
    ones = torch.ones(1, 1, 4, 4, 4)
    torch.testing.assert_close(x2ct_gan.projection_error(-0.3 * ones, ones), torch.tensor([0.3]))
    checkers = (torch.arange(4)[:, None, None] + torch.arange(4)[:, None] + torch.arange(4)) % 2 * 2.0 - 1
    assert x2ct_gan.projection_error(checkers[None, None], ones) == 0  # sums to nothing along every axis
    half = ones.clone()
    half[..., :2] = 0
    torch.testing.assert_close(x2ct_gan.projection_error(0.3 * ones, half), torch.tensor([0.3]))
    assert x2ct_gan.projection_error(1 - half, half) == 0  # errors where nothing is known


@pytest.mark.parametrize(("view", "ray"), [("frontal", 3), ("lateral", 4)])
def test_connection_b_repeats_each_films_features_along_its_own_ray(view: str, ray: int):
    decoder = getattr(fresh("x2ct-gan").film_to_volume, view)
    seen: list[torch.Tensor] = []
    for level in decoder.up:
        level.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][:, -4:]))
    volumes = decoder(films()[:, :1])
    assert [volume.shape[-1] for volume in volumes] == [8, 4] and len(seen) == 2
    for skip in seen:
        assert torch.equal(skip, skip.narrow(ray, 0, 1).expand_as(skip))
        assert all(skip.std(axis).max() > 1e-3 for axis in {2, 3, 4} - {ray})


def test_one_film_passes_the_lateral_network_by():
    model = fresh("x2ct-gan")
    model.film_to_volume.requires_grad_(True)
    model.endpoint(films(views=1)).sum().backward()
    assert all(value.grad is None for value in model.film_to_volume.lateral.parameters())
    assert all(value.grad is not None for value in model.film_to_volume.frontal.parameters())


# --- X-ray2CTPA ------------------------------------------------------------------------------------------------------


def test_latent_volumes_are_normalised():
    coder = fresh("xray2ctpa").film_to_volume.autoencoder.train()
    _, target, _ = batch_of(few(4))
    latent = coder.encode(target)
    assert latent.shape == (4, 4, 4, 4, 4)
    torch.testing.assert_close(latent.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latent.var((0, 2, 3, 4), correction=0), torch.ones(4), atol=1e-2, rtol=0)
    assert coder.decode(latent).shape == target.shape


def test_a_perfect_denoiser_has_no_loss_and_gives_its_volume_from_any_noise(monkeypatch: pytest.MonkeyPatch):
    model = fresh("xray2ctpa")
    network, batch = model.film_to_volume, batch_of(few())
    with torch.no_grad():
        truth = network.autoencoder.encode(batch[1])
    monkeypatch.setattr(network.denoiser, "forward", lambda x, t, tokens: truth)
    stage = new_stage(model, "xray2ctpa-latent", settings())
    loss, time = stage(batch, Draws(0, 0, range(2), 2))
    assert float(loss.abs().max()) < 1e-6 and 0 <= float(time.min()) < 0.5 <= float(time.max()) < 1
    with torch.no_grad():
        for seed in (0, 1):
            sample = network(batch[0], SeededNoise([seed, seed + 7]))
            torch.testing.assert_close(sample, network.autoencoder.decode(truth))


def test_the_diffusion_leaves_the_autoencoder_alone():
    model = fresh("xray2ctpa")
    stage = new_stage(model, "xray2ctpa-latent", settings())
    stage.trained.train().requires_grad_(True)
    before = {key: value.clone() for key, value in model.film_to_volume.autoencoder.state_dict().items()}
    stage(batch_of(few()), Draws(0, 0, range(2), 2)).values.mean().backward()
    after = model.film_to_volume.autoencoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())  # its running statistics too
    assert all(value.grad is None for value in model.film_to_volume.autoencoder.parameters())
    assert any(value.grad.any() for value in model.film_to_volume.denoiser.tokens.parameters())


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "paper"])
def test_every_preset_sizes_and_trains_every_baseline(preset: str):
    config = load_preset(preset)
    for name, kind in BASELINES.items():
        assert isinstance(load_sizes(name, preset), kind.sizes)
        assert list(stage_settings(name, preset)) == list(kind.stages)
        if kind.stages:
            with torch.device("meta"):
                model = BaselineModel(config, device=torch.device("meta"), name=name, sizes=load_sizes(name, preset))
                assert sum(value.numel() for value in model.film_to_volume.parameters()) > 1000


def test_small_baselines_cost_about_as_much_as_the_bridge():
    config = load_preset("small")
    bridge = estimate("coarse", config, load_settings("small", "coarse"), 10, 1e12)
    for name in ("x2ct-gan", "xray2ctpa"):  # Repeat & Concatenate has the bridge's network
        found = [
            estimate_baseline(name, "small", stage, config, own, 10, 1e12)
            for stage, own in stage_settings(name, "small").items()
        ]
        assert 0.5 < found[-1].flop / bridge.flop < 2
        assert 0.5 < sum(each.parameters for each in found) / bridge.parameters < 2.5


def test_unknown_names_and_sizes_are_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="no baseline"):
        new_baseline("xct-net", "tiny")
    preset = tmp_path / "mine.toml"
    text = (Path(xray2ctpa.__file__).parent.parent / "presets" / "tiny.toml").read_text(encoding="utf-8")
    preset.write_text(text.replace("bottleneck = 4", "bottle = 4"), encoding="utf-8")
    with pytest.raises(ConfigError, match="bottle"):
        new_baseline("x2ct-gan", str(preset))
    assert inspect(fresh("mean").save_pretrained(tmp_path / "mean", CARD).folder).baseline["name"] == "mean"

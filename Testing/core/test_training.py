"""What training computes: losses with known values, draws, averages, rates; every stage learns, and only that stage."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from axon_core.config import load_preset, preset_names
from axon_core.diffusion import gaussian
from axon_core.errors import ConfigError
from axon_core.model import PARTS, AxonModel, ModelCard, parameter_count
from axon_core.training import estimate as estimates
from axon_core.training import stages
from axon_core.training.draws import Draws, case_index
from axon_core.training.ema import EMA
from axon_core.training.memory import recompute
from axon_core.training.settings import StageSettings, changed, learning_rate, load_settings

sys.path.insert(0, str(Path(__file__).parent))
from training_data import Few, batch_of, few, settings, stage_of, tiny, train

NAMES = list(stages.STAGES)


def draws(seed: int, count: int = 2) -> Draws:
    return Draws(seed, 0, range(count), count)


def data_of(name: str) -> Few:
    return few(size=32 if name == "super-resolution" else 16)


def answering(model: AxonModel) -> AxonModel:
    """The U-Nets, which start silent, answer something."""
    torch.manual_seed(7)
    for network in (model.coarse, model.prior):
        for parameter in network.net.out.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "lr", "left"),
    [
        ("endpoint", 40, 5e-3, 0.6),
        ("coarse", 40, 5e-3, 0.85),
        ("prior", 40, 5e-3, 0.6),
        ("control", 30, 2e-2, 0.99),
        ("super-resolution", 15, 5e-3, 0.97),
    ],
)
def test_the_loss_of_every_stage_falls(name, steps, lr, left, tmp_path):
    model = tiny(trained=("endpoint",))
    if name == "control":
        answering(model)
    stage, data = stage_of(name, model, steps=steps, lr=lr, warmup=5, synthetic=0.0), data_of(name)

    @torch.no_grad()
    def loss() -> float:
        return sum(float(stage(batch_of(data), draws(k)).values.mean()) for k in range(6)) / 6

    before = loss()
    train(stage, data, tmp_path, save_every=1e9)
    assert loss() < left * before


# --- losses ----------------------------------------------------------------------------------------------------------


def test_weighted_mean_is_each_samples_own_and_leaves_out_what_weighs_nothing():
    error, weight = torch.tensor([[1.0, 3.0, 100.0], [5.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 2.0]])
    assert stages.weighted_mean(error, weight).tolist() == [2.0, 1.25]
    assert stages.weighted_mean(error, 2 * weight).tolist() == [2.0, 1.25]


@pytest.mark.parametrize("name", NAMES)
def test_a_samples_loss_does_not_depend_on_the_batch_around_it(name):
    """Which is why batches can be divided over time and over processes."""
    stage = stage_of(name, answering(tiny(trained=("endpoint", "coarse"))))
    films, target, weight = batch_of(data_of(name))
    with torch.no_grad():
        for step in range(4):
            whole = stage((films, target, weight), Draws(3, step, [0, 1], 2))
            parts = [
                stage((films[i : i + 1], target[i : i + 1], weight[i : i + 1]), Draws(3, step, [i], 2))
                for i in range(2)
            ]
            torch.testing.assert_close(whole.values, torch.cat([part.values for part in parts]), rtol=1e-4, atol=1e-5)
            assert torch.equal(whole.time, torch.cat([part.time for part in parts]))
            assert float(whole.time.min()) >= 0 and float(whole.time.max()) <= 1


def test_the_lateral_film_is_left_out_two_times_of_three():
    films = torch.randn(3, 2, 4, 4)
    views = [stages.drop_views(films, draws(seed)).shape[1] for seed in range(200)]
    assert set(views) == {1, 2} and 110 < views.count(1) < 150
    one = stages.drop_views(films, draws(0), probability=1.0)
    assert torch.equal(one, films[:, :1])  # it is the frontal film that stays


@pytest.mark.parametrize("name", ["endpoint", "coarse", "control", "super-resolution"])
def test_every_stage_that_sees_films_sees_one_and_two(name):
    model, seen = tiny(trained=("endpoint",)), []
    model.endpoint = lambda films: seen.append(films.shape[1]) or model.film_to_volume(films)
    stage = stage_of(name, model)
    with torch.no_grad():
        for seed in range(12):
            stage(batch_of(data_of(name)), draws(seed))
    assert set(seen) == {1, 2}


def test_endpoint_loss_is_its_formula():
    model = tiny()
    model.endpoint = lambda films: torch.full((2, 1, 16, 16, 16), 0.5)
    batch = (torch.zeros(2, 2, 32, 32), torch.full((2, 1, 16, 16, 16), 0.3), torch.ones(2, 1, 16, 16, 16))
    loss = stage_of("endpoint", model)(batch, draws(0)).values
    assert loss.tolist() == pytest.approx([0.2**2 + 0.1 * 0.2] * 2, rel=1e-5)


def test_bridge_loss_of_a_silent_network_is_one_at_every_time():
    """Residuals with the config's sigma make a target of unit variance, whatever m is drawn."""
    model = tiny()
    model.endpoint = lambda films: torch.zeros(4, 1, 16, 16, 16)
    x0 = model.config.bridge.sigma * torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(4):
        loss = stage_of("coarse", model)((torch.zeros(4, 2, 32, 32), x0, torch.ones_like(x0)), draws(seed, 4))
        assert loss.values.tolist() == pytest.approx([1.0] * 4, rel=0.12)


def test_bridge_loss_of_a_perfect_network_is_zero():
    model, x0 = tiny(), torch.randn(2, 1, 16, 16, 16)
    model.bridge_x0 = lambda x, m, y, network: x0
    loss = stage_of("coarse", model)((torch.zeros(2, 2, 32, 32), x0, torch.ones_like(x0)), draws(0))
    assert loss.values.tolist() == [0.0, 0.0]


def test_a_fifth_of_the_bridges_draws_sit_where_sampling_starts():
    stage, data = stage_of("coarse"), few()
    with torch.no_grad():
        times = torch.cat([stage(batch_of(data), draws(seed)).time for seed in range(60)])
    assert 10 <= int((times == 0.9995).sum()) <= 40


def test_prior_loss_of_a_silent_network_is_one():
    """v of unit-variance volumes has unit variance at every time."""
    x0 = torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = stage_of("prior")((torch.zeros(4, 2, 32, 32), x0, torch.ones_like(x0)), draws(0, 4))
    assert loss.values.tolist() == pytest.approx([1.0] * 4, rel=0.1)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_x0_by_the_clamped_ratio(gamma):
    """An error e of the output is an error of x0 of e / sqrt(SNR) for epsilon, e / sqrt(SNR + 1) for v."""
    alpha = gaussian.alpha_bars()[::37].float()
    snr = alpha / (1 - alpha)
    for prediction in ("epsilon", "v"):
        wrong = gaussian.predict_x0(torch.zeros_like(alpha), alpha, torch.ones_like(alpha), prediction)
        in_x0 = stages.min_snr(alpha, gamma, prediction) / wrong**2
        torch.testing.assert_close(in_x0, snr.clamp_max(gamma), rtol=1e-4, atol=1e-6)
    assert stages.min_snr(torch.tensor([0.5, 0.9, 0.0]), 5.0, "epsilon").tolist() == pytest.approx([1.0, 5 / 9, 1.0])


@pytest.mark.parametrize("name", ["prior", "control"])
def test_min_snr_weighs_each_sample_by_its_time(name):
    batch, plain = batch_of(few()), stage_of(name)
    weighed = type(plain)(plain.model, settings(min_snr=5.0))
    with torch.no_grad():
        one, other = plain(batch, draws(1)), weighed(batch, draws(1))
    t = (one.time * 1000).round().long()
    expected = stages.min_snr(plain.model.alphas[t].float(), 5.0, "v")
    torch.testing.assert_close(other.values / one.values, expected)


@pytest.mark.parametrize("block", [10, 24])
def test_super_resolution_compares_the_same_place(monkeypatch, block):
    """The untrained network is trilinear interpolation, which is exact on ramps: any misplaced block would cost 1."""
    n = torch.arange(40.0)
    ramp = (n.view(-1, 1, 1) + 2 * n.view(1, -1, 1) + 3 * n)[None, None]
    monkeypatch.setattr(stages, "coarse_volume", lambda model, films, draws: F.avg_pool3d(ramp, 2))
    stage = stages.SuperResolutionStage(tiny(), settings(), block)
    for seed in range(8):
        loss = stage((torch.zeros(1, 2, 32, 32), ramp, torch.ones_like(ramp)), draws(seed, 1)).values
        assert loss.item() < (0.05 if block == 10 else 0.5)  # blocks at the volume's faces feel the blur's edge


@pytest.mark.parametrize(("share", "films_seen"), [(0.0, {False}), (0.5, {False, True}), (1.0, {True})])
def test_super_resolution_learns_with_and_without_synthetic_inputs(share, films_seen):
    model, asked = tiny(), []
    model.endpoint = lambda films: asked.append(1) or torch.zeros(len(films), 1, 16, 16, 16)
    stage = stage_of("super-resolution", model, synthetic=share)
    seen = set()
    with torch.no_grad():
        for seed in range(8):
            asked.clear()
            stage(batch_of(data_of("super-resolution")), draws(seed))
            seen.add(bool(asked))
    assert seen == films_seen
    assert ("endpoint" in stage.needs) == (share > 0)


# --- who learns ------------------------------------------------------------------------------------------------------


def test_control_starts_as_the_priors_encoder_and_changes_nothing():
    model = tiny(trained=("endpoint",))
    torch.manual_seed(3)
    for parameter in model.prior.parameters():
        nn.init.normal_(parameter, std=0.1)  # a prior that answers
    stage = stage_of("control", model)
    control, prior = model.control.net.state_dict(), model.prior.net.state_dict()
    shared = [key for key in control if key in prior and control[key].shape == prior[key].shape]
    assert any(key.startswith("down_blocks") for key in shared)
    assert all(torch.equal(control[key], prior[key]) for key in shared)
    x, hint, t = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16), torch.tensor([30.0, 900.0])
    with torch.no_grad():
        assert torch.equal(model.prior(x, t, model.control(x, t, hint)), model.prior(x, t))
    stage(batch_of(few()), draws(0)).values.mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in model.prior.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.control.parameters())
    assert list(stage.parameters()) == list(model.control.parameters())  # all that an optimiser is given


@pytest.mark.parametrize("name", NAMES)
def test_only_the_stage_in_training_gets_gradients(name):
    model = answering(tiny(trained=tuple(PARTS)))
    stage = stage_of(name, model)
    networks = {kind.learns: getattr(model, kind.learns) for kind in stages.STAGES.values()}
    for seed in range(4):
        stage(batch_of(data_of(name)), draws(seed)).values.mean().backward()
    learning = [a for a, network in networks.items() if any(p.grad is not None for p in network.parameters())]
    assert learning == [stage.learns]


@pytest.mark.parametrize("name", NAMES)
def test_stages_follow_their_model_to_another_device(name, monkeypatch):
    """On the "meta" device nothing is computed, but tensors left behind on the CPU are refused as on a GPU."""
    monkeypatch.setattr(gaussian, "times", lambda *_: [500, 200])
    monkeypatch.setattr(stages.bridge, "times", lambda *_: [1.0, 0.5])
    model = tiny(trained=tuple(PARTS))
    stage = stage_of(name, model)
    for kind in stages.STAGES.values():
        getattr(model, kind.learns)
    model.to("meta")
    n = 32 if name == "super-resolution" else 16
    for seed in range(3):
        films, target, weight = (torch.empty(2, 2, 32, 32), *(torch.empty(2, 1, n, n, n) for _ in range(2)))
        batch = (films.to("meta"), target.to("meta"), weight.to("meta"))
        assert stage(batch, draws(seed)).values.device.type == "meta"
        assert stage.volume(batch, draws(seed)).shape == (2, 1, n, n, n)


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_activations_give_the_same_gradients_in_less_memory(name):
    gradients, bytes_ = [], []
    for again in (False, True):
        stage = stage_of(name, answering(tiny(trained=("endpoint",))))
        if name == "super-resolution":
            stage.trained.join.weight.data.fill_(0.1)
        if name == "control":
            stage.trained.net.controlnet_mid_block.conv.weight.data.fill_(0.1)
        if again:
            recompute(stage.trained)
        stage.trained.requires_grad_(True)
        saved = []

        def keep(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = stage(batch_of(data_of(name)), draws(1)).values.mean()
        loss.backward()
        gradients.append([p.grad for p in stage.trained.parameters() if p.grad is not None])
        bytes_.append(sum(saved))
    assert len(gradients[0]) == len(gradients[1]) > 0
    torch.testing.assert_close(gradients[0], gradients[1])
    assert bytes_[1] < 0.8 * bytes_[0]


# --- draws -----------------------------------------------------------------------------------------------------------


def test_draws_follow_from_seed_step_and_sample_alone():
    like = torch.empty(2, 1, 4, 4, 4)

    def drawn(seed: int, step: int, samples: list[int]) -> tuple[float, torch.Tensor, torch.Tensor]:
        d = Draws(seed, step, samples, 4)
        return d.number(), d.stratified(), d.noise(like[: len(samples)])

    number, times, noise = drawn(1, 5, [0, 2])
    assert number == drawn(1, 5, [3])[0]  # all parts of a step share it
    for place, sample in enumerate((0, 2)):
        _, t, n = drawn(1, 5, [sample])
        assert torch.equal(times[place], t[0]) and torch.equal(noise[place], n[0])
    for other in ((2, 5, [0, 2]), (1, 6, [0, 2]), (1, 5, [1, 3])):
        assert not torch.equal(noise, drawn(*other)[2])
    assert abs(float(Draws(0, 0, [0], 1).noise(torch.empty(1, 40, 40)).std()) - 1) < 0.1


def test_stratified_draws_once_in_each_stratum():
    for seed in range(20):
        assert (draws(seed, 8).stratified() * 8).floor().tolist() == list(range(8))


def test_every_case_comes_once_in_each_epoch_in_another_order():
    epochs = [[case_index(3, 5 * epoch + k, 5) for k in range(5)] for epoch in range(6)]
    assert all(sorted(index - 5 * epoch for index in order) == list(range(5)) for epoch, order in enumerate(epochs))
    assert len({tuple(index % 5 for index in order) for order in epochs}) > 1


# --- EMA, rate, settings ---------------------------------------------------------------------------------------------


def test_ema_follows_its_law():
    layer = nn.Linear(1, 1, bias=False)
    layer.register_buffer("count", torch.tensor(0))
    layer.weight.data.fill_(0.0)
    ema, expected = EMA(layer, 0.6), 0.0
    for n in range(1, 30):
        layer.weight.data.fill_(math.sin(n))
        layer.count.fill_(n)
        ema.update(layer)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * math.sin(n)
        assert float(ema.average["weight"]) == pytest.approx(expected, abs=1e-6)
    assert int(ema.average["count"]) == 29
    again = EMA(nn.Linear(1, 1, bias=False), 0.6)
    again.average["count"] = torch.tensor(0)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 29 and torch.equal(again.average["weight"], ema.average["weight"])
    own = layer.weight.clone()
    with ema.applied(layer):
        assert torch.equal(layer.weight, ema.average["weight"])
    assert torch.equal(layer.weight, own)


def test_rate_warms_up_and_falls_to_three_percent():
    s = StageSettings(steps=1000, lr=2.0, warmup=50)
    rates = [learning_rate(step, 1000, s) for step in range(1001)]
    assert rates[0] == pytest.approx(2.0 / 50, rel=1e-3)
    assert rates[24] == pytest.approx(1.0, rel=0.01)
    assert max(rates) == pytest.approx(2.0, rel=0.01) and 45 <= rates.index(max(rates)) <= 55
    assert all(later < earlier for earlier, later in pairwise(rates[50:]))
    assert rates[500] == pytest.approx(2.0 * (0.03 + 0.97 / 2), rel=1e-6)
    assert rates[1000] == pytest.approx(0.06)


def test_the_papers_rates():
    coarse, sr = load_settings("paper", "coarse"), load_settings("paper", "super-resolution")
    assert {learning_rate(step, 100, coarse) for step in range(100)} == {1e-4}
    rates = [learning_rate(step, 100, sr) for step in range(101)]
    assert rates[0] == 2e-4 and rates[100] == pytest.approx(2e-5)
    assert all(b / a == pytest.approx(0.1**0.01) for a, b in pairwise(rates))  # exponential: one ratio
    assert (coarse.weight_decay, coarse.batch, coarse.micro) == (0.0, 4, 2)
    epochs = [load_settings("paper", name).epochs for name in ("coarse", "prior", "control", "super-resolution")]
    assert epochs == [90, 320, 150, 56]
    assert load_settings("paper", "prior").total(983) == math.ceil(320 * 983 / 4)
    assert len(gaussian.alpha_bars()) == 1000


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_says_how_each_stage_is_trained(preset):
    for name in NAMES:
        s = load_settings(preset, name)
        assert s.total(100) > 0
        stage_steps = changed(s, steps=7, lr=None)
        assert stage_steps.total(100) == 7 and stage_steps.lr == s.lr


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"epochs": 1}, {"schedule": "linear"}, {"precision": "8"}, {"lr": 0.0}, {"ema": 1.5}, {"batch": 0}],
)
def test_impossible_settings_are_told(change):
    with pytest.raises(ConfigError) as caught:
        settings(**change)
    assert caught.value.code == "training.setting" and caught.value.advice


def test_a_preset_without_training_is_told(tmp_path):
    path = tmp_path / "mine.toml"
    text = (Path(stages.__file__).parents[1] / "presets" / "tiny.toml").read_text(encoding="utf-8")
    path.write_text(text.split("[training]")[0], encoding="utf-8")
    assert load_preset(str(path)) == load_preset("tiny")
    with pytest.raises(ConfigError, match="how to train"):
        load_settings(str(path), "prior")
    path.write_text(text.replace("warmup = 5", "warmap = 5"), encoding="utf-8")
    with pytest.raises(ConfigError, match="warmap"):
        load_settings(str(path), "prior")


# --- the estimate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_estimate_counts_what_the_stage_does(name):
    from torch.utils.flop_counter import FlopCounterMode

    s = settings(batch=4, micro=2)
    found = estimates.estimate(name, load_preset("tiny"), s, 10, rate=1e9)
    model = AxonModel(load_preset("tiny"), ModelCard(stages=("endpoint", "coarse")))
    stage = stages.STAGES[name](model, s)
    with FlopCounterMode(display=False) as counter:
        stage(batch_of(data_of(name)), draws(0)).values.mean().backward()
    assert found.parameters == parameter_count(stage.trained)
    assert found.flop == pytest.approx(2 * counter.get_total_flops(), rel=0.05)
    assert found.steps == 6 and found.seconds == pytest.approx(6 * found.flop / 1e9)
    whole = estimates.estimate(name, load_preset("tiny"), settings(batch=4), 10, rate=1e9)
    assert whole.flop == pytest.approx(found.flop, rel=0.01) and whole.memory > found.memory
    assert found.memory > 5 * 4 * found.parameters


def test_the_peak_is_that_of_tensors_alive_at_the_same_time():
    with estimates.Peak() as peak:
        for _ in range(5):
            a = torch.empty(1000, device="meta")  # 4,000 bytes
            b = a + 1
            del a, b
    assert peak.bytes == 8000 and peak.now == 0


def test_the_rate_is_a_rate():
    assert 1e7 < estimates.training_rate(torch.device("cpu"), "32", seconds=0.05) < 1e14

"""The same numbers on a GPU as on the CPU. These tests run where PyTorch sees an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from axon_core import resources
from axon_core.data.cases import Case
from axon_core.data.phantom import thorax
from axon_core.data.pool import PairPool
from axon_core.drr.projector import Projector
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView
from axon_core.intensity import WINDOWS, hu_to_mu
from axon_core.model import AxonModel
from axon_core.pipeline import reconstruct
from axon_core.radiograph import Radiograph
from axon_core.training.settings import StageSettings
from axon_core.training.stages import STAGES
from axon_core.training.trainer import make_fabric, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU")


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    """Without TF32, whose products have ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def phantom() -> Case:
    grid = CanonicalGrid(64)
    return Case("phantom", thorax(3, grid), np.ones(64, bool), grid)


def test_projector_agrees_and_passes_gradients(phantom):
    geometry = XrayGeometry(XrayView.PA, 96)
    films, slopes = [], []
    for device in ("cpu", "cuda"):
        mu = hu_to_mu(torch.from_numpy(phantom.hu)).to(device).requires_grad_()
        film = Projector(mu, phantom.grid.affine, XrayView.PA.beam)(geometry, RigidPose((0.1, 0.05, 0.0), (5, 0, 0)))
        film.square().mean().backward()
        films.append(film.detach().cpu())
        slopes.append(mu.grad.cpu())
    torch.testing.assert_close(*films, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-6)


def test_pool_draws_the_same_chests_and_looks(phantom):
    pools = [PairPool([phantom], 3, 32, 64, WINDOWS["wide"], device, seed=5) for device in ("cpu", "cuda")]
    for index in (0, 2, 7):
        for ours, theirs in zip(*(pool[index] for pool in pools), strict=True):
            assert theirs.device.type == "cuda"
            assert float((ours - theirs.cpu()).abs().mean()) < 1e-3


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_a_seed_gives_the_same_volume(preset, monkeypatch):
    monkeypatch.setattr("axon_core.pipeline.bfloat16_pays", lambda *_: False)
    film = Radiograph.load(next((resources.folder() / "Samples").glob("*.png")))
    model = AxonModel.from_pretrained("axon-small")
    ours, theirs = (reconstruct(film, model=model, preset=preset, seeds=(4,), device=d) for d in ("cpu", "cuda"))
    assert ours.stages.keys() == theirs.stages.keys()
    for name, volume in ours.stages.items():
        assert float(np.abs(volume.hu - theirs.stages[name].hu).mean()) < 1.0, name


@pytest.mark.parametrize("stage", list(STAGES))
def test_training_takes_the_same_first_steps(stage, phantom, tmp_path: Path):
    curves = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = AxonModel.from_preset("tiny")
        size = model.config.size * STAGES[stage].enlarges
        pool = PairPool([phantom], 4, size, model.config.film_size, model.config.hu_window, device, seed=1)
        losses: list[float] = []
        settings = StageSettings(steps=20, batch=4, lr=1e-3)
        fabric = make_fabric("32", device)
        train(
            STAGES[stage](model, settings), pool, tmp_path / device, fabric,
            tell=lambda event, to=losses: to.append(event["loss"]) if event["type"] == "progress" else None,
        )  # fmt: skip
        curves.append(losses)
    assert len(curves[0]) == 2
    assert curves[1] == pytest.approx(curves[0], rel=0.02)

"""A film on disk and an untrained model on disk, for the tests that go from files to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def film_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn PA film, 200 x 160 pixels: bright body, two dark lungs, a bright spine."""
    from PIL import Image

    row, column = np.mgrid[-1:1:200j, -1:1:160j]
    body = 150.0 * ((column / 0.9) ** 2 + (row / 1.1) ** 2 < 1)
    for side in (-0.42, 0.42):
        body -= 90.0 * (((column - side) / 0.3) ** 2 + (row / 0.65) ** 2 < 1)
    body += 60.0 * (np.abs(column) < 0.08)
    path = tmp_path_factory.mktemp("film") / "chest.png"
    noise = np.random.default_rng(0).normal(0, 2, body.shape)
    Image.fromarray((np.clip(body + 20 + noise, 0, 255)).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of preset "tiny" as initialised: it computes fast and draws nonsense."""
    import torch

    from axon_core.model import PARTS, AxonModel, ModelCard

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    card = ModelCard(title="untrained", licence="none", data="none", stages=tuple(PARTS), default_stages=tuple(PARTS))
    AxonModel.from_preset("tiny").save_pretrained(folder, card)
    return folder


@pytest.fixture
def plain_convolutions():
    """Without oneDNN, with whose kernels the last bit may differ between two calls."""
    import torch

    with torch.backends.mkldnn.flags(enabled=False):
        yield

"""Every score of one volume against one CT, by the names that the tables print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from axon_core.ctvolume import CTVolume
from axon_core.errors import VolumeError
from axon_core.evaluation.metrics import (
    SSIM_NAMES,
    SSIM_WINDOW,
    edge_sharpness,
    mae,
    mse,
    ncc,
    psnr,
    ssim3d,
    ssim_slices,
    x2ct_psnr,
)
from axon_core.evaluation.spectrum import spectrum_ratio
from axon_core.evaluation.tissue import Tissues, lung_volume_ml, mae_hu, ml, tissues
from axon_core.geometry import CanonicalGrid, XrayView
from axon_core.intensity import WIDE, HuWindow
from axon_core.pipeline import reproject

FILM_VIEWS = {"frontal": XrayView.PA, "lateral": XrayView.LAT}


@dataclass(frozen=True)
class Metric:
    """How a score is read.

    Attributes:
        name: in tables.
        unit: of its values, "" for none.
        best: "low", "high", or "1" where one is as the truth.
        digits: after the point, in tables.
        definition: one line.
    """

    name: str
    unit: str
    best: str
    digits: int
    definition: str


METRICS = {
    metric.name: metric
    for metric in (
        Metric("MAE", "", "low", 4, "mean absolute error on [0, 1] of the HU window"),
        Metric("MSE", "", "low", 4, "mean squared error on [0, 1] of the HU window"),
        Metric("PSNR", "dB", "high", 2, "10 log10(1 / MSE) of each case, data range 1"),
        Metric("SSIM", "", "high", 3, SSIM_NAMES["valid"]),
        Metric("SSIM zero-padded", "", "high", 3, SSIM_NAMES["zero"]),
        Metric("SSIM slice-wise", "", "high", 3, SSIM_NAMES["slices"]),
        Metric(
            "PSNR X2CT", "dB", "high", 2, "PSNR + 4.29 dB: X2CT-GAN's peak of 4095 over 2500 HU; only beside its own"
        ),
        Metric("edges", "", "1", 2, "mean gradient over that of the CT: below 1 blurred, above 1 grainy"),
        Metric("spectrum", "", "1", 2, "power at 0.25 to 0.5 cycles per voxel over that of the CT"),
        Metric("MAE body", "HU", "low", 0, "mean absolute error inside the CT's body, clipped to [-1000, 1000] HU"),
        Metric("MAE lung", "HU", "low", 0, "the same inside the CT's lungs (below -400 HU inside the body)"),
        Metric("MAE bone", "HU", "low", 0, "the same inside the CT's bone (above 300 HU inside the body)"),
        Metric("lung volume error", "ml", "low", 0, "|volume of the lungs - that of the CT's|, the same threshold"),
        Metric(
            "NCC frontal",
            "",
            "high",
            3,
            "normalised cross-correlation of the re-projected volume with the frontal film",
        ),
        Metric("NCC lateral", "", "high", 3, "the same with the lateral film"),
    )
}


def scores(
    pred: Any,
    truth: Any,
    spacing_mm: float,
    window: HuWindow = WIDE,
    known: Any = None,
    tissue: Tissues | None = None,
) -> dict[str, float]:
    """All scores of a volume that need no film; see `METRICS`.

    Args:
        pred: (n, n, n) HU, ``[z, y, x]``; outside the window it is clipped.
        truth: the same shape; the CT without couch, see `data.cases`.
        spacing_mm: edge of a voxel.
        window: in which errors are taken on [0, 1].
        known: (n,) bool: the slices that the CT covers; all if None. Only they are judged.
        tissue: of the truth, where they are at hand.

    Errors:
        VolumeError: shapes differ, or too few known slices.
    """
    p, t = (np.asarray(v.detach().cpu() if isinstance(v, torch.Tensor) else v, np.float64) for v in (pred, truth))
    inside = np.ones(len(t), bool) if known is None else np.asarray(known, bool)
    if p.shape != t.shape or p.ndim != 3 or inside.sum() < SSIM_WINDOW:
        raise VolumeError(
            "scores.shape",
            f"Cannot score a volume of shape {p.shape} against {t.shape}, {int(inside.sum())} slices known.",
            f"Both must be of one shape, with {SSIM_WINDOW} known slices or more.",
        )
    found = tissue or tissues(t, spacing_mm)
    a, b = (0.5 * (window.encode(v[inside]) + 1.0) for v in (p, t))
    return {
        "MAE": mae(a, b),
        "MSE": mse(a, b),
        "PSNR": psnr(a, b),
        "SSIM": ssim3d(a, b),
        "SSIM zero-padded": ssim3d(a, b, "zero"),
        "SSIM slice-wise": ssim_slices(a, b),
        "PSNR X2CT": x2ct_psnr(a, b),
        "edges": edge_sharpness(a, b),
        "spectrum": spectrum_ratio(a, b),
        "MAE body": mae_hu(p[inside], t[inside], found.body[inside]),
        "MAE lung": mae_hu(p[inside], t[inside], found.lung[inside]),
        "MAE bone": mae_hu(p[inside], t[inside], found.bone[inside]),
        "lung volume error": abs(lung_volume_ml(p, spacing_mm, inside) - ml(found.lung, spacing_mm, inside)),
    }


def projection_ncc(hu: Any, films: Mapping[str, Any], extent_mm: float = CanonicalGrid.extent_mm) -> dict[str, float]:
    """How well the films that a volume would cast agree with the films that were given.

    Args:
        hu: (n, n, n) HU on the cube around the isocentre. A narrow HU window has lost the lung, and its number means
            little.
        films: "frontal" and perhaps "lateral" -> (p, p) in [-1, 1]. Margins of -1 around a real film are not looked at.
        extent_mm: edge of the cube.

    Returns:
        "NCC frontal", "NCC lateral" of those given.
    """
    array = np.asarray(hu.detach().cpu() if isinstance(hu, torch.Tensor) else hu, np.float32)
    volume = CTVolume.from_grid(array, CanonicalGrid(len(array), extent_mm))
    found = {}
    for name, film in films.items():
        image = np.asarray(film, np.float32)
        made = reproject(volume, FILM_VIEWS[name], image.shape[-1])
        found[f"NCC {name}"] = ncc(made[_exposed(image)], image[_exposed(image)])
    return found


def _exposed(film: np.ndarray) -> tuple[slice, slice]:
    """The rectangle outside of which the film is black; all of a film that is black altogether."""
    rows, columns = (np.flatnonzero((film > -1.0).any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

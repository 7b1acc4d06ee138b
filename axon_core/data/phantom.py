"""Procedural chests: unlimited CT-like volumes for training and for tests, no patient involved.

A chest is drawn in two steps. `Anatomy.sample` draws one person (sizes, positions, HU). Then every organ is painted
onto a `Canvas` by a small function, later over earlier: fat, muscle, abdomen, heart, lungs, vessels, airways, bones.
Only the broad layout is anatomical: sizes, HU and orientation resemble real chest CTs; the rest is good enough to learn
from.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from axon_core.data.phantom_body import (
    cage_distance,
    paint_abdomen,
    paint_body,
    paint_breasts,
    paint_great_vessels,
    paint_heart,
)
from axon_core.data.phantom_bones import paint_ribs, paint_shoulders, paint_spine, paint_sternum
from axon_core.data.phantom_canvas import Canvas, Shape, texture
from axon_core.data.phantom_lungs import lung_mask, paint_airways, paint_findings, paint_lung_vessels, paint_lungs
from axon_core.data.phantom_person import Anatomy
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid

BLUR_MM = 1.4  # sd of the scanner's blur


def thorax(seed: int, grid: CanonicalGrid) -> np.ndarray:
    """One random chest.

    Args:
        seed: a whole number >= 0; the same seed gives the same person on every grid (twigs and noise differ).
        grid: the cube to fill, 360 mm or so; its centre is the chest's centre.

    Returns:
        HU in [-1024, 1500], float32 ``[z, y, x]``, LPS axes. The body goes on to the cube's bottom (abdomen) and
        top (neck, and arms if raised).

    Raises:
        ConfigError: the seed is negative.
    """
    if seed < 0:
        raise ConfigError("phantom.seed", f"Phantom seed {seed} is negative.", "Give a whole number from 0 upwards.")
    rng = np.random.default_rng(seed)
    person = Anatomy.sample(rng)
    canvas = Canvas(grid)
    cage = cage_distance(person, canvas)
    paint_body(person, canvas)
    paint_breasts(person, canvas, rng)
    canvas.paint(Shape(canvas.all, canvas.soft(cage + 5.0)), person.mediastinum_hu)
    lungs = lung_mask(person, canvas, cage)
    paint_abdomen(person, canvas, cage, rng)
    paint_heart(person, canvas, rng)
    paint_lungs(person, canvas, lungs, rng)
    paint_great_vessels(person, canvas)
    paint_lung_vessels(person, canvas, lungs, rng)
    paint_airways(person, canvas, rng)
    paint_findings(person, canvas, lungs, rng)
    paint_spine(person, canvas, rng)
    paint_ribs(person, canvas, rng)
    paint_sternum(person, canvas)
    paint_shoulders(person, canvas, cage, rng)
    scan(person, canvas, rng)
    return np.clip(canvas.hu, -1024.0, 1500.0)


def scan(person: Anatomy, canvas: Canvas, rng: np.random.Generator) -> None:
    """The scanner's blur and noise; soft tissue is a little uneven."""
    gaussian_filter(canvas.hu, BLUR_MM / canvas.spacing, output=canvas.hu, truncate=2.5)
    uneven = texture(canvas, rng, knots=28) * np.float32(7.0)
    uneven *= canvas.hu > -300.0
    canvas.hu += uneven
    grain = rng.standard_normal(canvas.hu.shape, dtype=np.float32)
    gaussian_filter(grain, 0.6, output=grain, truncate=2.0)
    canvas.hu += grain * np.float32(person.noise_hu / grain.std())

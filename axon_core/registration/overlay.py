"""The picture that lets a person judge a registration: film and DRRs, side by side and over each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from axon_core.geometry import RigidPose
from axon_core.registration.pose import LEVELS, Film, Registrar, Registration
from axon_core.registration.similarity import valid_mask

if TYPE_CHECKING:
    from PIL import Image

TILE, GAP, CAPTION = 384, 8, 26
TILES_ACROSS = 8  # of the checkerboard


def draw_overlay(
    registration: Registration, films: Sequence[Film], registrar: Registrar, start: RigidPose
) -> Image.Image:
    """One row per film."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [
        _tiles(film, before, after)
        for film, (before, after) in zip(films, _drrs(registration, films, registrar, start), strict=True)
    ]
    width = GAP + len(rows[0]) * (TILE + GAP)
    sheet = Image.new("RGB", (width, 40 + len(rows) * (TILE + CAPTION + GAP)), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), _headline(registration), (235, 235, 235), ImageFont.load_default(18))
    for row, tiles in enumerate(rows):
        top = 40 + row * (TILE + CAPTION + GAP)
        for column, (title, tile) in enumerate(tiles):
            left = GAP + column * (TILE + GAP)
            draw.text((left, top), title, (170, 170, 180), ImageFont.load_default(15))
            picture = Image.fromarray((tile.clip(0, 1) * 255).astype(np.uint8)).convert("RGB")
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, top + CAPTION))
    return sheet


def _headline(found: Registration) -> str:
    before, after = (", ".join(f"{value:.2f}" for value in values) for values in (found.before, found.after))
    angles = ", ".join(f"{value:+.1f}°" for value in np.rad2deg(found.pose.rotation))
    shift = ", ".join(f"{value:+.0f}" for value in found.pose.translation)
    return f"{found.verdict}: similarity {before} -> {after}; turned {angles}; moved {shift} mm"


def _drrs(
    registration: Registration, films: Sequence[Film], registrar: Registrar, start: RigidPose
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Line integrals of each film's view at the start and at the end, on the film's own pixels."""
    pairs = []
    for film, geometry in zip(films, registration.geometry, strict=True):
        projector = registrar.projector(len(LEVELS) - 1, geometry.view.is_frontal)
        with torch.inference_mode():
            before, after = projector(film.geometry, start)[0], projector(geometry, registration.pose)[0]
        pairs.append((before.numpy(), after.numpy()))
    return pairs


def _tiles(film: Film, before: np.ndarray, after: np.ndarray) -> list[tuple[str, np.ndarray]]:
    mask = valid_mask(torch.from_numpy(np.ascontiguousarray(film.image, np.float32))).numpy()
    mask = mask if film.mask is None else film.mask
    shown = _ranked(film.image, mask)
    first, last = (_ranked(drr, mask) for drr in (before, after))
    n = shown.shape[0]
    board = np.add.outer(np.arange(n) * TILES_ACROSS // n, np.arange(n) * TILES_ACROSS // n) % 2 == 0
    return [
        ("film", shown),
        ("DRR before", first),
        ("DRR after", last),
        ("checkerboard", np.where(board, shown, last)),
        ("edges of the DRR on the film", _edges_on(shown, last)),
        ("film red, DRR cyan", np.stack([shown, last, last], -1)),
    ]


def _ranked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Brightness by rank inside the mask, 0 to 1: film and DRR come out in one grey scale."""
    shares = np.linspace(0, 1, 257)
    return np.interp(image, np.quantile(image[mask], shares), shares)


def _edges_on(film: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """(h, w, 3): the strongest tenth of the DRR's edges in yellow over the film."""
    strength = ndimage.gaussian_gradient_magnitude(drr, drr.shape[0] / 256)
    edges = np.clip(strength / np.quantile(strength, 0.97), 0, 1) ** 2
    colour = np.array([1.0, 0.85, 0.1])
    return 0.8 * film[..., None] * (1 - edges[..., None]) + edges[..., None] * colour

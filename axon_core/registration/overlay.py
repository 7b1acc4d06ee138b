"""The pictures that let a person judge a registration: film and DRR over each other, and the sheet of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from axon_core.errors import ConfigError
from axon_core.geometry import RigidPose
from axon_core.registration.pose import LEVELS, Film, Registrar, Registration
from axon_core.registration.similarity import valid_mask

if TYPE_CHECKING:
    from PIL import Image

MODES = ("opacity", "checkerboard", "curtain", "red-cyan", "edges", "difference")
TILE, GAP, CAPTION = 384, 8, 26
TILES_ACROSS = 8  # of the checkerboard
BINS = 4096  # of brightness, between which ranks are not told apart
SAMPLE = 65536  # pixels at most from which ranks are learnt
EDGE_PIXELS = 512  # along a picture in which edges are sought
EDGE_COLOUR = (255, 217, 26)


class Comparison:
    """A film over which DRRs are laid, one after the other; what depends on the film alone is computed once.

    Film and DRR are brought to one grey scale: brightness is the rank among the valid pixels.

    Args:
        film: (h, w), bone bright, any scale.
        mask: (h, w) bool, valid pixels; all of them when None or when none is valid.
    """

    def __init__(self, film: np.ndarray, mask: np.ndarray | None = None) -> None:
        self.mask = np.ones(film.shape, bool) if mask is None or not mask.any() else mask
        valid = np.flatnonzero(self.mask)
        self.sample = valid[:: -(-len(valid) // SAMPLE)]
        self.film = self.grey(film)

    def grey(self, image: np.ndarray) -> np.ndarray:
        """(h, w) uint8: the share of valid pixels that are darker, half of the equal ones among them, times 255."""
        sample = image.ravel()[self.sample]
        low, high = float(sample.min()), float(sample.max())
        scale = (BINS - 1) / (high - low) if high > low else 0.0
        bins = ((image - low) * scale + 0.5).clip(0, BINS - 1).astype(np.intp)
        counts = np.bincount(bins.ravel()[self.sample], minlength=BINS)
        ranks = (np.cumsum(counts) - 0.5 * counts) / len(self.sample)
        return np.rint(255 * ranks).astype(np.uint8).take(bins)

    def picture(self, drr: np.ndarray, mode: str, amount: float = 0.5) -> np.ndarray:
        """Film and DRR in one picture.

        Args:
            drr: (h, w), bone bright, any scale.
            mode: "opacity" blends them, "checkerboard" alternates them, "curtain" shows the DRR left and the film right
                of a line, "red-cyan" is grey where they agree, "edges" draws the DRR's on the film where it is
                valid, "difference" is mid-grey where they agree and bright where the DRR is brighter.
            amount: in [0, 1], the DRR's share in "opacity" and the line's place in "curtain"; of no effect elsewhere.

        Returns:
            (h, w, 3) uint8.

        Errors:
            ConfigError: unknown mode.
        """
        film, amount = self.film, min(max(amount, 0.0), 1.0)
        if mode == "edges":
            return _edges_on(film, drr, self.mask)
        other = self.grey(drr)
        if mode == "opacity":
            share = round(256 * amount)
            return _rgb(
                (film.astype(np.uint16) * (256 - share) + other.astype(np.uint16) * share >> 8).astype(np.uint8)
            )
        if mode == "checkerboard":
            rows, columns = (np.arange(n) * TILES_ACROSS // n for n in film.shape)
            return _rgb(np.where(np.add.outer(rows, columns) % 2 == 0, film, other))
        if mode == "curtain":
            return _rgb(np.where(np.arange(film.shape[1]) < amount * film.shape[1], other, film))
        if mode == "red-cyan":
            return np.stack([film, other, other], -1)
        if mode == "difference":
            return _rgb((128 + (other.astype(np.int16) - film) // 2).astype(np.uint8))
        raise ConfigError("overlay.mode", f"There is no comparison {mode!r}.", f"Choose one of {', '.join(MODES)}.")


def compare(
    film: np.ndarray, drr: np.ndarray, mode: str, amount: float = 0.5, mask: np.ndarray | None = None
) -> np.ndarray:
    """One picture of film and DRR, (h, w, 3) uint8; see `Comparison`."""
    return Comparison(film, mask).picture(drr, mode, amount)


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
            picture = Image.fromarray(tile).convert("RGB")
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
    shown = Comparison(film.image, mask if film.mask is None else film.mask)
    return [
        ("film", shown.film),
        ("DRR before", shown.grey(before)),
        ("DRR after", shown.grey(after)),
        ("checkerboard", shown.picture(after, "checkerboard")),
        ("edges of the DRR on the film", shown.picture(after, "edges")),
        ("film red, DRR cyan", shown.picture(after, "red-cyan")),
    ]


def _edges_on(film: np.ndarray, drr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: the strongest edges of the DRR over the film (h, w) uint8, inside the mask.

    Their width is a share of the picture's; beyond `EDGE_PIXELS` they are sought in block means.
    """
    step = max(1, min(drr.shape) // EDGE_PIXELS)
    whole = np.pad(drr, [(0, -n % step) for n in drr.shape], "edge").astype(np.float32)
    blocks = np.sum([whole[row::step, column::step] for row in range(step) for column in range(step)], axis=0)
    strength = ndimage.gaussian_gradient_magnitude(blocks, len(blocks) / 256)
    inside = mask[::step, ::step]
    strong = strength[inside] if inside.any() else strength.ravel()
    edges = np.clip(strength / (np.quantile(strong[:: -(-len(strong) // SAMPLE)], 0.97) + 1e-12), 0, 1) ** 2 * inside
    edges = edges.repeat(step, 0).repeat(step, 1)[: drr.shape[0], : drr.shape[1]]
    below = film * (0.8 - 0.8 * edges)
    picture = np.empty((*film.shape, 3), np.uint8)
    for channel, bright in enumerate(EDGE_COLOUR):
        picture[..., channel] = below + edges * bright
    return picture


def _rgb(grey: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3)."""
    picture = np.empty((*grey.shape, 3), np.uint8)
    for channel in range(3):
        picture[..., channel] = grey
    return picture

"""From a logarithmic film to what a chest film looks like: one plain look, and random looks for training.

What a department's workstation does with the logarithm of the detector's signal: a window on the body, structures of
some sizes made stronger, a tone curve, a collimated border and a lead letter. The result ends where
`radiograph.standardise` ends: robust percentiles of the exposed area mapped onto [-1, 1], bone bright.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from axon_core.drr.blur import blur, blur_each

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
BODY = 0.5  # line integral above which a ray has passed the body: 2.5 cm of tissue
SCALES = (0.005, 0.02, 0.08)  # blurs that part the bands of detail, as shares of the film's width
LETTERS = {  # 5 x 7 dots
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}


def stretch(film: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Map the 0.5 and 99.5 percentiles of `film` (..., h, w) inside `mask` onto -1 and 1, and clip."""
    return (2 * windowed(film, mask, LOW_PERCENTILE, HIGH_PERCENTILE) - 1).clamp(-1, 1)


def windowed(
    film: torch.Tensor, mask: torch.Tensor | None, low: float | torch.Tensor, high: float | torch.Tensor
) -> torch.Tensor:
    """Map two percentiles of each `film` (..., h, w) inside `mask` onto 0 and 1; values beyond them go on."""
    shape = film.shape[:-2]
    low, high = (torch.as_tensor(p, dtype=torch.float64).expand(shape).reshape(-1) for p in (low, high))
    values = film.reshape(-1, film.shape[-2] * film.shape[-1])
    count = torch.full((len(values),), values.shape[1])
    if mask is not None:
        values = values.masked_fill(~mask.reshape(values.shape), math.inf)
        count = mask.reshape(values.shape).sum(1).cpu()
    dark, bright = (
        _ranked(values, (p / 100 * (count - 1)).round().long()).view(*shape, 1, 1).to(film) for p in (low, high)
    )
    return (film - dark) / (bright - dark).clamp_min(1e-6)


def _ranked(values: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """The value of each row (B, n) that has `rank` (B,) smaller ones; selecting is quick on CPUs, sorting on GPUs."""
    if values.device.type == "cpu":
        return torch.stack([row.kthvalue(1 + int(k)).values for row, k in zip(values, rank, strict=True)])
    return values.sort(1).values.gather(1, rank.to(values.device)[:, None])[:, 0]


def clinic_look(integrals: torch.Tensor) -> torch.Tensor:
    """The deterministic look: `Look` with its defaults.

    Args:
        integrals: (h, w) line integrals of mu, or the logarithmic film of `physics.attenuation_film`; dimensionless.

    Returns:
        (h, w) in [-1, 1], bone bright.
    """
    return Look().apply(integrals)


def with_detail(film: torch.Tensor, gains: Sequence[float | torch.Tensor]) -> torch.Tensor:
    """Weigh bands of structure, fine to coarse: film + sum_k gain_k (film_k - film_k+1), film_k ever more blurred.

    The linear core of multi-scale enhancement (Vuylsteke and Schoeters, SPIE 2167 (1994) 551). Gains of 0 change
    nothing; negative ones smooth.
    """
    smooth = [film, *(blur(film, scale * film.shape[-1]) for scale in SCALES)]
    for gain, a, b in zip(gains, smooth, smooth[1:], strict=False):
        film = film + gain * (a - b)
    return film


@dataclass(frozen=True)
class Marker:
    """The lead letter that names a side.

    Attributes:
        letter: L or R.
        row, column: its upper left corner, as shares of the film.
        height: as a share of the film's.
        brightness: opacity, 0 to 1.
    """

    letter: str
    row: float
    column: float
    height: float
    brightness: float = 1.0

    def draw(self, film: torch.Tensor) -> None:
        """Put the letter onto (h, w), bright; what falls off the film is lost."""
        dots = torch.tensor([[dot == "#" for dot in row] for row in LETTERS[self.letter]], dtype=film.dtype)
        height = max(7, round(self.height * film.shape[0]))
        rows = (torch.arange(height) * 7) // height
        columns = (torch.arange(height * 5 // 7) * 7) // height
        opacity = self.brightness * dots[rows][:, columns.clamp_max(4)]
        top, left = round(self.row * film.shape[0]), round(self.column * film.shape[1])
        opacity = opacity[max(0, -top) :, max(0, -left) :].to(film.device)
        under = film[max(0, top) :, max(0, left) :][: len(opacity), : opacity.shape[1]]
        opacity = opacity[: len(under), : under.shape[1]]
        under.copy_(under * (1 - opacity) + opacity)


@dataclass(frozen=True)
class Look:
    """The parameters of one film's processing; `apply` is deterministic given them.

    Attributes:
        window: percentiles of the body's pixels that become dark and bright.
        detail: gains of fine, middle and coarse structures (finer than 1/200, 1/50, 1/12 of the film's width).
        gain: slope of the sigmoid tone curve at its middle, 0 for none.
        gamma: exponent after it.
        blur: detector blur [pixels].
        noise: standard deviation of the noise, in units of the window.
        frame: dark margins (top, bottom, left, right) as shares of the film.
        marker: lead letter, or None.
        seed: of the noise.
    """

    window: tuple[float, float] = (0.5, 99.5)
    detail: tuple[float, float, float] = (2.5, 1.0, 0.6)
    gain: float = 1.5
    gamma: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    frame: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    marker: Marker | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "detail", "frame"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.marker, dict):
            object.__setattr__(self, "marker", Marker(**self.marker))

    def apply(self, integrals: torch.Tensor) -> torch.Tensor:
        """(h, w) line integrals or logarithmic film -> (h, w) film in [-1, 1]."""
        return apply_looks([self], integrals[None])[0]

    def grain(self, shape: torch.Size) -> torch.Tensor:
        """The noise, in units of the window."""
        if self.noise <= 0:
            return torch.zeros(1, 1).expand(shape)
        return self.noise * torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))

    def to_dict(self) -> dict[str, Any]:
        """Parameters for a log: `Look(**d)` is the same look, also after a detour through JSON."""
        return asdict(self)


def apply_looks(looks: Sequence[Look], integrals: torch.Tensor) -> torch.Tensor:
    """Films of many looks at once: (B, h, w) line integrals or logarithmic films -> (B, h, w) in [-1, 1]."""
    film = integrals

    def each(values: Iterable[float]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=film.dtype).to(film.device).view(-1, 1, 1)

    body = integrals > BODY
    body = body | ~body.any(-1, keepdim=True).any(-2, keepdim=True)  # of a film without a body, all of it
    film = windowed(film, body, *(torch.tensor([look.window[end] for look in looks]) for end in (0, 1)))
    film = with_detail(film, [each(look.detail[band] for look in looks) for band in range(len(SCALES))])
    film = toned(film, each(look.gain for look in looks), each(look.gamma for look in looks))
    film = blur_each(film, [look.blur for look in looks])
    film = film + torch.stack([look.grain(film.shape[1:]) for look in looks]).to(film)
    return _framed(film, looks)


def toned(film: torch.Tensor, gain: torch.Tensor | float, gamma: torch.Tensor | float) -> torch.Tensor:
    """The tone curve, rising; without a sigmoid (gain 0), what is darker than the window is black."""
    gain = torch.as_tensor(gain)
    return torch.where(gain > 0, torch.sigmoid(gain * (film - 0.5)), film.clamp(0.0, 1.5)) ** gamma


def _framed(film: torch.Tensor, looks: Sequence[Look]) -> torch.Tensor:
    """Stretched inside the collimated margins, with the letters."""
    height, width = film.shape[-2:]
    margins = torch.tensor([look.frame for look in looks], dtype=torch.float64)
    (top, bottom), (left, right) = (margins[:, :2] * height).round().T, (margins[:, 2:] * width).round().T
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top[:, None]) & (row < height - bottom[:, None])
    columns = (column >= left[:, None]) & (column < width - right[:, None])
    open_ = (rows[:, :, None] & columns[:, None, :]).to(film.device)
    framed = torch.where(open_, stretch(film, open_), torch.full_like(film, -1.0))
    for number, look in enumerate(looks):
        if look.marker:
            look.marker.draw(framed[number])
    return framed


def random_look(generator: torch.Generator) -> Look:
    """A plausible processing, drawn wide: window, detail, tone, noise, blur, collimation and marker vary."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def happens(share: float) -> bool:
        return uniform(0, 1) < share

    frame = (0.0, 0.0, 0.0, 0.0)
    if happens(0.6):  # a film is rarely square, and smaller than the detector on which it is laid
        frame = (uniform(0, 0.07), uniform(0, 0.07), uniform(0, 0.14), uniform(0, 0.14))
    marker = None
    if happens(0.4):
        side = "L" if happens(0.5) else "R"  # the patient's left is on the image's right
        column = uniform(0.8, 0.92) if side == "L" else uniform(0.03, 0.15)
        marker = Marker(side, uniform(0.03, 0.25), column, uniform(0.025, 0.06), uniform(0.6, 1.0))
    return Look(
        window=(uniform(0.0, 2.0), uniform(98.0, 100.0)),
        detail=(uniform(-0.3, 6.0), uniform(-0.2, 2.5), uniform(-0.2, 1.5)),
        gain=uniform(0.5, 4) if happens(0.8) else 0.0,
        gamma=math.exp(uniform(-0.6, 0.35)),
        blur=uniform(0, 1.2) if happens(0.5) else 0.0,
        noise=uniform(0, 0.03),
        frame=frame,
        marker=marker,
        seed=int(torch.randint(2**31, (), generator=generator)),
    )

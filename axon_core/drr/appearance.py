"""From line integrals to what a chest film looks like: one plain look, and random looks for training.

Both end where `radiograph.standardise` ends: robust percentiles of the exposed area mapped onto [-1, 1], bone bright.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5


def stretch(film: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Map the 0.5 and 99.5 percentiles of `film` (h, w) inside `mask` onto -1 and 1, and clip."""
    values = film[mask] if mask is not None else film.flatten()
    last = values.numel() - 1
    low, high = (values.kthvalue(1 + round(p / 100 * last)).values for p in (LOW_PERCENTILE, HIGH_PERCENTILE))
    return (2 * (film - low) / (high - low).clamp_min(1e-6) - 1).clamp(-1, 1)


def clinic_look(integrals: torch.Tensor) -> torch.Tensor:
    """The deterministic look: a logarithmic film (brightness proportional to attenuation), stretched.

    Args:
        integrals: (h, w) line integrals of mu, dimensionless.

    Returns:
        (h, w) in [-1, 1], bone bright.
    """
    return stretch(with_scatter(integrals, fraction=0.25))


def with_scatter(integrals: torch.Tensor, fraction: float) -> torch.Tensor:
    """Mix in `fraction` of the mean transmission of a wide neighbourhood (scatter), and take the log again.

    Scatter fills the dark side of the exposure, which lowers contrast where the body is thick.
    """
    transmission = torch.exp(-integrals)
    scattered = blur(transmission, 0.06 * integrals.shape[-1])
    return -torch.log((1 - fraction) * transmission + fraction * scattered + 1e-6)


def blur(film: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (h, w) with replicated edges; wide kernels run on a reduced image."""
    if sigma <= 0:
        return film
    factor = 2 ** max(0, math.floor(math.log2(sigma / 3))) if sigma > 6 else 1
    image = film[None, None]
    small = F.avg_pool2d(image, factor) if factor > 1 else image
    radius = max(1, math.ceil(3 * sigma / factor))
    offsets = torch.arange(-radius, radius + 1, dtype=film.dtype)
    kernel = torch.exp(-0.5 * (offsets * factor / sigma) ** 2)
    kernel = kernel / kernel.sum()
    small = F.pad(small, (radius,) * 4, mode="replicate")
    small = F.conv2d(F.conv2d(small, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    if factor > 1:
        small = F.interpolate(small, size=film.shape, mode="bilinear", align_corners=False)
    return small[0, 0]


@dataclass(frozen=True)
class Look:
    """The parameters of one film's processing; `apply` is deterministic given them.

    Attributes:
        scatter: share of scattered light.
        gamma: exponent of the tone curve.
        gain: slope of the sigmoid tone curve at its middle, 0 for none.
        detail: boost of structures finer than a twelfth of the film (negative smooths).
        sharpen: boost of structures of a few pixels.
        blur: detector blur [pixels].
        noise: standard deviation of the noise, in units of the stretched range.
        frame: dark margins (top, bottom, left, right) as shares of the film.
        seed: of the noise.
    """

    scatter: float = 0.25
    gamma: float = 1.0
    gain: float = 0.0
    detail: float = 0.0
    sharpen: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    frame: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    seed: int = 0

    def apply(self, integrals: torch.Tensor) -> torch.Tensor:
        """(h, w) line integrals -> (h, w) film in [-1, 1]."""
        height, width = integrals.shape
        film = (stretch(with_scatter(integrals, self.scatter)) + 1) / 2
        film = film + self.detail * (film - blur(film, width / 12)) + self.sharpen * (film - blur(film, width / 100))
        film = stretch(film) * 0.5 + 0.5
        film = film**self.gamma
        if self.gain > 0:
            film = torch.sigmoid(self.gain * (film - 0.5))
        film = blur(film, self.blur)
        if self.noise > 0:
            generator = torch.Generator().manual_seed(self.seed)
            film = film + self.noise * torch.randn(film.shape, generator=generator)
        top, bottom, left, right = self.frame
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[
            round(top * height) : height - round(bottom * height), round(left * width) : width - round(right * width)
        ] = 1
        return torch.where(mask, stretch(film, mask), torch.tensor(-1.0))

    def to_dict(self) -> dict[str, object]:
        """Parameters for a log, so that a film can be made again."""
        return asdict(self)


def random_look(generator: torch.Generator) -> Look:
    """A plausible processing, drawn wide: tone, detail enhancement, noise, blur and letterbox margins vary."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    frame = (0.0, 0.0, 0.0, 0.0)
    if uniform(0, 1) < 0.6:  # a film is rarely square, and smaller than the detector on which it is laid
        frame = (uniform(0, 0.07), uniform(0, 0.07), uniform(0, 0.14), uniform(0, 0.14))
    return Look(
        scatter=uniform(0.0, 0.5),
        gamma=math.exp(uniform(-0.45, 0.45)),
        gain=uniform(2, 7) if uniform(0, 1) < 0.5 else 0.0,
        detail=uniform(-0.2, 1.5),
        sharpen=uniform(-0.3, 1.0),
        blur=uniform(0, 1.2) if uniform(0, 1) < 0.5 else 0.0,
        noise=uniform(0, 0.03),
        frame=frame,
        seed=int(torch.randint(2**31, (), generator=generator)),
    )

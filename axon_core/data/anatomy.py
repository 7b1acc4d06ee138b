"""New chest shapes between and beyond those of a few CTs.

Every CT i is a deformation of one common chest (the atlas): a point x of the atlas lies at A_i(exp(v_i)(x)) in CT i,
where A_i = expm(L_i) is affine and v_i is a stationary velocity field. Velocities and matrix logarithms form a vector
space (Arsigny et al., MICCAI 2006), so any weighted sum of them is again a smooth shape that never folds. A new chest
has the tissue of CT a in a shape w of that space:

    y in the new chest -> exp(v_a)( exp(-v_w)( A_w^-1 y ) ) carried on by A_a into CT a.

Positions are x, y, z in [-1, 1] over the cube, as `grid_sample` wants them. Left and right are never swapped: every
such map keeps orientation. `anatomy_fit` finds the fields.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from axon_core.errors import ConfigError, ModelError
from axon_core.files import atomic_file

SQUARINGS = 4  # exp(v) = exp(v / 16)^16; of v / 16 no chest has moved by more than a third of a lattice cell
LOCAL_CONTROLS = 4  # weights that differ from place to place: control points along each edge, 120 mm apart


@dataclass(frozen=True)
class AnatomyModel:
    """The shapes of a few CTs as logarithms of deformations of their common atlas.

    Attributes:
        names: of the CTs, as `cases.Case` names them.
        digest: sha256 over the CTs that it was fitted on; see `anatomy_fit.digest_of`.
        affine: (n, 3, 4) float64 logarithms L_i (fourth row zero); they sum to zero.
        velocity: (n, 3, m, m, m) float32 v_i at lattice points -1 .. 1 (the outermost on the cube's faces),
            components x, y, z, axes ``[z, y, x]``; they sum to zero.
    """

    names: tuple[str, ...]
    digest: str
    affine: torch.Tensor
    velocity: torch.Tensor

    @functools.cached_property
    def to_case(self) -> torch.Tensor:
        """(n, 3, m, m, m) displacements of exp(v_i), where `velocity` lies."""
        return exponential(self.velocity)

    def to(self, device: torch.device | str) -> AnatomyModel:
        """The model with its fields on `device`."""
        return AnatomyModel(self.names, self.digest, self.affine, self.velocity.to(device))

    def index(self, name: str) -> int:
        """Which of the CTs has this name.

        Errors:
            ConfigError: none has.
        """
        if name not in self.names:
            raise ConfigError(
                "anatomy.unknown-case",
                f"The anatomy model does not know the CT {name}.",
                f"It was fitted on: {', '.join(self.names)}. Fit one on the CTs of this training.",
            )
        return self.names.index(name)

    def shapes(
        self, indices: Sequence[int], generators: Sequence[torch.Generator], strength: float = 1.0
    ) -> torch.Tensor:
        """Random chests, one for each generator, with the tissue of the CTs `indices`.

        A shape's weights are a mixture of its CT's own and of a draw from the CTs' distribution (mean and covariance of
        the logarithms, Gaussian). The draw's share is drawn too, from the CT as it is to a wholly drawn shape. Half of
        its variance differs smoothly from place to place, so that the diaphragm may be one CT's and the shoulders
        another's.

        Args:
            indices: (b,) of the CTs whose HU will be sampled.
            generators: (b,) on the CPU, so that a seed gives the same chest on every device.
            strength: the draw's largest share; 0 gives the CTs as they are, more than 1 exceeds the CTs' spread.

        Returns:
            (b, 3, m, m, m) displacements for `sampling_grid`, where `velocity` lies.
        """
        n = len(self.names)
        drawn = [
            self._weights(index, generator, strength) for index, generator in zip(indices, generators, strict=True)
        ]
        everywhere, local = (torch.stack(part) for part in zip(*drawn, strict=True))
        local = local.to(self.velocity.device)
        local = F.interpolate(local, size=self.velocity.shape[2:], mode="trilinear", align_corners=True)
        return self.deformation(indices, everywhere, everywhere.to(local).view(-1, n, 1, 1, 1) + local)

    def _weights(self, index: int, generator: torch.Generator, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) weights that hold everywhere and (n, k, k, k) that are added at control points."""
        n = len(self.names)
        share = strength * float(torch.rand((), generator=generator))
        own = math.sqrt(max(0.0, 1 - share**2)) * F.one_hot(torch.tensor(index), n)
        half = share * math.sqrt(0.5 / max(1, n - 1))
        everywhere = own + half * torch.randn(n, generator=generator)
        return everywhere, half * torch.randn(n, *[LOCAL_CONTROLS] * 3, generator=generator)

    def deformation(self, indices: Sequence[int], everywhere: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """From chests of given weights to the CTs `indices`: (b, 3, m, m, m) displacements.

        Args:
            indices: (b,) of the CTs.
            everywhere: (b, n) weights of the affine parts.
            weights: (b, n, m, m, m) or (b, n, 1, 1, 1) weights of the velocities, on their device.
        """
        velocity = torch.stack([(w[:, None] * self.velocity).sum(0) for w in weights])
        to_atlas = matrix(-torch.einsum("bn,nij->bij", everywhere.double(), self.affine)).to(velocity)
        here = lattice_points(velocity.shape[-1]).to(velocity).expand_as(velocity)
        inner = moved(to_atlas, here)
        inner = inner + at(exponential(-velocity), inner)
        inner = inner + at(self.to_case[list(indices)], inner)
        return moved(matrix(self.affine[list(indices)]).to(velocity), inner) - here

    def shape(self, index: int, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
        """One of `shapes`: (3, m, m, m)."""
        return self.shapes([index], [generator], strength)[0]

    def between(self, index: int, other: int) -> torch.Tensor:
        """Where the tissue of CT `index` lies in CT `other`: (3, m, m, m) displacements for `sampling_grid`."""
        weights = F.one_hot(torch.tensor([index]), len(self.names)).to(self.velocity)
        return self.deformation([other], weights.cpu(), weights.view(1, -1, 1, 1, 1))[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as safetensors (velocities in half precision), atomically; an existing file is replaced."""
        from safetensors.torch import save_file

        described = {"names": self.names, "digest": self.digest}
        with atomic_file(path, overwrite=True) as temporary:
            save_file(
                {"affine": self.affine, "velocity": self.velocity.cpu().half().contiguous()},
                str(temporary),
                metadata={"axon-anatomy": json.dumps(described)},
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AnatomyModel:
        """Read what `save` wrote.

        Errors:
            ModelError: no such file, or not an anatomy model.
        """
        from safetensors import safe_open

        if not os.path.isfile(path):
            raise ModelError(
                "anatomy.missing", f"There is no file {Path(path).name!r}.", "Make it with `axon data anatomy`."
            )
        try:
            with safe_open(str(path), framework="pt") as file:
                described = json.loads(file.metadata()["axon-anatomy"])
                affine, velocity = file.get_tensor("affine"), file.get_tensor("velocity").float()
            return cls(tuple(described["names"]), str(described["digest"]), affine, velocity)
        except Exception as error:  # safetensors and json raise many kinds; all mean the same to a user
            raise ModelError(
                "anatomy.format", f"{Path(path).name}: not an anatomy model.", "Fit one on the training CTs."
            ) from error


def sampling_grid(displacement: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    """Sampling grid of a shape after another deformation: one warp for both.

    Args:
        displacement: (b, 3, m, m, m) from `AnatomyModel.shape`.
        outer: (b, n, n, n, 3) sampling grid into the new chest, for example `augment.random_deformation`'s.

    Returns:
        (b, n, n, n, 3) sampling grid into the CT.
    """
    points = outer.permute(0, 4, 1, 2, 3)
    return (points + at(displacement, points)).permute(0, 2, 3, 4, 1)


def lattice_points(size: int) -> torch.Tensor:
    """(1, 3, size, size, size) positions of lattice points, the outermost on the cube's faces."""
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z])[None]


def at(field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """A field on lattice points (b, c, m, m, m), at `points` (b, 3, ...), trilinear; constant outside the cube."""
    return F.grid_sample(field, points.permute(0, 2, 3, 4, 1), padding_mode="border", align_corners=True)


def exponential(velocity: torch.Tensor) -> torch.Tensor:
    """Displacements of exp(v) by scaling and squaring: (b, 3, m, m, m) -> the same shape."""
    here = lattice_points(velocity.shape[-1]).to(velocity.device).expand_as(velocity)
    displacement = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        displacement = displacement + at(displacement, here + displacement)
    return displacement


def matrix(logarithm: torch.Tensor) -> torch.Tensor:
    """(..., 3, 4) logarithm of an affine map -> (..., 3, 4) matrix."""
    return torch.matrix_exp(F.pad(logarithm, (0, 0, 0, 1)))[..., :3, :]


def moved(affine: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Apply (b, 3, 4) to points (b, 3, z, y, x)."""
    return torch.einsum("bij,bjzyx->bizyx", affine[..., :3], points) + affine[..., 3, None, None, None]


def smoothed(field: torch.Tensor, radius: int) -> torch.Tensor:
    """Box-averaged over 2 radius + 1 points along each axis; beyond the faces nothing is counted."""
    return F.avg_pool3d(field, 2 * radius + 1, 1, radius, count_include_pad=False)

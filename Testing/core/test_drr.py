"""The projector against analytic truth, and the looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axon_core.drr.projector import Projector
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView

MU = 0.02


def ball(grid_affine: np.ndarray, shape: tuple[int, int, int], center: np.ndarray, radius: float) -> torch.Tensor:
    """Antialiased ball of MU on any lattice: each voxel filled by how deep it lies inside."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    world = np.stack([x, y, z], -1) @ grid_affine[:3, :3].T + grid_affine[:3, 3]
    voxel = np.cbrt(abs(np.linalg.det(grid_affine[:3, :3])))
    inside = np.clip(0.5 + (radius - np.linalg.norm(world - center, axis=-1)) / voxel, 0, 1)
    return torch.from_numpy(MU * inside).float()


def chord(geometry: XrayGeometry, center: np.ndarray, radius: float) -> np.ndarray:
    """Exact line integrals through the ball."""
    rays = geometry.detector() - geometry.source
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    to_center = center - geometry.source
    distance2 = to_center @ to_center - (rays @ to_center) ** 2
    return MU * 2 * np.sqrt(np.clip(radius**2 - distance2, 0, None))


@pytest.mark.parametrize("view", list(XrayView))
@pytest.mark.parametrize(("slab", "tolerance"), [(1, 0.0012), (4, 0.0015)])
def test_ball_gives_its_chord_length(view, slab, tolerance):
    grid, center = CanonicalGrid(160, 240.0), np.array([18.0, -12.0, 25.0])
    geometry = XrayGeometry(view, 256)
    film = Projector(ball(grid.affine, grid.shape, center, 80.0), grid.affine, view.beam, slab)(geometry)[0].numpy()
    truth = chord(geometry, center, 80.0)
    inner = truth > 0.5 * truth.max()  # away from the silhouette, where pixels, not the projector, set the limit
    assert np.abs(film - truth)[inner].mean() < tolerance * truth[inner].mean()
    assert film[truth == 0].max() < 0.3  # the half-filled voxels around the ball


def test_any_lattice_gives_the_same_film():
    """Oblique, flipped and anisotropic voxels of one ball cast the film that a plain grid casts."""
    center, geometry = np.array([10.0, 5.0, -20.0]), XrayGeometry(XrayView.PA, 192)
    turn = RigidPose((0.2, -0.1, 0.3)).matrix[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 2.0, 1.25])
    shape = (192, 110, 150)
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape[::-1]) - 1))
    film = Projector(ball(affine, shape, center, 70.0), affine, geometry.view.beam)(geometry)[0].numpy()
    truth = chord(geometry, center, 70.0)
    inner = truth > 0.5 * truth.max()
    assert np.abs(film - truth)[inner].mean() < 0.003 * truth[inner].mean()


def test_pose_moves_the_patient():
    grid, geometry = CanonicalGrid(120, 240.0), XrayGeometry(XrayView.PA, 192)
    pose = RigidPose((0.05, 0.1, -0.08), (12.0, -30.0, 8.0))
    center = np.array([20.0, 10.0, -15.0])
    film = Projector(ball(grid.affine, grid.shape, center, 50.0), grid.affine, geometry.view.beam)(geometry, pose)[0]
    moved = (pose.matrix @ np.array([*center, 1.0]))[:3]
    truth = chord(geometry, moved, 50.0)
    inner = truth > 0.5 * truth.max()
    assert np.abs(film.numpy() - truth)[inner].mean() < 0.003 * truth[inner].mean()


@pytest.mark.parametrize(
    ("view", "right_of_middle"), [(XrayView.PA, True), (XrayView.AP, True), (XrayView.LAT, True)], ids=lambda v: str(v)
)
def test_marked_corner_lands_where_radiologists_expect(view, right_of_middle):
    """A cube at the patient's left, anterior, superior corner: right and top of every film."""
    grid = CanonicalGrid(48, 240.0)
    volume = torch.zeros(grid.shape)
    volume[36:42, 6:12, 36:42] = MU
    film = Projector(volume, grid.affine, view.beam)(XrayGeometry(view, 64))[0]
    row, column = (film.argmax() // 64).item(), (film.argmax() % 64).item()
    assert row < 28
    assert (column > 36) == right_of_middle


def test_projection_is_linear_with_an_exact_adjoint():
    """<A x, y> = <x, A' y> in float64, A' by differentiation."""
    grid, geometry = CanonicalGrid(12, 200.0), XrayGeometry(XrayView.PA, 16)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(grid.shape, generator=generator, dtype=torch.float64, requires_grad=True)
    film = Projector(x, grid.affine, geometry.view.beam)(geometry)
    y = torch.rand(film.shape, generator=generator, dtype=torch.float64)
    inner = (film * y).sum()
    inner.backward()
    assert float((x.detach() * x.grad).sum()) == pytest.approx(float(inner.detach()), rel=1e-9)


def test_bad_volume_is_refused():
    with pytest.raises(ConfigError):
        Projector(torch.zeros(3, 3), np.eye(4), XrayView.PA.beam)

"""The projector against analytic truth: chords, an impulse, its adjoint, its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axon_core.drr.projector import Projector
from axon_core.errors import AxonError
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView

MU = 0.02
SETTINGS = {"exact": (1, None), "fine": (2, None), "interactive": (4, torch.float16)}


def lattice_points(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(3, z, y, x) float32 LPS of every voxel's centre."""
    z, y, x = (np.arange(n, dtype=np.float32) for n in shape)
    rows = affine[:3].astype(np.float32)
    return np.stack([a * x + (b * y)[:, None] + (c * z + d)[:, None, None] for a, b, c, d in rows])


def ball(affine: np.ndarray, shape: tuple[int, int, int], center: np.ndarray, radius: float) -> torch.Tensor:
    """Ball of MU on any lattice; each voxel at its surface is filled by the share of 4 x 4 x 4 points inside."""
    points = lattice_points(affine, shape) - center.astype(np.float32)[:, None, None, None]
    distance = np.sqrt((points**2).sum(0))
    filled = (distance < radius).astype(np.float32)
    surface = np.abs(distance - radius) < np.linalg.norm(affine[:3, :3], axis=0).sum() / 2
    quarters = (np.arange(4) - 1.5) / 4
    within = affine[:3, :3] @ np.stack(np.meshgrid(quarters, quarters, quarters)).reshape(3, -1)
    shell = points[:, surface]
    filled[surface] = np.mean([((shell + d[:, None]) ** 2).sum(0) < radius**2 for d in within.T], axis=0)
    return MU * torch.from_numpy(filled)


def chord(geometry: XrayGeometry, center: np.ndarray, radius: float) -> np.ndarray:
    """Exact line integrals through the ball."""
    rays = geometry.detector() - geometry.source
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    to_center = center - geometry.source
    distance2 = to_center @ to_center - (rays @ to_center) ** 2
    return MU * 2 * np.sqrt(np.clip(radius**2 - distance2, 0, None))


def box_chord(geometry: XrayGeometry, low: np.ndarray, high: np.ndarray, turn: np.ndarray | None = None) -> np.ndarray:
    """Exact line integrals through a box from `low` to `high`, turned about the isocentre."""
    turn = np.eye(3) if turn is None else turn
    source = geometry.source @ turn  # into the box's frame
    rays = geometry.detector() @ turn - source
    with np.errstate(divide="ignore"):
        first, second = (low - source) / rays, (high - source) / rays
    enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return MU * np.clip(leave - enter, 0, None) * np.linalg.norm(rays, axis=-1)


def relative_error(film: torch.Tensor, truth: np.ndarray) -> float:
    """Mean absolute error over the mean, where the ray crosses matter worth p > 0.4."""
    thick = truth > 0.4
    return float(np.abs(film.double().numpy() - truth)[thick].mean() / truth[thick].mean())


@pytest.fixture(scope="module")
def fine_grid() -> CanonicalGrid:
    return CanonicalGrid(256, 256.0)


@pytest.fixture(scope="module")
def big_ball(fine_grid) -> torch.Tensor:
    return ball(fine_grid.affine, fine_grid.shape, np.zeros(3), 100.0)


@pytest.mark.parametrize(("setting", "tolerance"), [("exact", 0.0006), ("fine", 0.0007), ("interactive", 0.0015)])
@pytest.mark.parametrize("view", [XrayView.PA, XrayView.LAT])
def test_ball_gives_its_chord_length(fine_grid, big_ball, view, setting, tolerance):
    geometry = XrayGeometry(view, 256)
    film = Projector(big_ball, fine_grid.affine, view.beam, *SETTINGS[setting])(geometry)[0]
    assert relative_error(film, chord(geometry, np.zeros(3), 100.0)) < tolerance


@pytest.mark.parametrize(("setting", "tolerance"), [("exact", 0.0006), ("interactive", 0.0015)])
@pytest.mark.parametrize("view", list(XrayView))
def test_box_gives_its_chord_length(fine_grid, view, setting, tolerance):
    """Off the centre, so that near things must come out larger than far ones."""
    geometry = XrayGeometry(view, 256)
    low, high = np.array([-80.0, -96.0, -60.0]), np.array([112.0, 64.0, 100.0])
    volume = torch.zeros(fine_grid.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low + 128, high + 128, strict=True))
    volume[z, y, x] = MU
    film = Projector(volume, fine_grid.affine, view.beam, *SETTINGS[setting])(geometry)[0]
    assert relative_error(film, box_chord(geometry, low, high)) < tolerance


def test_tilted_slab():
    """A plate turned by the pose has the plate's slant thickness."""
    grid, geometry = CanonicalGrid(128, 256.0), XrayGeometry(XrayView.PA, 192)
    volume = torch.zeros(grid.shape)
    volume[14:114, 54:74, 14:114] = MU  # 40 mm thick
    pose = RigidPose((0.15, 0.0, -0.2))
    film = Projector(volume, grid.affine, geometry.view.beam)(geometry, pose)[0]
    low, high = np.array([-100.0, -20.0, -100.0]), np.array([100.0, 20.0, 100.0])
    assert relative_error(film, box_chord(geometry, low, high, pose.matrix[:3, :3])) < 0.002


@pytest.mark.parametrize("view", list(XrayView))
def test_impulse_casts_its_own_content(view):
    """One voxel: the film holds its mass, magnified twice over, where the voxel projects to."""
    grid, geometry = CanonicalGrid(64, 256.0), XrayGeometry(view, 512)
    volume = torch.zeros(grid.shape)
    volume[40, 20, 36] = 1.0
    film = Projector(volume, grid.affine, view.beam)(geometry)[0].double().numpy()
    place = (grid.affine @ [36, 20, 40, 1])[:3]
    magnification = geometry.sdd_mm / float((place - geometry.source) @ view.beam)
    assert film.sum() * geometry.pitch_mm**2 == pytest.approx(magnification**2 * grid.spacing_mm**3, rel=0.02)
    rows, columns = np.indices(film.shape)
    middle = [(film * rows).sum() / film.sum(), (film * columns).sum() / film.sum()]
    np.testing.assert_allclose(middle, geometry.project(place), atol=0.05)


def test_any_lattice_gives_the_same_film():
    """Oblique, flipped and anisotropic voxels of one ball cast the film that a plain grid casts."""
    center, geometry = np.array([10.0, 5.0, -20.0]), XrayGeometry(XrayView.PA, 192)
    turn = RigidPose((0.2, -0.1, 0.3)).matrix[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 2.0, 1.25])
    shape = (144, 90, 120)
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape[::-1]) - 1))
    film = Projector(ball(affine, shape, center, 70.0), affine, geometry.view.beam)(geometry)[0]
    assert relative_error(film, chord(geometry, center, 70.0)) < 0.004


def test_axes_in_any_order():
    """A volume stored as sagittal slices: the working axis follows the beam, not the storage."""
    geometry = XrayGeometry(XrayView.PA, 96)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 3.0], [2.0, 0, 0], [0, -2.5, 0]])  # x -> posterior, y -> down, z -> left
    shape = (70, 80, 100)
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(shape[::-1]) - 1))
    center = np.array([12.0, -9.0, 15.0])
    film = Projector(ball(affine, shape, center, 70.0), affine, geometry.view.beam)(geometry)[0]
    assert relative_error(film, chord(geometry, center, 70.0)) < 0.008


def test_pose_moves_the_patient():
    grid, geometry = CanonicalGrid(120, 240.0), XrayGeometry(XrayView.PA, 192)
    pose = RigidPose((0.05, 0.1, -0.08), (12.0, -30.0, 8.0))
    center = np.array([20.0, 10.0, -15.0])
    film = Projector(ball(grid.affine, grid.shape, center, 50.0), grid.affine, geometry.view.beam)(geometry, pose)[0]
    moved = (pose.matrix @ np.array([*center, 1.0]))[:3]
    assert relative_error(film, chord(geometry, moved, 50.0)) < 0.007


def test_batch_of_poses_is_the_poses_one_by_one():
    grid, geometry = CanonicalGrid(24, 240.0), XrayGeometry(XrayView.AP, 32)
    volume = torch.rand(2, *grid.shape, generator=torch.Generator().manual_seed(0))
    poses = [RigidPose(), RigidPose((0.1, 0.0, -0.05), (3.0, 4.0, 5.0))]
    projector = Projector(volume, grid.affine, geometry.view.beam)
    films = projector(geometry, torch.stack([torch.from_numpy(pose.matrix) for pose in poses]))
    assert films.shape == (2, 2, 32, 32)
    for film, pose in zip(films, poses, strict=True):
        torch.testing.assert_close(film, projector(geometry, pose))


def test_materials_share_one_pass():
    grid, geometry = CanonicalGrid(20, 240.0), XrayGeometry(XrayView.LAT, 24)
    volume = torch.rand(3, *grid.shape, generator=torch.Generator().manual_seed(0))
    together = Projector(volume, grid.affine, geometry.view.beam, 2)(geometry)
    for channel, film in zip(volume, together, strict=True):
        torch.testing.assert_close(film[None], Projector(channel, grid.affine, geometry.view.beam, 2)(geometry))


@pytest.mark.parametrize(
    ("view", "right_of_middle"),
    [(XrayView.PA, True), (XrayView.AP, True), (XrayView.LAT, True), (XrayView.RL, False)],
    ids=lambda value: str(value),
)
def test_marked_corner_lands_where_radiologists_expect(view, right_of_middle):
    """A cube at the patient's left, anterior, superior corner: top of every film; in front, or on the left."""
    grid = CanonicalGrid(48, 240.0)
    volume = torch.zeros(grid.shape)
    volume[36:42, 6:12, 36:42] = MU
    film = Projector(volume, grid.affine, view.beam)(XrayGeometry(view, 64))[0]
    row, column = (film.argmax() // 64).item(), (film.argmax() % 64).item()
    assert row < 28
    assert column > 36 if right_of_middle else column < 28


@pytest.mark.parametrize("slab", [1, 3])
def test_projection_has_an_exact_adjoint(slab):
    """<A x, y> = <x, A' y> in float64 for unrelated x and y, A' by differentiation of another projection."""
    grid, geometry = CanonicalGrid(12, 200.0), XrayGeometry(XrayView.PA, 16)
    generator = torch.Generator().manual_seed(0)
    pose = RigidPose((0.1, 0.05, -0.1), (3.0, 5.0, -4.0))

    def project(volume: torch.Tensor) -> torch.Tensor:
        return Projector(volume, grid.affine, geometry.view.beam, slab)(geometry, pose)

    x, other = (torch.rand(grid.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.rand(1, 16, 16, generator=generator, dtype=torch.float64)
    other.requires_grad_(True)
    (adjoint,) = torch.autograd.grad((project(other) * y).sum(), other)
    assert float((project(x) * y).sum()) == pytest.approx(float((x * adjoint).sum()), rel=1e-9)


def test_gradients_pass_gradcheck():
    """Volume and pose together, in float64 on a tiny case."""
    geometry = XrayGeometry(XrayView.PA, 5)
    generator = torch.Generator().manual_seed(1)
    volume = torch.rand(4, 4, 4, generator=generator, dtype=torch.float64).requires_grad_(True)
    affine = np.diag([40.0, 40.0, 40.0, 1.0])
    affine[:3, 3] = -60.0
    pose = torch.from_numpy(RigidPose((0.11, 0.07, -0.09), (3.3, 5.1, -4.7)).matrix).requires_grad_(True)

    def project(volume: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        with_row = torch.cat([pose[:3], torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=pose.dtype)])
        return Projector(volume, affine, geometry.view.beam)(geometry, with_row)

    assert torch.autograd.gradcheck(project, (volume, pose), eps=1e-7, atol=1e-5, rtol=1e-3)


def test_pose_gradient_points_where_finite_differences_do():
    """Of a difference between two films of a smooth body, for each of six motions; steps of a voxel's order."""
    grid, geometry = CanonicalGrid(64, 256.0), XrayGeometry(XrayView.PA, 96)
    points = lattice_points(grid.affine, grid.shape)
    lumps = np.random.default_rng(0).uniform(-70, 70, (12, 3))
    body = sum(np.exp(-0.5 * ((points - lump[:, None, None, None]) ** 2).sum(0) / 25**2) for lump in lumps)
    projector = Projector(torch.from_numpy(MU * body).float(), grid.affine, geometry.view.beam, 2)
    target = projector(geometry, RigidPose((0.03, -0.05, 0.02), (4.0, 12.0, -3.0)))

    def loss(values: torch.Tensor) -> torch.Tensor:
        zero, one = torch.zeros((), dtype=values.dtype), torch.ones((), dtype=values.dtype)
        x, y, z, *shift = values
        turn = torch.stack([one, -z, y, z, one, -x, -y, x, one]).view(3, 3)  # small angles; rigid enough for slopes
        turn = torch.matrix_exp(turn - torch.eye(3, dtype=values.dtype))
        matrix = torch.cat(
            [torch.cat([turn, torch.stack(shift)[:, None]], 1), torch.stack([zero, zero, zero, one])[None]]
        )
        return (projector(geometry, matrix) - target).double().square().mean()

    at = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(at), at)
    steps = torch.tensor([0.01] * 3 + [1.0] * 3, dtype=torch.float64)
    with torch.no_grad():
        differences = [(loss(step) - loss(-step)) / (2 * step.abs().sum()) for step in torch.diag(steps)]
    cosine = torch.cosine_similarity(slope * steps, torch.stack(differences) * steps, dim=0)
    assert float(cosine) > 0.99


def test_source_inside_the_patient_is_refused():
    """But empty slabs may reach behind the source."""
    grid = CanonicalGrid(40, 400.0)
    volume = torch.zeros(grid.shape)
    volume[10:30, 15:25, 10:30] = MU
    near = XrayGeometry(XrayView.PA, 32, sdd_mm=350.0)  # the source 150 mm behind the isocentre, inside the lattice
    projector = Projector(volume, grid.affine, near.view.beam)
    low, high = np.array([-100.0, -50.0, -100.0]), np.array([100.0, 50.0, 100.0])
    assert relative_error(projector(near)[0], box_chord(near, low, high)) < 0.02
    with pytest.raises(AxonError) as caught:
        projector(near, RigidPose(translation=(0.0, 120.0, 0.0)))
    assert caught.value.code == "drr.beam"


@pytest.mark.parametrize("slab", [1, 4])
def test_a_volume_full_to_its_border(slab):
    """What lies outside counts as air; the last slab, of two voxels, is not a whole one."""
    grid, geometry = CanonicalGrid(50, 200.0), XrayGeometry(XrayView.PA, 128)
    film = Projector(torch.full(grid.shape, MU), grid.affine, geometry.view.beam, slab)(geometry)[0]
    assert relative_error(film, box_chord(geometry, np.full(3, -100.0), np.full(3, 100.0))) < 0.012
    assert float(film[64, 64]) == pytest.approx(MU * 200, rel=0.005)


def test_an_empty_batch_is_refused():
    grid = CanonicalGrid(8)
    with pytest.raises(AxonError):
        Projector(torch.zeros(grid.shape), grid.affine, XrayView.PA.beam)(XrayGeometry(), torch.zeros(0, 4, 4))


BAD = {
    "flat": (torch.zeros(3, 3), np.eye(4), 1, "drr.volume"),
    "empty": (torch.zeros(0, 3, 3), np.eye(4), 1, "drr.volume"),
    "no slab": (torch.zeros(3, 3, 3), np.eye(4), 0, "drr.slab"),
    "singular": (torch.zeros(3, 3, 3), np.diag([1.0, 1.0, 0.0, 1.0]), 1, "drr.affine"),
    "not a number": (torch.full((3, 3, 3), float("nan")), np.eye(4), 1, "drr.not-finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_volumes_are_refused(case):
    volume, affine, slab, code = BAD[case]
    with pytest.raises(AxonError) as caught:
        Projector(volume, affine, XrayView.PA.beam, slab)
    assert caught.value.code == code


def test_beam_along_the_slabs_is_refused():
    grid = CanonicalGrid(8)
    with pytest.raises(AxonError) as caught:
        Projector(torch.zeros(grid.shape), grid.affine, XrayView.PA.beam)(XrayGeometry(XrayView.LAT, 16))
    assert caught.value.code == "drr.beam"

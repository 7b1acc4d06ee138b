"""Where things lie: grids, views, rays and rigid motions, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView

LEFT, POSTERIOR, SUPERIOR = np.eye(3)
VIEWS = list(XrayView)


# ---------------------------------------------------------------------------------------------------------------- grid


def corners(grid: CanonicalGrid) -> np.ndarray:
    """LPS of the cube's two outer corners: half a voxel outside the first and last voxel's centre."""
    ends = np.array([[-0.5] * 3 + [1.0], [grid.size - 0.5] * 3 + [1.0]])
    return (ends @ grid.affine.T)[:, :3]


@pytest.mark.parametrize("size", [2, 5, 64])
def test_grid_spans_its_extent_about_its_centre(size: int) -> None:
    grid = CanonicalGrid(size, 300.0, (10.0, -20.0, 30.0))
    low, high = corners(grid)
    np.testing.assert_allclose(high - low, 300.0)
    np.testing.assert_allclose(0.5 * (low + high), [10.0, -20.0, 30.0])
    assert grid.spacing_mm == pytest.approx(300.0 / size)
    assert grid.shape == (size, size, size)


def test_grid_index_grows_left_posterior_superior() -> None:
    affine = CanonicalGrid(8, 80.0).affine
    np.testing.assert_allclose(affine[:3, :3], 10.0 * np.eye(3))
    np.testing.assert_allclose(affine[3], [0, 0, 0, 1])


def test_refined_grid_is_the_same_cube() -> None:
    grid = CanonicalGrid(32, 360.0, (1.0, 2.0, 3.0))
    fine = grid.refined(4)
    assert fine.size == 128
    np.testing.assert_allclose(corners(fine), corners(grid))
    eight = np.array([[i, j, k, 1.0] for i in range(4) for j in range(4) for k in range(4)])
    np.testing.assert_allclose(
        (eight @ fine.affine.T).mean(0), grid.affine[:, 3]
    )  # voxels of a block surround its centre


@pytest.mark.parametrize(("size", "extent"), [(1, 360.0), (0, 360.0), (64, 0.0), (64, -1.0)])
def test_impossible_grid(size: int, extent: float) -> None:
    with pytest.raises(ConfigError) as caught:
        CanonicalGrid(size, extent)
    assert caught.value.code == "grid.size"
    assert caught.value.advice


# --------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("view", VIEWS)
def test_view_axes_are_orthonormal(view: XrayView) -> None:
    axes = np.stack([view.beam, view.column, view.row])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-15)


def test_view_values_are_dicoms() -> None:
    assert [XrayView("PA"), XrayView("AP"), XrayView("LAT"), XrayView("RL")] == VIEWS
    assert [view.is_frontal for view in VIEWS] == [True, True, False, False]


def test_view_axes_cannot_be_spoiled() -> None:
    XrayView.PA.beam[:] = 9.0
    np.testing.assert_array_equal(XrayView.PA.beam, -POSTERIOR)


@pytest.mark.parametrize("view", VIEWS)
def test_superior_is_up(view: XrayView) -> None:
    low, high = XrayGeometry(view).project(np.array([-50.0 * SUPERIOR, 50.0 * SUPERIOR]))
    assert high[0] < low[0]
    assert high[1] == pytest.approx(low[1])


@pytest.mark.parametrize("view", [XrayView.PA, XrayView.AP])
def test_patients_left_is_on_the_right_of_a_frontal_film(view: XrayView) -> None:
    right, left = XrayGeometry(view).project(np.array([-50.0 * LEFT, 50.0 * LEFT]))
    assert left[1] > right[1]
    assert left[0] == pytest.approx(right[0])


@pytest.mark.parametrize(("view", "side"), [(XrayView.LAT, 1), (XrayView.RL, -1)])
def test_front_of_the_chest_is_on_the_right_of_a_left_lateral_film(view: XrayView, side: int) -> None:
    front, back = XrayGeometry(view).project(np.array([-50.0 * POSTERIOR, 50.0 * POSTERIOR]))
    assert side * front[1] > side * back[1]
    assert front[0] == pytest.approx(back[0])


def test_what_lies_nearer_to_the_film_is_smaller() -> None:
    """The heart, in front, is larger on an AP than on a PA film; the right ribs are larger than the left on LAT."""

    def width(view: XrayView, place: np.ndarray, along: np.ndarray) -> float:
        a, b = XrayGeometry(view).project(np.array([place - 40.0 * along, place + 40.0 * along]))
        return float(np.abs(b - a).max())

    front = -80.0 * POSTERIOR
    assert width(XrayView.AP, front, LEFT) > width(XrayView.PA, front, LEFT)
    assert width(XrayView.LAT, -100.0 * LEFT, POSTERIOR) > width(XrayView.LAT, 100.0 * LEFT, POSTERIOR)
    assert width(XrayView.RL, -100.0 * LEFT, POSTERIOR) < width(XrayView.RL, 100.0 * LEFT, POSTERIOR)


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("view", VIEWS)
def test_source_isocentre_and_detector_are_in_line(view: XrayView) -> None:
    geometry = XrayGeometry(view, pixels=8, sdd_mm=1500.0, isocentre_to_detector_mm=300.0, detector_mm=400.0)
    detector = geometry.detector()
    assert detector.shape == (8, 8, 3)
    centre = detector.mean((0, 1))
    np.testing.assert_allclose(centre - geometry.source, 1500.0 * view.beam, atol=1e-9)
    assert np.linalg.norm(geometry.source) == pytest.approx(1200.0)
    assert np.linalg.norm(centre) == pytest.approx(300.0)
    np.testing.assert_allclose((detector - centre) @ view.beam, 0.0, atol=1e-9)  # a plane across the beam
    np.testing.assert_allclose(detector[0, 1] - detector[0, 0], 50.0 * view.column, atol=1e-9)
    np.testing.assert_allclose(detector[1, 0] - detector[0, 0], 50.0 * view.row, atol=1e-9)
    np.testing.assert_allclose(geometry.project(np.zeros(3)), [3.5, 3.5])


@pytest.mark.parametrize("view", VIEWS)
def test_every_point_of_a_ray_falls_on_its_pixel(view: XrayView) -> None:
    geometry = XrayGeometry(view, pixels=7, sdd_mm=1400.0, isocentre_to_detector_mm=250.0)
    rows, columns = np.mgrid[:7, :7].astype(float)
    for way in (0.3, 0.8, 1.0):  # of the way from the source to the detector
        points = geometry.source + way * (geometry.detector() - geometry.source)
        np.testing.assert_allclose(geometry.project(points), np.stack([rows, columns], -1), atol=1e-9)


@pytest.mark.parametrize("view", VIEWS)
def test_rays_lead_to_the_pixels(view: XrayView) -> None:
    geometry = XrayGeometry(view, pixels=6)
    corner, row, column = geometry.rays()
    np.testing.assert_allclose(geometry.source + corner + 4 * row + 2 * column, geometry.detector()[4, 2], atol=1e-9)


@pytest.mark.parametrize("view", VIEWS)
def test_projection_is_where_the_ray_meets_the_detector(view: XrayView) -> None:
    geometry = XrayGeometry(view, pixels=64)
    detector = geometry.detector()
    for point in np.random.default_rng(1).uniform(-150.0, 150.0, (20, 3)):
        row, column = geometry.project(point)
        # solve source + t (point - source) = corner + r down + c across
        down, across = detector[1, 0] - detector[0, 0], detector[0, 1] - detector[0, 0]
        _, r, c = np.linalg.solve(
            np.stack([point - geometry.source, -down, -across], 1), detector[0, 0] - geometry.source
        )
        np.testing.assert_allclose([row, column], [r, c], atol=1e-9)


def test_magnification() -> None:
    geometry = XrayGeometry(XrayView.PA, pixels=100, sdd_mm=1800.0, isocentre_to_detector_mm=300.0, detector_mm=500.0)
    assert geometry.magnification == pytest.approx(1.2)
    assert geometry.pitch_mm == pytest.approx(5.0)
    a, b = geometry.project(np.array([0.0 * LEFT, 50.0 * LEFT]))
    assert b[1] - a[1] == pytest.approx(50.0 * 1.2 / 5.0)
    a, b = geometry.project(np.array([-300.0 * POSTERIOR, -300.0 * POSTERIOR + 50.0 * LEFT]))  # on the detector
    assert b[1] - a[1] == pytest.approx(10.0)


def test_project_keeps_leading_axes() -> None:
    geometry = XrayGeometry()
    points = np.random.default_rng(2).uniform(-100, 100, (2, 3, 4, 3))
    pixels = geometry.project(points)
    assert pixels.shape == (2, 3, 4, 2)
    np.testing.assert_allclose(pixels[1, 2, 3], geometry.project(points[1, 2, 3]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"isocentre_to_detector_mm": -1.0},
        {"isocentre_to_detector_mm": 1800.0},
        {"sdd_mm": 100.0},
        {"pixels": 1},
        {"detector_mm": 0.0},
    ],
)
def test_impossible_geometry(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        XrayGeometry(**wrong)  # type: ignore[arg-type]
    assert caught.value.code == "geometry.impossible"
    assert caught.value.advice


# ---------------------------------------------------------------------------------------------------------------- pose


def about(axis: int, angle: float) -> np.ndarray:
    rotation = [0.0, 0.0, 0.0]
    rotation[axis] = angle
    return RigidPose(rotation=tuple(rotation)).matrix  # type: ignore[arg-type]


def test_no_pose_moves_nothing() -> None:
    np.testing.assert_array_equal(RigidPose().matrix, np.eye(4))


def test_pose_is_rigid() -> None:
    matrix = RigidPose((0.4, -1.1, 2.5), (3.0, 4.0, 5.0)).matrix
    rotation = matrix[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_array_equal(matrix[:3, 3], [3.0, 4.0, 5.0])
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])


@pytest.mark.parametrize(("axis", "start", "end"), [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_quarter_turns_follow_the_right_hand(axis: int, start: int, end: int) -> None:
    turned = about(axis, np.pi / 2)[:3, :3] @ np.eye(3)[start]
    np.testing.assert_allclose(turned, np.eye(3)[end], atol=1e-15)
    np.testing.assert_allclose(about(axis, 0.7)[:3, :3] @ np.eye(3)[axis], np.eye(3)[axis], atol=1e-15)


def test_pose_turns_about_x_then_y_then_z_then_shifts() -> None:
    shift = np.eye(4)
    shift[:3, 3] = 7.0, -8.0, 9.0
    expected = shift @ about(2, 0.3) @ about(1, 0.2) @ about(0, 0.1)
    np.testing.assert_allclose(RigidPose((0.1, 0.2, 0.3), (7.0, -8.0, 9.0)).matrix, expected, atol=1e-15)


@given(st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3))
def test_pose_comes_back_from_its_matrix(rotation: list[float]) -> None:
    pose = RigidPose((rotation[0], rotation[1], rotation[2]), (1.0, -2.0, 3.0))
    back = RigidPose.from_matrix(pose.matrix)
    np.testing.assert_allclose(back.rotation, pose.rotation, atol=1e-9)
    assert back.translation == pose.translation


@pytest.mark.parametrize("matrix", [np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([1.0, 1.1, 1.0, 1.0])])
def test_a_pose_neither_mirrors_nor_scales(matrix: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        RigidPose.from_matrix(matrix)

"""The live comparison: where its pictures lie, what they show, what counts, and how often they are made."""

# ruff: noqa: E402  (the host makes the modules that are imported below it)

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "AXONReconstruction"), str(ROOT / "Testing" / "slicer")]
import host

host.start()

import slicer
import vtk

from axon_core.errors import AxonError
from axon_core.geometry import RigidPose, XrayGeometry, XrayView
from axon_core.registration.overlay import MODES
from axon_core.registration.pose import Film
from AXONLib import live
from AXONLib.live import LiveComparison, Throttle
from AXONLib.pose import PoseController
from AXONLib.volumes import ctVolumeOf

FLIP = np.diag([-1.0, -1.0, 1.0])
CENTRE = np.array([30.0, -200.0, 1500.0])  # LPS, middle of the body
BALL = CENTRE + np.array([35.0, -25.0, 45.0])
SIZE = 128
TURNED = RigidPose((0.06, -0.05, 0.08), (12.0, -9.0, 15.0))


def body(points: np.ndarray) -> np.ndarray:
    """HU at LPS points (..., 3): an ellipsoid of water with a lung on one side and a dense ball, in air."""
    x, y, z = np.moveaxis(points - CENTRE, -1, 0)
    hu = np.where((x / 120) ** 2 + (y / 80) ** 2 + (z / 110) ** 2 < 1, 0.0, -1000.0)
    hu[((x + 50) / 40) ** 2 + (y / 50) ** 2 + ((z - 10) / 70) ** 2 < 1] = -800.0
    hu[np.linalg.norm(points - BALL, axis=-1) < 16] = 2500.0
    return hu


def ctNode(turn: np.ndarray, spacing: float = 3.5, count: int = 96):
    """A volume node of the body on a lattice about CENTRE whose axes are the columns of `turn` (LPS)."""
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = CENTRE - affine[:3, :3] @ np.full(3, (count - 1) / 2)
    index = np.stack(np.meshgrid(*[np.arange(count)] * 3, indexing="ij"), -1)[..., ::-1]  # [k, j, i] -> (i, j, k)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    hu = body(index @ affine[:3, :3].T + affine[:3, 3])
    hu += 5 * (index.sum(-1) % 2)  # columns of one value throughout would be taken for padding
    slicer.util.updateVolumeFromArray(node, hu.astype(np.int16))
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


@pytest.fixture
def scene(hosted):
    return slicer.mrmlScene


@pytest.fixture
def ct(scene):
    return ctVolumeOf(ctNode(np.eye(3)))


def blank(view: XrayView, pixels: int = SIZE) -> Film:
    """A film with something on it, whatever; without collimation."""
    return Film(np.random.default_rng(0).random((pixels, pixels), np.float32), XrayGeometry(view, pixels))


def comparison(ct, films, pose: RigidPose = TURNED) -> LiveComparison:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Pose")
    controller = PoseController(node, ct.center_lps)
    controller.setRigidPose(pose)
    return LiveComparison(ct, films, controller)


def pixels(node) -> np.ndarray:
    """(h, w, 3) of a picture node, a copy."""
    return slicer.util.arrayFromVolume(node)[0].copy()


def world(node, row: float, column: float) -> np.ndarray:
    """LPS mm of a pixel in the scene, as Slicer places it."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return FLIP @ np.array(matrix.MultiplyPoint([column, row, 0, 1]))[:3]


# ---- where it lies


@pytest.mark.parametrize("view", list(XrayView))
def test_the_ball_is_seen_where_its_ray_meets_the_film(ct, view: XrayView) -> None:
    """At every size: the brightest patch's place in the scene lies on the line from the source through the ball."""
    shown = comparison(ct, [blank(view)])
    shown.amount = 1.0
    geometry = shown.geometries()[0]
    source = CENTRE + geometry.source
    ball = TURNED.matrix[:3, :3] @ (BALL - CENTRE) + TURNED.translation + CENTRE
    along = (ball - source) / ((ball - source) @ geometry.view.beam)
    wanted = source + along * geometry.sdd_mm
    for size in (128, 256, 100):
        shown.update(size)
        grey = pixels(shown.nodes[0])[..., 0]
        assert grey.shape == (size, size)
        row, column = np.argwhere(grey == grey.max()).mean(0)
        place = world(shown.nodes[0], row, column)
        assert np.linalg.norm(place - wanted) < 1.5 * geometry.detector_mm / size
        assert abs((place - CENTRE) @ geometry.view.beam - geometry.isocentre_to_detector_mm) < 1e-6


def test_pixels_lie_on_the_detector(ct) -> None:
    """Every size, films of both directions; the picture's frame is right-handed, as Slicer's slice views want it."""
    shown = comparison(ct, [blank(XrayView.PA), blank(XrayView.LAT)])
    for size in (64, 96):
        shown.update(size)
        for node, geometry in zip(shown.nodes, shown.geometries(), strict=True):
            detector = replace(geometry, pixels=size).detector() + ct.center_lps
            for row, column in ((0, 0), (0, size - 1), (size - 1, 0), (17, 40)):
                np.testing.assert_allclose(world(node, row, column), detector[row, column], atol=1e-9)
            matrix = vtk.vtkMatrix4x4()
            node.GetIJKToRASMatrix(matrix)
            assert matrix.Determinant() > 0
            assert node.GetImageData().GetDimensions() == (size, size, 1)
    bounds = [0.0] * 6
    shown.nodes[0].GetRASBounds(bounds)
    assert bounds[1] - bounds[0] == pytest.approx(430.0) and bounds[5] - bounds[4] == pytest.approx(430.0)


def test_an_oblique_flipped_ct_casts_the_same_drr(scene) -> None:
    """The same body on a lattice that is turned, permuted and mirrored."""
    turn = RigidPose((0.25, -0.15, 0.2)).matrix[:3, :3][:, [2, 0, 1]] * [-1, 1, -1]
    pictures = []
    for axes in (np.eye(3), turn):
        shown = comparison(ctVolumeOf(ctNode(axes)), [blank(XrayView.PA), blank(XrayView.LAT)])
        shown.amount = 1.0
        shown.update(SIZE)
        pictures.append(np.stack([pixels(node)[..., 0] for node in shown.nodes]).astype(float))
    straight, oblique = pictures
    for one, other in zip(straight, oblique, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.985
        assert np.corrcoef(one.ravel(), other[:, ::-1].ravel())[0, 1] < 0.95, "the test sees a mirrored film"


def test_the_drr_follows_the_pose_and_the_geometry(ct) -> None:
    shown = comparison(ct, [blank(XrayView.PA)])
    shown.amount = 1.0
    seen = []
    for change in (
        lambda: None,
        lambda: shown.pose.setValue("leftRight", 40.0),
        lambda: shown.setGeometries([replace(shown.geometries()[0], detector_mm=380.0, pixels=999)]),
    ):
        change()
        shown.update(SIZE)
        grey = pixels(shown.nodes[0])[..., 0]
        seen.append(np.argwhere(grey == grey.max()).mean(0))
    pitch = 430 / SIZE
    assert seen[1][1] - seen[0][1] == pytest.approx(28 * 1.125 / pitch, abs=1.0)
    offsets = [place - (SIZE - 1) / 2 for place in seen]
    np.testing.assert_allclose(offsets[2], offsets[1] * 430 / 380, atol=1.5)
    assert shown.geometries()[0].pixels == SIZE, "the film keeps its pixels"
    assert np.linalg.norm(world(shown.nodes[0], 0, 0) - world(shown.nodes[0], 0, 1)) == pytest.approx(380 / SIZE)


# ---- what it shows


def ownFilm(ct, geometry: XrayGeometry, pose: RigidPose) -> Film:
    """A film that is the DRR itself."""
    from axon_core.drr.live import LiveDRR

    return Film(LiveDRR(ct).render(pose, geometry.pixels, geometry), geometry)


def test_a_film_that_is_the_drr_leaves_no_difference(ct) -> None:
    """At the pose it was made at; elsewhere it does, and the read-outs fall."""
    shown = comparison(ct, [ownFilm(ct, XrayGeometry(XrayView.PA, SIZE), TURNED)])
    assert shown.readouts() == [None]
    shown.mode = "difference"
    shown.update(SIZE)
    assert np.abs(pixels(shown.nodes[0]).astype(int) - 128).max() <= 1
    assert shown.readouts()[0] == pytest.approx((1.0, 1.0), abs=1e-3)
    shown.pose.setValue("leftRight", 30.0)
    shown.update(SIZE)
    assert np.ptp(pixels(shown.nodes[0])) > 60
    local, gradient = shown.readouts()[0]
    assert local < 0.9 and gradient < 0.8


def test_another_mode_needs_no_new_drr(ct, monkeypatch) -> None:
    shown = comparison(ct, [blank(XrayView.PA)])
    shown.compose()
    assert shown.nodes[0].GetImageData() is None, "nothing to show yet"
    shown.update(SIZE)
    monkeypatch.setattr(shown._drr, "render", None)
    seen = []
    for mode in MODES:
        shown.mode = mode
        shown.compose()
        seen.append(pixels(shown.nodes[0]))
    assert all(not np.array_equal(one, other) for i, one in enumerate(seen) for other in seen[:i])


def test_pictures_are_written_in_place_and_shown_as_they_are(ct) -> None:
    """The same image while the size stays; grey values reach the slice views unstretched; the scene is told once."""
    shown = comparison(ct, [ownFilm(ct, XrayGeometry(XrayView.PA, SIZE), TURNED)])
    shown.mode = "difference"
    shown.update(SIZE)
    node = shown.nodes[0]
    image, heard = node.GetImageData(), []
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: heard.append(1))
    shown.pose.setValue("upDown", TURNED.translation[2] + 2.0)
    shown.update(SIZE)
    assert node.GetImageData() is image and len(heard) == 1
    display = node.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    display.GetOutputImageDataConnection().GetProducer().Update()
    output = display.GetOutputImageData()
    seen = vtk.util.numpy_support.vtk_to_numpy(output.GetPointData().GetScalars()).reshape(SIZE, SIZE, -1)
    assert np.ptp(seen) < 255
    np.testing.assert_array_equal(seen[..., :3], pixels(node))
    heard.clear()
    shown.update(2 * SIZE)
    assert len(heard) == 1, "size and place change together"


def test_pictures_are_not_saved_and_go_with_the_comparison(ct, scene) -> None:
    shown = comparison(ct, [blank(XrayView.PA), blank(XrayView.LAT)])
    shown.update(64)
    names = [node.GetName() for node in shown.nodes]
    assert names == ["Frontal film and DRR", "Lateral film and DRR"]
    assert not any(node.GetSaveWithScene() for node in shown.nodes)
    shown.close()
    assert scene.GetNumberOfNodesByClass("vtkMRMLVectorVolumeNode") == 0


def test_a_patient_turned_out_of_the_beam_leaves_the_picture(ct) -> None:
    shown = comparison(ct, [blank(XrayView.PA)])
    shown.update(SIZE)
    before = pixels(shown.nodes[0])
    shown.pose.setValue("rotate", 88.0)
    with pytest.raises(AxonError) as caught:
        shown.update(SIZE)
    assert caught.value.code == "drr.beam"
    np.testing.assert_array_equal(pixels(shown.nodes[0]), before)


# ---- what counts


def region(film_geometry: XrayGeometry, row: int, column: int, size: tuple[float, float, float], turn: float = 0.0):
    """A region of interest whose middle lies on a pixel of a film, with edges along the film, as a user draws it."""
    matrix = np.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    x, y, beam = film_geometry.view.column, -film_geometry.view.row, film_geometry.view.beam
    matrix[:3, :3] = FLIP @ np.stack([c * x + s * y, c * y - s * x, beam], 1)
    matrix[:3, 3] = FLIP @ (film_geometry.detector()[row, column] + CENTRE)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Area")
    node.SetSize(*size)
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


@pytest.mark.parametrize(("view", "index"), [(XrayView.PA, 0), (XrayView.LAT, 1)])
def test_a_region_counts_on_the_film_on_which_it_lies(ct, view: XrayView, index: int) -> None:
    shown = comparison(ct, [blank(XrayView.PA), blank(XrayView.LAT)])
    shown.setMasks(None, False)
    assert shown.maskFor(0).all() and shown.maskFor(1).all()
    pitch = 430 / SIZE
    shown.setMasks(region(shown.geometries()[index], 40, 70, (40.5 * pitch, 20.5 * pitch, 3.0)), False)
    mask = shown.maskFor(index)
    assert mask.shape == (SIZE, SIZE) and mask.dtype == bool
    np.testing.assert_array_equal(np.flatnonzero(mask.any(1)), np.arange(30, 51))
    np.testing.assert_array_equal(np.flatnonzero(mask.any(0)), np.arange(50, 91))
    assert shown.maskFor(1 - index).all()
    shown.setMasks(region(shown.geometries()[index], 40, 70, (40.5 * pitch, 20.5 * pitch, 3.0), turn=0.5), False)
    turned = shown.maskFor(index)
    assert abs(int(turned.sum()) - int(mask.sum())) < 40 and not np.array_equal(turned, mask)
    before = int(turned.sum())
    shown.setGeometries([replace(geometry, detector_mm=300.0) for geometry in shown.geometries()])
    assert int(shown.maskFor(index).sum()) > 1.5 * before, "on a smaller film the same box covers more pixels"
    shown.setMasks(None, False)
    assert shown.maskFor(index).all()


def test_a_region_under_a_transform_is_taken_in_the_world(ct, scene) -> None:
    shown = comparison(ct, [blank(XrayView.PA)])
    area = region(shown.geometries()[0], 40, 70, (60.0, 60.0, 3.0))
    shift = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = -10 * 430 / SIZE  # RAS: ten columns to the patient's left
    slicer.util.updateTransformMatrixFromArray(shift, matrix)
    shown.setMasks(area, False)
    before = shown.maskFor(0)
    area.SetAndObserveTransformNodeID(shift.GetID())
    shown.setMasks(area, False)
    np.testing.assert_array_equal(shown.maskFor(0), np.roll(before, 10, 1))


def test_markers_and_the_films_own_mask_are_left_out(ct) -> None:
    film = ownFilm(ct, XrayGeometry(XrayView.PA, SIZE), RigidPose())
    film.image[60:67, 20:26] = 1.5
    own = np.ones((SIZE, SIZE), bool)
    own[:, 100:] = False
    shown = comparison(ct, [replace(film, mask=own)])
    assert not shown.maskFor(0)[60:67, 20:26].any() and not shown.maskFor(0)[:, 100:].any()
    shown.setMasks(None, withoutMarkers=False)
    assert shown.maskFor(0)[60:67, 20:26].all() and not shown.maskFor(0)[:, 100:].any()


def test_what_does_not_count_changes_no_read_out(ct) -> None:
    """A film with rubbish outside of the region is judged as one without."""
    film = ownFilm(ct, XrayGeometry(XrayView.PA, SIZE), TURNED)
    film.image[:, 90:] = np.random.default_rng(0).random((SIZE, SIZE - 90))
    shown = comparison(ct, [film])
    shown.update(SIZE)
    spoilt = shown.readouts()[0]
    shown.setMasks(region(shown.geometries()[0], 60, 35, (230.0, 300.0, 3.0)))
    shown.compose()
    assert spoilt[1] < 0.9 < 0.95 < min(shown.readouts()[0])
    nowhere = region(shown.geometries()[0], 60, 60, (0.1, 0.1, 3.0))
    shown.setMasks(nowhere)
    shown.compose()
    assert shown.readouts() == [None]


# ---- how often


class FakeTimer:
    """A qt.QTimer that goes off when the test says so."""

    made: list[FakeTimer]

    def __init__(self) -> None:
        self.active = False
        FakeTimer.made.append(self)

    def setSingleShot(self, on: bool) -> None:
        assert on

    def setInterval(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds

    def connect(self, signal: str, function) -> None:
        assert signal == "timeout()"
        self.function = function

    def start(self) -> None:
        self.active = True
        self.starts = getattr(self, "starts", 0) + 1

    def stop(self) -> None:
        self.active = False

    def goOff(self) -> None:
        self.active = False
        self.function()


def test_many_requests_become_few_pictures() -> None:
    FakeTimer.made, made = [], []
    throttle = Throttle(lambda: made.append("quick"), lambda: made.append("fine"), FakeTimer)
    quick, fine = FakeTimer.made
    assert 30 <= quick.milliseconds <= 50 and fine.milliseconds == 250
    for _ in range(10):
        throttle.request()
    assert quick.starts == 1, "a request does not put off the picture that is due"
    assert fine.starts == 10, "but it does put off the fine one"
    quick.goOff()
    throttle.request()
    assert quick.active and made == ["quick"]
    throttle.stop()
    assert not quick.active and not fine.active


def test_throttle_with_real_timers() -> None:
    made = []
    throttle = Throttle(lambda: made.append("quick"), lambda: made.append("fine"))
    end = time.monotonic() + 0.5
    requests = 0
    while time.monotonic() < end:
        throttle.request()
        requests += 1
        slicer.app.processEvents()
        time.sleep(0.002)
    assert 2 <= made.count("quick") <= 0.5 / (live.QUICK_MS / 1000) + 1 < requests and "fine" not in made
    patience = time.monotonic() + 20
    while "fine" not in made and time.monotonic() < patience:
        slicer.app.processEvents()
        time.sleep(0.005)
    assert made.count("fine") == 1 and made[-1] == "fine"
    throttle.request()
    throttle.stop()
    before = len(made)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.01)
    assert len(made) == before


def test_torch_comes_with_the_first_comparison_and_keeps_its_threads(ct) -> None:
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'AXONReconstruction')!r}, {str(ROOT / 'Testing' / 'slicer')!r}]\n"
        "import host; host.start(views=False)\n"
        "import AXONLib.live, AXONLib.pose, AXONLib.landmarks\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with live.oneThread():
            assert torch.get_num_threads() == 1
        comparison(ct, [blank(XrayView.PA)]).update(64)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

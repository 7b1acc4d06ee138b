"""Curves and pictures of AXONTraining, on Slicer's own table, plot and volume nodes; the layouts; the run's folder."""

from __future__ import annotations

import json
import math

import driving_training
import numpy as np
import pytest
from PIL import Image

assert driving_training.MODULE.is_file()  # its folder is on the path now


def progress(stage, step, loss=1.0):
    return {"type": "progress", "stage": stage, "step": step, "steps": 100, "loss": loss, "lr": 1e-3}


def validation(stage, step, **values):
    return {"type": "validation", "stage": stage, "step": step, "loss": 0.5, **values}


@pytest.fixture
def curves(hosted):
    from AXONTrainingLib import curves

    yield curves
    curves.clear()


@pytest.fixture
def run(tmp_path):
    """A run with a saved, a half-saved and an unsaved stage."""
    write(
        tmp_path,
        "endpoint",
        progress("endpoint", 10),
        progress("endpoint", 20, 0.25),
        validation("endpoint", 20, psnr=18),
    )
    write(tmp_path, "coarse", progress("coarse", 10))
    write(tmp_path, "prior", progress("prior", 10))
    (tmp_path / "endpoint" / "state.pt").touch()
    (tmp_path / "coarse" / "previous.pt").touch()
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def write(run, stage, *events):
    (run / stage).mkdir()
    (run / stage / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"cut off')


# ---- curves


def test_a_stage_makes_a_table_and_a_line_in_the_chart(curves):
    curves.add(progress("endpoint", 10, 0.5))
    curves.add(progress("endpoint", 20, 0.25))
    assert curves.points(curves.PROGRESS, "endpoint") == [(10, 0.5), (20, 0.25)]
    chart = curves.chart(curves.LOSS)
    assert chart.GetNumberOfPlotSeriesNodes() == 1 and chart.GetYAxisLogScale()
    series = chart.GetNthPlotSeriesNode(0)
    assert series.GetName() == "F(x)" and (series.GetXColumnName(), series.GetYColumnName()) == ("step", "loss")
    assert series.GetTableNode().GetNumberOfRows() == 2 and series.GetLineStyle() == series.LineStyleSolid


def test_held_out_cases_are_dashed_and_have_a_chart_of_their_own(curves):
    curves.add(validation("coarse", 10, psnr=20.0, mae=0.1))
    curves.add(validation("prior", 10))
    loss, quality = curves.chart(curves.LOSS), curves.chart(curves.QUALITY)
    lines = [loss.GetNthPlotSeriesNode(i) for i in range(loss.GetNumberOfPlotSeriesNodes())]
    assert [line.GetName() for line in lines] == ["Bridge, held out", "Prior, held out"]
    assert all(line.GetLineStyle() == line.LineStyleDash for line in lines)
    assert [quality.GetNthPlotSeriesNode(i).GetName() for i in range(quality.GetNumberOfPlotSeriesNodes())] == [
        "Bridge"
    ]
    assert curves.points(curves.VALIDATION, "coarse", "psnr") == [(10, 20.0)]
    assert math.isnan(curves.points(curves.VALIDATION, "prior", "psnr")[0][1])


def test_a_run_that_goes_on_from_an_earlier_step_replaces_what_was_lost(curves):
    for step in (10, 20, 30):
        curves.add(progress("prior", step, step))
    curves.add(progress("prior", 20, 99.0))
    assert curves.points(curves.PROGRESS, "prior") == [(10, 10.0), (20, 99.0)]


def test_what_is_no_point_is_passed_over(curves):
    for event in (
        {"type": "note", "text": "?"},
        {"type": "progress", "stage": "starting", "fraction": 0.0, "eta_s": None},
        progress("a stage of tomorrow", 10),
        {**progress("prior", 10), "loss": None},
    ):
        curves.add(event)
    assert not curves.exists()


def test_the_curves_of_a_folder_take_the_place_of_those_before(curves, run):
    import slicer

    curves.add(progress("control", 10))
    curves.load(run)
    assert curves.points(curves.PROGRESS, "endpoint") == [(10, 1.0), (20, 0.25)]
    assert curves.points(curves.PROGRESS, "control") == [] and curves.points(curves.PROGRESS, "prior") == [(10, 1.0)]
    curves.load(None)
    assert not slicer.util.getNodesByClass("vtkMRMLTableNode") + slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")


def test_other_tables_and_charts_stay(curves):
    import slicer

    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "mine")
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "mine")
    curves.add(progress("prior", 10))
    curves.clear()
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == [table]
    assert slicer.util.getNodesByClass("vtkMRMLPlotChartNode") == [chart]


def test_curves_are_saved_with_the_scene_and_found_again(curves, tmp_path):
    import slicer

    curves.add(progress("endpoint", 10, 0.5))
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert not curves.exists()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    curves.add(progress("endpoint", 20, 0.25))
    assert curves.points(curves.PROGRESS, "endpoint") == [(10, 0.5), (20, 0.25)]
    assert curves.chart(curves.LOSS).GetNumberOfPlotSeriesNodes() == 1


# ---- pictures and layouts


@pytest.fixture
def views(hosted):
    import slicer

    from AXONTrainingLib.views import TrainingViews

    manager = slicer.app.layoutManager()
    manager.resizeWindow(320, 240)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    made = TrainingViews()
    yield made
    made.close()
    slicer.app.processEvents()


def picture(path, color, width=60):
    """A picture whose left third has a colour; the rest is black."""
    pixels = np.zeros((20, width, 3), np.uint8)
    pixels[:, : width // 3] = color
    Image.fromarray(pixels).save(path)
    return path


def test_a_picture_lies_in_the_view_as_in_the_file(views, tmp_path):
    import slicer

    from AXONTrainingLib.views import CASES, PICTURE

    views.open(CASES)
    node = views.show(picture(tmp_path / "a.png", (255, 0, 0)), "a case")
    assert node.GetName() == "a case" and node.GetHideFromEditors() and not node.GetSaveWithScene()
    slicer.app.processEvents()
    seen = slicer.app.layoutManager().sliceWidget(PICTURE).sliceView().picture()
    red = (seen[..., 0] > 200) & (seen[..., 1] < 50)
    columns = np.nonzero(red.any(0))[0]
    assert red.sum() > 500 and columns.max() < seen.shape[1] / 2, "the left third is on the left"
    views.show(picture(tmp_path / "b.png", (0, 255, 0), width=200), "another")
    seen = slicer.app.layoutManager().sliceWidget(PICTURE).sliceView().picture()
    green = np.nonzero(((seen[..., 1] > 200) & (seen[..., 0] < 50)).any(0))[0]
    assert len(green) and seen.shape[1] / 4 < green.max() < seen.shape[1] / 2, "fitted anew: it is wider"
    assert len(slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode")) == 1


def test_a_picture_that_is_not_there_changes_nothing(views, tmp_path):
    from AXONTrainingLib.views import pictureNode

    assert views.show(tmp_path / "none.png", "x") is None and pictureNode() is None
    (tmp_path / "broken.png").write_bytes(b"PNG?")
    assert views.show(tmp_path / "broken.png", "x") is None and pictureNode() is None


def test_the_layout_before_comes_back(views):
    import slicer

    from AXONTrainingLib.views import CASES, TRAINING

    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    views.open(CASES)
    views.open(TRAINING)
    assert manager.layout == TRAINING and views.isOpen()
    views.close()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView and not views.isOpen()
    views.open()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    views.close()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, "the user went elsewhere himself"


def test_the_charts_are_drawn_in_their_views(views, curves):
    import slicer

    for step in range(10, 100, 10):
        curves.add(progress("endpoint", step, 100.0 / step))
    views.open()
    plots = [widget for widget, _place in slicer.app.layoutManager().places() if hasattr(widget, "plotView")]
    assert [plot.mrmlPlotViewNode().GetSingletonTag() for plot in plots] == [curves.LOSS, curves.QUALITY]
    loss = plots[0].plotView().picture()
    assert (loss[..., 2] > loss[..., 0].astype(int) + 60).sum() > 50, "a blue line"


def test_nothing_is_shown_without_a_main_window(started, hosted, tmp_path):
    from AXONTrainingLib.views import TrainingViews

    started.setMainWindow(False)
    try:
        views = TrainingViews()
        views.open()
        assert views.show(picture(tmp_path / "a.png", (255, 0, 0)), "a case") is not None
        views.close()
        assert not views.isOpen()
    finally:
        started.setMainWindow(True)


def writeCases(folder, count, seed=0):
    """Volumes as a validation keeps them; (made, truth, affine)."""
    from axon_core.geometry import CanonicalGrid

    random = np.random.default_rng(seed)
    made, truth = (random.integers(-1000, 1000, (count, 8, 9, 10), np.int16) for _ in range(2))
    affine = CanonicalGrid(8).affine
    np.savez(folder / "cases.npz", made=made, truth=truth, affine=affine)
    return made, truth, affine


def test_the_held_out_cases_are_volumes_in_hu(hosted, tmp_path):
    import slicer

    from AXONLib import volumes
    from AXONTrainingLib import cases

    made, truth, affine = writeCases(tmp_path, 2)
    nodes = cases.show(tmp_path, "Bridge")
    assert [node.GetName() for node in nodes] == [
        "AXON held-out case 1, Bridge",
        "AXON held-out case 1, CT",
        "AXON held-out case 2, Bridge",
        "AXON held-out case 2, CT",
    ]
    assert [node.GetAttribute(volumes.SYNTHETIC) for node in nodes] == ["1", None, "1", None]
    for node, hu in zip(nodes, (made[0], truth[0], made[1], truth[1]), strict=True):
        assert np.array_equal(slicer.util.arrayFromVolume(node), hu)
        np.testing.assert_allclose(volumes.affineOf(node), affine)
        display = node.GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (1500, -400, 0)
        assert not node.GetSaveWithScene() and not display.GetSaveWithScene()


def test_a_later_validation_takes_the_place_of_the_one_before(hosted, tmp_path):
    import slicer

    from AXONTrainingLib import cases
    from AXONTrainingLib.views import readPicture

    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
    shown = readPicture(picture(tmp_path / "a.png", (255, 0, 0)), "picture", synthetic=True)
    writeCases(tmp_path, 2)
    first = cases.show(tmp_path, "Bridge")
    first[0].GetDisplayNode().SetWindowLevel(400, 40)  # the user's
    made, _truth, _affine = writeCases(tmp_path, 1, seed=1)
    second = cases.show(tmp_path, "FineDiff")
    assert second == first[:2] and second[0].GetName() == "AXON held-out case 1, FineDiff"
    assert np.array_equal(slicer.util.arrayFromVolume(second[0]), made[0])
    assert second[0].GetDisplayNode().GetWindow() == 400
    whole = (tmp_path / "cases.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"half of a fi", b""):
        (tmp_path / "cases.npz").write_bytes(damaged)
        assert cases.show(tmp_path, "Bridge") == []
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [other, shown]
    displays = slicer.util.getNodesByClass("vtkMRMLScalarVolumeDisplayNode")
    assert [node for node in displays if node.GetWindow() in (400, 1500)] == []


# ---- the run's folder


def test_saved_stages_are_listed_with_their_last_figures(run):
    from AXONTrainingLib import runs

    first, second = runs.checkpoints(run)
    assert (first.stage, first.step, first.steps, first.loss) == ("endpoint", 20, 100, 0.25)
    assert (first.heldOut, first.psnr, first.mae, first.picture) == (0.5, 18, None, None) and first.saved > 1e9
    assert (second.stage, second.step, second.heldOut) == ("coarse", 10, None), "of previous.pt"
    assert runs.checkpoints(None) == [] and runs.checkpoints(run / "nowhere") == []
    assert runs.isRun(run) and not runs.isRun(run / "nowhere") and not runs.isRun(None)
    assert runs.folderOf(" ") is None
    assert runs.saved(run) == ["endpoint", "coarse"] and runs.students(run) == []
    (run / "distill-coarse").mkdir()
    (run / "distill-coarse" / "state.pt").touch()
    assert runs.students(run) == ["distill-coarse"] and runs.saved(None) == []


def test_stages_are_those_of_the_library():
    from axon_core.job_train import PARTS
    from axon_core.training.distill import STUDENTS
    from axon_core.training.run import COMMANDS
    from AXONTrainingLib import curves, request, runs

    assert tuple(request.PARTS.values()) == PARTS
    assert {part: COMMANDS.get(part, (part,)) for part in PARTS} == request.STAGES
    assert {name: student.needs for name, student in STUDENTS.items()} == request.TEACHERS
    assert set(curves.COLORS) == set(runs.ORDER) and all(curves.stageTitle(stage) != stage for stage in runs.ORDER)
    pictures = {"cases.png", "strip.jpg", "contact_sheet.html"}
    from axon_core.data.contact_sheet import SHEET_FILE
    from axon_core.job_prepare import STRIP
    from axon_core.training.validate import PICTURE, VOLUMES
    from AXONTrainingLib import cases, panel_data

    assert (
        cases.FILE == VOLUMES
        and {PICTURE, STRIP, SHEET_FILE} == pictures
        and (panel_data.STRIP, panel_data.SHEET) == (STRIP, SHEET_FILE)
    )


def test_drawn_chests_differ_and_are_chests(tmp_path):
    from AXONTrainingLib import drawn

    first, second = drawn.chest(0).hu, drawn.chest(1).hu
    assert (first != second).any() and (first == drawn.chest(0).hu).all()
    assert (first < -800).mean() > 0.3 and ((first > -900) & (first < -700)).mean() > 0.05 and first.max() == 500
    folder = drawn.write(tmp_path / "chests")
    assert len((folder / "manifest.csv").read_text().splitlines()) == 4 and len(list(folder.glob("*.nrrd"))) == 3

"""How volumes look, and the warning on synthetic ones, on Slicer's own display nodes and views."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "AXONReconstruction"))
from test_layout import ball, film, module, slicerView, threeD, widget  # noqa: F401

NOTE = "SYNTHETIC: not for diagnosis"


@pytest.fixture
def note(module):  # noqa: F811
    from AXONLib.note import SyntheticNote

    note = SyntheticNote()
    yield note
    note.stop()


def flagged():
    """Names of the slice and 3D views that carry the warning."""
    import slicer

    manager = slicer.app.layoutManager()
    slices = {name: manager.sliceWidget(name).sliceView() for name in manager.sliceViewNames()}
    solids = [manager.threeDWidget(i) for i in range(manager.threeDViewCount)]
    views = slices | {f"3D {w.mrmlViewNode().GetSingletonTag()}": w.threeDView() for w in solids}
    return {name for name, view in views.items() if view.cornerAnnotation().GetText(7) == NOTE}


# ---- window and rendering


def test_ct_window_and_rendering_in_the_given_view_alone(module):  # noqa: F811
    import slicer

    from AXONLib import display

    node = ball("ct")
    module.showResult(ball("other"))
    view = threeD("AXONResult").mrmlViewNode()
    display.displayAsCT(node, [view])
    assert not node.GetDisplayNode().GetAutoWindowLevel()
    low, high = (node.GetDisplayNode().GetWindowLevelMin(), node.GetDisplayNode().GetWindowLevelMax())
    assert low < -950 and 200 < high < 600
    rendering = slicer.modules.volumerendering.logic().GetFirstVolumeRenderingDisplayNode(node)
    assert rendering.GetVisibility() and rendering.IsDisplayableInView(view.GetID())
    assert not rendering.IsDisplayableInView(slicerView("1"))


def test_preset_is_set_once_and_may_be_missing(module, monkeypatch):  # noqa: F811
    import slicer

    from AXONLib import display

    view = slicer.mrmlScene.GetNodeByID(slicerView("1"))
    preset = slicer.modules.volumerendering.logic().GetPresetByName(display.RENDERING_PRESET)
    opacity = display.renderVolume(ball("a"), [view]).GetVolumePropertyNode().GetScalarOpacity()
    assert opacity.GetSize() == preset.GetScalarOpacity().GetSize()
    opacity.RemoveAllPoints()
    opacity.AddPoint(0, 0.5)
    display.renderVolume(slicer.util.getNode("a"), [view])
    assert opacity.GetSize() == 1
    monkeypatch.setattr(display, "RENDERING_PRESET", "no such preset")
    assert display.renderVolume(ball("b"), [view]).GetVisibility()


def test_a_rendering_of_the_user_stays_in_his_views(module):  # noqa: F811
    import slicer

    from AXONLib import display

    node = ball("ct")
    rendering = slicer.modules.volumerendering.logic().CreateDefaultVolumeRenderingNodes(node)
    rendering.RemoveAllViewNodeIDs()
    rendering.SetVisibility(True)
    compare = module.CompareLayout()
    compare.enter(node, ball("result"))
    assert rendering.IsDisplayableInView(slicerView("1"))
    assert rendering.IsDisplayableInView(slicerView("AXONReference"))
    assert not rendering.IsDisplayableInView(slicerView("AXONResult"))
    display.renderVolume(node, [slicer.mrmlScene.GetNodeByID(slicerView("AXONReference"))])
    assert rendering.GetNumberOfViewNodeIDs() == 2
    compare.leave()


# ---- overlays


def deviation(of, value):
    """A volume on the lattice of another, of one value in its right half (R) and 0 elsewhere."""
    import slicer

    array = np.zeros((32, 32, 32), np.float32)
    array[:, :, 16:] = value
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    of.GetIJKToRASMatrix(matrix)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name="deviation")


def colours():
    """Colour in the middle of the patient's right and left half of the axial slice; in the picture right is left."""
    picture = widget("AXONResultAxial").sliceView().picture().astype(int)
    row, column = picture.shape[0] // 2, picture.shape[1] // 2
    return picture[row, column - 12], picture[row, column + 12]


def test_uncertainty_colours_where_it_is_high_alone(module):  # noqa: F811
    from AXONLib import display

    result = ball("result")
    module.showResult(result)
    uncertain = deviation(result, 200)
    before = colours()
    display.showUncertainty(result, uncertain, 0.8)
    right, left = colours()
    assert right[0] > right[2] + 80  # red or yellow
    assert left == pytest.approx(before[1])
    display.showUncertainty(result, uncertain, 0)
    assert colours()[0] == pytest.approx(before[0])
    assert not widget("AXONResultAxial").mrmlSliceCompositeNode().GetForegroundVolumeID()


@pytest.mark.parametrize(("value", "channel"), [(500, 0), (-500, 2)])
def test_difference_is_red_above_and_blue_below(module, value, channel):  # noqa: F811
    from AXONLib import display

    result = ball("result")
    module.showResult(result)
    display.showDifference([result], deviation(result, value), 1)
    right, left = colours()
    assert right[channel] > right[2 - channel] + 80
    assert left.min() > 235  # nearly white: equal


def test_overlay_lies_over_its_volume_alone(module):  # noqa: F811
    from AXONLib import display

    reference, result = ball("reference"), ball("result")
    compare = module.CompareLayout()
    compare.enter(reference, result)
    display.showDifference([result], deviation(result, 100), 0.5)
    assert not widget("AXONReferenceAxial").mrmlSliceCompositeNode().GetForegroundVolumeID()
    assert widget("AXONResultAxial").mrmlSliceCompositeNode().GetForegroundVolumeID()
    compare.leave()


def test_overlay_stays_when_the_same_volume_is_shown_again(module):  # noqa: F811
    from AXONLib import display

    result = ball("result")
    module.showResult(result)
    display.showUncertainty(result, deviation(result, 100), 0.5)
    module.showResult(result)
    assert widget("AXONResultAxial").mrmlSliceCompositeNode().GetForegroundVolumeID()


# ---- the warning


def test_warning_follows_every_layer_of_a_slice_view(note):
    synthetic = ball("synthetic", synthetic=True)
    composite = widget("Red").mrmlSliceCompositeNode()
    for show in (composite.SetBackgroundVolumeID, composite.SetForegroundVolumeID, composite.SetLabelVolumeID):
        show(synthetic.GetID())
        assert flagged() == {"Red"}
        show(ball("real").GetID())
        assert flagged() == set()


def test_warning_follows_the_mark(note):
    from AXONLib.volumes import SYNTHETIC

    node = ball("result")
    widget("Yellow").mrmlSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
    assert flagged() == set()
    node.SetAttribute(SYNTHETIC, "1")
    assert flagged() == {"Yellow"}
    node.SetAttribute(SYNTHETIC, "0")
    assert flagged() == set()


def test_warning_follows_renderings_and_slices_in_3d(note):
    import slicer

    from AXONLib import display

    node = ball("result", synthetic=True)
    rendering = display.renderVolume(node, [slicer.mrmlScene.GetNodeByID(slicerView("1"))])
    assert flagged() == {"3D 1"}
    rendering.SetVisibility(False)
    assert flagged() == set()
    widget("Red").mrmlSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
    widget("Red").mrmlSliceNode().SetSliceVisible(True)
    assert "3D 1" in flagged()
    widget("Red").mrmlSliceNode().SetSliceVisible(False)
    assert flagged() == {"Red"}


def test_warning_in_the_compare_layout_on_one_side(module, note):  # noqa: F811
    compare = module.CompareLayout()
    compare.enter(ball("reference"), ball("result", synthetic=True))
    assert flagged() == {"3D AXONResult", "AXONResultAxial", "AXONResultCoronal", "AXONResultSagittal"}
    compare.leave()


def test_warning_goes_with_the_scene_and_comes_again(note):
    import slicer

    widget("Red").mrmlSliceCompositeNode().SetBackgroundVolumeID(ball("a", synthetic=True).GetID())
    slicer.mrmlScene.Clear(0)
    assert flagged() == set()
    widget("Red").mrmlSliceCompositeNode().SetBackgroundVolumeID(ball("b", synthetic=True).GetID())
    assert flagged() == {"Red"}


def test_stopped_warning_leaves_the_views_as_they_were(note):
    annotation = widget("Red").sliceView().cornerAnnotation()
    style = annotation.GetTextProperty()
    before = style.GetColor(), style.GetBackgroundOpacity()
    annotation.SetText(0, "somebody else's")
    composite = widget("Red").mrmlSliceCompositeNode()
    composite.SetBackgroundVolumeID(ball("result", synthetic=True).GetID())
    assert flagged() == {"Red"} and (style.GetColor(), style.GetBackgroundOpacity()) != before
    note.stop()
    assert flagged() == set() and (style.GetColor(), style.GetBackgroundOpacity()) == before
    assert annotation.GetText(0) == "somebody else's"
    annotation.SetText(0, "")
    composite.SetForegroundVolumeID(ball("another", synthetic=True).GetID())
    assert flagged() == set()


def test_warning_can_be_read_on_a_bright_slice(note):
    node = ball("result", synthetic=True)
    composite = widget("Red").mrmlSliceCompositeNode()
    composite.SetBackgroundVolumeID(node.GetID())
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-2000, -1500)  # all of it white
    view = widget("Red")
    view.fitSliceToBackground()
    picture = view.sliceView().picture().astype(int)
    top = picture[:14, 30:-30].reshape(-1, 3)
    assert picture[40:, 40:-40].min() > 240
    assert (top.max(axis=1) < 130).mean() > 0.5  # the box behind the letters
    assert ((top[:, 0] > 120) & (top[:, 2] < 90)).sum() > 10  # the letters

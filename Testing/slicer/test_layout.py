"""Layouts, linking, film orientation and the warning, on Slicer's own slice logics, cameras and renderers."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "AXONReconstruction"))

SIZE = (320, 240)  # of all views together: software draws them


@pytest.fixture
def module(hosted):
    """AXONLib.layout in a small window; afterwards nothing of it is open."""
    import slicer

    from AXONLib import layout

    manager = slicer.app.layoutManager()
    manager.resizeWindow(*SIZE)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    yield layout
    layout.leaveRegister()
    layout.endPreview(None)
    slicer.app.processEvents()


def ball(name, centre=(0.0, 0.0, 0.0), synthetic=False):
    """A volume node of 160 mm with a ball of 300 HU in air, centred in RAS mm."""
    import slicer

    from AXONLib import volumes

    z, y, x = np.indices((32, 32, 32)) - 15.5
    hu = np.where(x**2 + y**2 + z**2 < 10**2, 300, -1000).astype(np.int16)
    ras = np.diag([5.0, 5.0, 5.0, 1.0])
    ras[:3, 3] = np.array(centre) - 5 * 15.5
    node = slicer.util.addVolumeFromArray(hu, ijkToRAS=ras, name=name)
    if synthetic:
        node.SetAttribute(volumes.SYNTHETIC, "1")
    return node


def turned(degrees=30.0, shift=(40.0, -25.0, 10.0)):
    """A linear transform node that turns about the S axis and shifts."""
    import slicer

    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0, shift[0]], [s, c, 0, shift[1]], [0, 0, 1, shift[2]], [0, 0, 0, 1]])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Pose")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def widget(tag):
    import slicer

    return slicer.app.layoutManager().sliceWidget(tag)


def threeD(tag):
    import slicer

    manager = slicer.app.layoutManager()
    widgets = [manager.threeDWidget(i) for i in range(manager.threeDViewCount)]
    return next(w for w in widgets if w.mrmlViewNode().GetSingletonTag() == tag)


def shown():
    """Singleton tags of the views in the current layout."""
    import slicer

    places = slicer.app.layoutManager().places()
    nodes = [w.mrmlSliceNode() if hasattr(w, "sliceView") else w.mrmlViewNode() for w, _rectangle in places]
    return [node.GetSingletonTag() for node in nodes]


def backgrounds(tags):
    return [widget(tag).mrmlSliceCompositeNode().GetBackgroundVolumeID() for tag in tags]


def test_the_stand_in_shows_what_python_sees_in_slicer(started):
    """No member of the views that Slicer's own classes do not have, but for those that stand for eye and window."""
    from host import application, contract, views

    for own, slicers in (
        (application.Application, "qSlicerApplication"),
        (application.LayoutManager, "qSlicerLayoutManager"),
        (views.SliceWidget, "qMRMLSliceWidget"),
        (views.ThreeDWidget, "qMRMLThreeDWidget"),
        (views.SliceView, "qMRMLSliceView"),
        (views.ThreeDView, "qMRMLThreeDView"),
    ):
        members = {name for name in dir(own) if not name.startswith("_")}
        extra = {"resize", "picture", "resizeWindow", "places", "connect", "disconnect", "processEvents"}
        assert members - extra <= contract.visible(slicers), own


# ---- layouts


@pytest.mark.parametrize("withReference", [True, False])
def test_compare_layout_shows_each_side_in_its_views(module, withReference):
    result = ball("result", synthetic=True)
    reference = ball("reference") if withReference else None
    compare = module.CompareLayout()
    compare.enter(reference, result)
    sides = {"AXONResult": result} | ({"AXONReference": reference} if withReference else {})
    assert sorted(shown()) == sorted(side + plane for side in sides for plane in ("", "Axial", "Coronal", "Sagittal"))
    for side, volume in sides.items():
        assert backgrounds([side + plane for plane in module.PLANES]) == [volume.GetID()] * 3
        for plane in module.PLANES:
            assert widget(side + plane).mrmlSliceNode().GetOrientation() == plane
    compare.leave()


def test_leaving_restores_the_layout_and_entering_again_works(module):
    import slicer

    manager = slicer.app.layoutManager()
    compare, volume = module.CompareLayout(), ball("result")
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    red = widget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID()
    for _time in range(2):
        compare.enter(None, volume)
        compare.leave()
        assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
        assert widget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID() == red


def test_a_layout_that_the_user_chose_meanwhile_stays(module):
    import slicer

    manager = slicer.app.layoutManager()
    compare = module.CompareLayout()
    compare.enter(None, ball("result"))
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    compare.leave()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_comparing_during_a_registration_leads_back_to_it(module):
    ct, frontal = ball("ct"), film("PA")
    module.showRegister([frontal], ct)
    registering = shown()
    assert registering[0] == "AXONFrontal" and "AXONPose" in registering
    compare = module.CompareLayout()
    compare.enter(ct, ball("result"))
    assert "AXONPose" not in shown()
    compare.leave()
    assert shown() == registering


def test_layout_can_be_entered_in_a_loaded_scene(module, tmp_path):
    import slicer

    compare = module.CompareLayout()
    compare.enter(ball("reference"), ball("result"))
    path = str(tmp_path / "scene Ä.mrb")
    assert slicer.util.saveScene(path)
    compare.leave()
    slicer.mrmlScene.Clear(0)
    slicer.app.coreIOManager().loadScene(path)
    reference, result = slicer.util.getNode("reference"), slicer.util.getNode("result")
    compare.enter(reference, result)
    assert len(shown()) == 8
    assert backgrounds(["AXONReferenceAxial", "AXONResultAxial"]) == [reference.GetID(), result.GetID()]
    compare.leave()


def test_a_layout_that_is_named_but_unknown_is_shown(module, monkeypatch):
    import slicer

    monkeypatch.setattr(module, "FIRST_LAYOUT", 5911)
    number = module.numberOf("compare", ("AXONResult",))
    slicer.app.layoutManager().layoutLogic().GetLayoutNode().SetViewArrangement(number)  # as a loaded scene does
    assert shown() == []
    module.showResult(ball("result"))
    assert "AXONResult" in shown()


def test_a_newly_loaded_volume_leaves_our_views_alone(module):
    import slicer

    result = ball("result")
    module.showResult(result)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetActiveVolumeID(ball("other").GetID())
    slicer.app.applicationLogic().PropagateVolumeSelection()
    assert backgrounds(["AXONResultAxial"]) == [result.GetID()]
    assert backgrounds(["Red"]) != [result.GetID()]


def test_without_a_main_window_nothing_happens(module, monkeypatch):
    import slicer

    from AXONLib import display, note

    result, before = ball("result", synthetic=True), len(slicer.util.getNodesByClass("vtkMRMLAbstractViewNode"))
    monkeypatch.setattr(type(slicer.app), "layoutManager", lambda self: None)
    compare, warning = module.CompareLayout(), note.SyntheticNote()
    compare.enter(None, result)
    compare.leave()
    module.showFilms(film("PA"), None)
    module.showRegister([film("PA")], result)
    module.leaveRegister()
    module.showPreview(result)
    module.endPreview(result)
    module.endPreview(None)
    display.showUncertainty(result, ball("deviation"), 0.5)
    warning.stop()
    assert len(slicer.util.getNodesByClass("vtkMRMLAbstractViewNode")) == before


# ---- following each other


def test_slices_follow_both_ways_in_their_plane_alone(module):
    import slicer

    compare = module.CompareLayout()
    compare.enter(ball("reference"), ball("result"))
    for leader, follower, offset in (("AXONReference", "AXONResult", 25.0), ("AXONResult", "AXONReference", -30.0)):
        logic = widget(leader + "Axial").sliceLogic()
        coronal = widget(follower + "Coronal").sliceLogic().GetSliceOffset()
        logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
        logic.SetSliceOffset(offset)
        logic.EndSliceNodeInteraction()
        assert widget(follower + "Axial").sliceLogic().GetSliceOffset() == pytest.approx(offset)
        assert widget(follower + "Coronal").sliceLogic().GetSliceOffset() == pytest.approx(coronal)
    compare.leave()


def test_mouse_wheel_moves_both_sides(module):
    compare = module.CompareLayout()
    compare.enter(ball("reference"), ball("result"))
    leader, follower = (widget(side + "Axial") for side in ("AXONReference", "AXONResult"))
    before = leader.sliceLogic().GetSliceOffset()
    event = leader.sliceView().interactor()
    leader.sliceView().forceRender()
    event.SetEventInformation(30, 30, 0, 0, chr(0), 0, None)
    event.EnterEvent()
    event.MouseMoveEvent()
    event.MouseWheelForwardEvent()
    assert leader.sliceLogic().GetSliceOffset() != before
    assert follower.sliceLogic().GetSliceOffset() == pytest.approx(leader.sliceLogic().GetSliceOffset())
    compare.leave()


def test_cameras_follow_both_ways_until_left(module):
    compare = module.CompareLayout()
    compare.enter(ball("reference"), ball("result"))
    first, second = (threeD(side).threeDView().cameraNode() for side in ("AXONReference", "AXONResult"))
    first.GetCamera().Azimuth(25)
    assert second.GetPosition() == pytest.approx(first.GetPosition())
    second.SetPosition(100, 900, 50)
    second.SetViewAngle(20)
    assert first.GetPosition() == pytest.approx((100, 900, 50))
    assert first.GetViewAngle() == pytest.approx(20)
    compare.leave()
    second.SetPosition(0, 700, 0)
    assert first.GetPosition() == pytest.approx((100, 900, 50))


def test_linked_nodes_do_not_chase_each_other(module):
    """Also where a copy never comes out quite as the original, each change is copied once."""
    import slicer

    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode") for _side in range(2))
    copies = []

    def copy(source, target):
        copies.append(source)
        target.SetAttribute("value", f"{source.GetAttribute('value')}'")

    link = module._Link(first, second, copy)
    first.SetAttribute("value", "a")
    second.SetAttribute("value", "b")
    assert copies == [first, first, second]
    link.stop()


def test_dragging_in_one_3d_view_turns_the_other(module):
    compare = module.CompareLayout()
    compare.enter(ball("reference"), ball("result"))
    view = threeD("AXONReference").threeDView()
    view.forceRender()
    other = threeD("AXONResult").threeDView().cameraNode()
    before = other.GetPosition()
    drag(view.interactor(), (20, 20), (45, 30))
    assert np.linalg.norm(np.subtract(other.GetPosition(), before)) > 10
    assert other.GetPosition() == pytest.approx(view.cameraNode().GetPosition())
    compare.leave()


def test_window_and_level_are_shared(module):
    reference, result = ball("reference"), ball("result")
    compare = module.CompareLayout()
    compare.enter(reference, result)
    displays = reference.GetDisplayNode(), result.GetDisplayNode()
    assert [display.GetAutoWindowLevel() for display in displays] == [0, 0]
    displays[1].SetWindowLevel(350, 40)
    assert (displays[0].GetWindow(), displays[0].GetLevel()) == (350, 40)
    displays[0].SetWindowLevel(800, 0)
    assert (displays[1].GetWindow(), displays[1].GetLevel()) == (800, 0)
    compare.leave()


def test_both_sides_show_the_same_place_also_under_a_pose(module):
    pose = turned()
    reference, result = ball("reference"), ball("result")
    for node in (reference, result):
        node.SetAndObserveTransformNodeID(pose.GetID())
    compare = module.CompareLayout()
    compare.enter(reference, result)
    centre = np.mean(module.worldBounds([result]), axis=0)
    assert centre == pytest.approx([40, -25, 10], abs=0.1)
    for plane in module.PLANES:
        pictures = [widget(side + plane).sliceView().picture() for side in ("AXONReference", "AXONResult")]
        assert pictures[0].std() > 20
        assert np.abs(pictures[0].astype(float) - pictures[1]).mean() < 1
        matrix = widget("AXONResult" + plane).mrmlSliceNode().GetSliceToRAS()
        normal = np.array([matrix.GetElement(row, 2) for row in range(3)])
        origin = np.array([matrix.GetElement(row, 3) for row in range(3)])
        assert normal @ (centre - origin) == pytest.approx(0, abs=0.1)
    assert threeD("AXONResult").threeDView().cameraNode().GetFocalPoint() == pytest.approx(centre, abs=0.1)
    compare.leave()


def test_both_3d_views_draw_their_own_volume_alike(module):
    reference, result = ball("reference"), ball("result")
    compare = module.CompareLayout()
    compare.enter(reference, result)
    first, second = (threeD(side).threeDView().picture() for side in ("AXONReference", "AXONResult"))
    drawn = first[30:90, 30:60].astype(float)
    assert drawn.max() > 100
    assert np.abs(first.astype(float) - second).mean() < 1
    rendering = __import__("slicer").modules.volumerendering.logic().GetFirstVolumeRenderingDisplayNode(result)
    rendering.SetVisibility(False)
    assert threeD("AXONResult").threeDView().picture()[30:90, 30:60].max() < 60
    assert threeD("AXONReference").threeDView().picture()[30:90, 30:60].max() > 100
    compare.leave()


def test_changing_the_volume_in_place_keeps_slice_and_camera(module):
    preview, result = ball("preview"), ball("result")
    module.showPreview(preview)
    widget("AXONResultAxial").sliceLogic().SetSliceOffset(35)
    camera = threeD("AXONResult").threeDView().cameraNode()
    camera.SetPosition(300, 300, 300)
    module.showPreview(preview)
    module.endPreview(result)
    assert backgrounds(["AXONResultAxial"]) == [result.GetID()]
    assert widget("AXONResultAxial").sliceLogic().GetSliceOffset() == pytest.approx(35)
    assert camera.GetPosition() == pytest.approx((300, 300, 300))
    module.showResult(ball("elsewhere", (0, 0, 500)))
    assert camera.GetFocalPoint() == pytest.approx((0, 0, 500))


def test_a_cancelled_preview_leads_back(module):
    import slicer

    module.showPreview(ball("preview"))
    assert "AXONResult" in shown()
    module.endPreview(None)
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


# ---- films


def film(view, marked=True):
    """A film of 64 x 64 pixels on its detector: bright first row, half-bright first column."""
    import slicer

    from axon_core.geometry import XrayGeometry, XrayView
    from AXONLib.volumes import FLIP

    geometry = XrayGeometry(view=XrayView(view), pixels=64)
    corner, row, column = geometry.detector()[0, 0], geometry.detector()[1, 0], geometry.detector()[0, 1]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 3] = column - corner, row - corner, corner
    matrix[:3, 2] = np.cross(matrix[:3, 0], matrix[:3, 1])
    matrix[:3, 2] /= np.linalg.norm(matrix[:3, 2])
    pixels = np.zeros((1, 64, 64), np.float32)
    pixels[0, :, :12] = 500
    pixels[0, :12] = 1000
    node = slicer.util.addVolumeFromArray(pixels, ijkToRAS=FLIP @ matrix, name=view)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    return node


@pytest.mark.parametrize("view", ["PA", "AP", "LAT", "RL"])
def test_a_film_hangs_as_its_pixels_lie(module, view):
    """First row above, first column left: head up, and not mirrored, however detector and view stood before."""
    node = film(view)
    tag = "AXONFrontal" if view in ("PA", "AP") else "AXONLateral"
    films = (node, None) if tag == "AXONFrontal" else (None, node)
    module.showFilms(*films)
    assert shown() == [tag]
    for before in ("Coronal", "Sagittal", "Axial"):
        widget(tag).mrmlSliceNode().SetOrientation(before)
        module.showFilms(*films)
        hangs(tag)


def hangs(tag):
    """Look at a view that shows `film`: bright rows above, half-bright columns left."""
    picture = widget(tag).sliceView().picture()[..., 0].astype(int)
    middle = picture.shape[1] // 2
    inside = np.flatnonzero(picture[:, middle] > 200)
    top, left = inside[0], middle - SIZE[1] // 2
    assert top < 10 and picture[-30:, middle].max() < 20  # the bright rows are above, and the film fills the view
    assert picture[SIZE[1] // 2, left + 20] == pytest.approx(128, abs=4)  # the half-bright columns are left
    assert picture[SIZE[1] // 2, -left - 20] < 20


def test_views_are_fitted_once_more_when_the_window_has_sized_them(module):
    import slicer

    result = ball("result")
    for show, tag in (
        (lambda: module.showFilms(film("PA"), None), "AXONFrontal"),
        (lambda: module.showResult(result), "AXONResultCoronal"),
        (lambda: module.showRegister([film("PA")], result), "AXONPoseAxial"),
    ):
        slicer.app.layoutManager().resizeWindow(*SIZE)
        show()
        slicer.app.layoutManager().resizeWindow(SIZE[0] // 2, SIZE[1])
        slicer.app.processEvents()
        node = widget(tag).mrmlSliceNode()
        shown = node.GetFieldOfView()[:2]
        widget(tag).sliceLogic().FitSliceToBackground()
        assert node.GetFieldOfView()[:2] == pytest.approx(shown)


def test_frontal_film_has_the_patients_left_on_the_right(module):
    module.showFilms(film("PA"), None)
    matrix = widget("AXONFrontal").mrmlSliceNode().GetSliceToRAS()
    assert [matrix.GetElement(row, 0) for row in range(3)] == pytest.approx([-1, 0, 0])  # to the right: -R = left
    assert [matrix.GetElement(row, 1) for row in range(3)] == pytest.approx([0, 0, 1])  # upwards: superior


def test_a_turned_film_is_shown_in_its_plane(module):
    node = film("PA")
    module.showFilms(node, None)
    before = widget("AXONFrontal").sliceView().picture().astype(float)
    node.SetAndObserveTransformNodeID(turned().GetID())
    module.showFilms(node, None)
    assert np.abs(widget("AXONFrontal").sliceView().picture() - before).mean() < 2


def test_registration_shows_films_and_ct_in_the_room(module):
    import slicer

    ct, films = ball("ct"), [film("LAT"), film("PA")]
    ct.SetAndObserveTransformNodeID(turned(10, (5.0, 0.0, 0.0)).GetID())
    module.showRegister(films, ct)
    assert backgrounds(["AXONFrontal", "AXONLateral"]) == [films[1].GetID(), films[0].GetID()]
    assert backgrounds(["AXONPoseAxial", "AXONPoseCoronal"]) == [ct.GetID()] * 2
    for tag in ("AXONPoseAxial", "AXONPoseCoronal"):
        assert widget(tag).sliceView().picture().std() > 20
    pose = threeD("AXONPose").mrmlViewNode().GetID()
    for tag in ("AXONFrontal", "AXONLateral"):
        node = widget(tag).mrmlSliceNode()
        assert node.GetSliceVisible() and node.IsDisplayableInThreeDView(pose)
        assert not node.IsDisplayableInThreeDView(slicerView("1"))
        assert not widget(tag).mrmlSliceCompositeNode().GetLinkedControl()
    bones = slicer.mrmlScene.GetSingletonNode("AXONBones", "vtkMRMLModelNode")
    assert bones.GetDisplayNode().GetViewNodeIDs() == (pose,)
    position = np.array(threeD("AXONPose").threeDView().cameraNode().GetPosition())
    for node in films:  # the camera sees no film from behind
        detector = np.mean(module.worldBounds([node]), axis=0)
        assert (position - detector) @ -detector > 0
    module.leaveRegister()
    assert not widget("AXONFrontal").mrmlSliceNode().GetSliceVisible()
    assert slicer.mrmlScene.GetSingletonNode("AXONBones", "vtkMRMLModelNode") is None


def test_bones_lie_where_the_ct_shows_them(module):
    """Also of a volume with other steps along each axis, turned and mirrored, under a pose."""
    import slicer

    k, j, i = np.indices((20, 60, 80))
    hu = np.where((abs(i - 30) <= 10) & (abs(j - 25) <= 8) & (abs(k - 12) <= 3), 800, -500).astype(np.int16)
    axes = np.array([[0, -0.9, 0, 30], [0.8, 0, 0, -40], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    ct = slicer.util.addVolumeFromArray(hu, ijkToRAS=axes, name="bones")
    ct.SetAndObserveTransformNodeID(turned(0, (11.0, 5.0, -3.0)).GetID())
    module.showRegister([film("PA")], ct)
    low_high = np.zeros(6)
    slicer.mrmlScene.GetSingletonNode("AXONBones", "vtkMRMLModelNode").GetRASBounds(low_high)
    centre = np.add((axes @ [30, 25, 12, 1])[:3], [11, 5, -3])
    assert (low_high[0::2] + low_high[1::2]) / 2 == pytest.approx(centre, abs=0.6)
    assert low_high[1::2] - low_high[0::2] == pytest.approx([17 * 0.9, 21 * 0.8, 7 * 3.0], abs=1.5)


def slicerView(tag):
    import slicer

    return slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLViewNode").GetID()


def test_one_film_fewer(module):
    ct, films = ball("ct"), [film("PA"), film("LAT")]
    module.showRegister(films, ct)
    module.showRegister(films[1:], ct)
    assert "AXONFrontal" not in shown() and "AXONLateral" in shown()
    assert not widget("AXONFrontal").mrmlSliceNode().GetSliceVisible()
    module.leaveRegister()
    assert "AXONLateral" not in shown()


# ---- the pose, dragged by hand


def drag(interactor, start, end, steps=6):
    """Press the left button at start and move to end, pixels from the lower left corner."""
    points = np.linspace(start, end, steps + 1).astype(int)

    def send(name, point):
        interactor.SetEventInformation(int(point[0]), int(point[1]), 0, 0, chr(0), 0, None)
        getattr(interactor, name)()

    send("EnterEvent", points[0])
    send("MouseMoveEvent", points[0])
    send("LeftButtonPressEvent", points[0])
    for point in points[1:]:
        send("MouseMoveEvent", point)
    send("LeftButtonReleaseEvent", points[-1])


def test_slicers_handles_move_the_pose(module):
    """The arrows and rings of a transform node react to the mouse; each move fires TransformModifiedEvent."""
    import slicer

    pose = turned(0, (0.0, 0.0, 0.0))
    pose.CreateDefaultDisplayNodes()
    display = pose.GetDisplayNode()
    ct = ball("ct")
    ct.SetAndObserveTransformNodeID(pose.GetID())
    module.showRegister([film("PA")], ct)
    view = threeD("AXONPose").threeDView()
    camera = view.cameraNode()
    camera.SetPosition(0, 800, 0)
    camera.SetFocalPoint(0, 0, 0)
    display.SetEditorVisibility3D(True)
    display.SetEditorVisibility(True)
    moves = []
    pose.AddObserver(slicer.vtkMRMLTransformNode.TransformModifiedEvent, lambda caller, event: moves.append(event))
    view.forceRender()
    width, height = view.renderWindow().GetSize()
    drag(view.interactor(), (width // 2, height // 2), (width // 2 + 15, height // 2 + 5))  # the ball in the middle
    matrix = slicer.util.arrayFromTransformMatrix(pose)
    assert len(moves) >= 3
    assert np.linalg.norm(matrix[:3, 3]) > 5
    assert matrix[:3, :3] == pytest.approx(np.eye(3), abs=1e-6)
    assert matrix[0, 3] < 0  # seen from the front, the patient's left is on the right: R grows to the left


def test_a_large_ct_is_drawn_by_a_coarser_copy_in_the_same_place(hosted):
    import slicer

    from AXONLib import coarse, volumes

    z, y, x = np.meshgrid(*(np.arange(n) for n in (30, 60, 60)), indexing="ij")
    plane = (-1000 + 10 * x + 5 * y + 20 * z).astype(np.int16)  # linear, so that means are values between voxels
    turn = np.array([[0.6, -0.8, 0, 5], [0.8, 0.6, 0, -7], [0, 0, 1.5, 9], [0, 0, 0, 1.0]])
    ct = volumes.addVolume(plane, turn, "CT")
    copy = coarse.coarseCopy(ct)
    assert copy.GetImageData().GetDimensions() == (30, 30, 30)
    before = volumes.affineOf(copy) @ [3, 4, 5, 1]
    index = np.linalg.inv(volumes.affineOf(ct)) @ before
    value = -1000 + 10 * index[0] + 5 * index[1] + 20 * index[2]
    assert abs(slicer.util.arrayFromVolume(copy)[5, 4, 3] - value) <= 1
    assert copy.GetHideFromEditors() and not copy.GetSaveWithScene()
    coarse.removeCopy(copy)
    assert copy.GetScene() is None
    assert coarse.coarseCopy(volumes.addVolume(plane, np.diag([2.5, 2.5, 2.5, 1.0]), "coarse CT")) is None


def test_leaving_the_comparison_takes_the_copy_away(hosted):
    import slicer

    from AXONLib import volumes
    from AXONLib.layout import CompareLayout

    ct = volumes.addVolume(np.zeros((20, 40, 40), np.int16), np.diag([0.9, 0.9, 2.0, 1.0]), "CT")
    result = volumes.addVolume(np.zeros((20, 20, 20), np.int16), np.diag([2.0, 2.0, 2.0, 1.0]), "result")
    nodes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")
    compare = CompareLayout()
    compare.enter(ct, result)
    compare.enter(ct, result)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == nodes + 1
    logic = slicer.modules.volumerendering.logic()
    assert logic.GetFirstVolumeRenderingDisplayNode(ct) is None
    compare.leave()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == nodes

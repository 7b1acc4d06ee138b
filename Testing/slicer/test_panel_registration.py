"""Matching a CT with a film through the panel: the samples' CT and its scout, the live DRR, the worker's search."""

from __future__ import annotations

import json
import os

import driving
import numpy as np
import pytest

NEAR = {"tilt": -3.3, "lean": 0.3, "rotate": 2.7, "leftRight": -23.0, "depth": -15.0, "upDown": 43.0}  # of the scout


def prepare(panel):
    from AXONLib import volumes

    panel.films.open(driving.SCOUT, "frontal")
    panel._parameterNode.groundTruth = volumes.loadCt(driving.CT)


@pytest.fixture
def panel(hosted):
    with driving.panel() as widget:
        yield widget


@pytest.fixture
def ready(panel):
    """With scout and CT."""
    prepare(panel)
    return panel


@pytest.fixture
def matching(ready):
    ready.ui.registerButton.click()
    return ready


def rested(panel):
    """Let the live picture come to rest."""
    driving.spin(lambda: not panel.registration.throttle._fineTimer.active)


def picture(panel):
    import slicer

    return slicer.util.arrayFromVolume(panel.registration.comparison.nodes[0]).copy()


def values(panel):
    return panel.registration.pose.values()


def shortcut(keys):
    import qt
    import slicer

    found = slicer.util.mainWindow().findChildren(qt.QShortcut)
    return next(one for one in found if one.key.toString() == keys)


@pytest.fixture(scope="class")
def opened(started):
    with driving.noticed(started), driving.panel() as widget:
        prepare(widget)
        widget.ui.registerButton.click()
        yield widget


@pytest.fixture
def at(opened):
    """The panel while a CT is matched, at the pose of the CT itself, with the default choices."""
    from AXONLib.parameters import CompareMode

    opened.registration.pose.reset()
    parameters = opened._parameterNode
    parameters.depthLocked, parameters.fineSteps = True, False
    parameters.compareMode, parameters.compareAmount = CompareMode.OPACITY, 0.5
    rested(opened)
    driving.told()
    return opened


class TestMatching:
    def test_film_and_drr_lie_on_the_detector_in_views_of_their_own(self, opened):
        import slicer

        from axon_core.geometry import XrayGeometry

        node = opened.registration.comparison.nodes[0]
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        centre = opened.registration.pose.isocentreLps * [-1, -1, 1]
        middle = np.add(bounds[::2], bounds[1::2]) / 2 - centre
        assert np.allclose(middle[[0, 2]], 0, atol=1) and abs(middle[1]) > 100  # AP: behind the patient
        assert node.IsA("vtkMRMLVectorVolumeNode") and picture(opened).shape[-1] == 3
        assert XrayGeometry().detector_mm == pytest.approx(bounds[1] - bounds[0], rel=0.1)
        assert not opened.ui.matchPanel.isHidden()
        assert opened._parameterNode.groundTruth.GetParentTransformNode() is opened._parameterNode.pose
        shown = slicer.app.layoutManager().sliceWidget("AXONFrontal").mrmlSliceCompositeNode()
        assert shown.GetBackgroundVolumeID() == node.GetID()

    @pytest.mark.parametrize("name", list(NEAR))
    def test_a_slider_moves_the_pose_and_the_pose_its_slider(self, at, name):
        slider = at.registration.sliders[name]
        slider.value = 4.0
        assert values(at)[name] == pytest.approx(4.0)
        assert [v for other, v in values(at).items() if other != name] == pytest.approx([0.0] * 5)
        at.registration.pose.setValue(name, -3.0)
        assert slider.value == pytest.approx(-3.0)

    def test_who_moves_the_transform_moves_the_sliders(self, at):
        import slicer

        matrix = np.eye(4)
        matrix[:3, 3] = (-7.0, 0.0, 5.0)  # RAS
        at._parameterNode.pose.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        assert at.ui.leftRightSlider.value == pytest.approx(7.0) and at.ui.upDownSlider.value == pytest.approx(5.0)

    def test_the_picture_follows_the_pose(self, at):
        before = picture(at)
        at.ui.leftRightSlider.value = 20.0
        rested(at)
        after = picture(at)
        assert after.shape == before.shape and np.abs(after.astype(int) - before).mean() > 1
        assert "NCC" in at.ui.readoutLabel.text

    def test_steps_are_undone_done_again_and_reset(self, at):
        at.ui.tiltSlider.value = 5.0
        rested(at)
        at.ui.upDownSlider.value = 9.0
        rested(at)
        assert at.ui.undoButton.enabled and not at.ui.redoButton.enabled
        at.ui.undoButton.click()
        assert (at.ui.tiltSlider.value, at.ui.upDownSlider.value) == pytest.approx((5.0, 0.0))
        assert at.ui.redoButton.enabled
        shortcut("Ctrl+Shift+Y").activated()
        assert at.ui.upDownSlider.value == pytest.approx(9.0)
        at.ui.resetPoseButton.click()
        assert list(values(at).values()) == pytest.approx([0.0] * 6)
        shortcut("Ctrl+Shift+Z").activated()
        assert at.ui.upDownSlider.value == pytest.approx(9.0)

    def test_the_depth_is_locked_until_it_is_unlocked(self, at):
        import slicer

        def handle():
            matrix = np.eye(4)
            matrix[1, 3] = 25.0
            at._parameterNode.pose.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))

        assert not at.ui.depthSlider.enabled
        handle()
        assert values(at)["depth"] == pytest.approx(0.0)
        at.ui.depthLockedCheck.checked = False
        assert at.ui.depthSlider.enabled
        handle()
        assert values(at)["depth"] == pytest.approx(-25.0)

    def test_keys_move_by_steps_coarse_and_fine(self, at):
        shortcut("Alt+Shift+Right").activated()
        shortcut("Alt+Shift+Right").activated()
        shortcut("Alt+Shift+W").activated()
        assert values(at)["leftRight"] == pytest.approx(2.0) and values(at)["tilt"] == pytest.approx(-0.5)
        at.ui.fineStepsCheck.checked = True
        shortcut("Alt+Shift+Left").activated()
        assert values(at)["leftRight"] == pytest.approx(1.9)
        assert at.ui.tiltSlider.singleStep == pytest.approx(0.05)

    def test_every_way_to_compare_looks_different(self, at):
        seen = []
        for index in range(at.ui.compareModeCombo.count):
            at.ui.compareModeCombo.currentIndex = index
            seen.append(picture(at))
        assert len(seen) == 6
        for index, one in enumerate(seen):
            assert all(np.abs(one.astype(int) - other).mean() > 0.5 for other in seen[:index])

    def test_the_amount_blends_from_one_to_the_other(self, at):
        film, both, drr = (self.shown(at, amount) for amount in (0.0, 0.5, 1.0))
        assert np.abs(film - drr).mean() > 5
        assert np.abs(both - (film + drr) / 2).mean() < 0.2 * np.abs(film - drr).mean()

    @staticmethod
    def shown(panel, amount):
        panel.ui.compareAmountSlider.value = amount
        return picture(panel).astype(float)

    def test_a_drawn_region_limits_what_counts_and_may_be_moved(self, at):
        registration = at.registration
        whole = registration.comparison.maskFor(0)
        at.ui.collimationButton.checked = True
        region = at._parameterNode.collimation
        drawn = registration.comparison.maskFor(0)
        assert region is not None and 0.3 * whole.sum() < drawn.sum() < 0.9 * whole.sum()
        rested(at)
        centre = [0.0] * 3
        region.GetCenter(centre)
        region.SetCenter(centre[0] - 60, centre[1], centre[2])
        rested(at)
        moved = registration.comparison.maskFor(0)
        assert np.argwhere(moved)[:, 1].mean() > np.argwhere(drawn)[:, 1].mean() + 10  # to the patient's left
        at.ui.collimationButton.checked = False
        assert at._parameterNode.collimation is None and region.GetScene() is None
        assert np.array_equal(registration.comparison.maskFor(0), whole)

    def test_a_region_that_is_deleted_elsewhere_counts_no_more(self, at):
        import slicer

        whole = at.registration.comparison.maskFor(0)
        at.ui.collimationButton.checked = True
        slicer.mrmlScene.RemoveNode(at._parameterNode.collimation)
        assert not at.ui.collimationButton.checked
        assert np.array_equal(at.registration.comparison.maskFor(0), whole)

    def test_landmarks_bring_back_the_pose_from_which_they_were_drawn(self, at):
        import slicer

        from axon_core.geometry import RigidPose

        truth = RigidPose((0.05, -0.04, 0.06), (12.0, 0.0, -15.0))
        geometry, centre = at.registration.comparison.geometries()[0], at.registration.pose.isocentreLps
        points = np.array([(60, 40, 80), (-70, -50, 60), (50, -60, -90), (-40, 70, -50), (10, 0, 20), (-90, 20, -10.0)])
        at.ui.placeCtButton.click()
        at.ui.placeFilmButton.click()
        inCt, onFilm = at._parameterNode.ctLandmarks, at._parameterNode.filmLandmarks
        for point in points:
            inRoom = (truth.matrix @ [*point, 1])[:3]
            ray = inRoom - geometry.source
            mark = geometry.source + ray * geometry.sdd_mm / (ray @ geometry.view.beam)
            inCt.AddControlPoint(*((point + centre) * [-1, -1, 1]))
            onFilm.AddControlPointWorld(*((mark + centre) * [-1, -1, 1]))
        at.ui.solveLandmarksButton.click()
        assert driving.told() == []
        found = at.registration.pose.rigidPose()
        assert np.degrees(found.rotation) == pytest.approx(np.degrees(truth.rotation), abs=0.5)
        assert np.array(found.translation)[[0, 2]] == pytest.approx(np.array(truth.translation)[[0, 2]], abs=1.0)
        rested(at)
        assert "RMS 0." in at.ui.landmarksLabel.text
        at.ui.beforeAfterButton.checked = True
        assert list(values(at).values()) == pytest.approx([0.0] * 6)
        at.ui.beforeAfterButton.checked = False
        assert at.registration.pose.rigidPose() == found
        at.ui.clearLandmarksButton.click()
        assert (
            at._parameterNode.ctLandmarks is None
            and slicer.mrmlScene.GetNumberOfNodesByClass(onFilm.GetClassName()) == 0
        )

    def test_too_few_landmarks_are_told(self, at):
        at.ui.solveLandmarksButton.click()
        at.ui.placeCtButton.click()
        at.ui.placeFilmButton.click()
        for node in (at._parameterNode.ctLandmarks, at._parameterNode.filmLandmarks):
            node.AddControlPointWorld(0, 0, 0)
        at.ui.solveLandmarksButton.click()
        texts = driving.told()
        assert len(texts) == 2 and "no landmarks" in texts[0]
        at.ui.clearLandmarksButton.click()

    def test_a_pose_is_saved_and_loaded(self, at, tmp_path):
        from host import user

        at.registration.pose.setValue("tilt", 6.0)
        user.chosen = str(tmp_path / "Ä b.json")
        at.ui.savePoseButton.click()
        at.ui.resetPoseButton.click()
        at.ui.loadPoseButton.click()
        assert values(at)["tilt"] == pytest.approx(6.0) and driving.told() == []
        (tmp_path / "Ä b.json").write_text("{}")
        at.ui.loadPoseButton.click()
        assert len(driving.told()) == 1 and values(at)["tilt"] == pytest.approx(6.0)
        user.chosen = str(tmp_path / "Ä b.json" / "pose.json")
        at.ui.savePoseButton.click()
        assert len(driving.told()) == 1
        user.chosen = ""

    def test_the_worker_improves_a_pose_that_is_nearly_right(self, at, tmp_path):
        from host import user

        for name, value in {**NEAR, "leftRight": NEAR["leftRight"] + 8, "upDown": NEAR["upDown"] - 8}.items():
            at.registration.pose.setValue(name, value)
        rested(at)
        before, wrong = at.registration.comparison.readouts()[0][0], at.registration.pose.rigidPose()
        at.ui.refineButton.click()
        assert at.ui.refineButton.text == "Cancel" and not at.ui.searchButton.enabled
        driving.spin(lambda: at.registration.search.job is None)
        rested(at)
        assert driving.told() == [] and at.ui.refineButton.text == "Auto-refine"
        found = values(at)
        assert at.registration.comparison.readouts()[0][0] > before + 0.02
        assert "Last automatic step" in at.ui.readoutLabel.text and "±" in at.ui.readoutLabel.text
        at.ui.beforeAfterButton.checked = True
        assert at.registration.pose.rigidPose() == wrong
        at.ui.beforeAfterButton.checked = False
        assert values(at) == found
        user.chosen = str(tmp_path / "pose.json")
        at.ui.savePoseButton.click()
        user.chosen = ""
        assert json.loads((tmp_path / "pose.json").read_text())["verdict"] in ("good", "doubtful")
        at.ui.undoButton.click()
        assert at.registration.pose.rigidPose() == wrong


# ---- beginning and end


def test_the_button_says_what_is_missing(panel):
    from AXONLib import volumes

    ui, parameters = panel.ui, panel._parameterNode
    assert not ui.registerButton.enabled and "frontal film" in ui.registerButton.toolTip
    panel.films.open(driving.SCOUT, "frontal")
    assert not ui.registerButton.enabled and "Choose a CT" in ui.registerButton.toolTip
    parameters.groundTruth = volumes.loadCt(driving.CT)
    assert ui.registerButton.enabled
    parameters.groundTruth.SetAttribute(volumes.SYNTHETIC, "1")
    parameters.fineSteps = True
    assert not ui.registerButton.enabled and "real CT" in ui.registerButton.toolTip


def test_what_is_no_ct_is_told_and_nothing_begins(panel):
    import slicer

    panel.films.open(driving.SCOUT, "frontal")
    panel._parameterNode.groundTruth = slicer.util.addVolumeFromArray(np.ones((20, 20, 20)), name="mask")
    before = driving.content()
    panel.ui.registerButton.click()
    texts = driving.told()
    assert len(texts) == 1 and "mask does not hold Hounsfield units" in texts[0]
    assert not panel.ui.registerButton.checked and panel.ui.matchPanel.isHidden() and driving.content() == before


def test_leaving_takes_the_pictures_away_and_keeps_the_pose(ready):
    import slicer

    manager = slicer.app.layoutManager()
    before, layout = driving.volumeNames(), manager.layout
    ready.ui.registerButton.click()
    assert manager.layout != layout and len(driving.volumeNames()) == len(before) + 1
    ready.ui.tiltSlider.value = 3.0
    ready.ui.registerButton.click()
    assert manager.layout == layout and driving.volumeNames() == before and ready.ui.matchPanel.isHidden()
    assert ready._parameterNode.groundTruth.GetParentTransformNode() is ready._parameterNode.pose
    left = driving.content()
    ready.ui.registerButton.click()
    assert values(ready)["tilt"] == pytest.approx(3.0)
    ready.ui.registerButton.click()
    assert driving.content() == left  # nothing gathers


@pytest.mark.parametrize("what", ["another film", "film corrected", "another CT", "CT deleted", "pose deleted"])
def test_matching_ends_when_its_ground_goes(matching, what):
    import slicer

    from AXONLib import volumes

    parameters = matching._parameterNode
    if what == "another film":
        matching.films.open(driving.FILM, "frontal")
    elif what == "film corrected":
        parameters.frontalMirrored = True
    elif what == "another CT":
        parameters.groundTruth = volumes.loadCt(driving.CT)
    elif what == "CT deleted":
        slicer.mrmlScene.RemoveNode(parameters.groundTruth)
    else:
        slicer.mrmlScene.RemoveNode(parameters.pose)
    assert matching.registration.pose is None and not matching.ui.registerButton.checked
    assert not any("film and DRR" in name for name in driving.volumeNames())
    driving.wait(0.4)  # longer than the timers of the live picture
    if what != "CT deleted":
        matching.ui.registerButton.click()
        assert matching.registration.pose is not None and driving.told() == []


def test_matching_goes_on_while_another_module_is_shown(matching):
    import slicer

    slicer.util.selectModule("")
    matching.registration.pose.setValue("tilt", 2.0)
    rested(matching)
    slicer.util.selectModule("AXONReconstruction")
    assert matching.ui.registerButton.checked and matching.ui.tiltSlider.value == pytest.approx(2.0)


@pytest.mark.parametrize("what", ["cancelled", "scene closed"])
def test_a_search_ends_at_once_with_its_worker(matching, what):
    import slicer

    matching.registration.pose.setValue("tilt", 2.0)
    matching.ui.searchButton.click()
    worker = matching.registration.search.job._worker.pid
    if what == "cancelled":
        matching.ui.refineButton.click()
        assert values(matching)["tilt"] == pytest.approx(2.0) and matching.ui.searchButton.enabled
        assert matching.ui.registrationProgress.isHidden()
    else:
        slicer.mrmlScene.Clear(0)
        assert matching.registration.pose is None and matching.ui.matchPanel.isHidden()
        driving.wait(0.4)
    assert matching.registration.search.job is None and driving.group(worker) == [] and driving.told() == []


def test_a_search_that_fails_is_told_and_the_pose_stays(matching):
    matching.registration.pose.setValue("tilt", 2.0)
    matching.ui.refineButton.click()
    os.kill(matching.registration.search.job._worker.pid, 9)
    driving.spin(lambda: matching.registration.search.job is None)
    texts = driving.told()
    assert len(texts) == 1 and "ended from outside" in texts[0] and values(matching)["tilt"] == pytest.approx(2.0)


def test_the_distance_moves_the_picture(matching):
    before = matching.registration.comparison.geometries()[0].sdd_mm
    matching._parameterNode.sourceDistance = 1500.0
    assert matching.registration.comparison.geometries()[0].sdd_mm == 1500.0 != before

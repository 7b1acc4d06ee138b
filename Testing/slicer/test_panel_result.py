"""The result in the panel: compared with its CT, coloured, exported; and the whole way in the tree that users get."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import driving
import numpy as np
import pytest
from packaged import packagedTree

MATCHED = {"tilt": -3.3, "lean": 0.3, "rotate": 2.7, "leftRight": -23.0, "depth": -15.0, "upDown": 43.0}


def matched(panel):
    """Scout and CT of the samples, with the pose that a registration finds."""
    import slicer

    from AXONLib import volumes
    from AXONLib.parameters import Device, Quality
    from AXONLib.pose import PoseController

    parameters = panel._parameterNode
    panel.films.open(driving.SCOUT, "frontal")
    parameters.groundTruth = volumes.loadCt(driving.CT)
    parameters.pose = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    controller = PoseController(parameters.pose, volumes.ctVolumeOf(parameters.groundTruth).center_lps)
    controller.attach(parameters.groundTruth)
    for name, value in MATCHED.items():
        controller.setValue(name, value)
    controller.close()
    parameters.pose.SetNodeReferenceID(volumes.ROLES["groundTruth"], parameters.groundTruth.GetID())
    parameters.quality, parameters.device = Quality.PREVIEW, Device.CPU


def background(tag):
    """The volume that a slice view shows."""
    import slicer

    return slicer.mrmlScene.GetNodeByID(composite(tag).GetBackgroundVolumeID() or "")


def composite(tag):
    import slicer

    return slicer.app.layoutManager().sliceWidget(tag).mrmlSliceCompositeNode()


@pytest.fixture(scope="class")
def made(started):
    """A reconstruction, compared with its CT: panel, parameters and the worker's answer."""
    with driving.noticed(started), driving.panel() as panel:
        matched(panel)
        answers = []
        panel.ui.applyButton.click()
        panel.run.job.finished.connect(answers.append)
        driving.spin(lambda: panel.run.job is None)
        driving.spin(lambda: panel.result.job is None)
        assert driving.told() == []
        yield types.SimpleNamespace(panel=panel, ui=panel.ui, parameters=panel._parameterNode, answer=answers[0])


class TestComparison:
    def test_the_metrics_stand_in_a_table(self, made):
        for name in ("MAE", "PSNR", "SSIM"):
            assert name in made.ui.metricsLabel.text
        assert "HU" in made.ui.metricsLabel.text and made.panel.ui.metricsLabel.text.count("<tr>") >= 4

    def test_result_and_difference_lie_where_the_ct_lies(self, made):
        import slicer

        result, difference, truth = made.parameters.result, made.parameters.difference, made.parameters.groundTruth
        for node in (result, difference):
            assert node.GetParentTransformNode() is made.parameters.pose
            assert node.GetAttribute("AXON.Synthetic") == "1"
        centres = []
        for node in (result, truth):
            bounds = [0.0] * 6
            node.GetRASBounds(bounds)
            centres.append(np.add(bounds[::2], bounds[1::2]) / 2)
        assert np.linalg.norm(centres[0] - centres[1]) < 80  # the pose has shifted the patient by 51 mm in the room
        assert slicer.util.arrayFromVolume(difference).shape == slicer.util.arrayFromVolume(result).shape

    def test_both_stand_side_by_side(self, made):
        assert made.ui.compareButton.checked
        for plane in ("Axial", "Coronal", "Sagittal"):
            assert background("AXONReference" + plane) is made.parameters.groundTruth
            assert background("AXONResult" + plane) is made.parameters.result

    def test_the_difference_is_laid_over_and_taken_off(self, made):
        made.ui.differenceButton.checked = True
        over = composite("AXONResultAxial").GetForegroundVolumeID()
        made.ui.differenceButton.checked = False
        assert (
            over == made.parameters.difference.GetID() and composite("AXONResultAxial").GetForegroundVolumeID() is None
        )

    def test_leaving_the_comparison_brings_the_layout_back(self, made):
        import slicer

        compare = slicer.app.layoutManager().layout
        made.ui.compareButton.checked = False
        assert slicer.app.layoutManager().layout != compare
        made.ui.compareButton.checked = True
        assert slicer.app.layoutManager().layout == compare

    def test_the_report_is_opened(self, made):
        from host import user

        made.ui.reportButton.click()
        assert len(user.opened) == 1 and user.opened[0].startswith("file:") and "report" in user.opened[0]

    @pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
    def test_the_volume_is_exported(self, made, tmp_path, ending):
        import SimpleITK as sitk
        from host import user

        user.chosen = str(tmp_path / ("Ä b" + ending))
        made.ui.exportVolumeButton.click()
        user.chosen = ""
        assert sitk.ReadImage(str(tmp_path / ("Ä b" + ending))).GetSize()[0] > 16
        assert "Ä b" in made.ui.projectionLabel.text and driving.told() == []

    def test_the_series_is_exported(self, made, tmp_path):
        import pydicom
        from host import user

        user.chosen = str(tmp_path)
        made.ui.exportDicomButton.click()
        user.chosen = ""
        one = pydicom.dcmread(next(tmp_path.rglob("*.dcm")))
        assert one.ImageType[0] == "DERIVED" and driving.told() == []

    def test_an_export_that_fails_is_told(self, made, tmp_path):
        from host import user

        (tmp_path / "file").write_text("in the way")
        user.chosen = str(tmp_path / "file" / "volume.nrrd")
        made.ui.exportVolumeButton.click()
        user.chosen = ""
        assert len(driving.told()) == 1
        made.ui.exportVolumeButton.click()  # the dialog is left
        made.ui.exportDicomButton.click()
        assert driving.told() == []

    def test_the_next_result_takes_the_place_of_this_one(self, made):
        """As at the end of a second run, while the first is being compared."""
        from AXONLib import layout, logic

        first = made.parameters.result
        second = logic.importResult(made.answer, made.parameters, logic.placementOf(made.parameters))
        layout.endPreview(second)
        made.panel.run.made.emit(second)
        assert background("AXONResultAxial") is second
        assert background("AXONReferenceAxial") is made.parameters.groundTruth
        driving.spin(lambda: made.panel.result.job is None)
        assert made.parameters.difference is not None and "MAE" in made.ui.metricsLabel.text
        made.parameters.result = first
        assert made.ui.exportVolumeButton.enabled and background("AXONResultAxial") is first

    def test_what_is_no_result_has_no_buttons(self, made):
        result = made.parameters.result
        made.parameters.result = made.parameters.groundTruth
        ui = made.ui
        for button in (
            ui.showResultButton,
            ui.compareButton,
            ui.exportVolumeButton,
            ui.exportDicomButton,
            ui.reportButton,
        ):
            assert not button.enabled
        assert ui.metricsLabel.text == "" and "NCC" not in ui.projectionLabel.text
        made.parameters.result = result
        assert ui.exportVolumeButton.enabled and "NCC" in ui.projectionLabel.text

    def test_a_deleted_result_leaves_an_empty_section(self, made):
        import slicer

        slicer.mrmlScene.RemoveNode(made.parameters.result)
        assert made.parameters.result is None and not made.ui.exportVolumeButton.enabled
        assert made.ui.metricsLabel.text == "" and driving.told() == []


def test_the_scene_is_closed_in_the_midst_of_a_comparison(hosted, tmp_path):
    import slicer

    with driving.panel() as panel:
        matched(panel)
        panel.ui.applyButton.click()
        driving.spin(lambda: panel.run.job is None)
        worker = panel.result.job._worker.pid
        slicer.mrmlScene.Clear(0)
        assert panel.result.job is None and driving.group(worker) == []
        assert not panel.ui.compareButton.checked and panel.ui.metricsLabel.text == ""
        driving.wait(0.2)
        assert driving.told() == []


# ---- the whole way, in the tree that users get

WHOLE_WAY = """
import json, sys
from pathlib import Path
module, film, ct, out, tests = sys.argv[1:]
sys.path.insert(0, tests)
import host
host.start()
import slicer
from host import module_host, user
from driving import spin, told
sys.path[:] = [path for path in sys.path if not path.endswith("/AXONReconstruction")]  # driving's own checkout

module_host.load(Path(module))
slicer.util.selectModule("AXONReconstruction")
panel = slicer.modules.AXONReconstructionWidget
ui = panel.ui
user.chosen = film
ui.openFrontalButton.click()
user.chosen = ct
ui.openCtButton.click()
ui.registerButton.click()
for slider, value in ((ui.tiltSlider, -3), (ui.rotateSlider, 3), (ui.leftRightSlider, -20), (ui.upDownSlider, 40)):
    slider.value = value
spin(lambda: ui.refineButton.enabled and not panel.registration.throttle._fineTimer.active)
ui.refineButton.click()
spin(lambda: panel.registration.search.job is None)
verdict = panel.registration.search.record["verdict"]
ui.registerButton.click()
ui.qualityCombo.currentIndex = 0
spin(lambda: ui.applyButton.enabled)
ui.applyButton.click()
spin(lambda: panel.run.job is None)
spin(lambda: panel.result.job is None)
user.chosen = out
ui.exportVolumeButton.click()
import AXONLib, axon_core
print(json.dumps({
    "told": told(), "verdict": verdict, "metrics": ui.metricsLabel.text, "code": [AXONLib.__file__, axon_core.__file__],
    "result": panel._parameterNode.result.GetName(),
}))
module_host.unload("AXONReconstruction")
"""


def test_from_the_film_to_the_compared_volume_in_the_packaged_tree(tmp_path):
    home = tmp_path / "Ä b"
    home.mkdir()
    tree = packagedTree(home)
    for path in (driving.SCOUT, driving.CT):
        shutil.copy(path, home)
    (home / "way.py").write_text(WHOLE_WAY, encoding="utf-8")
    out = home / "Ergebnis für b.nrrd"
    arguments = [tree / "AXONReconstruction.py", home / driving.SCOUT.name, home / driving.CT.name, out]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(home / "way.py"), *map(str, arguments), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        cwd=home,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["told"] == [] and said["verdict"] in ("good", "doubtful")
    assert all(Path(file).is_relative_to(tree) for file in said["code"]), said["code"]
    assert said["result"] == "acrin_042_scout_ap synthetic CT" and "MAE" in said["metrics"]
    assert out.is_file()

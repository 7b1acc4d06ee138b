"""Reconstructions through the panel, by the worker: started, watched, cancelled, ended from outside, and refused."""

from __future__ import annotations

import os
import shutil
import signal
import types

import driving
import film_files
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def panel(hosted):
    with driving.panel() as widget:
        yield widget


@pytest.fixture
def ready(panel):
    """With the film of the samples, and the quickest choices."""
    prepare(panel)
    return panel


def prepare(panel):
    from AXONLib.parameters import Device, Quality

    panel.films.open(driving.FILM, "frontal")
    panel._parameterNode.quality, panel._parameterNode.device = Quality.PREVIEW, Device.CPU


def finished(panel):
    driving.spin(lambda: panel.run.job is None)


# ---- one whole run


@pytest.fixture(scope="class")
def run(started):
    """One run, watched: what the user saw on the way and what was there at the end."""
    import slicer

    from AXONLib.note import UPPER_EDGE
    from AXONLib.volumes import PREVIEW_NAME

    with driving.noticed(started), driving.panel(estimates=True) as panel:
        prepare(panel)
        seen = types.SimpleNamespace(stages=[], progress=[], previews=[], notes=[])
        seen.estimate = driving.spin(lambda: "about" in panel.ui.estimateLabel.text and panel.ui.estimateLabel.text)
        seen.before = driving.content()
        panel.ui.applyButton.click()
        seen.button = panel.ui.applyButton.text
        panel.run.job.event.connect(lambda event: seen.stages.append(panel.ui.stageLabel.text))

        def watched():
            seen.stages.append(panel.ui.stageLabel.text)
            seen.progress.append(panel.ui.progressBar.value)
            node = slicer.mrmlScene.GetFirstNodeByName(PREVIEW_NAME)
            if node is not None and node.GetImageData().GetMTime() not in seen.previews:
                seen.previews.append(node.GetImageData().GetMTime())
                views = [
                    slicer.app.layoutManager().sliceWidget(name) for name in slicer.app.layoutManager().sliceViewNames()
                ]
                shown = [v for v in views if v.mrmlSliceCompositeNode().GetBackgroundVolumeID() == node.GetID()]
                seen.notes += [v.sliceView().cornerAnnotation().GetText(UPPER_EDGE) for v in shown]
            return panel.run.job is None

        driving.spin(watched)
        seen.told = driving.told()
        seen.panel = panel
        yield seen


class TestOneRun:
    def test_the_expected_time_is_told_before(self, run):
        assert run.estimate.startswith("Expected time: about")

    def test_the_button_cancels_while_it_runs(self, run):
        assert run.button == "Cancel" and run.panel.ui.applyButton.text == "Reconstruct"

    def test_stages_and_progress_are_told(self, run):
        texts = " | ".join(dict.fromkeys(run.stages))
        assert "First guess F(x)" in texts and texts.rstrip().split(" | ")[-1].startswith("Done in")
        assert run.progress == sorted(run.progress) and max(run.progress) > 50
        assert run.panel.ui.progressBar.isHidden() and run.told == []

    def test_a_preview_is_seen_with_the_warning_and_gone_at_the_end(self, run):
        assert run.previews and run.notes and all("SYNTHETIC" in note for note in run.notes)
        assert "AXON preview" not in driving.volumeNames()

    def test_the_result_is_a_chest_beside_its_film(self, run):
        import slicer

        from AXONLib import volumes

        result, film = run.panel._parameterNode.result, run.panel._parameterNode.frontal
        assert result.GetName() == f"{film.GetName()} synthetic CT"
        assert result.GetNodeReference(volumes.ROLES["frontal"]) is film
        array = slicer.util.arrayFromVolume(result)
        assert array.min() < -700 and array.max() > 0
        bounds = [0.0] * 6
        result.GetRASBounds(bounds)
        assert np.allclose(np.add(bounds[::2], bounds[1::2]), 0, atol=1e-3)  # about the isocentre
        assert volumes.provenanceOf(result)["preset"] == "preview"

    def test_the_views_show_the_result_and_warn(self, run):
        import slicer

        from AXONLib.note import UPPER_EDGE

        manager, result = slicer.app.layoutManager(), run.panel._parameterNode.result
        widgets = [manager.sliceWidget(name) for name in manager.sliceViewNames()]
        shown = [w for w in widgets if w.mrmlSliceCompositeNode().GetBackgroundVolumeID() == result.GetID()]
        assert len(shown) == 3
        assert all("SYNTHETIC" in w.sliceView().cornerAnnotation().GetText(UPPER_EDGE) for w in shown)

    def test_the_result_section_opens_with_facts_and_report(self, run):
        ui = run.panel.ui
        assert not ui.resultButton.collapsed and ui.reportButton.enabled and ui.exportVolumeButton.enabled
        assert "NCC" in ui.projectionLabel.text and "axon-small" in ui.projectionLabel.text
        assert not ui.projectionThumb.pixmap.isNull()

    def test_the_run_left_nothing_but_result_and_displays(self, run):
        import slicer

        made = [id for id in driving.content() if id not in run.before]
        volumes = [id for id in made if slicer.mrmlScene.GetNodeByID(id).IsA("vtkMRMLVolumeNode")]
        displays = ("vtkMRMLDisplayNode", "vtkMRMLVolumePropertyNode")
        rest = [id for id in made if id not in volumes and not any(map(slicer.mrmlScene.GetNodeByID(id).IsA, displays))]
        assert volumes == [run.panel._parameterNode.result.GetID()] and rest == []


# ---- ended early


def test_a_cancelled_run_leaves_the_scene_as_it_was(ready):
    import slicer

    before, layout = driving.content(), slicer.app.layoutManager().layout
    ready.ui.applyButton.click()
    worker = ready.run.job._worker.pid
    driving.spin(lambda: "AXON preview" in driving.volumeNames() or ready.run.job is None)
    assert ready.run.job is not None, driving.told()
    ready.ui.applyButton.click()
    finished(ready)
    assert driving.group(worker) == []
    assert driving.content() == before and slicer.app.layoutManager().layout == layout
    assert "Cancelled" in ready.ui.stageLabel.text and driving.told() == []
    assert ready.ui.applyButton.text == "Reconstruct" and ready.ui.applyButton.enabled


@pytest.mark.parametrize("end", ["scene closed", "module unloaded"])
def test_the_worker_ends_with_the_scene_and_the_module(hosted, end):
    import slicer

    with driving.panel() as panel:
        prepare(panel)
        layout = slicer.app.layoutManager().layout
        panel.ui.applyButton.click()
        worker = panel.run.job._worker.pid
        driving.spin(lambda: "AXON preview" in driving.volumeNames() or panel.run.job is None)
        if end == "scene closed":
            slicer.mrmlScene.Clear(0)
            assert panel.run.job is None and panel.ui.stageLabel.text != "" and "AXON" not in str(driving.volumeNames())
            prepare(panel)
            assert panel.ui.applyButton.enabled and panel.ui.applyButton.text == "Reconstruct"
    assert driving.group(worker) == [] and "AXON preview" not in driving.volumeNames()
    assert slicer.app.layoutManager().layout == layout or end == "scene closed"
    assert driving.told() == []


def test_a_run_goes_on_while_another_module_is_shown(ready):
    import slicer

    ready.ui.applyButton.click()
    slicer.util.selectModule("")
    finished(ready)
    assert ready._parameterNode.result is not None and driving.told() == []


def test_a_worker_that_is_killed_is_told_once(ready):
    ready.ui.applyButton.click()
    before = driving.content()
    driving.spin(lambda: ready.run.job is None or "model" in ready.ui.stageLabel.text)
    os.kill(ready.run.job._worker.pid, signal.SIGKILL)
    finished(ready)
    texts = driving.told()
    assert len(texts) == 1 and "ended from outside" in texts[0]
    assert driving.content() == before and ready.ui.applyButton.enabled


# ---- refused


def picture(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("kind", ["tiny", "multi-frame", "constant", "a series of slices"])
def test_bad_films_are_told_once_and_leave_the_scene_alone(panel, tmp_path, kind):
    path = tmp_path / "film"
    if kind == "tiny":
        picture(path := tmp_path / "film.png", film_files.frontal(8, 8))
    elif kind == "constant":
        picture(path := tmp_path / "film.png", np.full((200, 200), 9, np.uint8))
    elif kind == "multi-frame":
        frames = film_files.dataset(film_files.frontal(100, 100), NumberOfFrames="2")
        frames.PixelData = frames.PixelData * 2
        path.write_bytes(film_files.written(frames))
    else:
        path = driving.CT
    before = driving.content()
    panel.films.open(path, "frontal")
    assert len(driving.told()) == 1 and driving.content() == before and panel._parameterNode.frontal is None


def test_a_photograph_is_used_only_with_a_warning(panel, tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(30, 0).repeat(30, 1)
    panel.films.open(picture(tmp_path / "photo.png", photo), "frontal")
    texts = " ".join(driving.told()) + panel.ui.filmsLabel.text
    assert "colour" in texts.lower() or "hardly looks like a chest film" in texts


def test_a_disabled_button_starts_nothing(panel):
    panel.ui.applyButton.click()
    panel.run.onApply()
    assert panel.run.job is None and driving.told() == []


def test_a_model_that_went_after_the_check_is_told(hosted):
    report = driving.selfcheck()
    ghost = {**report["models"][0], "name": "ghost"}
    with driving.panel({**report, "models": [*report["models"], ghost]}) as panel:
        prepare(panel)
        panel._parameterNode.model = "ghost"
        assert panel.ui.applyButton.enabled
        before = driving.content()
        panel.ui.applyButton.click()
        finished(panel)
        texts = driving.told()
        assert len(texts) == 1 and "ghost" in texts[0] and driving.content() == before


def test_a_damaged_model_is_told_by_check_and_run(hosted, tmp_path, monkeypatch):
    resources = tmp_path / "Ä b"
    shutil.copytree(driving.ROOT / "Resources" / "Models", resources / "Models")
    weights = resources / "Models" / "axon-small" / "model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(weights.stat().st_size - 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.setenv("AXON_RESOURCES", str(resources))
    with driving.panel() as panel:  # with the report of before the damage
        prepare(panel)
        before = driving.content()
        panel.ui.applyButton.click()
        finished(panel)
        assert len(driving.told()) == 1 and driving.content() == before
        panel.run.installation = None
        panel.run.check()
        driving.spin(lambda: panel.run.installation is not None)
        assert not panel.ui.applyButton.enabled and panel.ui.applyButton.toolTip
        assert panel.run.model()["checksum_ok"] is False


@pytest.mark.parametrize("where", ["folder", "film"])
def test_a_full_disk_is_told_once_and_leaves_the_scene_alone(ready, monkeypatch, where):
    """The folder for files cannot be made; or it can, and the film cannot be written into it."""
    import slicer

    from AXONLib import services

    if where == "film":
        film = ready._parameterNode.frontal
        slicer.util.updateVolumeFromArray(film, slicer.util.arrayFromVolume(film) + 1)
        folder = ready.session.folder("films")
        shutil.rmtree(folder)
        monkeypatch.setattr(ready.session, "folder", lambda name="": folder + "/gone")
    else:

        def full():
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(services, "temporaryFolder", full)
        shutil.rmtree(ready.session.folder())
    before = driving.content()
    ready.ui.applyButton.click()
    if ready.run.job is not None:
        finished(ready)
    assert len(driving.told()) == 1 and driving.content() == before and ready.run.job is None
    assert ready._parameterNode.result is None and ready.ui.applyButton.text == "Reconstruct"


def test_seeds_that_change_nothing_are_told(ready):
    ready._parameterNode.seeds = "2"
    ready.ui.applyButton.click()
    finished(ready)
    assert ready._parameterNode.result is not None and ready._parameterNode.uncertainty is None
    assert "seed" in ready.ui.stageLabel.text and not ready.ui.uncertaintySlider.enabled


# ---- what is not installed


@pytest.fixture
def noTorch(tmp_path, monkeypatch):
    """Child processes find a torch that is none."""
    from AXONLib import services

    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    real = services.childEnvironment()
    path = os.pathsep.join([str(tmp_path), real["PYTHONPATH"]])
    monkeypatch.setattr(services, "childEnvironment", lambda: {**real, "PYTHONPATH": path})


def test_a_missing_package_shows_the_way(hosted, noTorch):
    with driving.panel({}) as panel:
        panel.films.open(driving.FILM, "frontal")
        driving.spin(lambda: panel.run.installation is not None)
        assert not panel.ui.setupButton.isHidden() and not panel.ui.applyButton.enabled
        assert "torch is not installed" in panel.ui.applyButton.toolTip and "PyTorch" in panel.ui.stageLabel.text
        assert "torch is not installed" in panel.ui.logText.plainText


@pytest.mark.parametrize("answer", [True, False])
def test_what_is_missing_is_installed_after_asking(hosted, tmp_path, monkeypatch, answer):
    import slicer
    from host import user

    problem = {"code": "package.missing", "title": "einops is not installed.", "advice": "Install it."}
    monkeypatch.setattr(slicer.packaging, "ensured", [])
    with driving.panel({**driving.selfcheck(), "problems": [problem]}) as panel:
        requirements = tmp_path / "requirements.txt"
        requirements.write_text("numpy\nno-such-package-of-axon>=1\n")
        panel.run.requirements = str(requirements)
        user.confirms = answer
        checks = []
        monkeypatch.setattr(panel.run, "check", lambda: checks.append(panel.run.installation))
        panel.ui.setupButton.click()
        kinds = [message.kind for message in user.messages]
        assert set(checks) == {None} and "no-such-package-of-axon" in user.messages[0].text
        assert bool(slicer.packaging.ensured) == answer
        assert kinds == (["question"] if answer else ["question", "error"])
        if not answer:
            assert "not installed" in user.messages[1].text and "try again" in user.messages[1].text


def test_a_worker_that_cannot_even_check_itself_is_told(hosted, monkeypatch):
    from AXONLib import services

    monkeypatch.setattr(services, "pythonSlicer", lambda: "/nowhere/PythonSlicer")
    with driving.panel({}) as panel:
        panel.films.open(driving.FILM, "frontal")
        assert "could not be started" in panel.ui.applyButton.toolTip and not panel.ui.applyButton.enabled
        assert "no such device" in panel.ui.deviceLabel.text.lower()

"""The panel of AXONTraining, driven from drawn chests to a model in use; and how it tells what goes wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import driving
import driving_training
import numpy as np
import pytest
from driving import ROOT

SCRIPT = ROOT / "AXONTraining" / "Scripts" / "axon_train_batch.py"


@pytest.fixture
def panel(hosted):
    with driving_training.panel() as widget:
        yield widget


@pytest.fixture
def chosen(panel, tmp_path):
    driving_training.choose(panel, tmp_path)
    return panel


def log(run: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]


# ---- from chests to a model


@pytest.fixture(scope="module")
def road(started, tmp_path_factory):
    """The whole road, watched: prepare, start, scene closed, pause, resume, use in AXON Reconstruction."""
    import slicer

    from AXONTrainingLib import cases, curves, views

    folder = tmp_path_factory.mktemp("training") / "Ä b"
    folder.mkdir()
    seen = types.SimpleNamespace(folder=folder, stages=[])
    with driving.noticed(started), driving_training.panel() as panel:
        ui = panel.ui
        driving_training.choose(panel, folder, modelLicence="CC-BY-4.0", modelData="drawn chests")
        seen.before = ui.applyButton.toolTip
        driving_training.prepared(panel)
        seen.prepared, seen.cases = ui.prepareLabel.text, [ui.caseCombo.itemText(i) for i in range(ui.caseCombo.count)]
        seen.caseName = views.pictureNode().GetName()
        seen.casePicture = slicer.util.arrayFromVolume(views.pictureNode()).copy()

        ui.applyButton.click()
        seen.running = (ui.applyButton.text, ui.stopButton.enabled, not ui.progressBar.isHidden())
        driving.spin(lambda: "step 10" in ui.stageLabel.text)
        slicer.mrmlScene.Clear(0)
        seen.afterClose = (panel._parameterNode.run, panel.train.job is not None)
        driving.spin(lambda: "step 20" in ui.stageLabel.text)
        seen.stillThere = curves.points(curves.PROGRESS, "endpoint")
        ui.applyButton.click()
        seen.pausing = (ui.applyButton.enabled, ui.stageLabel.text)
        driving.spin(lambda: panel.train.job is None)
        seen.paused = (ui.applyButton.text, ui.stageLabel.text)
        seen.pausedAt = panel.model._stages[0].step

        worker = driving_training.started(panel)
        driving.spin(lambda: panel.train.job is None)
        seen.left, seen.trained = driving.group(worker), ui.stageLabel.text
        seen.points = curves.points(curves.PROGRESS, "endpoint")
        seen.psnr = curves.points(curves.VALIDATION, "endpoint", "psnr")
        seen.table = ui.checkpointLabel.text
        seen.shown = views.pictureNode()
        seen.shownName, seen.synthetic = seen.shown.GetName(), seen.shown.GetAttribute("AXON.Synthetic")
        seen.volumes = [(node.GetName(), node.GetAttribute("AXON.Synthetic")) for node in cases.every()]
        seen.made, seen.truth = (slicer.util.arrayFromVolume(node).astype(float) for node in cases.every())
        seen.shownPicture = slicer.util.arrayFromVolume(seen.shown).copy()
        plots = [slicer.mrmlScene.GetSingletonNode(t, "vtkMRMLPlotViewNode") for t in (curves.LOSS, curves.QUALITY)]
        seen.charts = [plot.GetPlotChartNode().GetAttribute("AXON.Training") for plot in plots]

        with driving.panel() as other:
            slicer.util.selectModule("AXONTraining")
            ui.useButton.click()
            driving.spin(lambda: panel.model.job is None)
            driving.spin(lambda: other.run.installation is not None)
            seen.module, seen.exported = slicer.util.selectedModule(), ui.exportLabel.text
            seen.model = other.run.model()
            seen.combo = other.ui.modelCombo.currentText
        seen.told = driving.told()
    return seen


class TestTheRoad:
    def test_nothing_starts_before_the_data_are_prepared(self, road):
        assert "Prepare" in road.before

    def test_every_case_is_listed_with_its_part_and_shown_in_the_views(self, road):
        assert road.prepared.startswith("Prepared for tiny: 2 to learn from, 1 held out")
        assert sorted(road.cases) == ["drawn-0 (learn)", "drawn-1 (learn)", "drawn-2 (held out)"]
        assert road.caseName.startswith("AXON case drawn-")
        assert road.casePicture.shape == (1, 144, 5 * 144, 3) and road.casePicture.std() > 30

    def test_the_buttons_follow_the_run(self, road):
        assert road.running == ("Pause", True, True)
        assert road.pausing[0] is False and "Pausing" in road.pausing[1]
        assert road.paused[0] == "Resume" and road.paused[1].startswith("Paused. Stopped after step")
        assert road.trained.startswith("Trained.") and road.told == []

    def test_a_training_outlives_the_scene(self, road):
        assert road.afterClose == (str(road.folder / "run"), True)
        assert [step for step, _loss in road.stillThere] == [10, 20], "the curves are whole"

    def test_a_paused_run_goes_on_at_the_next_step(self, road):
        events = log(road.folder / "run", "endpoint")
        assert 20 <= road.pausedAt < 30
        assert [event["step"] for event in events if event["type"] == "progress"] == [10, 20, 30]
        assert road.points == [(e["step"], e["loss"]) for e in events if e["type"] == "progress"]
        assert road.psnr == [(e["step"], e["psnr"]) for e in events if e["type"] == "validation"]
        assert len(road.psnr) == 3 and road.psnr[-1][1] > road.psnr[0][1] + 1, "it has learnt"

    def test_nothing_is_left_running(self, road):
        assert road.left == []

    def test_the_checkpoints_are_listed_with_their_figures(self, road):
        last = log(road.folder / "run", "coarse")[-1]
        assert road.table.count("30/30") == 2 and f"{last['psnr']:.2f}" in road.table
        assert "F(x)" in road.table and "Bridge" in road.table

    def test_the_held_out_cases_are_shown_as_a_synthetic_volume(self, road):
        from PIL import Image

        assert road.shownName == "AXON held-out cases, Bridge" and road.synthetic == "1"
        with Image.open(road.folder / "run" / "coarse" / "cases.png") as image:
            assert np.array_equal(road.shownPicture[0], np.asarray(image.convert("RGB")))

    def test_the_held_out_case_is_a_volume_that_resembles_its_ct(self, road):
        assert road.volumes == [("AXON held-out case 1, Bridge", "1"), ("AXON held-out case 1, CT", None)]
        assert road.made.shape == road.truth.shape == (16, 16, 16) and road.truth.min() < -800
        assert np.corrcoef(road.made.ravel(), road.truth.ravel())[0, 1] > 0.5, "30 steps"

    def test_both_charts_are_in_their_views(self, road):
        assert road.charts == ["AXONTrainingLoss", "AXONTrainingQuality"]

    def test_the_model_is_chosen_in_axon_reconstruction(self, road):
        assert road.module == "AXONReconstruction" and road.combo == "run"
        model = road.model
        assert Path(model["name"]) == road.folder / "run" / "model" and model["problem"] is None
        assert model["checksum_ok"] and model["grid_size"] == 16 and model["licence"] == "CC-BY-4.0"
        assert "endpoint, coarse" in road.exported
        card = (road.folder / "run" / "model" / "README.md").read_text(encoding="utf-8")
        assert "drawn chests" in card and "SYNTHETIC" in card
        assert (road.folder / "run" / "model" / "curves.png").stat().st_size > 5000

    def test_a_run_that_is_chosen_again_shows_its_curves(self, road, panel):
        from AXONTrainingLib import cases, curves

        panel._parameterNode.run = str(road.folder / "run")
        assert curves.points(curves.PROGRESS, "endpoint") == road.points
        assert panel.ui.applyButton.text == "Resume" and "30/30" in panel.ui.checkpointLabel.text
        assert panel.ui.exportButton.enabled and panel.ui.stageCombo.currentText == "Bridge"
        panel.model.onStage()
        assert len(cases.every()) == 2
        panel._parameterNode.run = str(road.folder / "another")
        assert cases.every() == [], "these are of the run before"
        assert not curves.exists() and panel.ui.applyButton.text == "Start" and not panel.ui.exportButton.enabled

    def test_a_folder_with_a_model_is_not_overwritten_by_export(self, road, panel, monkeypatch):
        from host import user

        panel._parameterNode.run = str(road.folder / "run")
        user.chosen = str(road.folder / "run" / "model")
        panel.ui.exportButton.click()
        driving.spin(lambda: panel.model.job is None)
        texts = driving.told()
        assert len(texts) == 1 and "holds a model already" in texts[0] and "empty folder" in texts[0]


@pytest.mark.skipif("AXON_LONG_TESTS" not in os.environ, reason="two minutes; set AXON_LONG_TESTS to run it")
def test_two_minutes_of_every_stage(hosted, tmp_path):
    from AXONTrainingLib import runs
    from AXONTrainingLib.parameters import Budget

    with driving_training.panel(estimates=True) as panel:
        every = {"trainPrior": True, "trainFine": True, "trainSuperResolution": True}
        driving_training.choose(panel, tmp_path, budget=Budget.MINUTES, budgetMinutes=2.0, **every)
        driving_training.prepared(panel)
        driving.spin(lambda: "About 2 min" in panel.ui.estimateLabel.text)
        driving_training.trained(panel)
        stages = runs.checkpoints(tmp_path / "run")
        assert [each.stage for each in stages] == list(runs.ORDER) and driving.told() == []
        assert all(each.step == each.steps > 20 for each in stages)
        assert stages[0].psnr > 18


# ---- what it will cost


def test_the_cost_is_told_before_the_start(chosen, tmp_path, monkeypatch):
    from axon_core.job_train import TrainingPlan
    from axon_core.training.estimate import Estimate
    from AXONTrainingLib import panel_train

    plan = TrainingPlan("cpu", 7, None, (Estimate("endpoint", 2_810_000, 1e9, 409 << 20, 40, 7200.0),))
    asked = []

    def startWorker(request, *_unused):
        asked.append(request)
        return Ends({"type": "result", **plan.to_dict()})

    monkeypatch.setattr(panel_train, "startWorker", startWorker)
    pretendPrepared(chosen, tmp_path)
    chosen.train._estimate()
    assert "being counted" in chosen.ui.estimateLabel.text and asked[0]["dry_run"] is True
    chosen.train._plan.end()
    text = chosen.ui.estimateLabel.text
    assert all(
        word in text for word in ("2.0 h", "on cpu, with 7 cases", "F(x)", "2.81 M", ">&nbsp;40&nbsp;<", "409 MB")
    )
    chosen.train._estimate()
    assert len(asked) == 1, "it is counted once"
    chosen._parameterNode.budgetSteps = 50
    chosen.train._estimate()
    assert len(asked) == 2 and chosen.train.job is None
    chosen.train._plan.last = {"type": "error", "code": "plan.other-preset", "title": "No.", "advice": "--preset"}
    chosen.train._plan.end()
    assert "No. Choose the preset" in chosen.ui.estimateLabel.text and driving.told() == []


# ---- ended early


WAITS = """
import pathlib, signal, sys, time
stop, saved, deaf = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3] == "deaf"
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as `axon_core.worker` leaves it to the training
print('{"type": "log", "text": "ready"}', flush=True)
while deaf or not stop.exists():
    time.sleep(0.02)
saved.touch()
print('{"type": "error", "code": "training.stopped", "title": "Stopped.", "advice": ""}')
"""


@pytest.mark.parametrize("kind", ["willing", "deaf"])
def test_at_the_end_of_slicer_the_state_is_saved_and_nothing_left(hosted, tmp_path, monkeypatch, kind):
    """A child that saves when it is asked, and one that hangs."""
    with driving_training.panel() as panel:
        from AXONLib.job import Job
        from AXONLib.process import WorkerProcess
        from AXONTrainingLib import panel_train

        def startWorker(request, *_unused):
            return Job(WorkerProcess([sys.executable, "-c", WAITS, request["stop_file"], tmp_path / "saved", kind]))

        monkeypatch.setattr(panel_train, "startWorker", startWorker)
        monkeypatch.setattr(panel_train, "QUIT_SECONDS", 20.0 if kind == "willing" else 0.3)
        driving_training.choose(panel, tmp_path)
        pretendPrepared(panel, tmp_path)
        worker = driving_training.started(panel)
        driving.spin(lambda: "ready" in panel.ui.logText.plainText)
    assert (tmp_path / "saved").exists() == (kind == "willing")
    assert driving.group(worker) == [] and driving.told() == []


def pretendPrepared(panel, folder):
    """A cache that looks prepared, until somebody reads it."""
    (folder / "cache").mkdir()
    (folder / "cache" / "plan.json").write_text("{}")
    panel.train.refresh()


def test_stop_ends_the_process_at_once_and_the_run_can_be_resumed(chosen, tmp_path):
    pretendPrepared(chosen, tmp_path)
    worker = driving_training.started(chosen)
    chosen.ui.stopButton.click()
    assert chosen.train.job is None and driving.group(worker) == [] and not chosen.ui.stopButton.enabled
    assert chosen.ui.stageLabel.text.startswith("Stopped.") and driving.told() == []
    assert chosen.ui.applyButton.text == "Start" and chosen.ui.applyButton.enabled


def test_a_preparation_can_be_cancelled(chosen):
    chosen.ui.prepareButton.click()
    assert chosen.ui.prepareButton.text == "Cancel"
    worker = chosen.data.job._worker.pid
    chosen.ui.prepareButton.click()
    driving.spin(lambda: chosen.data.job is None)
    assert driving.group(worker) == [] and driving.told() == []
    assert "Cancelled" in chosen.ui.prepareLabel.text and chosen.ui.prepareButton.text == "Prepare"


# ---- what is wrong is told


def test_an_empty_folder_is_told_once_with_the_way_on(chosen, monkeypatch):
    from AXONTrainingLib import panel_data

    last = {"type": "error", "code": "manifest.empty", "title": "nothing holds no case.", "advice": "Give a folder."}
    monkeypatch.setattr(panel_data, "startWorker", lambda *_unused: Ends(last))
    chosen.ui.prepareButton.click()
    chosen.data.job.end()
    texts = driving.told()
    assert len(texts) == 1 and "holds no case" in texts[0] and "Choose a folder with CTs" in texts[0]
    assert "holds no case" in chosen.ui.prepareLabel.text and chosen.ui.prepareButton.enabled
    assert not chosen.ui.sheetButton.enabled and chosen.ui.caseCombo.count == 0


BAD = {
    "training.diverged": "Lower the learning rate",
    "training.memory": "less memory",
    "training.other-network": "preset",
    "training.one-case": "Add patients",
    "plan.other-preset": "preset",
    "output.cannot-write": "Make room",
    "prepare.space": "another disk",
    "worker.killed": "memory",
}


@pytest.mark.parametrize("code", BAD)
def test_an_error_of_the_training_is_told_once_in_words_of_the_panel(chosen, tmp_path, monkeypatch, code):
    """Errors whose cause is dear to make: a job that ends with them."""
    from AXONTrainingLib import panel_train

    pretendPrepared(chosen, tmp_path)
    last = {"type": "error", "code": code, "title": "It went wrong.", "advice": "Close programs: memory."}
    monkeypatch.setattr(panel_train, "startWorker", lambda *_unused: Ends(last))
    chosen.ui.applyButton.click()
    chosen.train.job.end()
    texts = driving.told()
    assert len(texts) == 1 and "It went wrong" in texts[0] and BAD[code] in texts[0] and "--" not in texts[0]
    assert BAD[code] in chosen.ui.stageLabel.text.replace("&#x27;", "'") and chosen.train.job is None
    assert chosen.ui.applyButton.enabled


class Ends:
    """A job that ends when it is told to, with a last line."""

    log = ""

    def __init__(self, last):
        from AXONLib.signal import Signal

        self.event, self.finished = Signal(), Signal()
        self.last = last

    def end(self):
        self.finished.emit(self.last)

    def stop(self):
        pass


def raisedCodes() -> dict[str, str]:
    """Code -> text of the source around it, of the errors that preparing, training and export can raise."""
    folders = [*(ROOT / "axon_core" / "training").glob("*.py"), *(ROOT / "axon_core" / "data").glob("*.py")]
    found = {}
    for path in [*folders, *ROOT.glob("axon_core/job_*.py")]:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r'"((?:training|prepare|plan|cache|manifest|output|anatomy)\.[\w-]+)"', text):
            found[match[1]] = text[match.end() : match.end() + 500].split("raise ")[0]
    return found


# What the panel cannot bring about: its choices are checked, or they are not offered.
NOT_OFFERED = {"training.batch", "training.setting", "training.stage", "training.preset", "prepare.split"}


def test_no_advice_speaks_of_the_command_line(hosted):
    from AXONTrainingLib.advice import adviceOf

    sources = raisedCodes()
    expected = {"training.memory", "training.other-student", "prepare.one-patient", "plan.missing", "anatomy.missing"}
    assert {*expected, "output.exists"} <= set(sources)
    for code, source in sources.items():
        if code in NOT_OFFERED or not re.search(r"--\w|axon \w|`axon", source):
            continue
        marker = "the library's own words"
        assert adviceOf({"code": code, "title": "", "advice": marker}) != marker, f"{code}: {source}"


WRONG = {
    "no source": ({"source": ""}, "prepareButton", "Choose a folder with chest CTs"),
    "no cache": ({"cache": " "}, "prepareButton", "Choose a folder for the prepared data"),
    "a division of 90 %": ({"split": "80,5,5"}, "prepareButton", "add up to 100"),
    "a division in words": ({"split": "most"}, "prepareButton", "three percentages"),
    "not prepared": ({}, "applyButton", "Press 'Prepare' first"),
    "no data": ({"cache": ""}, "applyButton", "Choose a folder of prepared data"),
    "no run": ({"run": "", "cache": "PAIRS"}, "applyButton", "Choose a folder for the run"),
    "no stage": ({"trainCoarse": False, "cache": "PAIRS"}, "applyButton", "Tick a stage"),
    "no teacher": (
        {"trainCoarse": False, "distilCoarse": True, "cache": "PAIRS"},
        "applyButton",
        "The student of the bridge has no teacher",
    ),
    "two of three teachers": (
        {"trainPrior": True, "distilFine": True, "cache": "PAIRS"},
        "applyButton",
        "The student of FineDiff has no teacher",
    ),
    "no such shapes": ({"anatomy": "nowhere.safetensors", "cache": "PAIRS"}, "applyButton", "no such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_disabled_button_says_what_is_missing(chosen, tmp_path, case):
    changes, button, words = WRONG[case]
    for name, value in changes.items():
        if value == "PAIRS":
            value = str(tmp_path)
            (tmp_path / "0.npz").touch()
        setattr(chosen._parameterNode, name, value)
    widget = getattr(chosen.ui, button)
    assert not widget.enabled and words in widget.toolTip
    widget.click()
    assert chosen.data.job is None and chosen.train.job is None and driving.told() == []


def test_a_student_may_learn_from_a_teacher_of_the_run(chosen, tmp_path):
    """Trained before, or by the same training; the choice of steps is open when there is a student."""
    pretendPrepared(chosen, tmp_path)
    assert chosen.ui.applyButton.enabled and not chosen.ui.studentSpin.enabled
    chosen._parameterNode.distilCoarse = True
    assert chosen.ui.applyButton.enabled and chosen.ui.studentSpin.enabled and chosen.ui.teacherSpin.enabled
    chosen._parameterNode.trainCoarse = False
    assert not chosen.ui.applyButton.enabled and "no teacher" in chosen.ui.stageLabel.text
    for stage in ("endpoint", "coarse"):
        (tmp_path / "run" / stage).mkdir(parents=True)
        (tmp_path / "run" / stage / "state.pt").touch()
    chosen.train.refresh()
    assert chosen.ui.applyButton.enabled and chosen.ui.stageLabel.text == ""


def test_a_student_may_learn_from_the_model_with_which_the_run_starts(chosen, tmp_path):
    """A new run starts with the model that is chosen; one that was begun, with what it holds."""
    from host import user

    pretendPrepared(chosen, tmp_path)
    chosen._parameterNode.trainCoarse, chosen._parameterNode.distilCoarse = False, True
    assert not chosen.ui.applyButton.enabled
    user.chosen = "/somewhere/model"
    chosen.ui.startFolderButton.click()
    assert chosen.ui.startEdit.text == chosen._parameterNode.startModel == "/somewhere/model"
    assert chosen.ui.applyButton.enabled
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    chosen.train.refresh()
    assert not chosen.ui.applyButton.enabled and "no teacher" in chosen.ui.stageLabel.text
    (tmp_path / "run" / "start").mkdir()
    chosen._parameterNode.startModel = ""
    chosen.train.refresh()
    assert chosen.ui.applyButton.enabled


def test_students_are_exported_where_the_run_has_some(chosen, tmp_path, monkeypatch):
    from AXONTrainingLib import panel_model

    asked = []
    monkeypatch.setattr(panel_model, "startWorker", lambda job, *_: asked.append(job) or Ends({"type": "error"}))
    (tmp_path / "run" / "endpoint").mkdir(parents=True)
    (tmp_path / "run" / "endpoint" / "state.pt").touch()
    chosen._parameterNode.distilled = True  # of another run, say
    chosen.model.refresh()
    assert chosen.ui.distilledCheck.isHidden()
    for expected in (False, True):
        chosen.model.export(tmp_path / "model", False, None)
        assert asked[-1]["distilled"] is expected
        chosen.model.job = None
        (tmp_path / "run" / "distill-coarse").mkdir(exist_ok=True)
        (tmp_path / "run" / "distill-coarse" / "state.pt").touch()
        chosen.model.refresh()
    assert not chosen.ui.distilledCheck.isHidden() and "Student of the bridge" in chosen.ui.checkpointLabel.text


def test_the_file_of_other_shapes_is_chosen(chosen):
    from host import user

    assert chosen.ui.advancedButton.collapsed
    user.chosen = "/somewhere/shapes.safetensors"
    chosen.ui.anatomyFileButton.click()
    assert chosen.ui.anatomyEdit.text == chosen._parameterNode.anatomy == "/somewhere/shapes.safetensors"


def test_a_gpu_that_is_not_there_is_told(chosen, tmp_path):
    from AXONLib.parameters import Device

    report = driving.selfcheck()
    gpu = next(device for device in report["devices"] if device["name"] == "cuda")
    gpu.update(available=False, text="no such card")
    (tmp_path / "0.npz").touch()
    chosen._parameterNode.cache = str(tmp_path)
    chosen.installation.onChecked(report)
    assert chosen.ui.applyButton.enabled
    chosen._parameterNode.device = Device.CUDA
    assert not chosen.ui.applyButton.enabled and "no such card" in chosen.ui.applyButton.toolTip


@pytest.mark.parametrize("answer", [True, False])
def test_what_training_lacks_is_told_and_installed_after_asking(hosted, tmp_path, monkeypatch, answer):
    import slicer
    from host import user

    problem = {"code": "package.missing", "title": "Training needs lightning-fabric.", "advice": "python -m pip"}
    monkeypatch.setattr(slicer.packaging, "ensured", [])
    with driving_training.panel({**driving.selfcheck(), "training": [problem]}) as panel:
        driving_training.choose(panel, tmp_path)
        ui = panel.ui
        assert not ui.setupButton.isHidden() and not ui.applyButton.enabled and not ui.prepareButton.enabled
        assert "lightning-fabric" in ui.applyButton.toolTip and "Install what is missing" in ui.applyButton.toolTip
        requirements = tmp_path / "requirements.txt"
        requirements.write_text("numpy\nno-such-package-of-axon>=1\n")
        panel.train.requirements = str(requirements)
        user.confirms = answer
        monkeypatch.setattr(panel.installation, "check", lambda: None)
        ui.setupButton.click()
        kinds = [message.kind for message in user.messages]
        assert bool(slicer.packaging.ensured) == answer and kinds == (["question"] if answer else ["question", "error"])
        assert panel.installation.report is None


def test_a_missing_model_does_not_keep_from_training(hosted, tmp_path):
    problem = {"code": "model.none", "title": "No usable model is installed.", "advice": ""}
    with driving_training.panel({**driving.selfcheck(), "problems": [problem]}) as panel:
        driving_training.choose(panel, tmp_path)
        assert panel.ui.prepareButton.enabled


# ---- parameters and requests


def test_every_choice_reaches_the_worker(chosen):
    from axon_core.job_export import ExportJob
    from axon_core.job_prepare import PrepareJob
    from axon_core.job_train import TrainJob
    from axon_core.training.settings import StageSettings
    from AXONTrainingLib import request
    from AXONTrainingLib.parameters import Budget

    p = chosen._parameterNode
    for budget, less, full in itertools.product(Budget, (True, False), (True, False)):
        p.budget, p.lessMemory, p.fullPrecision = budget, less, full
        job = request.training(p, "stop")
        made = TrainJob.from_dict({key: value for key, value in job.items() if key != "task"})
        assert (made.steps, made.minutes) == {
            Budget.PRESET: (None, None),
            Budget.STEPS: (30, None),
            Budget.MINUTES: (None, 60.0),
        }[budget]
        assert (made.micro, made.recompute) == ((1, True) if less else (None, None))
        assert made.precision == ("32" if full else None) and made.lr is None and made.parts == ("coarse",)
    p.learningRate, p.trainPrior = 1e-4, True
    assert request.training(p)["lr"] == 1e-4 and request.training(p, dryRun=True)["dry_run"]
    assert request.training(p)["parts"] == ["coarse", "prior"]
    defaults = [f.default for f in dataclasses.fields(StageSettings) if f.name in ("student_steps", "teacher_steps")]
    assert [request.training(p)[name] for name in ("student_steps", "teacher_steps")] == defaults
    p.phantomPercent, p.anatomy, p.findings, p.distilCoarse, p.studentSteps = 10.0, "shapes", True, True, 1
    assert TrainJob.from_dict({k: v for k, v in request.training(p).items() if k != "task"}).start is None
    p.startModel = " axon-small "
    job = request.training(p)
    made = TrainJob.from_dict({key: value for key, value in job.items() if key != "task"})
    assert (made.phantoms, made.anatomy, made.findings, made.student_steps) == (0.1, "shapes", True, 1)
    assert made.start == "axon-small"
    assert made.parts == ("coarse", "prior", "distill-coarse")
    assert request.exporting(p, "somewhere", distilled=True)["distilled"] is True
    for kind, job in ((PrepareJob, request.preparation(p)), (ExportJob, request.exporting(p, "somewhere"))):
        kind.from_dict({key: value for key, value in job.items() if key != "task"})


def test_the_choices_are_saved_with_the_scene(chosen, tmp_path):
    import slicer

    from AXONTrainingLib.parameters import Budget

    chosen._parameterNode.budget = Budget.MINUTES
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert chosen._parameterNode.budget is Budget.PRESET
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert chosen._parameterNode.budget is Budget.MINUTES and not chosen.ui.minutesSpin.isHidden()
    assert chosen.ui.cacheEdit.text == str(tmp_path / "cache")


def test_folders_are_chosen_with_dialogs(panel):
    from host import user

    for button, name in (
        ("sourceFolderButton", "source"),
        ("sourceTableButton", "source"),
        ("cacheFolderButton", "cache"),
        ("runFolderButton", "run"),
    ):
        user.chosen = f"/somewhere/{button}"
        getattr(panel.ui, button).click()
        assert getattr(panel._parameterNode, name) == user.chosen
        user.chosen = ""
        getattr(panel.ui, button).click()
        assert getattr(panel._parameterNode, name) == f"/somewhere/{button}"


def test_the_module_can_be_reloaded(hosted):
    import slicer

    with driving_training.panel() as panel:
        panel.onReload()
        again = slicer.modules.AXONTrainingWidget
        assert again is not panel
        again.installation.stop()
        again.cleanup()


# ---- without a window


def script():
    spec = importlib.util.spec_from_file_location("axon_train_batch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["axon_train_batch"] = module
    spec.loader.exec_module(module)
    return module


def test_the_batch_prepares_trains_and_saves_when_it_is_stopped(road, tmp_path):
    """The cases are prepared already: it finds them."""
    places = ("--source", road.folder / "chests", "--cache", road.folder / "cache", "--run", tmp_path / "run")
    choices = (
        "--preset",
        "tiny",
        "--parts",
        "coarse",
        "--steps",
        100_000,
        "--kept",
        4,
        "--device",
        "cpu",
        "--workers",
        1,
    )
    command = [sys.executable, *map(str, (SCRIPT, *places, *choices))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    lines = []
    try:
        while "step 10 of 100000" not in (line := process.stdout.readline()):
            assert line, f"it ended by itself: {lines}"
            lines.append(line)
        process.send_signal(signal.SIGTERM)
        rest, _none = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130 and "The same command goes on from there." in rest
    assert "drawn-0: done\n" in lines and "prepared: 2 train, 1 val, 0 test" in "".join(lines)
    assert (tmp_path / "run" / "endpoint" / "state.pt").is_file()


def test_the_batch_asks_for_what_its_options_say():
    from axon_core.job_export import ExportJob
    from axon_core.job_prepare import PrepareJob
    from axon_core.job_train import NETWORKS, PARTS, TrainJob

    batch = script()
    assert (*batch.NETWORKS, *batch.STUDENTS) == PARTS
    kinds = {"prepare": PrepareJob, "train": TrainJob, "export": ExportJob}

    def jobs(*arguments):
        made = batch.requests(batch.parser().parse_args(arguments), "stop")
        for job in made:
            kinds[job["task"]].from_dict({key: value for key, value in job.items() if key != "task"})
        return made

    everything = jobs("--source", "s", "--cache", "c", "--run", "r", "--model", "m", "--split", "100", "0", "0")
    assert [job["task"] for job in everything] == ["prepare", "train", "export"]
    assert everything[0]["split"] == [100.0, 0.0, 0.0] and everything[1]["stop_file"] == "stop"
    [train] = jobs("--cache", "c", "--run", "r", "--minutes", "5", "--less-memory", "--parts", "sr", "--lr", "1e-4")
    assert (train["minutes"], train["micro"], train["recompute"], train["lr"]) == (5.0, 1, True, 1e-4)
    assert [job["task"] for job in jobs("--cache", "c", "--run", "r", "--model", "m", "--dry-run")] == ["train"]
    assert train["anatomy"] is None and train["parts"] == ["sr"] and everything[1]["parts"] == list(NETWORKS)
    varied = ("--phantoms", "0.1", "--anatomy", "shapes", "--findings", "--parts", "distill-fine", "--distilled")
    steps = ("--steps-student", "3", "--steps-teacher", "9", "--start", "axon-small")
    [train, export] = jobs("--cache", "c", "--run", "r", "--model", "m", *varied, *steps)
    assert (train["phantoms"], train["anatomy"], train["findings"]) == (0.1, os.path.abspath("shapes"), True)
    assert (train["parts"], train["student_steps"], train["teacher_steps"]) == (["distill-fine"], 3, 9)
    assert train["start"] == "axon-small" and everything[1]["start"] is None
    assert export["distilled"] is True and everything[2]["distilled"] is False


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--cache"),
        (("--cache", "c"), "nothing to do"),
        (("--cache", "c", "--source", "s", "--model", "m"), "--model needs --run"),
        (("--cache", "c", "--run", "r", "--steps", "1", "--minutes", "1"), "not allowed"),
        (("--cache", "c", "--run", "r", "--parts", "best"), "best"),
    ],
)
def test_a_wrong_command_line_is_told(capsys, arguments, word):
    assert script().main(list(arguments)) == 2
    assert word in capsys.readouterr().err


def test_the_batch_tells_what_matters_and_not_every_line(capsys):
    tell = script().Teller()
    progress = {"type": "progress", "stage": "prior", "steps": 500, "loss": 0.12345, "eta_s": 59.6}
    for step in range(10, 510, 10):
        tell({**progress, "step": step})
    tell({"type": "case", "name": "a", "skipped": "", "warnings": ["crooked"]})
    tell({"type": "case", "name": "b", "skipped": "no lung", "warnings": []})
    tell({"type": "validation", "stage": "coarse", "step": 5, "loss": 0.5, "psnr": 20.0})
    tell({"type": "progress", "stage": "starting", "fraction": 0.0, "eta_s": None})
    assert capsys.readouterr().out.splitlines() == [
        "prior: step 10 of 500, loss 0.1235, about 60 s left of this stage",
        "prior: step 500 of 500, loss 0.1235, about 60 s left of this stage",
        "a: done; crooked",
        "b: skipped: no lung",
        "coarse: step 5, loss on held-out cases 0.5, PSNR 20.00 dB",
    ]


def test_the_script_is_written_in_letters_every_system_reads():
    SCRIPT.read_bytes().decode("ascii")

"""The section 'Training' of the panel: what it will cost, start, pause, resume, stop, and the curves meanwhile."""

import html
import pathlib
import time

import qt
from slicer.i18n import tr as _

from axon_core.errors import AxonError
from AXONLib import process, services
from AXONLib.duration import durationText
from AXONLib.job import startWorker
from AXONLib.signal import Signal
from AXONTrainingLib import curves, request, runs
from AXONTrainingLib.advice import adviceOf
from AXONTrainingLib.parameters import AXONTrainingParameters

PLAN_DELAY_MS = 700  # after the last change of a choice
PAUSE_SECONDS = 600.0  # for a step to end and its state to be saved; then the child is killed
QUIT_SECONDS = 10.0  # the same when Slicer quits
RED = '<span style="color:#d0342c">{}</span>'
STOP_FILE = "stop"


class TrainPanel:
    """Trains in a child process, which goes on whatever happens to the scene.

    Pause and the end of Slicer save the state; Stop ends the process at once, back to the last save.

    Signals:
        changed(): another run was chosen, or a training has ended.
        validated(event): held-out cases were looked at.
    """

    def __init__(self, ui, workplace, views, installation, requirements):
        """`requirements`: the file that lists what Slicer's Python lacks."""
        self.ui, self.workplace, self.views, self.installation = ui, workplace, views, installation
        self.requirements = requirements
        self.changed, self.validated = Signal(), Signal()
        self.job = None
        self.request = None  # of the training at work, or the last one
        self.pausing = False
        self._stopFile = None
        self._choices = {}  # with which the training at work was started
        self._plan, self._plans = None, {}
        self._shown = None  # the run whose curves are in the scene
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(PLAN_DELAY_MS)
        self._timer.connect("timeout()", self._estimate)
        ui.applyButton.connect("clicked(bool)", self.onApply)
        ui.stopButton.connect("clicked(bool)", self.onStop)
        ui.setupButton.connect("clicked(bool)", self.onSetup)
        ui.runFolderButton.connect("clicked(bool)", self.onRunFolder)
        ui.anatomyFileButton.connect("clicked(bool)", self.onAnatomyFile)
        ui.startFolderButton.connect("clicked(bool)", self.onStartFolder)
        installation.changed.connect(self.refresh)

    def onRunFolder(self, *_unused):
        path = services.chooseFolder(_("Folder of the training run"))
        if path:
            self.workplace.parameters.run = path

    def onAnatomyFile(self, *_unused):
        path = services.chooseFile(_("Other shapes of the CTs"), _("Shapes") + " (*.safetensors)")
        if path:
            self.workplace.parameters.anatomy = str(path)

    def onStartFolder(self, *_unused):
        path = services.chooseFolder(_("Model to start with"))
        if path:
            self.workplace.parameters.startModel = path

    def onSetup(self, *_unused):
        """Install what is missing, after asking."""
        try:
            services.installDependencies(self.requirements)
        except AxonError as error:
            services.showError(error.title, error.advice)
        self.installation.forget()
        self.installation.check()
        self.refresh()

    # ---- what is missing

    def trouble(self):
        """What keeps the training from starting, in one line; "" if nothing does."""
        p = self.workplace.parameters
        if p is None:
            return _("The scene is closing.")
        if self.installation.report is None:
            return _("Wait: the installation is being checked.")
        problems = self.installation.problems()
        if problems:
            return f"{problems[0]['title']} {adviceOf(problems[0])}"
        if not p.cache.strip():
            return _("Choose a folder of prepared data first.")
        if not request.isData(pathlib.Path(p.cache)):
            return _("Press 'Prepare' first, or choose a folder that was prepared.")
        if not request.parts(p):
            return _("Tick a stage.")
        if not p.run.strip():
            return _("Choose a folder for the run.")
        if not self._fromModel():
            for student in request.withoutTeachers(p, runs.saved(self.run())):
                return teacherMissing(student)
        if p.anatomy.strip() and not pathlib.Path(p.anatomy).is_file():
            return _("There is no such file with other shapes: choose it under 'Advanced', or leave that empty.")
        device = self.installation.device(p.device.value)
        if device is None or not device["available"]:
            return device["text"] if device else _("There is no such device here.")
        return ""

    def _fromModel(self):
        """Whether stages that are not trained have the weights of a model."""
        new = not runs.isRun(self.run())
        return runs.startsWithModel(self.run()) or (new and bool(self.workplace.parameters.startModel.strip()))

    def run(self):
        """Folder of the chosen run, or None."""
        p = self.workplace.parameters
        return None if p is None else runs.folderOf(p.run)

    def refresh(self):
        """Bring the section up to date with the parameters."""
        ui, p = self.ui, self.workplace.parameters
        trouble, running = self.trouble(), self.job is not None
        goesOn = runs.isRun(self.run())
        ui.applyButton.text = _("Pause") if running else _("Resume") if goesOn else _("Start")
        ui.applyButton.enabled = not self.pausing if running else not trouble
        ui.applyButton.toolTip = (
            _("Finish the step and save; 'Resume' goes on as if nothing had happened.")
            if running
            else trouble or (_("Go on from the last save") if goesOn else _("Start the training"))
        )
        ui.stopButton.enabled = running
        ui.progressBar.visible = running
        problems = self.installation.problems()
        ui.setupButton.visible = any(problem["code"].startswith("package.") for problem in problems)
        if p is None:
            return
        self.installation.check()
        ui.stepsSpin.visible = p.budget.value == "steps"
        ui.minutesSpin.visible = p.budget.value == "minutes"
        for spin in (ui.studentSpin, ui.teacherSpin):
            spin.enabled = p.distilCoarse or p.distilFine
        ui.deviceLabel.text = html.escape(self._deviceText())
        if not running:
            ui.stageLabel.text = html.escape(trouble)
            if self._shown != self.run():
                self._shown = self.run()
                curves.load(self._shown if runs.isRun(self._shown) else None)
                self.views.update()
                self.changed.emit()
        self._timer.start()

    def _deviceText(self):
        if self.installation.report is None:
            return _("Looking for devices ...")
        device = self.installation.device(self.workplace.parameters.device.value)
        if device is None:
            return _("There is no such device here.")
        return _("{device}: {text}").format(device=device["name"], text=device["text"])

    # ---- what it will cost

    def _estimate(self):
        """Show what the choices will cost; counted by a child process, once for each combination."""
        p = self.workplace.parameters
        if p is None or self.job is not None:
            return
        self.ui.estimateLabel.text = ""
        if self.trouble():
            return
        job = request.training(p, dryRun=True)
        key = repr(job)
        if key in self._plans:
            self.ui.estimateLabel.text = self._plans[key]
            return
        self.ui.estimateLabel.text = _("Expected cost: being counted ...")
        if self._plan is None:
            try:
                self._plan = self._start(job, "estimate")
            except AxonError as error:
                self.ui.estimateLabel.text = html.escape(str(error))
                return
            self._plan.finished.connect(lambda event: self._onPlan(key, event))

    def _onPlan(self, key, event):
        self._plan = None
        if event["type"] == "result":
            self._plans[key] = estimateText(event)
            self._estimate()
        else:  # data may be put right later
            self.ui.estimateLabel.text = RED.format(html.escape(f"{event['title']} {adviceOf(event)}"))

    def _start(self, job, name):
        folder = self.workplace.folder(name)
        return startWorker(job, folder, services.pythonSlicer(), services.childEnvironment())

    # ---- the run

    def onApply(self, *_unused):
        """Start or resume, or pause what runs."""
        if self.job is not None:
            self.pause()
        elif not self.trouble():
            self.start()

    def start(self):
        """Start a training or go on with it."""
        if self._plan is not None:  # it would take half of the machine
            self._plan.stop()
            self._plan = None
        p = self.workplace.parameters
        try:
            self._stopFile = pathlib.Path(self.workplace.folder("train")) / STOP_FILE
            self._stopFile.unlink(missing_ok=True)
            self.request = request.training(p, str(self._stopFile))
            self.job = self._start(self.request, "train")
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self._choices = {name: getattr(p, name) for name in AXONTrainingParameters.__annotations__}
        self.job.event.connect(self.onEvent)
        self.job.finished.connect(self.onFinished)
        self.pausing = False
        self._shown = runs.folderOf(p.run)
        curves.load(self._shown if runs.isRun(self._shown) else None)
        self.views.open()
        self.ui.progressBar.value = 0
        self.ui.stageLabel.text = _("Starting")
        self.refresh()

    def restore(self, parameters):
        """Bring the choices of the training at work into the parameters of a new scene."""
        for name, value in self._choices.items():
            setattr(parameters, name, value)

    def pause(self):
        """Ask for the state to be saved and the process to end."""
        self.pausing = True
        self._stopFile.touch()
        self.job.cancel(PAUSE_SECONDS)
        self.ui.stageLabel.text = _("Pausing: the step is finished and the state saved ...")
        self.refresh()

    def onEvent(self, event):
        """One line of the worker."""
        kind = event["type"]
        if kind == "progress" and "step" in event:
            self._draw(event)
            self.ui.progressBar.value = round(100 * event["fraction"])
            if not self.pausing:
                text = _("{stage}: step {step} of {steps}, loss {loss:.4g}; this stage {time} to go")
                self.ui.stageLabel.text = text.format(
                    stage=curves.stageTitle(event["stage"]),
                    step=event["step"],
                    steps=event["steps"],
                    loss=event["loss"],
                    time=durationText(event["eta_s"]),
                )
        elif kind == "validation":
            self._draw(event)
            self.validated.emit(event)
        elif kind not in ("progress", "preview"):
            self.workplace.say(event.get("text", ""))

    def _draw(self, event):
        """Append to the curves; anew from the log where a closed scene took them."""
        if curves.exists():
            curves.add(event)
        else:
            curves.load(runs.folderOf(self.request["output"]))
        self.views.update()

    def onFinished(self, event):
        """The last line of the worker."""
        log, self.job = self.job.log, None
        paused, self.pausing = self.pausing, False
        if log:
            self.workplace.say(log)
        self.refresh()
        if event["type"] == "result":
            self.ui.stageLabel.text = _("Trained. Export the model, or use it at once.")
        elif event["code"] == "training.stopped":
            self.ui.stageLabel.text = html.escape(_("Paused. {title}").format(title=event["title"]))
        elif paused and event["code"] == "cancelled":
            self.ui.stageLabel.text = _("Ended, because the step took too long; 'Resume' goes on from the last save.")
        else:
            advice = adviceOf(event)
            self.ui.stageLabel.text = RED.format(html.escape(f"{event['title']} {advice}"))
            services.showError(event["title"], advice)
        self.changed.emit()

    def onStop(self, *_unused):
        """End the process now, without saving."""
        if self.job is not None:
            self._end()
            self.refresh()
            self.ui.stageLabel.text = _("Stopped. 'Resume' goes on from the last save, at most two minutes before.")
            self.changed.emit()

    def _end(self):
        self.job.stop()
        self.job, self.pausing = None, False

    def quit(self):
        """Slicer ends, or the module is loaded anew: save if that is quick, and leave no process behind."""
        self._timer.stop()
        if self._plan is not None:
            self._plan.stop()
            self._plan = None
        if self.job is not None:
            worker = self.job.release()
            self._stopFile.touch()
            worker.cancel(QUIT_SECONDS)
            while not any(event["type"] in process.LAST for event in worker.events()):
                time.sleep(0.05)
            self.job, self.pausing = None, False


def teacherMissing(student):
    """What a student without teacher in the run asks for."""
    return {
        "distill-coarse": _(
            "The student of the bridge has no teacher: tick 'F(x) and bridge' too, or choose a run that has trained it."
        ),
        "distill-fine": _(
            "The student of FineDiff has no teacher: tick 'F(x) and bridge', 'Prior' and 'FineDiff' too, or choose a "
            "run that has trained them."
        ),
    }[student]


def memoryText(size):
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def estimateText(plan):
    """Rich text of a plan of the worker."""
    rows = [
        f"<tr><td>{html.escape(curves.stageTitle(stage['stage']))}</td>"
        f"<td align='right'>&nbsp;{stage['parameters'] / 1e6:.2f} M&nbsp;</td>"
        f"<td align='right'>&nbsp;{stage['steps']}&nbsp;</td>"
        f"<td align='right'>&nbsp;{memoryText(stage['memory'])}&nbsp;</td>"
        f"<td align='right'>&nbsp;{html.escape(durationText(stage['seconds']))}</td></tr>"
        for stage in plan["stages"]
    ]
    head = "".join(f"<th>&nbsp;{each}&nbsp;</th>" for each in ("", _("weights"), _("steps"), _("memory"), _("time")))
    text = _("About {time} of computing on {device}, with {cases} cases; reading data and validation come on top.")
    text = text.format(
        time=durationText(sum(stage["seconds"] for stage in plan["stages"])), device=plan["device"], cases=plan["cases"]
    )
    return f"{html.escape(text)}<table>{'<tr>' + head + '</tr>'}{''.join(rows)}</table>"

"""The section 'Reconstruct' of the panel: what will run where and how long, start, progress, preview, cancel."""

import html
import logging
import os
import time

import qt
from slicer.i18n import tr as _

from axon_core.errors import AxonError, Cancelled
from AXONLib import layout, logic, services, volumes
from AXONLib.duration import durationText
from AXONLib.job import Job, startWorker
from AXONLib.process import WorkerProcess
from AXONLib.signal import Signal

PLAN_DELAY_MS = 700  # after the last change of a choice


def stageText(stage):
    """A stage of the worker in words."""
    return {
        "starting": _("Starting"),
        "model": _("Reading the model"),
        "films": _("Reading the films"),
        "F(x)": _("First guess F(x)"),
        "coarse": _("Coarse volume (bridge)"),
        "fine": _("Fine volume (diffusion)"),
        "super-resolution": _("Super-resolution"),
        "done": _("Checking against the film"),
        "writing": _("Writing"),
    }.get(stage, stage)


class RunPanel:
    """Checks the installation once, estimates times, and runs reconstructions in a child process.

    Signals:
        made(node): a result has come into the scene.
    """

    def __init__(self, ui, session, requirements):
        """`requirements`: the file that lists what Slicer's Python lacks."""
        self.ui = ui
        self.session = session
        self.requirements = requirements
        self.made = Signal()
        self.job = None  # the reconstruction at work
        self._cancelled = False
        self.installation = None  # the worker's report on itself
        self._elsewhere = []  # folders of models that it was asked about
        self._check = self._plan = None  # jobs
        self._plans = {}
        self._placement = self._transform = None  # of the result: matrix in the CT's frame, and above it
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(PLAN_DELAY_MS)
        self._timer.connect("timeout()", self._estimate)
        ui.applyButton.connect("clicked(bool)", self.onApply)
        ui.setupButton.connect("clicked(bool)", self.onSetup)
        ui.modelCombo.connect("activated(int)", self.onModel)
        session.filmsChanged.connect(self.refresh)

    # ---- what is installed

    def check(self):
        """Ask a child process what is installed, once for each model's folder that is chosen; `refresh` follows."""
        model = self.session.parameters.model if self.session.parameters else ""
        elsewhere = [model] if os.path.isabs(model) else []
        if self._check is not None or (self.installation is not None and elsewhere in ([], self._elsewhere)):
            return
        self.installation, self._elsewhere = None, elsewhere
        try:
            command = [services.pythonSlicer(), "-m", "axon_core.worker", "--selfcheck", *elsewhere]
            worker = WorkerProcess(command, services.childEnvironment())
        except AxonError as error:
            self.onChecked({"type": "error", "problems": [error.to_dict()], "devices": [], "models": []})
            return
        self._check = Job(worker)
        self._check.finished.connect(self.onChecked)

    def onChecked(self, report):
        """The worker's report on what is installed."""
        if self._check is not None and self._check.log:
            self.session.say(self._check.log)
        self._check = None
        report.setdefault("problems", [report] if report["type"] == "error" else [])
        report.setdefault("models", [])
        report.setdefault("devices", [])
        report.setdefault("default_device", None)
        self.installation = report
        for problem in report["problems"]:
            self.session.say(f"{problem['title']} {problem['advice']}")
        self._fillModels()
        self.refresh()

    def onSetup(self, *_unused):
        """Install what is missing, after asking."""
        try:
            services.installDependencies(self.requirements)
        except AxonError as error:
            services.showError(error.title, error.advice)
        self.recheck()

    def recheck(self):
        """Packages or models have changed: ask again what is installed."""
        self.installation = None
        self.check()
        self.refresh()

    def choose(self, folder):
        """Choose a model by its folder, which may have been written a moment ago."""
        self.session.parameters.model = str(folder)
        self.recheck()

    def _fillModels(self):
        combo = self.ui.modelCombo
        combo.blockSignals(True)
        combo.clear()
        for model in self.installation["models"]:
            combo.addItem(model["title"] or model["name"], model["name"])
        combo.blockSignals(False)

    def onModel(self, *_unused):
        index = self.ui.modelCombo.currentIndex
        if self.session.parameters is not None and index >= 0:
            self.session.parameters.model = self.installation["models"][index]["name"]

    def model(self):
        """What is known of the chosen model; None if it is not installed."""
        models = self.installation["models"] if self.installation else []
        return next((model for model in models if model["name"] == self.session.parameters.model), None)

    def device(self):
        """What is known of the device that will be used; None if it is not there."""
        name = self.session.parameters.device.value
        name = self.installation["default_device"] if name == "auto" else name
        return next((device for device in self.installation["devices"] if device["name"] == name), None)

    # ---- what is missing

    def trouble(self):
        """What keeps the reconstruction from starting, in one line; "" if nothing does."""
        if self.session.parameters is None:
            return _("The scene is closing.")
        films = self.session.filmTrouble()
        if films:
            return films
        if self.installation is None:
            return _("Wait: the installation is being checked.")
        if self.installation["problems"]:
            problem = self.installation["problems"][0]
            return f"{problem['title']} {problem['advice']}".strip()
        model = self.model()
        if model is None:
            return _("The model {name} is not installed: choose another one.").format(
                name=self.session.parameters.model
            )
        if model["problem"]:
            return f"{model['problem']['title']} {model['problem']['advice']}"
        device = self.device()
        if device is None or not device["available"]:
            return device["text"] if device else _("There is no such device here.")
        try:
            logic.seedsOf(self.session.parameters.seeds)
        except AxonError as error:
            return str(error)
        return ""

    def refresh(self):
        """Bring the section up to date with the parameters."""
        ui, parameters = self.ui, self.session.parameters
        trouble = self.trouble()
        running = self.job is not None
        ui.progressBar.visible = running
        ui.applyButton.text = _("Cancel") if running else _("Reconstruct")
        ui.applyButton.enabled = running or not trouble
        ui.applyButton.toolTip = (
            _("Stop; nothing is kept.") if running else trouble or _("Make a synthetic CT from the films (Ctrl+Alt+R)")
        )
        problems = self.installation["problems"] if self.installation else []
        ui.setupButton.visible = any(problem["code"].startswith("package.") for problem in problems)
        if parameters is None:
            return
        self.check()
        names = [model["name"] for model in self.installation["models"]] if self.installation else []
        ui.modelCombo.currentIndex = names.index(parameters.model) if parameters.model in names else -1
        ui.modelLabel.text = self._modelText()
        ui.deviceLabel.text = html.escape(self._deviceText())
        if not running:
            ui.stageLabel.text = html.escape(trouble)
        self._timer.start()

    def _modelText(self):
        model = self.installation and self.model()
        if not model:
            return _("Looking for models ...") if self.installation is None else _("Not installed.")
        if model["problem"]:
            return f'<span style="color:#d0342c">{html.escape(model["problem"]["title"])}</span>'
        views = _(" or ").join(str(n) for n in model["views"])
        sums = {True: _("checksum good"), False: _("checksum wrong"), None: _("no checksum")}[model["checksum_ok"]]
        return html.escape(
            _("{views} views, grid {n}³ at {mm:.1f} mm, {size:.0f} MB, {licence}, {checksum}").format(
                views=views,
                n=model["grid_size"],
                mm=model["grid_spacing_mm"],
                size=model["size_bytes"] / 1e6,
                licence=model["licence"],
                checksum=sums,
            )
        )

    def _deviceText(self):
        if self.installation is None:
            return _("Looking for devices ...")
        device = self.device()
        if device is None:
            return _("There is no such device here.")
        return _("{device}: {text}").format(device=device["name"], text=device["text"])

    # ---- how long it will take

    def _estimate(self):
        """Show the time that the choices will take; measured by a child process, once for each combination."""
        parameters = self.session.parameters
        if parameters is None or self.job is not None or self.trouble():
            self.ui.estimateLabel.text = ""
            return
        request = {
            "task": "plan",
            "model": parameters.model,
            "device": parameters.device.value,
            "seeds": len(logic.seedsOf(parameters.seeds)),
            "views": 2 if parameters.lateral else 1,
        }
        key = tuple(request.values())
        if key in self._plans:
            plan = self._plans[key]
            text = _("Expected time: about {time}").format(time=durationText(plan["seconds"][parameters.quality.value]))
            if plan["basis"] == "measured":  # every network ran there once
                text += _("; the model fits on {device}").format(device=plan["device"])
            self.ui.estimateLabel.text = text
            return
        self.ui.estimateLabel.text = _("Expected time: being measured ...")
        if self._plan is None:
            try:
                self._plan = self._start(request, "plan")
            except AxonError as error:
                self.ui.estimateLabel.text = html.escape(str(error))
                return
            self._plan.finished.connect(lambda event: self._onPlan(key, event))

    def _onPlan(self, key, event):
        self._plan = None
        if event["type"] == "result":
            self._plans[key] = event
            self._estimate()
        else:
            self.ui.estimateLabel.text = html.escape(f"{event['title']} {event.get('advice', '')}")

    def _start(self, request, name):
        return startWorker(request, self.session.folder(name), services.pythonSlicer(), services.childEnvironment())

    # ---- the run

    def onApply(self, *_unused):
        """Start, or cancel what runs."""
        if self.job is not None:
            self.ui.applyButton.enabled = False
            self.ui.stageLabel.text = _("Cancelling ...")
            self._cancelled = True
            self.job.cancel()
        elif not self.trouble():
            self.start()

    def start(self):
        """Start a reconstruction; `made` follows, or an error is shown."""
        if self._plan is not None:  # it would take half of the machine
            self._plan.stop()
            self._plan = None
        parameters = self.session.parameters
        try:
            output = self.session.folder(f"result-{time.time_ns()}")
            request = logic.reconstruction(parameters, self.session.folder("films"), output)
            self._placement = logic.placementOf(parameters)
            self._transform = parameters.groundTruth.GetTransformNodeID() if logic.isMatched(parameters) else None
            self.job = self._start(request, "reconstruction")
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self.job.event.connect(self.onEvent)
        self.job.finished.connect(self.onFinished)
        self._cancelled = False
        self.ui.progressBar.value = 0
        self.refresh()

    def onEvent(self, event):
        """One line of the worker."""
        if event["type"] == "progress":
            self.ui.progressBar.value = round(100 * event["fraction"])
            text = stageText(event["stage"])
            if event["eta_s"] is not None and event["fraction"] < 1:
                text += ", " + _("{time} to go").format(time=durationText(event["eta_s"]))
            self.ui.stageLabel.text = text
        elif event["type"] == "preview":
            node = volumes.showPreview(event["path"], self._placement)
            if node is not None:
                node.SetAndObserveTransformNodeID(self._transform)
                layout.showPreview(node)
        else:
            self.session.say(event.get("text", ""))

    def onFinished(self, event):
        """The last line of the worker."""
        log, self.job = self.job.log, None
        if log:
            self.session.say(log)
        if self._cancelled:  # also when the result was faster
            event = {"type": "error", **Cancelled().to_dict()}
        result = None
        if event["type"] == "result":
            try:
                result = logic.importResult(event, self.session.parameters, self._placement)
            except AxonError as error:
                event = {"type": "error", **error.to_dict()}
            except Exception as error:
                logging.exception("AXON: the result could not be brought into the scene")
                text = _("The result could not be brought into the scene.")
                event = {"type": "error", "code": "internal", "title": text, "advice": str(error)}
        layout.endPreview(result)
        volumes.removePreview()
        self.refresh()
        if result is not None:
            seconds = sum(event["timings"].values())
            self.ui.stageLabel.text = "<br>".join(
                [_("Done in {time}.").format(time=durationText(seconds)), *map(html.escape, event["warnings"])]
            )
            self.made.emit(result)
        elif event["code"] == "cancelled":
            self.ui.stageLabel.text = _("Cancelled. Nothing was kept.")
        else:
            text = html.escape(f"{event['title']} {event.get('advice', '')}")
            self.ui.stageLabel.text = f'<span style="color:#d0342c">{text}</span>'
            services.showError(event["title"], event.get("advice", ""))

    def stop(self):
        """End every child process at once: for scene close, reload and exit."""
        self._timer.stop()
        for job in (self.job, self._check, self._plan):
            if job is not None:
                job.stop()
        if self.job is not None:
            layout.endPreview(None)
            volumes.removePreview()
        self.job = self._check = self._plan = None
        self.ui.progressBar.visible = False
        self.ui.stageLabel.text = ""

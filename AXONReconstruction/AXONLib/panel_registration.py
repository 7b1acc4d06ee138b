"""The section 'Ground truth and registration' of the panel: lay a CT so that its DRR agrees with the film.

While it is open the CT observes the pose transform, and the film with the live DRR over it stands in the views.
"""

import html
import json
import os
import pathlib
from dataclasses import replace

import qt
import slicer
from slicer.i18n import tr as _

from axon_core.errors import AxonError
from axon_core.geometry import XrayView
from AXONLib import films, landmarks, layout, live, logic, services, volumes
from AXONLib.job import startWorker
from AXONLib.pose import ANGLES, SHIFTS, PoseController

CT_FILES = "*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd *.dcm"
STEPS = {**dict.fromkeys(ANGLES, 0.5), **dict.fromkeys(SHIFTS, 1.0)}  # degrees, mm
FINER = 0.1
USUAL_SDD_MM = {"PA": 1800.0, "AP": 1200.0}
KEYS = (  # with Alt+Shift, while a CT is being matched
    ("W", "tilt", -1),
    ("S", "tilt", 1),
    ("A", "rotate", -1),
    ("D", "rotate", 1),
    ("Q", "lean", -1),
    ("E", "lean", 1),
    ("Left", "leftRight", -1),
    ("Right", "leftRight", 1),
    ("Up", "upDown", 1),
    ("Down", "upDown", -1),
)
PLAIN = {  # the names of a registration's record in the panel's words
    "tilt": _("tilt"),
    "lean": _("lean"),
    "turn": _("rotation"),
    "left-right": _("left-right"),
    "depth": _("depth"),
    "up-down": _("up-down"),
}


class RegistrationPanel:
    """Interactive, DRR-guided registration of a CT to the films."""

    def __init__(self, ui, session):
        self.ui = ui
        self.session = session
        self.pose = None  # PoseController, while the section is at work
        self.comparison = None  # live.LiveComparison
        self.job = None  # an automatic registration at work
        self.record = None  # of the last automatic registration
        self._before = self._after = None  # poses around the last automatic step
        self._filling = False
        self._films = ()
        self._proposed = tuple(USUAL_SDD_MM.values())  # distances that the user has not chosen
        self._shownDistance = None
        self.throttle = live.Throttle(self.showQuickly, self.showFinely)
        self.sliders = {
            "tilt": ui.tiltSlider,
            "rotate": ui.rotateSlider,
            "lean": ui.leanSlider,
            "leftRight": ui.leftRightSlider,
            "upDown": ui.upDownSlider,
            "depth": ui.depthSlider,
        }
        for name, slider in self.sliders.items():
            slider.connect("valueChanged(double)", lambda value, name=name: self.onSlider(name, value))
        ui.openCtButton.connect("clicked(bool)", self.onOpenCt)
        ui.registerButton.connect("toggled(bool)", self.onRegister)
        ui.undoButton.connect("clicked(bool)", lambda *_unused: self._step("undo"))
        ui.redoButton.connect("clicked(bool)", lambda *_unused: self._step("redo"))
        ui.resetPoseButton.connect("clicked(bool)", lambda *_unused: self._step("reset"))
        ui.loadPoseButton.connect("clicked(bool)", self.onLoadPose)
        ui.savePoseButton.connect("clicked(bool)", self.onSavePose)
        ui.collimationButton.connect("toggled(bool)", self.onCollimation)
        ui.placeFilmButton.connect("clicked(bool)", lambda *_unused: self.place("filmLandmarks"))
        ui.placeCtButton.connect("clicked(bool)", lambda *_unused: self.place("ctLandmarks"))
        ui.solveLandmarksButton.connect("clicked(bool)", self.onSolve)
        ui.clearLandmarksButton.connect("clicked(bool)", self.onClearLandmarks)
        ui.refineButton.connect("clicked(bool)", lambda *_unused: self.onAutomatic(False))
        ui.searchButton.connect("clicked(bool)", lambda *_unused: self.onAutomatic(True))
        ui.beforeAfterButton.connect("toggled(bool)", self.onBeforeAfter)
        ui.pixelSizeButton.connect("clicked(bool)", self.onPixelSize)
        session.filmsChanged.connect(self.onFilmsChanged)

    # ---- beginning and end

    def onOpenCt(self, *_unused):
        path = services.chooseFile(
            _("Open a CT"),
            _("Volumes") + f" ({CT_FILES});;" + _("All files") + " (*)",
        )
        if path:
            try:
                self.session.parameters.groundTruth = volumes.loadCt(path)
            except AxonError as error:
                services.showError(error.title, error.advice)

    def trouble(self):
        """What keeps a CT from being matched, in one line; "" if nothing does."""
        parameters = self.session.parameters
        films_ = self.session.filmTrouble()
        if films_:
            return films_
        if parameters.groundTruth is None:
            return _("Choose a CT of the same patient.")
        if parameters.groundTruth.GetAttribute(volumes.SYNTHETIC) == "1":
            return _("Choose the real CT, not a synthetic one.")
        return ""

    def onRegister(self, on):
        if not on:
            self.leave()
        elif self.pose is None:
            try:
                self.start()
            except AxonError as error:
                self.leave()
                services.showError(error.title, error.advice)
            except ImportError:
                self.leave()
                services.showError(
                    _("The live DRR needs PyTorch."), _("Press 'Install what is missing' under 'Reconstruct' first.")
                )

    def start(self):
        """Prepare the live DRR and show film and CT.

        Raises:
            AxonError: a film or the CT cannot be used.
        """
        parameters = self.session.parameters
        trouble = self.trouble()
        if trouble:
            raise AxonError("registration.missing", trouble)
        with services.busy():
            ct = volumes.ctVolumeOf(parameters.groundTruth)
            self._films = tuple(self._laidFilms())
            if parameters.pose is None:
                parameters.pose = slicer.mrmlScene.AddNewNodeByClass(
                    "vtkMRMLLinearTransformNode", slicer.mrmlScene.GenerateUniqueName(_("AXON pose"))
                )
            self.pose = PoseController(parameters.pose, ct.center_lps)
            role = volumes.ROLES["groundTruth"]
            if parameters.pose.GetNodeReference(role) is not parameters.groundTruth:  # of another CT, or new
                self.pose.reset()
                parameters.pose.SetNodeReferenceID(role, parameters.groundTruth.GetID())
            self.pose.changed.connect(self.onPose)
            self.pose.refused.connect(self.onRefused)
            self.comparison = live.LiveComparison(ct, self._films, self.pose)
        self.pose.attach(parameters.groundTruth)
        self.pose.showHandles(True)
        self._shownDistance = parameters.sourceDistance
        self._applyChoices()
        self.comparison.update(live.FINE_PIXELS)
        layout.showRegister(self.comparison.nodes, parameters.groundTruth)
        self.ui.matchPanel.visible = True
        self.onPose()
        self.refresh()

    def _laidFilms(self):
        """The films on their detectors, at the resolution that registration works at."""
        from axon_core.registration.files import FILM_PIXELS, laid_on_detector

        for film, lateral in ((self.session.frontal, False), (self.session.lateral, True)):
            if film.node is not None:
                yield laid_on_detector(films.standardFilm(film.radiograph, lateral, FILM_PIXELS), self._distance())

    def _distance(self):
        """The SDD that the file tells or the user chose [mm]; None if it has to be estimated."""
        chosen = self.session.parameters.sourceDistance
        known = chosen not in self._proposed or self.session.frontal.radiograph.sdd_mm is not None
        return chosen if known else None

    def onRefused(self, error):
        """Another module bent the pose: told when that module is done."""
        services.soon(lambda: services.showError(error.title, error.advice))

    def leave(self):
        """Put the views back; the pose stays in the scene, and the CT under it."""
        self.cancel()
        self.throttle.stop()
        if self.comparison is not None:
            layout.leaveRegister()
            self.comparison.close()
        if self.pose is not None:
            self.pose.commit()
            self.pose.close()
        self.pose = self.comparison = None
        self._before = self._after = self.record = None
        self.ui.matchPanel.visible = False
        if self.ui.registerButton.checked:
            self.ui.registerButton.checked = False

    def stop(self):
        """For scene close, reload and exit."""
        self.leave()

    def onFilmsChanged(self):
        """Another film needs another comparison, and may tell its distance."""
        if self.pose is not None:
            self.leave()
        parameters, film = self.session.parameters, self.session.frontal.radiograph
        if parameters is not None and film is not None and parameters.sourceDistance in self._proposed:
            usual = USUAL_SDD_MM["AP" if film.view is XrayView.AP else "PA"]
            told = min(max(film.sdd_mm or usual, 800.0), 4000.0)  # what the slider takes
            self._proposed = (*USUAL_SDD_MM.values(), told)
            parameters.sourceDistance = told

    # ---- following the pose

    def onPose(self):
        """The pose has changed, by whomever."""
        self._filling = True
        for name, value in self.pose.values().items():
            slider = self.sliders[name]
            if abs(slider.value - value) > 10.0 ** -(slider.decimals + 1):
                slider.value = value
        self._filling = False
        self.throttle.request()

    def onSlider(self, name, value):
        if self.pose is not None and not self._filling:
            self.pose.setValue(name, value)

    def nudge(self, name, direction):
        """Move by one step, as a key does."""
        if self.pose is not None and not (name == "depth" and self.session.parameters.depthLocked):
            step = STEPS[name] * (FINER if self.session.parameters.fineSteps else 1.0)
            self.pose.setValue(name, self.pose.values()[name] + direction * step)

    def shortcuts(self, window):
        """Keys that move the CT, for `enter` of the module's widget."""
        made = []
        for key, name, direction in KEYS:
            shortcut = qt.QShortcut(qt.QKeySequence(f"Alt+Shift+{key}"), window)
            shortcut.connect("activated()", lambda name=name, direction=direction: self.nudge(name, direction))
            made.append(shortcut)
        return made

    def showQuickly(self):
        self._show(live.QUICK_PIXELS)

    def showFinely(self):
        """The pose has come to rest: the full picture, one entry of the history, and the read-outs."""
        if self.pose is not None:
            self.pose.commit()
            self._show(live.FINE_PIXELS)
            self._readOut()
            self.refresh()

    def _show(self, size):
        if self.comparison is None:
            return
        try:
            self.comparison.update(size)
        except AxonError as error:
            self.ui.readoutLabel.text = html.escape(str(error))

    def _readOut(self):
        lines = []
        names = [_("Frontal"), _("Lateral")]
        for name, agreement in zip(names, self.comparison.readouts(), strict=False):
            if agreement is not None:
                lines.append(
                    _("{film}: local NCC {local:.2f}, gradient NCC {gradient:.2f}").format(
                        film=name, local=agreement[0], gradient=agreement[1]
                    )
                )
        if self.record is not None:
            lines.append(self._verdict())
        self.ui.readoutLabel.text = "<br>".join(lines)
        found = self.record and logic.pixelSizeOf(self.record, self.session.frontal.standard)
        self.ui.pixelSizeButton.visible = bool(found) and not self.session.parameters.frontalPixelSize
        if found:
            self.ui.pixelSizeButton.text = _("Use the found pixel size, {mm:.3f} mm").format(mm=found)
        self.ui.landmarksLabel.text = self._landmarksText()

    def _verdict(self):
        """What the last automatic registration says of itself, and how well it knows each parameter."""
        units = {"deg": "°", "mm": _(" mm"), "relative": ""}
        known = [
            f"{PLAIN.get(parameter['name'], parameter['name'])} ± {parameter['sd']:.2g}{units[parameter['unit']]}"
            for parameter in self.record["parameters"]
        ]
        verdict = {"good": _("good"), "doubtful": _("doubtful"), "failed": _("failed")}[self.record["verdict"]]
        lines = [
            _("Last automatic step: {verdict}").format(verdict=verdict),
            *self.record["reasons"],
            _("Standard deviations: {list}").format(list=", ".join(known)),
        ]
        return "<br>".join(html.escape(line) for line in lines)

    def onPixelSize(self, *_unused):
        """Read the film with the pixel size that was found, and go on matching it."""
        found = logic.pixelSizeOf(self.record, self.session.frontal.standard)
        self.session.parameters.frontalPixelSize = round(found, 4)  # the film is read anew, which ends the matching
        self.ui.registerButton.checked = True

    # ---- choices

    def refresh(self):
        """Bring the section up to date with the parameters."""
        ui, parameters = self.ui, self.session.parameters
        if parameters is None:
            ui.registerButton.enabled = False
            return
        ui.matchPanel.visible = self.pose is not None  # a section that opens shows all that it holds
        trouble = self.trouble()
        ui.registerButton.enabled = self.pose is not None or not trouble
        ui.registerButton.toolTip = trouble or _("Show the film with a live DRR of the CT over it.")
        if self.pose is None:
            return
        ui.undoButton.enabled, ui.redoButton.enabled = self.pose.canUndo(), self.pose.canRedo()
        ui.depthSlider.enabled = not parameters.depthLocked
        ui.beforeAfterButton.enabled = self._before is not None
        running = self.job is not None
        ui.refineButton.text = _("Cancel") if running else _("Auto-refine")
        ui.searchButton.enabled = not running
        ui.registrationProgress.visible = running
        step = FINER if parameters.fineSteps else 1.0
        for name, slider in self.sliders.items():
            slider.singleStep = STEPS[name] * step
        if (self.comparison.mode, self.comparison.amount) != (parameters.compareMode.value, parameters.compareAmount):
            self.comparison.mode, self.comparison.amount = parameters.compareMode.value, parameters.compareAmount
            self.comparison.compose()
        if self._choices != self._chosen():
            self._applyChoices()
            self.throttle.request()

    def _chosen(self):
        """What the masks and the geometry depend on."""
        p = self.session.parameters
        region = p.collimation
        return (region, region and region.GetMTime(), p.maskMarkers, p.sourceDistance, p.depthLocked)

    def _applyChoices(self):
        parameters = self.session.parameters
        self._choices = self._chosen()
        self.pose.depthLocked = parameters.depthLocked
        self.comparison.mode, self.comparison.amount = parameters.compareMode.value, parameters.compareAmount
        self.comparison.setMasks(parameters.collimation, parameters.maskMarkers)
        if parameters.sourceDistance != self._shownDistance:
            self._shownDistance = parameters.sourceDistance
            self.comparison.setGeometries(
                [replace(geometry, sdd_mm=parameters.sourceDistance) for geometry in self.comparison.geometries()]
            )
        self.ui.collimationButton.blockSignals(True)
        self.ui.collimationButton.checked = parameters.collimation is not None
        self.ui.collimationButton.blockSignals(False)

    def onCollimation(self, on):
        """Draw a region on the frontal film, or remove it."""
        parameters = self.session.parameters
        if self.comparison is None:
            return
        if on:
            parameters.collimation = volumes.addRegion(self.comparison.nodes[0], _("AXON area"))
        elif parameters.collimation is not None:
            slicer.mrmlScene.RemoveNode(parameters.collimation)
            parameters.collimation = None

    # ---- history and files

    def _step(self, action):
        if self.pose is not None:
            getattr(self.pose, action)()
            self.refresh()

    def onSavePose(self, *_unused):
        path = services.chooseSaveFile(_("Save the pose"), "pose.json", "JSON (*.json)")
        if path:
            try:
                self._save(pathlib.Path(path))
            except (AxonError, OSError) as error:
                services.showError(_("The pose was not saved."), str(error))

    def _save(self, path):
        """With all that is known of it while it is the one that was found; alone after it was moved by hand."""
        if self.record is not None and self.pose.rigidPose() == self._after:
            path.write_text(json.dumps(self.record, indent=2), encoding="utf-8")
        else:
            self.pose.save(path)

    def onLoadPose(self, *_unused):
        path = services.chooseFile(_("Load a pose"), "JSON (*.json)")
        if path:
            try:
                self.pose.load(path)
            except AxonError as error:
                services.showError(error.title, error.advice)

    # ---- landmarks

    def place(self, role):
        """Let the user place points: on the film or in the CT."""
        parameters = self.session.parameters
        if self.pose is None:
            return
        node = getattr(parameters, role)
        if node is None:
            name = _("AXON film landmarks") if role == "filmLandmarks" else _("AXON CT landmarks")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetSelectedColor(*((1, 0.8, 0.1) if role == "filmLandmarks" else (0.2, 0.8, 1)))
            if role == "ctLandmarks":
                self.pose.attach(node)
            setattr(parameters, role, node)
        services.placePoints(node)

    def _pairs(self):
        parameters = self.session.parameters
        if parameters.ctLandmarks is None or parameters.filmLandmarks is None:
            return None
        return landmarks.LandmarkPairs(parameters.ctLandmarks, parameters.filmLandmarks, self.pose)

    def _landmarksText(self):
        pairs = self._pairs()
        if pairs is None:
            return ""
        try:
            apart = pairs.residuals(self.comparison.geometries())
            rms = pairs.rms(self.comparison.geometries())
        except AxonError as error:
            return html.escape(str(error))
        if rms is None:
            return ""
        each = ", ".join(f"{index + 1}: {value:.1f}" for index, value in enumerate(apart))
        return _("Landmarks apart, RMS {rms:.1f} mm ({each})").format(rms=rms, each=each)

    def onSolve(self, *_unused):
        pairs = self.pose and self._pairs()
        if pairs is None:
            services.showError(_("There are no landmarks yet."), _("Place at least four on the film and in the CT."))
            return
        try:
            pose = pairs.solve(self.comparison.geometries())
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self._take(pose)

    def onClearLandmarks(self, *_unused):
        parameters = self.session.parameters
        for role in ("ctLandmarks", "filmLandmarks"):
            node = getattr(parameters, role)
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
                setattr(parameters, role, None)
        self.ui.landmarksLabel.text = ""

    # ---- automatic

    def onAutomatic(self, globalSearch):
        """Start a search in a child process, or cancel the one at work."""
        if self.job is not None:
            self.cancel()
            self.refresh()
            return
        if self.pose is None:
            return
        try:
            folder = self.session.folder("registration")
            masks = [self.comparison.maskFor(index) for index in range(len(self._films))] + [None]
            request = logic.registration(
                self.session.parameters,
                folder,
                os.path.join(folder, "pose.json"),
                self.pose.rigidPose(),
                masks[:2],
                globalSearch,
                self._distance(),
            )
            self.job = startWorker(request, folder, services.pythonSlicer(), services.childEnvironment())
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self._before = self.pose.rigidPose()
        self.job.event.connect(self.onEvent)
        self.job.finished.connect(self.onFinished)
        self.ui.registrationProgress.value = 0
        self.refresh()

    def cancel(self):
        """End an automatic search; the pose stays."""
        if self.job is not None:
            self.job.stop()
            self.job = None

    def onEvent(self, event):
        if event["type"] == "progress":
            self.ui.registrationProgress.value = round(100 * event["fraction"])
        else:
            self.session.say(event.get("text", ""))

    def onFinished(self, event):
        log, self.job = self.job.log, None
        if log:
            self.session.say(log)
        if event["type"] == "error":
            services.showError(event["title"], event.get("advice", ""))
        else:
            self.record = event["record"]
            geometries = logic.geometriesOf(self.record)
            self.comparison.setGeometries(geometries)
            if self._distance() is None:  # it was estimated
                self._shownDistance = min(max(geometries[0].sdd_mm, 800.0), 4000.0)
                self._proposed = (*self._proposed, self._shownDistance)
                self.session.parameters.sourceDistance = self._shownDistance
            self._take(logic.poseOfRecord(self.record))
        self.refresh()

    def _take(self, pose):
        """Take over a computed pose; 'Before' shows the one it replaces."""
        self._before, self._after = self.pose.rigidPose(), pose
        self.pose.commit()
        self.pose.setRigidPose(pose)
        self.pose.commit()
        self.throttle.request()
        self.refresh()

    def onBeforeAfter(self, before):
        """Show the pose of before the last computed step while the button is down."""
        if self.pose is not None and self._before is not None and self._after is not None:
            self.pose.setRigidPose(self._before if before else self._after)
            self.ui.beforeAfterButton.text = _("After") if before else _("Before")

"""The section 'Ground truth and registration' of the panel: lay a CT so that its DRR agrees with the film.

From 'Match the CT to the film' until it is released, the CT hangs under the pose transform, and the film with the live
DRR over it stands in the views. The pose stays in the scene afterwards.
"""

import html
import pathlib
from dataclasses import replace

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from axon_core.errors import AxonError, VolumeError
from AXONLib import films, layout, live, services, volumes
from AXONLib.distance import SourceDistance
from AXONLib.panel_landmarks import LandmarksPanel
from AXONLib.panel_search import SearchPanel
from AXONLib.pose import ANGLES, SHIFTS, PoseController

CT_FILES = "*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd *.dcm"
STEPS = {**dict.fromkeys(ANGLES, 0.5), **dict.fromkeys(SHIFTS, 1.0)}  # degrees, mm
FINER = 0.1
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


class RegistrationPanel:
    """Interactive, DRR-guided registration of a CT to the films.

    Attributes:
        pose, comparison: PoseController and LiveComparison while a CT is being matched, else None.
        landmarks, search: the other parts of the section.
        distance: from source to detector.
        throttle: asks for pictures, coarse while something moves and fine when it rests.
    """

    def __init__(self, ui, session):
        self.ui = ui
        self.session = session
        self.pose = self.comparison = None
        self._ct = None  # the CT's node while it is being matched
        self._applied = None  # choices that the pictures show
        self._distanceShown = None
        self._watched = []  # (node, tag) of the regions and points that the pictures depend on
        self._filling = False
        self.throttle = live.Throttle(self.showQuickly, self.showFinely)
        self.distance = SourceDistance(session)
        self.landmarks = LandmarksPanel(ui, session, self)
        self.search = SearchPanel(ui, session, self)
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
        session.filmsChanged.connect(self.onFilmsChanged)

    # ---- beginning and end

    def onOpenCt(self, *_unused):
        path = services.chooseFile(_("Open a CT"), _("Volumes") + f" ({CT_FILES});;" + _("All files") + " (*)")
        if path:
            try:
                with services.busy():
                    self.session.parameters.groundTruth = volumes.loadCt(path)
            except AxonError as error:
                services.showError(error.title, error.advice)

    def trouble(self):
        """What keeps a CT from being matched, in one line; "" if nothing does."""
        truth = self.session.parameters.groundTruth
        if self.session.filmTrouble():
            return self.session.filmTrouble()
        if truth is None:
            return _("Choose a CT of the same patient.")
        if truth.GetAttribute(volumes.SYNTHETIC) == "1":
            return _("Choose the real CT, not a synthetic one.")
        return ""

    def onRegister(self, on):
        if not on:
            self.leave()
        elif self.pose is None:
            try:
                with services.busy():
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
        if self.trouble():
            raise AxonError("registration.missing", self.trouble())
        truth = parameters.groundTruth
        _checkFree(truth, parameters.pose)
        ct = volumes.ctVolumeOf(truth)
        laid = list(self._laidFilms())
        if parameters.pose is None:
            parameters.pose = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLLinearTransformNode", slicer.mrmlScene.GenerateUniqueName(_("AXON pose"))
            )
        self._ct = truth
        self.pose = PoseController(parameters.pose, ct.center_lps)
        role = volumes.ROLES["groundTruth"]
        if parameters.pose.GetNodeReference(role) is not truth:  # the pose of another CT, or a new one
            self.pose.reset()
            parameters.pose.SetNodeReferenceID(role, truth.GetID())
        self.pose.changed.connect(self.onPose)
        self.pose.refused.connect(self.onRefused)
        self.comparison = live.LiveComparison(ct, laid, self.pose)
        self.pose.attach(truth)
        self._distanceShown, self._applied = parameters.sourceDistance, None
        self.comparison.mode, self.comparison.amount = parameters.compareMode.value, parameters.compareAmount
        self.applyChoices()
        self.comparison.update(live.FINE_PIXELS)
        layout.showRegister(self.comparison.nodes, truth)
        self.pose.showHandles(True, [node for node in (layout.threeDView(layout.POSE),) if node])
        self.onPose()
        self.refresh()

    def _laidFilms(self):
        """The films on their detectors, at the resolution that registration works at."""
        from axon_core.registration.files import FILM_PIXELS, laid_on_detector

        for film, lateral in ((self.session.frontal, False), (self.session.lateral, True)):
            if film.node is not None:
                standard = films.standardFilm(film.radiograph, lateral, FILM_PIXELS)
                yield laid_on_detector(standard, self.distance.known())

    def onRefused(self, error):
        """Another module bent the pose: told when that module is done."""
        services.soon(lambda: services.showError(error.title, error.advice))

    def leave(self):
        """Put the views back; the pose stays in the scene, and the CT under it."""
        self.search.reset()
        self.throttle.stop()
        self._watch([])
        if self.comparison is not None:
            services.stopPlacing()
            layout.leaveRegister()
            self.comparison.close()
        if self.pose is not None:
            self.pose.commit()
            self.pose.close()
        self.pose = self.comparison = self._ct = None
        self.ui.matchPanel.visible = False
        self.ui.registerButton.checked = False

    def onFilmsChanged(self):
        """Another film needs another comparison, and may tell its distance."""
        if self.pose is not None:
            self.leave()
        if self.session.parameters is not None and self.session.frontal.radiograph is not None:
            self.distance.propose(self.session.frontal.radiograph)

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
            self.applyChoices()
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
        for name, agreement in zip((_("Frontal"), _("Lateral")), self.comparison.readouts(), strict=False):
            if agreement is not None:
                text = _("{film}: local NCC {local:.2f}, gradient NCC {gradient:.2f}")
                lines.append(text.format(film=name, local=agreement[0], gradient=agreement[1]))
        self.ui.readoutLabel.text = "<br>".join([*lines, *self.search.verdict()])
        self.search.offerPixelSize()
        self.landmarks.show()

    # ---- choices

    def refresh(self):
        """Bring the section up to date with the parameters."""
        ui, parameters = self.ui, self.session.parameters
        if parameters is None:
            ui.registerButton.enabled = False
            return
        if self.pose is not None and (parameters.groundTruth, parameters.pose) != (self._ct, self.pose.node):
            self.leave()
        ui.matchPanel.visible = self.pose is not None  # a section that opens shows all that it holds
        trouble = self.trouble()
        ui.registerButton.enabled = self.pose is not None or not trouble
        ui.registerButton.toolTip = trouble or _("Show the film with a live DRR of the CT over it.")
        if self.pose is None:
            return
        ui.undoButton.enabled, ui.redoButton.enabled = self.pose.canUndo(), self.pose.canRedo()
        ui.depthSlider.enabled = not parameters.depthLocked
        for name, slider in self.sliders.items():
            slider.singleStep = STEPS[name] * (FINER if parameters.fineSteps else 1.0)
        self.search.refresh()
        self._watch([parameters.collimation, parameters.ctLandmarks, parameters.filmLandmarks])
        if (self.comparison.mode, self.comparison.amount) != (parameters.compareMode.value, parameters.compareAmount):
            self.comparison.mode, self.comparison.amount = parameters.compareMode.value, parameters.compareAmount
            self.comparison.compose()
        if self._applied != self._choices():
            self.applyChoices()
            self.throttle.request()

    def _watch(self, nodes):
        """Ask for a new picture whenever one of these regions or lists of points is changed."""
        nodes = [node for node in nodes if node is not None]
        if nodes == [node for node, _tag in self._watched[::2]]:
            return
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        events = (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent)
        self._watched = [
            (node, node.AddObserver(event, lambda *_unused: self.throttle.request()))
            for node in nodes
            for event in events
        ]

    def _choices(self):
        """What the masks and the geometry depend on."""
        parameters = self.session.parameters
        region, box = parameters.collimation, None
        if region is not None:
            size = [0.0, 0.0, 0.0]
            region.GetSizeWorld(size)
            box = (slicer.util.arrayFromVTKMatrix(region.GetObjectToWorldMatrix()).tolist(), size)
        return (region, box, parameters.maskMarkers, parameters.sourceDistance, parameters.depthLocked)

    def applyChoices(self):
        """Bring masks, geometry and depth lock up to date with the parameters."""
        parameters = self.session.parameters
        if self._applied == self._choices():
            return
        self._applied = self._choices()
        self.pose.depthLocked = parameters.depthLocked
        if parameters.sourceDistance != self._distanceShown:
            self._distanceShown = parameters.sourceDistance
            self.comparison.setGeometries(
                [replace(geometry, sdd_mm=parameters.sourceDistance) for geometry in self.comparison.geometries()]
            )
        self.comparison.setMasks(parameters.collimation, parameters.maskMarkers)
        self.ui.collimationButton.blockSignals(True)
        self.ui.collimationButton.checked = parameters.collimation is not None
        self.ui.collimationButton.blockSignals(False)

    def takeGeometries(self, geometries):
        """Take over what a search found of pixel sizes and distances."""
        self.comparison.setGeometries(geometries)
        if self.distance.known() is None:
            self.distance.found(geometries[0].sdd_mm)
        self._distanceShown = self.session.parameters.sourceDistance

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
                self.search.save(pathlib.Path(path))
            except (AxonError, OSError) as error:
                services.showError(_("The pose was not saved."), str(error))

    def onLoadPose(self, *_unused):
        path = services.chooseFile(_("Load a pose"), "JSON (*.json)")
        if path:
            try:
                self.pose.load(path)
            except AxonError as error:
                services.showError(error.title, error.advice)


def _checkFree(ct, pose):
    """VolumeError if a CT hangs under a transform of somebody else, which the pose would replace."""
    parent = ct.GetParentTransformNode()
    if parent is not None and parent is not pose:
        raise VolumeError(
            "volume.transformed",
            _("{name} lies under the transform {transform}.").format(name=ct.GetName(), transform=parent.GetName()),
            _("Harden that transform in the Transforms module, or take the CT from under it."),
        )

"""AXONReconstruction: a chest CT volume from one or two plain X-rays, in 3D Slicer. Synthetic: not for diagnosis.

This file holds what Slicer looks for by name; what the module does is in AXONLib.
"""

import enum
import logging
import pathlib
import shutil

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import AXONLib
from AXONLib import services


class AXONReconstruction(ScriptedLoadableModule):
    """What the module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("AXON Reconstruction")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = ["VolumeRendering", "Markups", "Cameras", "Volumes", "Transforms"]
        parent.contributors = ["The AXON authors"]
        parent.helpText = (
            _(
                "Makes a chest CT volume from one or two plain X-rays, and lays it over a CT of the same patient where "
                "there is one. The volume is synthetic: for research, not for diagnosis."
            )
            + f' <a href="{services.HOMEPAGE}">{services.HOMEPAGE}</a>'
        )
        parent.acknowledgementText = _(
            "Implements 'Conditional Diffusion for 3D CT Volume Reconstruction from 2D X-rays' (arXiv 2603.26509). "
            "The bundled model was trained on public CTs; their sources and licences are in ATTRIBUTION.md."
        )
        services.whenStarted(registerSampleData)


def registerSampleData():
    """The films and the CT under File > Download Sample Data > AXON."""
    from axon_core.errors import AxonError
    from AXONLib import sample_data

    try:
        sample_data.register()
    except AxonError as error:  # an installation without its samples
        logging.warning("AXON: %s", error)


class AXONReconstructionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Life cycle of the panel; its sections are the panel_*.py of AXONLib."""

    SHORTCUTS = (
        ("Ctrl+Alt+R", "applyButton"),
        ("Ctrl+Alt+C", "compareButton"),
        ("Ctrl+Shift+Z", "undoButton"),
        ("Ctrl+Shift+Y", "redoButton"),
    )

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._shortcuts = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from AXONLib.note import SyntheticNote
        from AXONLib.panel_films import FilmsPanel
        from AXONLib.panel_registration import RegistrationPanel
        from AXONLib.panel_result import ResultPanel
        from AXONLib.panel_run import RunPanel
        from AXONLib.session import Session

        root = slicer.util.loadUI(self.resourcePath("UI/AXONReconstruction.ui"))
        self.layout.addWidget(root)
        self.ui = slicer.util.childWidgetVariables(root)
        root.setMRMLScene(slicer.mrmlScene)
        self.logic = AXONReconstructionLogic()

        self.session = Session()
        self.session.said.connect(self.onSaid)
        self.films = FilmsPanel(self.ui, self.session)
        self.registration = RegistrationPanel(self.ui, self.session)
        self.run = RunPanel(self.ui, self.session, self.resourcePath("requirements.txt"))
        self.result = ResultPanel(self.ui, self.session)
        self.run.made.connect(self.result.onMade)
        self.note = SyntheticNote()

        for section in (self.ui.filmsButton, self.ui.registrationButton, self.ui.reconstructButton):
            section.connect("contentsCollapsed(bool)", self.onSection)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndClose)
        # before the node selectors hear of it
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved, priority=100.0)
        services.whenQuitting(self.onQuit)
        self.initializeParameterNode()

    def cleanup(self):
        """The panel goes, with Slicer or for a reload."""
        self.onQuit()
        services.forgetQuitting(self.onQuit)
        self.note.stop()
        self._removeShortcuts()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()
        self.films.propose()
        window = services.mainWindow()
        if window and not self._shortcuts:
            for keys, button in self.SHORTCUTS:
                shortcut = qt.QShortcut(qt.QKeySequence(keys), window)
                shortcut.connect("activated()", lambda name=button: self.onShortcut(name))
                self._shortcuts.append(shortcut)
            self._shortcuts += self.registration.shortcuts(window)

    def exit(self):
        self._removeShortcuts()

    def onShortcut(self, name):
        button = getattr(self.ui, name)
        if button.enabled:
            button.click()

    def _removeShortcuts(self):
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def onSaid(self, text):
        self.ui.logText.appendPlainText(text)

    def onQuit(self):
        self.stopAll()
        self.session.close()

    # ---- the scene

    def onSceneStartClose(self, caller, event):
        self.stopAll()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        """A chosen node is deleted: nothing takes its place, while a node selector would choose the row before it."""
        from AXONLib.parameters import AXONParameters

        if self._parameterNode and not slicer.mrmlScene.IsClosing():
            for name in AXONParameters.__annotations__:
                if getattr(self._parameterNode, name) is node:
                    setattr(self._parameterNode, name, None)

    def stopAll(self, *_unused):
        """Nothing of ours runs or observes afterwards."""
        self.run.stop()
        self.registration.leave()
        self.result.stop()

    # ---- parameters

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node):
        if self._parameterNode:
            if self._guiTag is not None:
                self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode, self._guiTag = node, None
        self.session.parameters = node
        if node:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.onParametersModified()

    def onParametersModified(self, caller=None, event=None):
        """Every section follows the parameters; no state is kept in widgets alone."""
        self.session.readFilms()
        self.run.refresh()
        self.registration.refresh()
        self.result.refresh()

    def onSection(self, *_unused):
        """A section that opens shows all that it holds; hide again what has no use now."""
        self.films.showFilms()
        self.onParametersModified()

    def onReload(self):
        """Slicer reads this file anew, and with it what it imports."""
        AXONLib.forget()
        ScriptedLoadableModuleWidget.onReload(self)


class AXONReconstructionLogic(ScriptedLoadableModuleLogic):
    """The module for scripts: no widgets, no views."""

    def getParameterNode(self):
        from AXONLib.parameters import AXONParameters

        return AXONParameters(super().getParameterNode())

    def reconstruct(self, frontal, lateral=None, told=None, **choices):
        """Make a synthetic CT and wait for it.

        Args:
            frontal: vtkMRMLScalarVolumeNode with one slice, a PA or AP film; see AXONLib.films.loadFilm.
            lateral: the same of the lateral film, or None.
            told: called with every line of the worker, a dict.
            choices: members of AXONParameters by name, such as quality="fast" or seeds="3"; without groundTruth and
                pose, the result lies in the X-ray room.

        Returns:
            vtkMRMLScalarVolumeNode, marked as synthetic; its uncertainty is in the parameter node.

        Raises:
            AxonError: with a code, a title and advice.
            ValueError: no such choice.
        """
        from AXONLib import logic
        from AXONLib.parameters import AXONParameters

        parameters = self.getParameterNode()
        unknown = [name for name in choices if name not in AXONParameters.__annotations__]
        if unknown:
            raise ValueError(f"There is no choice {unknown[0]!r}.")
        for name, value in {
            "groundTruth": None,
            "pose": None,
            **choices,
            "frontal": frontal,
            "lateral": lateral,
        }.items():
            kind = AXONParameters.__annotations__[name]
            setattr(parameters, name, kind(value) if isinstance(kind, enum.EnumMeta) else value)
        folder = services.temporaryFolder()
        try:
            placement = logic.placementOf(parameters)
            request = logic.reconstruction(parameters, folder, pathlib.Path(folder) / "result")
            return logic.importResult(logic.runToEnd(request, folder, told), parameters, placement)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class AXONReconstructionTest(ScriptedLoadableModuleTest):
    """Runs in Slicer with what the extension brings along; it takes about a minute."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_filmLiesOnTheDetector()
        self.setUp()
        self.test_badFilmLeavesTheSceneAlone()
        self.setUp()
        self.test_reconstructionOfTheSample()

    def test_filmLiesOnTheDetector(self):
        from axon_core.resources import demo_film
        from AXONLib import films

        self.delayDisplay(_("A film is read"))
        node = films.loadFilm(demo_film())
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        self.assertAlmostEqual(bounds[0], -bounds[1], delta=1.0)
        self.assertGreater(bounds[5] - bounds[4], bounds[3] - bounds[2])

    def test_badFilmLeavesTheSceneAlone(self):
        from axon_core.errors import FilmError
        from AXONLib import films

        self.delayDisplay(_("A file that is no film is refused"))
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(FilmError):
            films.loadFilm(__file__)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_reconstructionOfTheSample(self):
        from axon_core.resources import demo_film
        from AXONLib import films, volumes
        from AXONLib.parameters import FrontalView, Quality

        self.delayDisplay(_("A volume is made"))
        film = films.loadFilm(demo_film())
        result = AXONReconstructionLogic().reconstruct(film, frontalView=FrontalView.PA, quality=Quality.PREVIEW)
        array = slicer.util.arrayFromVolume(result)
        self.assertEqual(result.GetAttribute(volumes.SYNTHETIC), "1")
        self.assertLess(array.min(), -700)  # lungs
        self.assertGreater(array.max(), 0)  # soft tissue and bone
        self.delayDisplay(_("Passed"))

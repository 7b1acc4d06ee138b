"""AXONTraining: trains the networks of AXON Reconstruction on chest CTs of one's own, in 3D Slicer.

This file holds what Slicer looks for by name; what the module does is in AXONTrainingLib, on AXONLib.
"""

import pathlib
import sys

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

try:
    import AXONLib
except ModuleNotFoundError:  # a source checkout of which only this module's folder is on Slicer's path
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "AXONReconstruction"))
    import AXONLib
import AXONTrainingLib
from AXONLib import services


class AXONTraining(ScriptedLoadableModule):
    """What the module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("AXON Training")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["The AXON authors"]
        parent.helpText = (
            _(
                "Trains models for AXON Reconstruction on chest CTs and films of your own: prepares the data, trains "
                "stage by stage in the background, shows the losses, and exports the model."
            )
            + f' <a href="{services.HOMEPAGE}">{services.HOMEPAGE}</a>'
        )
        parent.acknowledgementText = _(
            "Implements 'Conditional Diffusion for 3D CT Volume Reconstruction from 2D X-rays' (arXiv 2603.26509)."
        )


class AXONTrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Life cycle of the panel; its sections are the panel_*.py of AXONTrainingLib."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from AXONLib.note import SyntheticNote
        from AXONLib.workplace import Workplace
        from AXONTrainingLib.installation import Installation
        from AXONTrainingLib.panel_data import DataPanel
        from AXONTrainingLib.panel_model import ModelPanel
        from AXONTrainingLib.panel_train import TrainPanel
        from AXONTrainingLib.views import TrainingViews

        root = slicer.util.loadUI(self.resourcePath("UI/AXONTraining.ui"))
        self.layout.addWidget(root)
        self.ui = slicer.util.childWidgetVariables(root)
        root.setMRMLScene(slicer.mrmlScene)
        self.logic = AXONTrainingLogic()

        self.workplace, self.views = Workplace(), TrainingViews()
        self.workplace.said.connect(self.onSaid)
        self.installation = Installation(self.workplace.say)
        self.data = DataPanel(self.ui, self.workplace, self.views, self.installation)
        requirements = self.resourcePath("requirements-training.txt")
        self.train = TrainPanel(self.ui, self.workplace, self.views, self.installation, requirements)
        self.model = ModelPanel(self.ui, self.workplace, self.views)
        self.installation.changed.connect(self.data.refresh)
        self.data.prepared.connect(self.train.refresh)
        self.train.changed.connect(self.model.refresh)
        self.train.validated.connect(self.model.onValidated)
        self.note = SyntheticNote()

        for section in (self.ui.dataButton, self.ui.trainingButton, self.ui.modelButton):
            section.connect("contentsCollapsed(bool)", self.onParametersModified)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndClose)
        services.whenQuitting(self.onQuit)
        self.initializeParameterNode()

    def cleanup(self):
        """The panel goes, with Slicer or for a reload."""
        self.onQuit()
        services.forgetQuitting(self.onQuit)
        self.views.close()
        self.note.stop()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()

    def onSaid(self, text):
        self.ui.logText.appendPlainText(text)

    def onQuit(self):
        """Nothing of ours runs afterwards; a training saves its state."""
        self.train.quit()
        self.data.stop()
        self.model.stop()
        self.installation.stop()
        self.workplace.close()

    # ---- the scene

    def onSceneStartClose(self, caller, event):
        """A training goes on without a scene; its curves and choices come back with the next one."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered or self.train.job is not None:
            self.initializeParameterNode()

    # ---- parameters

    def initializeParameterNode(self):
        node = self.logic.getParameterNode()
        if self.train.job is not None and node.run != self.train.request["output"]:
            self.train.restore(node)
        self.setParameterNode(node)

    def setParameterNode(self, node):
        if self._parameterNode:
            if self._guiTag is not None:
                self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode, self._guiTag = node, None
        self.workplace.parameters = node
        if node:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.onParametersModified()

    def onParametersModified(self, *_unused):
        """Every section follows the parameters; no state is kept in widgets alone."""
        self.data.refresh()
        self.train.refresh()
        self.model.refresh()

    def onReload(self):
        """Slicer reads this file anew, and with it what it imports."""
        AXONTrainingLib.forget()
        AXONLib.forget()
        ScriptedLoadableModuleWidget.onReload(self)


class AXONTrainingLogic(ScriptedLoadableModuleLogic):
    """The module for scripts: no widgets, no views."""

    def getParameterNode(self):
        from AXONTrainingLib.parameters import AXONTrainingParameters

        return AXONTrainingParameters(super().getParameterNode())

    def prepare(self, source, cache, told=None, **choices):
        """Bring CTs and films into a cache, and wait for it; finished cases are kept whatever happens.

        Args:
            source: folder, or table (CSV: patient, ct, frontal, lateral).
            cache: folder for the prepared data.
            told: called with every line of the worker, a dict.
            choices: attributes of `axon_core.job_prepare.PrepareJob`, such as preset="tiny".

        Returns:
            dict: see `axon_core.job_prepare.Prepared.to_dict`.

        Raises:
            AxonError: with a code, a title and advice.
        """
        return self._done({"task": "prepare", "source": str(source), "output": str(cache), **choices}, told)

    def train(self, cache, run, told=None, **choices):
        """Train, or go on with a run, and wait for it; `choices` are attributes of `axon_core.job_train.TrainJob`."""
        return self._done({"task": "train", "data": str(cache), "output": str(run), **choices}, told)

    def export(self, run, folder, told=None, **choices):
        """Write a run as a model's folder; `choices` are attributes of `axon_core.job_export.ExportJob`."""
        return self._done({"task": "export", "source": str(run), "output": str(folder), **choices}, told)

    @staticmethod
    def _done(request, told):
        import shutil

        from AXONLib.logic import runToEnd

        folder = services.temporaryFolder()
        try:
            return runToEnd(request, folder, told)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class AXONTrainingTest(ScriptedLoadableModuleTest):
    """Runs in Slicer, on drawn chests; it takes about a minute."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_emptyFolderIsRefused()
        self.setUp()
        self.test_tinyModelIsTrained()

    def test_emptyFolderIsRefused(self):
        import tempfile

        from axon_core.errors import AxonError

        self.delayDisplay(_("A folder without CTs is refused"))
        with tempfile.TemporaryDirectory() as folder, self.assertRaises(AxonError):
            AXONTrainingLogic().prepare(folder, f"{folder}/cache", preset="tiny")

    def test_tinyModelIsTrained(self):
        import os
        import tempfile

        from AXONTrainingLib import curves, drawn, runs

        self.delayDisplay(_("Drawn chests are prepared, and a tiny model is trained on them"))
        logic = AXONTrainingLogic()
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            prepared = logic.prepare(drawn.write(folder / "chests"), folder / "cache", preset="tiny", workers=1)
            self.assertEqual(prepared["counts"]["train"], 2)
            choices = {"preset": "tiny", "parts": ["coarse"], "steps": 20, "kept": 2, "device": "cpu"}
            logic.train(folder / "cache", folder / "run", told=curves.add, **choices)
            self.assertGreater(len(curves.points(curves.PROGRESS, "endpoint")), 1)
            self.assertEqual([each.step for each in runs.checkpoints(folder / "run")], [20, 20])
            model = logic.export(folder / "run", folder / "model")
            self.assertTrue(os.path.isfile(os.path.join(model["output"], "model.safetensors")))
        self.delayDisplay(_("Passed"))

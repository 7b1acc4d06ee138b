"""A whole small module lives on the host as in Slicer: load, enter, work, close the scene, leave, reload, unload."""

import textwrap

import pytest

MODULE = """
import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

@parameterNodeWrapper
class Parameters:
    film: vtkMRMLScalarVolumeNode
    fine: bool = False

class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Sample")
        parent.categories = ["Examples"]

class SampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.log, self._parameterNode, self._tag, self._shortcut = [], None, None, None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        root = slicer.util.loadUI(self.resourcePath("UI/Sample.ui"))
        self.layout.addWidget(root)
        self.ui = slicer.util.childWidgetVariables(root)
        root.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, lambda *unused: self.use(None))
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onEndClose)
        self.ui.goButton.connect("clicked()", self.go)
        self.log.append("setup")

    def use(self, node):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._tag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.update)
        self._parameterNode = node
        if node is not None:
            self._tag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.update)
            self.update()

    def update(self, *unused):
        self.ui.goButton.enabled = self._parameterNode.film is not None

    def go(self):
        self.log.append("go")

    def onEndClose(self, *unused):
        if self.parent.isEntered:
            self.use(self.logic.getParameterNode())

    def enter(self):
        self.log.append("enter")
        self.use(self.logic.getParameterNode())
        self._shortcut = qt.QShortcut(qt.QKeySequence("Ctrl+Alt+G"), slicer.util.mainWindow())
        self._shortcut.connect("activated()", self.ui.goButton.click)

    def exit(self):
        self.log.append("exit")
        self._shortcut.setParent(None)
        self._shortcut.deleteLater()
        self.use(None)

    def cleanup(self):
        self.log.append("cleanup")
        self.use(None)
        self.removeObservers()

class SampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return Parameters(super().getParameterNode())

class SampleTest(ScriptedLoadableModuleTest):
    ran = []
    def setUp(self):
        slicer.mrmlScene.Clear()
    def test_one(self):
        self.ran.append(1)
        self.delayDisplay("one")
"""

UI = """<ui version="4.0"><class>Sample</class>
<widget class="qMRMLWidget" name="Sample"><layout class="QVBoxLayout" name="column">
<item><widget class="ctkCollapsibleButton" name="filmSection">
<property name="text"><string>Films</string></property>
<layout class="QFormLayout" name="form"><item row="0" column="1"><widget class="qMRMLNodeComboBox" name="filmSelector">
<property name="noneEnabled"><bool>true</bool></property>
<property name="SlicerParameterName" stdset="0"><string>film</string></property></widget></item>
<item row="1" column="1"><widget class="QCheckBox" name="fineCheck">
<property name="SlicerParameterName" stdset="0"><string>fine</string></property></widget></item>
</layout></widget></item>
<item><widget class="QPushButton" name="goButton"><property name="text"><string>Go</string></property></widget></item>
</layout></widget>
<customwidgets><customwidget><class>ctkCollapsibleButton</class><extends>QWidget</extends>
<header>ctkCollapsibleButton.h</header><container>1</container></customwidget></customwidgets>
<connections><connection><sender>Sample</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>filmSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def sample(hosted, tmp_path):
    """The module's widget, entered."""
    import slicer
    from host import module_host

    folder = tmp_path / "Ä b" / "Sample"
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Sample.py").write_text(textwrap.dedent(MODULE), encoding="utf-8")
    (folder / "Resources" / "UI" / "Sample.ui").write_text(UI, encoding="utf-8")
    module_host.load(folder / "Sample.py")
    slicer.util.selectModule("Sample")
    yield slicer.modules.SampleWidget
    if hasattr(slicer.modules, "sample"):
        module_host.unload("Sample")


def test_work_in_the_panel(sample):
    import slicer

    assert sample.log == ["setup", "enter"]
    assert slicer.modules.sample.title == "Sample"
    assert slicer.util.selectedModule() == "Sample"
    assert not sample.ui.goButton.enabled
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "film")
    sample.ui.filmSelector.setCurrentNode(node)
    sample.ui.fineCheck.checked = True
    assert sample.logic.getParameterNode().film is node
    assert sample.logic.getParameterNode().fine
    sample.ui.goButton.click()
    assert sample.log[-1] == "go"


def test_the_scene_is_closed(sample):
    import slicer

    old = sample._parameterNode
    old.film = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "film")
    slicer.mrmlScene.Clear(0)
    assert sample._parameterNode is not old
    assert sample._parameterNode.film is None
    assert sample.ui.filmSelector.currentNode() is None
    assert not sample.ui.goButton.enabled


def test_leave_and_come_back(sample):
    import slicer

    window = slicer.util.mainWindow()
    shortcuts = [c for c in window.children() if c.className() == "QShortcut"]
    sample.ui.goButton.enabled = True
    shortcuts[0].activated()
    assert sample.log[-1] == "go"
    slicer.util.selectModule("")
    slicer.app.processEvents()
    assert sample.log[-1] == "exit"
    assert not sample.parent.isEntered
    slicer.mrmlScene.Clear(0)
    assert sample._parameterNode is None
    assert [c for c in window.children() if c.className() == "QShortcut"] == []
    slicer.util.selectModule("Sample")
    assert sample.log[-1] == "enter"


def test_reload_makes_a_new_widget(sample):
    import slicer

    sample.onReload()
    assert sample.log[-1] == "cleanup"
    assert slicer.modules.SampleWidget is not sample
    assert slicer.modules.SampleWidget.log == ["setup"]
    slicer.modules.SampleWidget.enter()


def test_unload_cleans_up_once(sample):
    import slicer
    from host import module_host

    module_host.unload("Sample")
    assert sample.log[-2:] == ["exit", "cleanup"]
    assert sample.log.count("cleanup") == 1
    assert not hasattr(slicer.modules, "sample")


def test_the_module_tests_itself(sample):
    import slicer

    slicer.modules.SampleInstance.runTest()
    import Sample

    assert Sample.SampleTest.ran == [1]


def test_a_wrong_connection_in_the_ui_file_is_an_error(hosted, tmp_path):
    import slicer

    path = tmp_path / "bad.ui"
    path.write_text(UI.replace("setMRMLScene(vtkMRMLScene*)", "setScene(vtkMRMLScene*)"))
    with pytest.raises(RuntimeError, match="no slot"):
        slicer.util.loadUI(str(path))


def test_the_panel_can_be_looked_at(sample):
    page = sample.parent
    page.resize(300, 200)
    page.show()
    picture = page.grab().toImage()
    colours = {picture.pixel(x, y) for x in range(0, 300, 3) for y in range(0, 200, 3)}
    assert (picture.width(), picture.height()) == (300, 200)
    assert len(colours) > 5

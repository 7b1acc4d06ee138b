"""The source of the module keeps to what Slicer shows to Python, and the lint that says so finds what it must."""

import pathlib
import textwrap

import pytest
from host import lint

ROOT = pathlib.Path(__file__).resolve().parents[2]

UI = """<ui version="4.0"><class>Bad</class>
<widget class="qMRMLWidget" name="Bad"><layout class="QVBoxLayout" name="column">
<item><widget class="QPushButton" name="goButton"/></item>
<item><widget class="ctkSliderWidget" name="distanceSlider">
<property name="SlicerParameterName" stdset="0"><string>distance</string></property></widget></item>
<item><widget class="qMRMLNodeComboBox" name="filmSelector"/></item></layout></widget>
<connections><connection><sender>Bad</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>filmSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""

PARAMETERS = """
@parameterNodeWrapper
class Parameters:
    distance: float = 1.0
"""

GOOD = """
import slicer
from slicer.i18n import tr as _
class Widget:
    def setup(self):
        self.ui.goButton.text = _("Go to {place}").format(place="x")
        self.ui.goButton.toolTip = _("a") if self.ui.goButton.enabled else ""
        self.ui.goButton.connect("clicked(bool)", self.onGo)
        self.ui.filmSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onGo)
        self.ui.distanceSlider.maximum = 5
        self.ui.distanceSlider.valueChanged.connect(self.onGo)
        self.shortcut.connect("activated()", self.ui.goButton.click)
        for widget in (self.ui.goButton, self.ui.distanceSlider):
            widget.enabled = False
            widget.show()
        ui = self.ui
        node = ui.filmSelector.currentNode()
        self._parameterNode.distance = 3.0
        self._parameterNode.AddObserver("ModifiedEvent", self.onGo)
        return node
"""


@pytest.fixture
def module(tmp_path):
    """A function: source of a module -> findings."""

    def check(source, ui=UI, name="Bad.py"):
        (tmp_path / "Bad.ui").write_text(ui)
        (tmp_path / "parameters.py").write_text(PARAMETERS)
        (tmp_path / name).write_text(textwrap.dedent(source))
        return lint.lintModule(tmp_path)

    return check


def test_good_source_has_no_findings(module):
    assert module(GOOD) == []


BAD_SOURCE = {
    "self.ui.goButon.text": "no such widget",
    "self.ui.goButton.text()": "cannot be called",
    "self.ui.goButton.colour": "no member",
    "self.ui.goButton.colour = 1": "no such property",
    "self.ui.goButton.width = 1": "cannot be set",
    "self.ui.goButton.click": "not called",
    "self.ui.distanceSlider.setRange(0, 1)": "no member",
    "self.ui.distanceSlider.setMinimum(0)": "no member",
    "self.ui.filmSelector.currentNode": "not called",
    "self.ui.filmSelector.comboBox()": "no member",
    "self.ui.goButton.connect('clicked(int)', f)": "no such signal",
    "self.ui.filmSelector.connect('currentNodeChanged(vtkMRMLScalarVolumeNode*)', f)": "no such signal",
    "ui = self.ui\n    ui.goButton.text()": "cannot be called",
    "button = self.ui.goButton\n    button.text()": "cannot be called",
    "a, b = self.ui.goButton, 1\n    a.text()": "cannot be called",
    "for w in (self.ui.goButton, self.ui.distanceSlider):\n        w.setRange(0, 1)": "no member",
    "self._parameterNode.distnace = 3": "not a parameter",
    "parameters.distnace": "not a parameter",
    "p = self.session.parameters\n    p.distnace = 1": "not a parameter",
    "ui, p = self.ui, self.session.parameters\n    x = p.distnace": "not a parameter",
    "slicer.app.processEvents()": "services.py",
    "slicer.app.layoutManager().sliceWidget('Red').sliceLogc()": "no member",
    "manager = services.layoutManager()\n    manager.threeDViewCount()": "cannot be called",
    "view = widget.sliceView()\n    view.cornerAnotation()": "no member",
    "button.text = 'Go'": "not translated",
    "button.setToolTip('Go ' + name)": "not translated",
    "button.text = f'Go {name}'": "not translated",
    "button.text = 'Go {x}'.format(x=1)": "not translated",
    "button.text = _('a') if x else 'Stop'": "not translated",
    "services.showError('No film')": "not translated",
    "slicer.util.errorDisplay('No film')": "not translated",
    "button.text = _(f'Go {name}')": "plain literal",
    "button.text = _('Go {x}'.format(x=1))": "plain literal",
    "button.text = _(name)": "plain literal",
    "for _, x in pairs:\n        pass": "must not hide",
    "_ = 3": "must not hide",
    "import imp": "3.12",
    "from distutils.version import LooseVersion": "3.12",
    "qt.QTextCodec.codecForName('x')": "Qt 6",
    "qt.QRegExp('x')": "Qt 6",
    "dialog.exec_()": "Qt 6",
    "class Own(qt.QWidget):\n        pass": "subclassed",
}


@pytest.mark.parametrize(("statement", "finding"), BAD_SOURCE.items())
def test_bad_source_is_found(module, statement, finding):
    source = f"import slicer\nfrom slicer.i18n import tr as _\ndef setup(self):\n    {statement}\n"
    found = module(source)
    assert [text for text in found if finding in text], found
    assert all(text.startswith("Bad.py:") for text in found)


def test_the_application_belongs_into_services(module):
    assert module("import slicer\nslicer.app.processEvents()\n", name="services.py") == []
    assert module("import slicer\nslicer.app.procesEvents()\n", name="services.py") != []


BAD_UI = {
    'class="QPushButton"': ('class="QDial"', "list of widgets"),
    "<string>distance</string>": ("<string>distnace</string>", "not a parameter"),
    'widget class="QPushButton" name="goButton"/': (
        'widget class="QPushButton" name="goButton"><property name="colour"/></widget',
        "no property",
    ),
    'name="goButton"': ('name="filmSelector"', "two widgets"),
    "setMRMLScene(vtkMRMLScene*)": ("setScene(vtkMRMLScene*)", "no slot"),
    "mrmlSceneChanged(vtkMRMLScene*)": ("sceneChanged(vtkMRMLScene*)", "no signal"),
    "<receiver>filmSelector": ("<receiver>other", "no slot"),
}


@pytest.mark.parametrize("right", BAD_UI)
def test_a_bad_ui_file_is_found(module, right):
    wrong, finding = BAD_UI[right]
    assert [text for text in module("", ui=UI.replace(right, wrong)) if finding in text]


@pytest.mark.parametrize("name", ["AXONReconstruction", "AXONTraining"])
def test_the_module_is_clean(name):
    assert lint.lintModule(ROOT / name) == []

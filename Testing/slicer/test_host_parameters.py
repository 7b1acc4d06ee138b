"""The host's parameterNodeWrapper: types, checks, both ways between node and widgets, saved with the scene."""

import enum
import pathlib
from typing import Annotated

import pytest


class View(enum.Enum):
    PA = "pa"
    AP = "ap"

    def label(self):
        return f"view {self.value}"


@pytest.fixture
def Parameters(hosted):
    from slicer import vtkMRMLScalarVolumeNode
    from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        film: vtkMRMLScalarVolumeNode
        distance: Annotated[float, WithinRange(800, 4000)] = 1800.0
        steps: Annotated[int, WithinRange(1, 50)] = 20
        view: View = View.AP
        device: Annotated[str, Choice(["auto", "cpu"])] = "auto"
        title: str = "Ä b"
        folder: pathlib.Path
        seeds: Annotated[int, Default(3)]
        locked: bool = True

    return Parameters


@pytest.fixture
def parameters(Parameters):
    import slicer

    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def film(name="film"):
    import slicer

    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


VALUES = {
    "distance": 1000.5,
    "steps": 7,
    "view": View.PA,
    "device": "cpu",
    "title": "",
    "locked": False,
    "folder": pathlib.Path("/tmp/Ä b"),
    "seeds": 0,
}


def test_defaults(parameters):
    assert parameters.film is None
    assert (parameters.distance, parameters.steps, parameters.view, parameters.device) == (1800, 20, View.AP, "auto")
    assert (parameters.title, parameters.folder, parameters.seeds, parameters.locked) == (
        "Ä b",
        pathlib.Path(),
        3,
        True,
    )


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_every_type_is_kept(Parameters, parameters, name, value):
    setattr(parameters, name, value)
    again = Parameters(parameters.parameterNode)
    assert getattr(again, name) == value
    assert type(getattr(again, name)) is type(getattr(parameters, name))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("distance", 10, ValueError),
        ("distance", "1000", TypeError),
        ("distance", None, ValueError),
        ("steps", 1.5, TypeError),
        ("device", "tpu", ValueError),
        ("view", "pa", TypeError),
        ("film", "film", TypeError),
        ("locked", 1, TypeError),
        ("folder", "/tmp", TypeError),
    ],
)
def test_bad_values_are_refused_and_change_nothing(parameters, name, value, error):
    before = getattr(parameters, name)
    with pytest.raises(error):
        setattr(parameters, name, value)
    assert getattr(parameters, name) == before


def test_a_wrong_kind_of_node_is_refused(parameters):
    import slicer

    with pytest.raises(TypeError):
        parameters.film = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")


def test_an_unknown_member_is_silently_accepted(parameters):
    parameters.framtal = 1  # as in Slicer; the lint finds it


def test_unsupported_types_and_reserved_names_are_errors(hosted):
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    with pytest.raises(TypeError, match="knows no members"):
        parameterNodeWrapper(type("Bad", (), {"__annotations__": {"x": dict}}))
    with pytest.raises(ValueError, match="reserved"):
        parameterNodeWrapper(type("Bad", (), {"__annotations__": {"setValue": int}}))


def test_observers_see_the_new_value_once(parameters):
    import vtk

    seen = []
    tag = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *unused: seen.append(parameters.film))
    node = film()
    parameters.film = node
    assert seen == [node]
    parameters.RemoveObserver(tag)
    parameters.steps = 3
    assert seen == [node]


def test_a_deleted_node_is_none(parameters):
    import slicer

    parameters.film = film()
    slicer.mrmlScene.RemoveNode(parameters.film)
    assert parameters.film is None


@pytest.fixture
def gui(hosted):
    """One widget for each parameter, as loadUI makes them."""
    import ctk
    import qt
    import slicer

    root = slicer.qMRMLWidget()
    widgets = {
        "film": slicer.qMRMLNodeComboBox(),
        "distance": ctk.ctkSliderWidget(),
        "steps": qt.QSpinBox(),
        "view": qt.QComboBox(),
        "device": qt.QComboBox(),
        "title": qt.QLineEdit(),
        "folder": ctk.ctkPathLineEdit(),
        "seeds": qt.QDoubleSpinBox(),
        "locked": qt.QCheckBox(),
    }
    for name, widget in widgets.items():
        widget.setParent(root)
        widget.name = name
        widget.setProperty("SlicerParameterName", name)
    widgets["film"].noneEnabled = True
    widgets["film"].setMRMLScene(slicer.mrmlScene)
    return widgets, root


def test_gui_and_node_both_ways(parameters, gui):
    widgets, root = gui
    tag = parameters.connectGui(root)
    assert (widgets["distance"].minimum, widgets["distance"].maximum, widgets["distance"].value) == (800, 4000, 1800)
    assert [widgets["view"].itemText(i) for i in range(widgets["view"].count)] == ["view pa", "view ap"]
    assert widgets["film"].nodeTypes == ("vtkMRMLScalarVolumeNode",)
    assert (widgets["view"].currentIndex, widgets["seeds"].decimals, widgets["locked"].checked) == (1, 0, True)

    node = film()  # widgets -> node
    widgets["film"].setCurrentNode(node)
    widgets["distance"].value = 900
    widgets["steps"].value = 5
    widgets["view"].currentIndex = 0
    widgets["device"].currentText = "cpu"
    widgets["title"].text = "x"
    widgets["folder"].currentPath = "/tmp/x"
    widgets["seeds"].value = 9
    widgets["locked"].checked = False
    assert (parameters.film, parameters.distance, parameters.steps, parameters.view) == (node, 900, 5, View.PA)
    assert (parameters.device, parameters.title, parameters.folder) == ("cpu", "x", pathlib.Path("/tmp/x"))
    assert (parameters.seeds, parameters.locked) == (9, False)

    parameters.film, parameters.view, parameters.steps, parameters.locked = None, View.AP, 8, True  # node -> widgets
    assert widgets["film"].currentNode() is None
    assert (widgets["view"].currentText, widgets["steps"].value, widgets["locked"].checked) == ("view ap", 8, True)

    parameters.disconnectGui(tag)
    widgets["steps"].value = 2
    assert parameters.steps == 8
    assert not parameters.parameterNode.HasObserver("ModifiedEvent")
    parameters.steps = 9
    assert widgets["steps"].value == 2


def test_pairs_that_slicer_does_not_know(hosted, parameters):
    import ctk
    import qt

    toggle = qt.QToolButton()
    toggle.checkable = True
    for name, widget in (("locked", toggle), ("title", qt.QComboBox()), ("seeds", ctk.ctkSliderWidget())):
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({name: widget})
    with pytest.raises(ValueError, match="Cannot find"):
        parameters.connectParametersToGui({"nope": qt.QSpinBox()})


def test_a_saved_scene_restores_all(Parameters, parameters, tmp_path):
    import slicer

    parameters.parameterNode.SetSingletonTag("Own")
    parameters.film = film("kept")
    for name, value in VALUES.items():
        setattr(parameters, name, value)
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(0)
    slicer.mrmlScene.SetURL(path)
    assert slicer.mrmlScene.Connect()
    node = slicer.mrmlScene.GetSingletonNode("Own", "vtkMRMLScriptedModuleNode")
    restored = Parameters(node)
    assert restored.film.GetName() == "kept"
    assert {name: getattr(restored, name) for name in VALUES} == VALUES

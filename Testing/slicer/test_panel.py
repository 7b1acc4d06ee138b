"""The life of the panel: choices both ways, scenes saved and closed, nodes deleted, shortcuts, no main window."""

from __future__ import annotations

import sys

import driving
import film_files
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def panel(hosted):
    with driving.panel() as widget:
        yield widget


@pytest.fixture
def films(tmp_path):
    """Three film files: two frontal ones and a lateral one."""
    paths = [tmp_path / name for name in ("first.png", "second.png", "side.png")]
    for path, image in zip(
        paths, (film_files.frontal(), film_files.frontal(220, 210), film_files.lateral()), strict=True
    ):
        Image.fromarray(image).save(path)
    return paths


def load(path):
    from AXONLib import films

    return films.loadFilm(path)


def ct(name="CT"):
    import slicer

    return slicer.util.addVolumeFromArray(np.linspace(-1000, 1000, 27000).reshape(30, 30, 30), name=name)


def synthetic(name):
    """What may be chosen as a result; marked before the selectors see it, for the host's look only once."""
    import slicer

    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetAttribute("AXON.Synthetic", "1")
    return slicer.mrmlScene.AddNode(node)


# ---- choices, both ways


def examples():
    """parameter -> two values, neither of them the default."""
    from AXONLib.parameters import CompareMode, Device, FrontalView, Polarity, Quality

    nodes = [synthetic("first"), synthetic("second")]
    return {
        **dict.fromkeys(("frontal", "lateral", "groundTruth", "result"), nodes),
        "frontalView": (FrontalView.AP, FrontalView.PA),
        "frontalPolarity": (Polarity.INVERT, Polarity.KEEP),
        "lateralPolarity": (Polarity.KEEP, Polarity.INVERT),
        "frontalMirrored": (True, False),
        "frontalPixelSize": (0.4, 0.139),
        "lateralPixelSize": (0.3, 0.168),
        "sourceDistance": (1500.0, 2000.0),
        "depthLocked": (False, True),
        "fineSteps": (True, False),
        "compareMode": (CompareMode.EDGES, CompareMode.CURTAIN),
        "compareAmount": (0.25, 0.75),
        "maskMarkers": (False, True),
        "quality": (Quality.PREVIEW, Quality.PAPER),
        "seeds": ("3", "1,2"),
        "device": (Device.CUDA, Device.CPU),
        "uncertaintyOpacity": (0.25, 0.75),
    }


def bound(panel):
    """parameter -> widget."""
    widgets = vars(panel.ui).values()
    return {w.property("SlicerParameterName"): w for w in widgets if w.property("SlicerParameterName")}


def shown(widget, value):
    """What a widget shows of a value, and how a user would choose it: (current, choose)."""
    kind = widget.className()
    if kind == "qMRMLNodeComboBox":
        return widget.currentNode(), lambda: widget.setCurrentNode(value)
    if kind == "QComboBox":
        return widget.currentText, lambda: setattr(widget, "currentIndex", list(type(value)).index(value))
    attribute = {"QCheckBox": "checked", "QLineEdit": "text"}.get(kind, "value")
    return getattr(widget, attribute), lambda: setattr(widget, attribute, value)


def test_every_choice_goes_both_ways(panel):
    values, widgets = examples(), bound(panel)
    assert set(values) == set(widgets), "a bound widget without an example, or the other way round"
    for name, (first, second) in values.items():
        setattr(panel._parameterNode, name, first)
        label = first.label() if hasattr(first, "label") else first
        assert shown(widgets[name], first)[0] == label, name
        shown(widgets[name], second)[1]()
        assert getattr(panel._parameterNode, name) == second, name


def test_the_range_of_a_number_is_the_range_of_its_widget(panel):
    for slider, low, high in (
        (panel.ui.sourceDistanceSlider, 800, 4000),
        (panel.ui.compareAmountSlider, 0, 1),
        (panel.ui.frontalPixelSpin, 0, 5),
    ):
        assert (slider.minimum, slider.maximum) == (low, high)


def test_the_model_is_chosen_among_those_installed(hosted):
    report = driving.selfcheck()
    other = {**report["models"][0], "name": "other", "title": "Another"}
    with driving.panel({**report, "models": [report["models"][0], other]}) as panel:
        combo = panel.ui.modelCombo
        assert (combo.count, combo.currentIndex) == (2, 0) and "checksum good" in panel.ui.modelLabel.text
        combo.currentIndex = 1
        combo.activated(1)
        assert panel._parameterNode.model == "other"
        panel._parameterNode.model = "axon-small"
        assert combo.currentIndex == 0


# ---- the films as they are shown


def test_what_is_said_of_a_film_cannot_break_the_panel(panel, tmp_path):
    import slicer

    node = slicer.util.addVolumeFromArray(np.zeros((20, 20, 20)), name="<b>not</b>")
    panel._parameterNode.frontal = node
    assert "&lt;b&gt;not&lt;/b&gt; is a volume" in panel.ui.filmsLabel.text


def test_a_film_is_opened_shown_and_described(panel, films):
    from host import user

    for button, path in ((panel.ui.openFrontalButton, films[0]), (panel.ui.openLateralButton, films[2])):
        user.chosen = str(path)
        button.click()
    assert panel._parameterNode.frontal.GetName() == "first" and panel._parameterNode.lateral.GetName() == "side"
    assert "view unknown, 200 x 180 pixels" in panel.ui.filmsLabel.text
    for thumb in (panel.ui.frontalThumb, panel.ui.lateralThumb):
        assert not thumb.pixmap.isNull() and not thumb.isHidden()
    before = panel.ui.frontalThumb.pixmap.toImage()
    panel.ui.standardiseButton.checked = True
    assert panel.ui.frontalThumb.pixmap.toImage() != before
    panel._parameterNode.lateral = None
    assert panel.ui.lateralThumb.isHidden() and panel.ui.lateralPolarityCombo.isHidden()


def test_a_dialog_that_is_left_changes_nothing(panel):
    for button in (panel.ui.openFrontalButton, panel.ui.openLateralButton, panel.ui.openCtButton):
        button.click()
    assert panel._parameterNode.frontal is None and panel._parameterNode.groundTruth is None and driving.told() == []


@pytest.mark.parametrize("button", ["openFrontalButton", "openCtButton"])
def test_a_file_of_another_kind_is_told_and_leaves_the_scene_alone(panel, tmp_path, button):
    from host import user

    (tmp_path / "letter.png").write_text("Dear doctor")
    before = driving.content()
    user.chosen = str(tmp_path / "letter.png")
    getattr(panel.ui, button).click()
    assert len(driving.told()) == 1 and driving.content() == before


def test_a_correction_changes_the_picture_of_the_film(panel, films):
    panel._parameterNode.frontal = load(films[0])
    before = panel.session.frontal.standard.image
    panel.ui.frontalMirroredCheck.checked = True
    assert np.allclose(panel.session.frontal.standard.image, before[:, ::-1], atol=1e-5)
    panel.ui.frontalPixelSpin.value = 1.5
    assert panel.session.frontal.standard.scale_known and "1.500 mm" in panel.ui.filmsLabel.text


def test_a_film_is_read_once_however_often_other_choices_change(panel, films, monkeypatch):
    from axon_core.radiograph import Radiograph

    panel._parameterNode.frontal = load(films[0])
    reads, read = [], Radiograph.load
    monkeypatch.setattr(Radiograph, "load", lambda *given, **named: reads.append(1) or read(*given, **named))
    panel._parameterNode.seeds = "3"
    panel._parameterNode.compareAmount = 0.3
    assert not reads
    panel._parameterNode.frontalMirrored = True
    assert len(reads) == 1


# ---- what is missing


def missing(panel):
    """Why the big button is disabled; "" if it is not."""
    return "" if panel.ui.applyButton.enabled else panel.ui.applyButton.toolTip


def test_the_button_says_which_film_is_missing(panel, films):
    parameters = panel._parameterNode
    assert "Choose a frontal film" in missing(panel)
    parameters.frontal = ct()
    assert "CT is a volume, not a film" in missing(panel)
    parameters.frontal = load(films[0])
    assert missing(panel) == "" and "Ctrl+Alt+R" in panel.ui.applyButton.toolTip
    parameters.lateral = parameters.frontal
    assert "same film is chosen twice" in missing(panel)
    parameters.lateral = ct()
    assert "is a volume, not a film" in missing(panel)


def test_exchanged_films_are_told(panel, tmp_path):
    for name, view in (("front", "PA"), ("side", "LL")):
        pixels = film_files.frontal() if name == "front" else film_files.lateral()
        tags = {"ViewPosition": view, "ImagerPixelSpacing": [2.0, 2.0]}
        (tmp_path / name).write_bytes(film_files.dicom(pixels, **tags))
    panel._parameterNode.frontal = load(tmp_path / "side")
    assert "tagged as a lateral view" in missing(panel) and "Exchange" in missing(panel)
    panel._parameterNode.frontal, panel._parameterNode.lateral = load(tmp_path / "front"), load(tmp_path / "front")
    assert "tagged as a frontal view" in missing(panel)
    panel._parameterNode.lateral = load(tmp_path / "side")
    assert missing(panel) == ""


def test_the_button_says_what_is_wrong_with_the_choices(panel, films):
    from AXONLib.parameters import Device

    parameters = panel._parameterNode
    parameters.frontal = load(films[0])
    for name, wrong, right, words in (
        ("model", "nothing", "axon-small", "model nothing is not installed"),
        ("seeds", "many", "1", "neither a count nor a list"),
        ("device", Device.MPS, Device.AUTO, ""),
    ):
        setattr(parameters, name, wrong)
        assert missing(panel) and words in missing(panel) and panel.ui.stageLabel.text, name
        setattr(parameters, name, right)
        assert missing(panel) == "", name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problems": [{"code": "package.missing", "title": "No torch.", "advice": "Install."}]}, "No torch. Install."),
        ({"devices": []}, "no such device"),
        ({"models": []}, "axon-small is not installed"),
    ],
)
def test_the_button_says_what_is_wrong_with_the_installation(hosted, films, change, words):
    with driving.panel({**driving.selfcheck(), **change}) as panel:
        panel._parameterNode.frontal = load(films[0])
        assert words in missing(panel)
        assert panel.ui.setupButton.isHidden() == ("problems" not in change)


def test_the_button_waits_for_the_check_of_the_installation(hosted, films):
    with driving.panel({}) as panel:
        panel._parameterNode.frontal = load(films[0])
        assert "being checked" in missing(panel)


# ---- scenes


def test_a_saved_scene_brings_the_choices_back(panel, films, tmp_path):
    import slicer

    from AXONLib.parameters import FrontalView, Quality

    parameters = panel._parameterNode
    parameters.frontal, parameters.lateral, parameters.groundTruth = load(films[0]), load(films[2]), ct()
    parameters.frontalView, parameters.quality, parameters.seeds = FrontalView.AP, Quality.PREVIEW, "4"
    parameters.frontalPixelSize = 1.9
    assert slicer.util.saveScene(str(tmp_path / "Ä b.mrb"))
    slicer.mrmlScene.Clear(0)
    assert panel._parameterNode.frontal is None and panel._parameterNode.quality is Quality.FAST
    assert panel.ui.frontalSelector.currentNode() is None and panel.session.frontal.node is None
    slicer.util.loadScene(str(tmp_path / "Ä b.mrb"))
    parameters = panel._parameterNode
    assert [n.GetName() for n in (parameters.frontal, parameters.lateral, parameters.groundTruth)] == [
        "first",
        "side",
        "CT",
    ]
    assert (parameters.frontalView, parameters.quality, parameters.seeds) == (FrontalView.AP, Quality.PREVIEW, "4")
    assert parameters.frontalPixelSize == 1.9
    assert panel.ui.frontalSelector.currentNode() is parameters.frontal and panel.ui.seedsEdit.text == "4"
    assert panel.session.frontal.standard is not None and missing(panel) == ""


def test_closing_the_scene_in_the_midst_of_the_check_does_not_end_it_for_good(hosted, films):
    import slicer

    with driving.panel({}) as panel:
        slicer.mrmlScene.Clear(0)
        driving.spin(lambda: panel.run.installation is not None)
        panel._parameterNode.frontal = load(films[0])
        assert missing(panel) == ""


def test_a_panel_that_is_not_shown_waits_for_its_next_scene(panel, films):
    import slicer

    slicer.util.selectModule("")
    slicer.mrmlScene.Clear(0)
    assert panel.session.parameters is None
    slicer.util.selectModule("AXONReconstruction")
    panel._parameterNode.frontal = load(films[0])
    assert missing(panel) == ""


def test_entering_again_does_not_double_anything(panel, films):
    import slicer

    for _time in range(3):
        slicer.util.selectModule("")
        slicer.util.selectModule("AXONReconstruction")
    calls = []
    panel.session.filmsChanged.connect(lambda: calls.append(1))
    panel.ui.frontalSelector.setCurrentNode(load(films[0]))
    assert len(calls) == 1 and len(shortcuts()) == SHORTCUTS


# ---- deleted nodes: Slicer's selectors then choose the row before


@pytest.mark.parametrize("role", ["frontal", "lateral", "groundTruth", "result"])
def test_no_other_node_takes_the_place_of_a_deleted_one(panel, films, role):
    import slicer

    others = [load(path) for path in films] + [ct()]
    chosen = load(films[1])
    setattr(panel._parameterNode, role, chosen)
    slicer.mrmlScene.RemoveNode(chosen)
    assert getattr(panel._parameterNode, role) is None
    assert bound(panel)[role].currentNode() is None
    assert all(node.GetScene() is slicer.mrmlScene for node in others)


def test_without_its_film_the_panel_is_as_at_the_start(panel, films):
    import slicer

    load(films[1])
    panel._parameterNode.frontal = load(films[0])
    slicer.mrmlScene.RemoveNode(panel._parameterNode.frontal)
    assert "Choose a frontal film" in missing(panel) and panel.session.frontal.node is None
    assert panel.ui.frontalThumb.pixmap.isNull() and not panel.ui.showFilmsButton.enabled


def test_deleting_another_node_leaves_the_choices_alone(panel, films):
    import slicer

    other, chosen = load(films[1]), load(films[0])
    panel._parameterNode.frontal = chosen
    slicer.mrmlScene.RemoveNode(other)
    assert panel._parameterNode.frontal is chosen and missing(panel) == ""


# ---- shortcuts

SHORTCUTS = 14  # four buttons and ten ways to move the CT


def shortcuts():
    """keys -> shortcut of the main window, of those that are the module's."""
    import qt
    import slicer

    from AXONLib.panel_registration import KEYS

    widget = slicer.modules.AXONReconstructionWidget
    ours = {keys for keys, _button in widget.SHORTCUTS} | {f"Alt+Shift+{key}" for key, *_unused in KEYS}

    found = slicer.util.mainWindow().findChildren(qt.QShortcut)
    return {shortcut.key.toString(): shortcut for shortcut in found if shortcut.key.toString() in ours}


def test_shortcuts_live_while_the_module_is_shown(panel):
    import slicer

    assert len(shortcuts()) == SHORTCUTS
    assert {"Ctrl+Alt+R", "Ctrl+Alt+C", "Ctrl+Shift+Z", "Ctrl+Shift+Y"} <= set(shortcuts())
    slicer.util.selectModule("")
    driving.wait(0.05)
    assert shortcuts() == {} or not any(shortcut.enabled for shortcut in shortcuts().values())


def test_a_shortcut_presses_its_button_if_that_is_enabled(panel):
    pressed = []
    panel.ui.applyButton.connect("clicked(bool)", lambda *unused: pressed.append(1))
    shortcuts()["Ctrl+Alt+R"].activated()
    assert not pressed
    panel.ui.applyButton.enabled = True
    shortcuts()["Ctrl+Alt+R"].activated()
    assert len(pressed) == 1


# ---- without a main window, reload, end


def test_the_panel_works_without_a_main_window(hosted, films):
    import slicer

    hosted.setMainWindow(False)
    try:
        with driving.panel() as panel:
            assert slicer.app.layoutManager() is None
            panel.films.open(films[0], "frontal")
            assert missing(panel) == "" and driving.told() == []
            panel.ui.showFilmsButton.click()
    finally:
        hosted.setMainWindow(True)


def test_a_reload_reads_every_file_anew(hosted, films):
    import slicer

    kept = {name: module for name, module in sys.modules.items() if name.startswith("AXON")}
    try:
        with driving.panel() as panel:
            import AXONLib
            from AXONLib import films as before

            panel._parameterNode.frontal = load(films[0])
            panel.onReload()
            from AXONLib import films as after

            assert after is not before and AXONLib.films is after
            again = slicer.modules.AXONReconstructionWidget
            assert again is not panel and panel.session.parameters is None
            again.run.onChecked(driving.selfcheck())
            again.enter()
            assert again._parameterNode.frontal.GetName() == "first" and missing(again) == ""
    finally:
        for name in [name for name in sys.modules if name.startswith("AXONLib.")]:
            del sys.modules[name]
        sys.modules.update(kept)
        for name, module in kept.items():
            if name.startswith("AXONLib."):
                setattr(sys.modules["AXONLib"], name.split(".")[1], module)


def test_after_the_end_nothing_listens(hosted, films):
    import slicer

    with driving.panel() as panel:
        panel._parameterNode.frontal = load(films[0])
    calls = []
    panel.onParametersModified = panel.onSceneStartClose = lambda *unused: calls.append(1)
    panel.session.filmsChanged.connect(lambda: calls.append(1))
    load(films[1])
    slicer.mrmlScene.GetSingletonNode("AXONReconstruction", "vtkMRMLScriptedModuleNode").Modified()
    slicer.mrmlScene.Clear(0)
    assert not calls and panel._shortcuts == [] and panel.session.parameters is None

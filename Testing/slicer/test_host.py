"""The host's Qt follows PythonQt's rules, and its stand-ins behave as Slicer's and CTK's widgets do."""

import gc

import pytest


@pytest.fixture
def button(hosted):
    import qt

    return qt.QPushButton("Go")


# ---------------------------------------------------------------- PythonQt's rules


def test_a_property_hides_its_getter(button):
    assert button.text == "Go"
    with pytest.raises(TypeError):
        button.text()
    button.setText("On")
    assert button.text == "On"
    button.name = "start"
    assert button.objectName == "start"


def test_no_new_attributes_on_cpp_objects(button):
    with pytest.raises(AttributeError, match="not allowed"):
        button.colour = "red"
    with pytest.raises(AttributeError, match="no attribute"):
        _ = button.colour


def test_a_python_subclass_may_have_attributes(hosted):
    import qt

    class Own(qt.QPushButton):
        pass

    own = Own()
    own.colour = "red"
    own.text = "x"
    assert (own.colour, own.text) == ("red", "x")


def test_a_property_takes_only_what_fits_and_only_if_writable(button):
    with pytest.raises(AttributeError, match="does not accept"):
        button.enabled = object()
    with pytest.raises(AttributeError, match="not writable"):
        button.width = 3


def test_connect_needs_an_existing_signal(button):
    calls = []
    assert button.connect("clicked(bool)", calls.append)
    for wrong in ("clicked(int)", "clickd()", "clicked"):
        with pytest.raises(RuntimeError, match="no signal"):
            button.connect(wrong, calls.append)
    button.click()
    assert calls == [False]


def test_surplus_arguments_are_dropped_and_defaults_overwritten(hosted):
    import qt

    box, seen = qt.QSpinBox(), []
    box.connect("valueChanged(int)", lambda: seen.append("none"))
    box.valueChanged.connect(lambda value, other="default": seen.append((value, other)))
    box.valueChanged.connect(lambda captured="captured": seen.append(captured))
    box.value = 4
    assert seen == ["none", (4, "default"), 4]  # the captured value is lost, as in PythonQt


def test_disconnect_ends_calls(button):
    calls = []

    def slot():
        calls.append(1)

    button.clicked.connect(slot)
    button.disconnect("clicked()", slot)
    button.click()
    assert calls == []


def test_what_a_slot_raises_does_not_reach_the_caller(hosted, button):
    def slot():
        raise KeyError("seen")

    button.connect("clicked()", slot)
    button.click()
    assert [type(error) for error in hosted.raised] == [KeyError]
    hosted.raised.clear()


def test_lists_arrive_as_tuples(hosted):
    import qt

    widget = qt.QWidget()
    qt.QLabel(widget)
    assert isinstance(widget.children(), tuple)
    assert isinstance(qt.QSettings().allKeys(), tuple)


def test_children_by_name_and_one_wrapper_for_one_object(hosted):
    import qt

    widget = qt.QWidget()
    label = qt.QLabel("a", widget)
    label.name = "lonely"
    assert widget.lonely is label
    assert widget.findChild(qt.QLabel, "lonely") == label
    assert label.parent() is widget


def test_a_child_lives_on_without_its_wrapper(hosted):
    import qt

    widget, calls = qt.QWidget(), []
    qt.QPushButton(widget, objectName="kept").connect("clicked()", lambda: calls.append(1))
    gc.collect()
    widget.kept.click()
    assert calls == [1]


def test_an_object_without_parent_ends_with_its_wrapper(hosted):
    import qt
    import slicer

    calls = []
    timer = qt.QTimer()
    timer.connect("timeout()", lambda: calls.append(1))
    timer.start(0)
    del timer
    gc.collect()
    slicer.app.processEvents()
    assert calls == []


def test_dialogs_never_wait(hosted):
    import qt
    from host import user

    assert qt.QFileDialog.getOpenFileName(None, "title", "", "All (*)") == ""
    user.chosen = "/a b/c.dcm"
    assert qt.QFileDialog.getOpenFileName(None, "title", "", "All (*)") == "/a b/c.dcm"
    assert qt.QFileDialog.getOpenFileNames() == ("/a b/c.dcm",)
    assert qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile("/a b/c.html"))
    assert user.opened == ["file:///a b/c.html"]
    for call in (qt.QDialog().exec_, qt.QMessageBox().exec, qt.QMessageBox.question):
        with pytest.raises(RuntimeError, match="modal"):
            call()


@pytest.mark.parametrize("name", ["QTextCodec", "QRegExp", "QTest", "Signal", "QSignalBlocker"])
def test_what_pythonqt_or_qt_6_has_not(hosted, name):
    import qt

    with pytest.raises(AttributeError):
        getattr(qt, name)


def test_slicers_classes_show_the_contract_and_nothing_else(hosted):
    import ctk
    import slicer

    slider = ctk.ctkSliderWidget()
    for absent in ("setRange", "setMinimum", "_spinBox", "checkStateChanged"):
        with pytest.raises(AttributeError):
            getattr(slider, absent)
    slider.enabled = False
    assert not slider.enabled  # Qt's own properties are there too
    with pytest.raises(AttributeError, match="does not model"):
        _ = slider.popupSlider
    with pytest.raises(AttributeError, match="can see"):
        slicer.qMRMLNodeComboBox()._fits  # noqa: B018


def test_the_application_shows_the_contract_and_qt(hosted):
    import slicer
    from host.core_application import ContractObject

    assert slicer.app.applicationName == "Slicer"
    assert slicer.app.connect("startupCompleted()", lambda: None)
    assert slicer.app.connect("aboutToQuit()", print)
    assert slicer.app.disconnect("aboutToQuit()", print)
    with pytest.raises(RuntimeError):
        slicer.app.connect("startupFinished()", lambda: None)
    with pytest.raises(AttributeError):
        _ = slicer.app.windows
    with pytest.raises(AttributeError):
        slicer.app.temporaryPath = "x"

    with pytest.raises(TypeError, match="setView"):

        class Wrong(ContractObject):
            _contract = "qMRMLSliceWidget"

            def setView(self):
                pass


# ---------------------------------------------------------------- stand-in widgets


def test_slider_widget(hosted):
    import ctk

    slider, seen = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum, slider.decimals = -10, 10, 1
    slider.connect("valueChanged(double)", seen.append)
    slider.value = 2.5
    slider.value = 99
    slider.setValue(-3.0)
    assert seen == [2.5, 10, -3]


def test_collapsible_button_hides_its_children(hosted):
    import ctk
    import qt

    section, seen = ctk.ctkCollapsibleButton(), []
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("a"), qt.QLabel("b")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.hide()
    section.show()
    section.connect("contentsCollapsed(bool)", seen.append)
    tall = section.sizeHint.height()
    section.collapsed = True
    assert not shown.visible
    assert section.sizeHint.height() < tall
    assert section.maximumHeight < tall
    assert not section.checked
    section.collapsed = False
    assert section.maximumHeight > tall
    assert shown.visible
    assert not hidden.visible
    assert seen == [True, False]


@pytest.fixture
def selector(hosted):
    import slicer

    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLLinearTransformNode"]
    box.noneEnabled = True
    box.setMRMLScene(slicer.mrmlScene)
    return box


def add(name, kind="vtkMRMLLinearTransformNode"):
    import slicer

    return slicer.mrmlScene.AddNewNodeByClass(kind, name)


def test_a_new_node_is_not_chosen_by_itself(selector):
    add("a")
    assert selector.currentNode() is None
    selector.noneEnabled = False
    add("b")
    assert selector.currentNode() is None
    assert selector.nodeCount() == 2


def test_choosing_tells_once(selector):
    node, seen = add("a"), []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    selector.setCurrentNode(node)
    selector.setCurrentNode(node)
    selector.setCurrentNode(None)
    assert seen == [node, None]


def test_deleting_the_chosen_node_chooses_the_row_before(selector):
    import slicer

    first, second = add("a"), add("b")
    selector.setCurrentNode(second)
    slicer.mrmlScene.RemoveNode(second)
    assert selector.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNode() is None


def test_only_nodes_that_fit(selector):
    add("points", "vtkMRMLMarkupsFiducialNode")
    hidden = add("hidden")
    assert selector.nodeCount() == 1
    hidden.SetHideFromEditors(True)
    selector.addAttribute("vtkMRMLLinearTransformNode", "AXON.Pose", "1")
    assert selector.nodeCount() == 0
    made = selector.addNode()
    assert made.GetAttribute("AXON.Pose") == "1"
    assert selector.currentNode() is made


def test_names_follow_and_a_cleared_scene_empties_the_box(selector):
    import slicer

    node, seen = add("a"), []
    selector.setCurrentNode(node)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    node.SetName("renamed")
    assert seen == [node]  # the text shown has changed, which Slicer tells as a change of node
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None
    assert seen == [node, None]
    assert selector.nodeCount() == 0


# ---------------------------------------------------------------- slicer.util and the person in front


def test_messages_are_kept_and_questions_answered(hosted):
    import slicer
    from host import user

    slicer.util.errorDisplay("No film", detailedText="trace")
    assert user.messages == [user.Message("error", "No film", "trace")]
    assert slicer.util.confirmOkCancelDisplay("Install?")
    user.confirms = False
    assert not slicer.util.confirmOkCancelDisplay("Install?")
    assert not slicer.util.confirmYesNoDisplay("Really?")


def test_no_main_window(hosted):
    import slicer

    assert slicer.util.mainWindow() is not None
    hosted.setMainWindow(False)
    try:
        assert slicer.util.mainWindow() is None
        assert slicer.app.layoutManager() is None
    finally:
        hosted.setMainWindow(True)


def test_packaging_says_what_is_missing(hosted, tmp_path):
    import slicer.packaging
    from host import user

    file = tmp_path / "requirements.txt"
    file.write_text("numpy>=1  # there\nno-such-package-here>=2\n")
    requirements = slicer.packaging.load_requirements(file)
    assert [slicer.packaging.pip_check(r) for r in requirements] == [True, False]
    user.confirms = False
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure(requirements, requester="test")
    user.confirms = True
    slicer.packaging.ensured.clear()
    slicer.packaging.pip_ensure(requirements, requester="test")
    assert slicer.packaging.ensured == ["no-such-package-here>=2"]


def test_temporary_folder_and_settings(hosted):
    import pathlib

    import qt
    import slicer

    assert pathlib.Path(slicer.util.tempDirectory()).is_dir()
    qt.QSettings().setValue("AXON/x", 3)
    assert slicer.util.settingsValue("AXON/x", 0, converter=int) == 3
    assert slicer.util.settingsValue("AXON/absent", 7) == 7


def test_sample_data_registrations(hosted):
    import SampleData
    import slicer

    for _ in range(2):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(category="AXON", sampleName="film", uris="file:x")
    assert [source.sampleName for source in slicer.modules.sampleDataSources.pop("AXON")] == ["film"]

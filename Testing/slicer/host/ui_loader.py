"""QUiLoader that knows the stand-ins and makes the .ui connections that carry MRML objects."""

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import contract
from .node_combo_box import qMRMLNodeComboBox
from .widgets import ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget, qMRMLWidget

STAND_INS = {
    c.__name__: c for c in (qMRMLWidget, ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit, qMRMLNodeComboBox)
}


class UiLoader(QtUiTools.QUiLoader):
    def createWidget(self, className, parent=None, name=""):
        if className not in STAND_INS:
            return super().createWidget(className, parent, name)
        widget = STAND_INS[className](parent=parent)
        widget.setObjectName(name)
        return widget

    def load(self, file, parent=None):
        """The widget of a .ui file (QFile). A connection that Slicer could not make is a RuntimeError."""
        with open(file.fileName(), encoding="utf-8") as stream:
            root = ElementTree.parse(stream).getroot()
        for widget in root.iter("widget"):  # the host opens no file dialog, so it needs no filters
            for prop in [p for p in widget.findall("property") if p.get("name") == "filters"]:
                widget.remove(prop)
        connections = []
        for group in root.iter("connections"):
            for connection in list(group):
                if "vtkMRML" in connection.findtext("signal"):
                    connections.append({part.tag: part.text for part in connection})
                    group.remove(connection)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is not None:
            for connection in connections:
                _connect(widget, connection)
        return widget


def _connect(root, connection):
    sender, receiver = (_find(root, connection[end]) for end in ("sender", "receiver"))
    signal, slot = connection["signal"], connection["slot"]
    if contract.normalised(signal) not in contract.signals(type(sender).__name__):
        raise RuntimeError(f".ui connection: {type(sender).__name__} has no signal {signal}")
    if contract.normalised(slot) not in contract.slots(type(receiver).__name__):
        raise RuntimeError(f".ui connection: {type(receiver).__name__} has no slot {slot}")
    getattr(sender, signal.split("(")[0]).connect(getattr(receiver, slot.split("(")[0]))


def _find(root, name):
    widget = root if root.objectName() == name else root.findChild(QtWidgets.QWidget, name)
    if widget is None:
        raise RuntimeError(f".ui connection: no widget is called {name}")
    return widget

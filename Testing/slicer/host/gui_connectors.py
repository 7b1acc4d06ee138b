"""Which widget can show which parameter, and how: the pairs that Slicer's wrapper knows, among AXON's widget classes.

A pair that is missing here is an error in Slicer too, a QToolButton for a bool for example.
"""

import enum
import pathlib

import ctk
import qt
import slicer


class Connector:
    """One widget bound to one parameter through one signal and one property."""

    signal = "valueChanged"
    attribute = "value"

    def __init__(self, widget, parameter):
        self.widget = widget
        self.prepare(parameter)

    def prepare(self, parameter):
        pass

    def connect(self, changed):
        self._changed = changed
        getattr(self.widget, self.signal).connect(self._changed)

    def disconnect(self):
        getattr(self.widget, self.signal).disconnect(self._changed)

    def read(self):
        return getattr(self.widget, self.attribute)

    def write(self, value):
        setattr(self.widget, self.attribute, value)


class Checked(Connector):
    signal, attribute = "toggled", "checked"

    def prepare(self, parameter):
        self.widget.checkable = True


class Text(Connector):
    signal, attribute = "textChanged", "text"

    def write(self, value):
        if value != self.widget.text:  # else the cursor would jump
            self.widget.text = value


class Label(Text):
    def connect(self, changed):
        """A label is only written."""

    def disconnect(self):
        pass


class Number(Connector):
    """A parameter's range becomes the widget's; an unbounded one is no parameter for a slider."""

    def prepare(self, parameter):
        low = [v.minimum for v in parameter.validators if hasattr(v, "minimum")]
        high = [v.maximum for v in parameter.validators if hasattr(v, "maximum")]
        if isinstance(self.widget, ctk.ctkSliderWidget) and not (low and high):
            raise RuntimeError(f"Cannot have a connection to ctkSliderWidget where {parameter.name} is unbounded")
        unbounded = 2**31 - 1 if isinstance(self.widget, qt.QSpinBox) else float("inf")
        if parameter.kind is int and not isinstance(self.widget, qt.QSpinBox):
            self.widget.decimals = 0
        self.kind = parameter.kind
        self.widget.minimum = low[0] if low else -unbounded
        self.widget.maximum = high[0] if high else unbounded

    def read(self):
        return self.kind(self.widget.value)


class Items(Connector):
    """A combo box: the labels of an Enum or the values of a Choice."""

    signal, attribute = "currentIndexChanged", "currentIndex"

    def prepare(self, parameter):
        if parameter.isEnum:
            self.values = list(parameter.kind)
            texts = [v.label() if hasattr(v, "label") else v.name for v in self.values]
        else:
            choices = [v.choices for v in parameter.validators if hasattr(v, "choices")]
            if not choices:
                raise RuntimeError(f"A combo box needs the Choice annotation on {parameter.name}")
            self.values = list(choices[0])
            texts = [str(v) for v in self.values]
        self.widget.clear()
        for text in texts:
            self.widget.addItem(text)

    def read(self):
        return self.values[self.widget.currentIndex]

    def write(self, value):
        self.widget.currentIndex = self.values.index(value)


class Path(Connector):
    signal, attribute = "currentPathChanged", "currentPath"

    def read(self):
        return pathlib.Path(self.widget.currentPath)

    def write(self, value):
        self.widget.currentPath = str(value)


class Node(Connector):
    signal, attribute = "currentNodeChanged", "currentNode"

    def prepare(self, parameter):
        self.widget.nodeTypes = [parameter.kind.__name__]

    def read(self):
        return self.widget.currentNode()

    def write(self, value):
        self.widget.setCurrentNode(value)


PAIRS = [
    (qt.QCheckBox, bool, Checked),
    (qt.QPushButton, bool, Checked),
    (qt.QSpinBox, int, Number),
    (qt.QDoubleSpinBox, (float, int), Number),
    (ctk.ctkSliderWidget, (float, int), Number),
    (qt.QComboBox, (str, int, float, bool, enum.Enum), Items),
    (qt.QLineEdit, str, Text),
    (qt.QLabel, str, Label),
    (ctk.ctkPathLineEdit, pathlib.PurePath, Path),
    (slicer.qMRMLNodeComboBox, slicer.vtkMRMLNode, Node),
]


def create(widget, parameter):
    """The connector of a widget and a parameter; RuntimeError if Slicer has none for the pair."""
    for widgetClass, kinds, connector in PAIRS:
        fits = parameter.kind in kinds if isinstance(kinds, tuple) else issubclass(parameter.kind, kinds)
        fits = fits or (parameter.isEnum and connector is Items)
        if type(widget) is widgetClass and fits and not (parameter.kind is bool and connector is Number):
            return connector(widget, parameter)
    raise RuntimeError(
        f"Unable to create GUI connector from datatype '{parameter.kind}' to widget type '{type(widget)}'"
    )

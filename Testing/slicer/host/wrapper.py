"""`slicer.parameterNodeWrapper`, the part that AXON uses: written anew, after its documentation and its behaviour.

Members: MRML nodes, int, float, str, bool, Enum, pathlib.Path, with WithinRange, Minimum, Maximum, Choice, Default.
Values lie in a vtkMRMLScriptedModuleNode as text and node references, so a saved scene holds them.
"""

import enum
import pathlib
import typing

import slicer
import vtk

from . import gui_connectors

NAME_PROPERTY = "SlicerParameterName"


class Validator:
    """What an annotation must satisfy; validate raises ValueError."""


class WithinRange(Validator):
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    def __init__(self, minimum):
        self.minimum = minimum

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must not be less than {self.minimum}, is {value}")


class Maximum(Validator):
    def __init__(self, maximum):
        self.maximum = maximum

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must not be greater than {self.maximum}, is {value}")


class Choice(Validator):
    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of {self.choices}")


class Default:
    def __init__(self, value):
        self.value = value


class Parameter:
    """One member: its type, its checks, its default; reads and writes a parameter node."""

    ACCEPTED = {float: (int, float)}  # noqa: RUF012 - a constant
    EMPTY = {int: 0, float: 0, str: "", bool: False, pathlib.Path: pathlib.Path()}  # noqa: RUF012 - a constant

    def __init__(self, name, annotated, default):
        self.name = name
        self.kind, *annotations = (
            (annotated.__origin__, *annotated.__metadata__)
            if typing.get_origin(annotated) is typing.Annotated
            else (annotated,)
        )
        self.validators = [a for a in annotations if isinstance(a, Validator)]
        self.isNode = issubclass(self.kind, slicer.vtkMRMLNode)
        self.isEnum = issubclass(self.kind, enum.Enum)
        if not (self.isNode or self.isEnum or self.kind in self.EMPTY):
            raise TypeError(f"The host's parameterNodeWrapper knows no members of type {self.kind} ({name})")
        given = [a.value for a in annotations if isinstance(a, Default)] + [default] * (default is not None)
        empty = next(iter(self.kind)) if self.isEnum else self.EMPTY.get(self.kind)
        self.default = given[-1] if given else empty

    def check(self, value):
        if value is None and not self.isNode:
            raise ValueError("Value must not be None")
        accepted = self.ACCEPTED.get(self.kind, self.kind)
        if value is not None and not isinstance(value, accepted):
            raise TypeError(f"Value of {self.name} must be of type {self.kind.__name__}, is {value!r}")
        for validator in self.validators:
            validator.validate(value)

    def write(self, node, value):
        self.check(value)
        if self.isNode:  # the empty text says that the parameter exists, None being a value
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if self.isEnum else str(value))

    def read(self, node):
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.isEnum:
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def member(self):
        return property(
            lambda wrapper: self.read(wrapper.parameterNode), lambda wrapper, value: wrapper.setValue(self.name, value)
        )


class ParameterNodeWrapper:
    """What the decorator adds to the class. An unknown attribute is silently accepted, as in Slicer."""

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._connected, self._nextTag, self._updatingGui = {}, 0, False
        for parameter in self.allParameters.values():
            if not parameterNode.HasParameter(parameter.name):
                parameter.write(parameterNode, parameter.default)

    def _parameter(self, name):
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return self.allParameters[name]

    def getValue(self, name):
        return self._parameter(name).read(self.parameterNode)

    def setValue(self, name, value):
        self._parameter(name).write(self.parameterNode, value)

    def default(self, name):
        return Default(self._parameter(name).default)

    def connectGui(self, gui):
        """Bind every widget with the property SlicerParameterName; gui is a widget or childWidgetVariables' object."""
        widgets = gui.findChildren() if hasattr(gui, "isWidgetType") else gui.__dict__.values()
        named = {w.property(NAME_PROPERTY): w for w in widgets if w.property(NAME_PROPERTY)}
        return self.connectParametersToGui(named)

    def connectParametersToGui(self, widgets):
        parameters = {name: self._parameter(name) for name in widgets}
        connectors = {name: gui_connectors.create(widgets[name], p) for name, p in parameters.items()}
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.connect(self._reader(name, connector))
        tag, self._nextTag = self._nextTag, self._nextTag + 1
        self._connected[tag] = connectors, self.AddObserver(vtk.vtkCommand.ModifiedEvent, self._toGui)
        return tag

    def disconnectGui(self, tag):
        connectors, observer = self._connected.pop(tag, ({}, None))
        for connector in connectors.values():
            connector.disconnect()
        if observer is not None:
            self.RemoveObserver(observer)

    def _reader(self, name, connector):
        def changed():
            if not self._updatingGui:
                self.setValue(name, connector.read())

        return changed

    def _toGui(self, caller, event):
        if self._updatingGui:
            return
        self._updatingGui = True
        try:
            for connectors, _ in self._connected.values():
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._updatingGui = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


def parameterNodeWrapper(cls):
    """Class decorator; the annotations of cls become typed members kept in a parameter node."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    for name in vars(ParameterNodeWrapper):
        if name in parameters:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    members = {name: parameter.member() for name, parameter in parameters.items()}
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (ParameterNodeWrapper,), {**own, **members, "allParameters": parameters})


def isParameterNodeWrapper(thing):
    return hasattr(thing, "allParameters")

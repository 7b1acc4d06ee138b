"""What Slicer's module manager and module panel do with a scripted module: load, show, leave, reload, unload."""

import importlib
import pathlib
import sys

import slicer
from PySide6 import QtCore, QtWidgets

from .core_application import ContractObject
from .facade import facadeOf, wrap
from .widgets import qSlicerScriptedLoadableModuleWidget


class Module(ContractObject):
    """`slicer.modules.<name>`: qSlicerScriptedLoadableModule, also the `parent` of the Python module object."""

    _contract = "qSlicerScriptedLoadableModule"
    title = helpText = acknowledgementText = path = name = ""
    icon = None
    hidden = False
    index = -1

    def __init__(self, path):
        self.__dict__.update(
            path=str(path),
            name=pathlib.Path(path).stem,
            categories=[],
            dependencies=[],
            contributors=[],
            associatedNodeTypes=[],
            _representation=None,
        )

    def widgetRepresentation(self):
        """The page with the module's widget, made and set up when first asked for."""
        if self._representation is None:
            page = qSlicerScriptedLoadableModuleWidget()
            page.setObjectName(self.name + "ModuleWidget")
            page.setLayout(QtWidgets.QVBoxLayout())
            page._reload, page._self = self._makeWidget, lambda: self._widget
            self._representation = page
            page.setMRMLScene(slicer.mrmlScene)
            self._makeWidget()
        return wrap(self._representation)

    def _makeWidget(self):
        module = sys.modules[self.name]
        self._widget = getattr(module, self.name + "Widget")(wrap(self._representation))
        setattr(slicer.modules, self.name + "Widget", self._widget)
        self._widget.setup()


PAGE = facadeOf(qSlicerScriptedLoadableModuleWidget, "qSlicerScriptedLoadableModuleWidget")
_selected = None


def load(path):
    """Register the scripted module of a .py file, as Slicer does at start; returns `slicer.modules.<name>`."""
    module = Module(path)
    folder = str(pathlib.Path(path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    python = importlib.import_module(module.name)
    instance = getattr(python, module.name)(module)
    setattr(slicer.modules, module.name.lower(), module)
    setattr(slicer.modules, module.name + "Instance", instance)
    setattr(slicer.moduleNames, module.name, module.name)
    return module


def select(name):
    """Leave the module shown now and enter another ("" for none)."""
    global _selected
    if _selected is not None:
        _enter(_selected, False)
    _selected = slicer.app.moduleManager().module(name) if name else None
    if _selected is not None:
        _enter(_selected, True)


def _enter(module, entered):
    page = module.widgetRepresentation()
    page.isEntered = entered
    handler = getattr(page.self(), "enter" if entered else "exit", None)
    if handler is not None:
        handler()


def unload(name):
    """As at the end of Slicer: leave it, clean it up, delete its page."""
    module = slicer.app.moduleManager().module(name)
    if _selected is module:
        select("")
    slicer.app.moduleManager()._signals.moduleAboutToBeUnloaded.emit(name)
    if module._representation is not None:
        module._representation.deleteLater()
        QtCore.QCoreApplication.sendPostedEvents(module._representation, QtCore.QEvent.DeferredDelete)
    for attribute in (name.lower(), name + "Instance", name + "Widget"):
        vars(slicer.modules).pop(attribute, None)


def selected():
    """The name of the module shown now, or ""."""
    return _selected.name if _selected is not None else ""

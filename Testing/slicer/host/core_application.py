"""`slicer.app`: settings, module manager, events; scene, views and files are those of application.py."""

import os
import tempfile

import slicer
from PySide6 import QtCore, QtWidgets

from . import contract
from .facade import BoundSignal, facadeOf, wrap


class ContractObject:
    """Base of stand-ins without a widget: its public attributes must be members of the Slicer class `_contract`."""

    _contract = ""

    def __init_subclass__(cls):
        for name in vars(cls):
            cls._check(name)

    @classmethod
    def _check(cls, name):
        if (
            not name.startswith("_")
            and name not in ("connect", "disconnect")
            and name not in contract.visible(cls._contract)
        ):
            raise TypeError(f"{cls._contract} has no member '{name}' that Python can see")

    def __setattr__(self, name, value):
        self._check(name)
        writable = contract.properties(self._contract).get(name, True)
        if not name.startswith("_") and not (hasattr(self, name) and writable):
            raise AttributeError(f"'{name}' of {self._contract} cannot be set")
        object.__setattr__(self, name, value)

    def connect(self, signal, slot):
        return self._signal(signal).connect(slot)

    def disconnect(self, signal, slot=None):
        return self._signal(signal).disconnect(slot)

    def _signal(self, signature):
        if contract.normalised(signature) not in contract.signals(self._contract):
            raise RuntimeError(f"{self._contract} has no signal '{signature}'; PythonQt's connect would return False")
        return BoundSignal(self._signals, signature.split("(")[0])


class _ApplicationSignals(QtCore.QObject):
    startupCompleted = QtCore.Signal()
    mrmlSceneChanged = QtCore.Signal(object)


class _ModuleManagerSignals(QtCore.QObject):
    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)


class ModuleManager(ContractObject):
    _contract = "qSlicerModuleManager"

    def __init__(self):
        self._signals = _ModuleManagerSignals()

    def module(self, name):
        return getattr(slicer.modules, name.lower(), None)


class Application(ContractObject):
    """What is neither here nor in application.py is looked up in the QApplication itself, by PythonQt's rules."""

    _contract = "qSlicerApplication"

    def _signal(self, signature):
        name = signature.split("(")[0]
        if name in ("aboutToQuit", "focusChanged"):  # of Qt's own application class
            return BoundSignal(QtWidgets.QApplication.instance(), name)
        return super()._signal(signature)

    def __init__(self, inner):
        """inner: what application.install made, for scene, views and files."""
        self._inner, self._signals, self._modules = inner, _ApplicationSignals(), ModuleManager()
        self._testing = False
        self._qt = wrap(QtWidgets.QApplication.instance())
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-host-")

    def __getattr__(self, name):
        if name.startswith("__") or "_qt" not in vars(self):
            raise AttributeError(name)
        if name in contract.visible(self._contract) and hasattr(self._inner, name):
            return getattr(self._inner, name)
        return getattr(self._qt, name)

    def _signal(self, signature):
        if contract.normalised(signature) in contract.signals(self._contract):
            return super()._signal(signature)
        return self._qt._signal(signature)

    def layoutManager(self):
        """None without a main window."""
        return self._inner.layoutManager() if slicer.util.mainWindow() is not None else None

    def moduleManager(self):
        return self._modules

    def testingEnabled(self):
        return self._testing

    def settings(self):
        return facadeOf(QtCore.QSettings)()

    userSettings = settings

    def startupEnvironment(self):
        return dict(os.environ)

    def environment(self):
        return dict(os.environ)

    def processEvents(self):
        QtWidgets.QApplication.processEvents()

    @property
    def temporaryPath(self):
        return self._folder.name

    @property
    def cachePath(self):
        return self._folder.name

    @property
    def majorVersion(self):
        return "5"

    @property
    def minorVersion(self):
        return "12"

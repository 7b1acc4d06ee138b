"""PythonQt's rules over PySide6: one Python class for each Qt class, its instances wrap the PySide6 object.

- a property hides the getter of the same name, so `button.text()` calls a string and fails; `name` is objectName
- no new attributes on C++ objects; a property takes only values of its type
- `connect("signal(types)", f)`: the signal must exist (PythonQt returns False, here it is an error)
- a Python slot gets as many arguments as it has parameters; what it raises goes to sys.excepthook, the caller goes on
- lists arrive as tuples; children are attributes by their objectName
- Slicer's and CTK's classes show what the contract lists, nothing else
"""

import inspect
import re
import types
import weakref

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import contract, user

QT_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
# PySide6 is Qt 6; these have no counterpart in the Qt 5.15 that Slicer 5.12 may be built with
QT6_ONLY = frozenset({"checkStateChanged", "QSignalBlocker"})
# The other way round: spelt differently in Qt 6 or in PySide6
RENAMED = {"exec_": "exec", "delete": "deleteLater"}

_classes = {}  # PySide6 class -> facade class
_instances = weakref.WeakValueDictionary()  # C++ address -> facade
_connections = {}  # (C++ address, signal name) -> [(slot, what was connected)]


def unwrap(value):
    if isinstance(value, Facade):
        return value._cpp
    if isinstance(value, list | tuple):
        return type(value)(unwrap(item) for item in value)
    return value


def wrap(value):
    if isinstance(value, QtCore.QObject):
        known = _instances.get(_address(value))
        if known is not None:
            return known
        cls = next(_classes[c] for c in type(value).__mro__ if c in _classes)
        instance = object.__new__(cls)
        _adopt(instance, value)
        return instance
    if isinstance(value, list | tuple):
        return tuple(wrap(item) for item in value)
    return value


def _address(qobject):
    return shiboken6.getCppPointer(qobject)[0]


def _adopt(instance, qobject):
    address = _address(qobject)
    object.__setattr__(instance, "_cpp", qobject)
    _instances[address] = instance
    if not any(key[0] == address for key in _connections):
        _connections[address, ""] = []
        qobject.destroyed.connect(lambda: _forget(address))


def _forget(address):
    _instances.pop(address, None)
    for key in [key for key in _connections if key[0] == address]:
        del _connections[key]


def _callable(function):
    return lambda *arguments, **named: wrap(
        function(*map(unwrap, arguments), **{n: unwrap(v) for n, v in named.items()})
    )


class BoundSignal:
    """A signal of one object: `.connect(f)`, `.disconnect(f)`, `.emit(...)`; calling it emits it."""

    def __init__(self, qobject, name, count=None):
        """count: how many arguments a slot may get, as in the signature; None for all."""
        meta = type(qobject).staticMetaObject  # not metaObject(): it takes the class's own away with the object
        methods = [meta.method(i) for i in range(meta.methodCount())]
        counts = [m.parameterCount() for m in methods if bytes(m.name()).decode() == name]
        self._count = max(counts, default=0) if count is None else count
        self._signal = getattr(qobject, name)
        self._connected = _connections.setdefault((_address(qobject), name), [])

    def connect(self, slot):
        call = slot.emit if isinstance(slot, BoundSignal) else _limited(slot)
        # PySide6 passes as many arguments as the function has parameters
        receive = (lambda: call(), lambda a: call(a), lambda a, b: call(a, b), lambda a, b, c: call(a, b, c))[
            self._count
        ]
        self._signal.connect(receive)
        self._connected.append((slot, receive))
        return True

    def disconnect(self, slot=None):
        found = [pair for pair in self._connected if slot is None or pair[0] == slot]
        for pair in found:
            self._signal.disconnect(pair[1])
            self._connected.remove(pair)
        return bool(found)

    def emit(self, *arguments):
        self._signal.emit(*map(unwrap, arguments))

    __call__ = emit


def _limited(slot):
    limit = _parameterCount(slot)
    return lambda *arguments: slot(*map(wrap, arguments[:limit]))


def _parameterCount(slot):
    """How many arguments PythonQt passes on; None for all. Defaults count, so a lambda's `x=x` is overwritten."""
    code = getattr(getattr(slot, "__func__", slot), "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return None
    return code.co_argcount - inspect.ismethod(slot)


class FacadeType(type):
    """Static members and enums of the Qt class, as attributes of the facade class."""

    def __getattr__(cls, name):
        if name in QT6_ONLY:
            raise AttributeError(f"{cls.__name__}.{name} is not in Qt 5.15")
        for c in cls.__mro__:
            qtClass = c.__dict__.get("_qtClass")
            if qtClass is not None and hasattr(qtClass, name):
                value = getattr(qtClass, name)
                return _callable(value) if callable(value) and not isinstance(value, type) else value
        raise AttributeError(f"type object '{cls.__name__}' has no attribute '{name}'")


class Facade(metaclass=FacadeType):
    _qtClass = None  # the PySide6 class behind
    _contract = None  # its name in the contract, for Slicer's and CTK's classes

    def __init__(self, *arguments, **propertyValues):
        qtClass = next(c.__dict__["_qtClass"] for c in type(self).__mro__ if c.__dict__.get("_qtClass"))
        _adopt(self, qtClass(*map(unwrap, arguments)))
        for name, value in propertyValues.items():
            setattr(self, name, value)

    def __getattr__(self, name):
        if name.startswith("__") or name in ("_cpp", "_wrapped"):
            raise AttributeError(name)
        cpp = self._cpp
        found, value = self._readProperty(name)
        if found:
            return wrap(value)
        if name == "className":
            return lambda: self._contract or type(cpp).__name__
        member = RENAMED.get(name, name)
        if hasattr(type(cpp), member) and name not in QT6_ONLY:
            if not self._visible(name):
                raise AttributeError(f"{self._contract} has no member '{name}' that Python can see")
            value = getattr(cpp, member)
            if isinstance(value, QtCore.SignalInstance):
                return BoundSignal(cpp, member)
            return _callable(value) if callable(value) and not isinstance(value, type) else value
        for child in cpp.children():
            if child.objectName() == name:
                return wrap(child)
        if self._contract and name in contract.visible(self._contract):
            raise AttributeError(f"{self._contract}.{name} exists in Slicer but the host does not model it")
        raise AttributeError(f"{type(self).__name__} object has no attribute '{name}'")

    def _readProperty(self, name):
        meta = type(self._cpp).staticMetaObject
        index = meta.indexOfProperty("objectName" if name == "name" else name)
        if index >= 0 and self._visible(name):
            return True, meta.property(index).read(self._cpp)
        if name.encode() in [bytes(n) for n in self._cpp.dynamicPropertyNames()]:
            return True, self._cpp.property(name)
        return False, None

    def _visible(self, name):
        if self._contract is None or name == "name" or name in contract.visible(self._contract):
            return True
        base = contract.lineage(self._contract)[1]
        qtBase = next((getattr(module, base) for module in QT_MODULES if hasattr(module, base)), None)
        return qtBase is not None and (
            hasattr(qtBase, name) or qtBase.staticMetaObject.indexOfProperty(name) >= 0  # "enabled" has no attribute
        )

    def __setattr__(self, name, value):
        if name.startswith("_") and type(self).__dict__.get("_qtClass") is None:
            return object.__setattr__(self, name, value)
        meta = type(self._cpp).staticMetaObject
        index = meta.indexOfProperty("objectName" if name == "name" else name)
        if index >= 0 and self._visible(name):
            prop = meta.property(index)
            if not prop.isWritable():
                raise AttributeError(f"Property '{name}' of {type(self).__name__} object is not writable")
            plain = list(value) if isinstance(value, tuple) and prop.typeName() == "QStringList" else unwrap(value)
            if not prop.write(self._cpp, plain):
                kind = type(value).__name__
                raise AttributeError(
                    f"Property '{name}' of type '{prop.typeName()}' does not accept {value!r} ({kind})"
                )
        elif name.encode() in [bytes(n) for n in self._cpp.dynamicPropertyNames()]:
            self._cpp.setProperty(name, value)
        elif type(self).__dict__.get("_qtClass") is None:  # a Python subclass may have attributes of its own
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"Attribute '{name}' does not exist and creation of new attributes on C++ objects is not"
                f" allowed ({type(self).__name__})"
            )
        return None

    def connect(self, signal, slot):
        return self._signal(signal).connect(slot)

    def disconnect(self, signal, slot=None):
        return self._signal(signal).disconnect(slot)

    def _signal(self, signature):
        signature = contract.normalised(signature)
        known = self._contract is not None and signature in contract.signals(self._contract)
        plain = bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode()
        name = signature.split("(")[0]
        known = known or (type(self._cpp).staticMetaObject.indexOfSignal(plain) >= 0 and self._visible(name))
        if not known or name in QT6_ONLY or not re.fullmatch(r"\w+\(.*\)", signature):
            raise RuntimeError(
                f"{type(self).__name__} has no signal '{signature}'; PythonQt's connect would return False"
            )
        types = signature[len(name) + 1 : -1]
        return BoundSignal(self._cpp, name, len(types.split(",")) if types else 0)

    def findChildren(self, kind=None, name=None):
        qtClass = kind.__dict__["_qtClass"] if kind is not None else QtCore.QObject
        return tuple(wrap(c) for c in self._cpp.findChildren(qtClass) if not name or c.objectName() == name)

    def findChild(self, kind, name=""):
        return next(iter(self.findChildren(kind, name)), None)

    def inherits(self, className):
        return self._cpp.inherits(className) or any(c.__name__ == className for c in type(self).__mro__)

    def __eq__(self, other):
        return isinstance(other, Facade) and self._cpp is other._cpp

    def __hash__(self):
        return hash(_address(self._cpp))

    def __repr__(self):
        return f"{type(self).__name__} ({self._cpp.objectName()!r})"


def facadeOf(qtClass, contractName=None):
    """The facade class of a PySide6 class; contractName for the stand-in of a Slicer or CTK class."""
    if qtClass not in _classes:
        bases = tuple(facadeOf(b) for b in qtClass.__bases__ if issubclass(b, QtCore.QObject)) or (Facade,)
        name = contractName or qtClass.__name__
        _classes[qtClass] = FacadeType(name, bases, {"_qtClass": qtClass, "_contract": contractName})
    return _classes[qtClass]


def makeQtModule(loaderClass):
    """The module `qt`; value classes (QPixmap, QSize, ...) are PySide6's own."""
    module = types.ModuleType("qt", "Qt by PythonQt's rules")
    for source in QT_MODULES:
        for name in dir(source):  # PySide6 makes its types lazily, vars() would miss them
            value = getattr(source, name)
            if name.startswith("Q") and name not in QT6_ONLY and isinstance(value, type):
                setattr(module, name, facadeOf(value) if issubclass(value, QtCore.QObject) else value)
    module.Qt = QtCore.Qt
    module.QUiLoader = facadeOf(loaderClass)
    module.QUiLoader.__name__ = "QUiLoader"
    module.QFileDialog.getOpenFileName = module.QFileDialog.getSaveFileName = staticmethod(lambda *unused: user.chosen)
    module.QFileDialog.getExistingDirectory = staticmethod(lambda *unused: user.chosen)
    module.QFileDialog.getOpenFileNames = staticmethod(lambda *unused: (user.chosen,) if user.chosen else ())
    module.QDesktopServices = types.SimpleNamespace(openUrl=lambda url: user.opened.append(url.toString()) or True)
    for name in ("exec", "exec_"):
        setattr(module.QDialog, name, _wouldWait)
    for name in ("question", "information", "warning", "critical"):
        setattr(module.QMessageBox, name, staticmethod(_wouldWait))
    return module


def _wouldWait(*unused):
    raise RuntimeError("a modal dialog would wait for a person; use slicer.util's displays")

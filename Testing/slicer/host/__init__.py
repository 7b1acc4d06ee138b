"""A host for scripted modules without Slicer: real MRML and VTK (slicer-core), Qt by PythonQt's rules (PySide6).

`host.start()` once in a process; then `import slicer, qt, ctk` as in Slicer. Testing/README.md says what is missing.
"""

import ctypes
import os
import sys
import tempfile
import types

_started = False


def start(views=True):
    """Make the application, `qt`, `ctk` and what the wheel's `slicer` lacks. A second call does nothing.

    views: with layout manager and views; without them `slicer.app.layoutManager()` is None.
    """
    global _started
    if _started:
        return
    _started = True
    if sys.version_info < (3, 12):  # PySide6 takes a reference of None with every void call, until none is left
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtCore, QtWidgets

    from . import facade, look, ui_loader

    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    start.settings = tempfile.TemporaryDirectory(prefix="slicer-host-settings-")
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, start.settings.name)
    # PySide6 drops a reference to True or False too many in some slots; below Python 3.12 the last one ends the process
    ctypes.pythonapi.Py_IncRef(ctypes.py_object([True, False] * 10**6))
    start.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    QtWidgets.QApplication.setOrganizationName("NA-MIC")
    QtWidgets.QApplication.setApplicationName("Slicer")
    QtWidgets.QApplication.setApplicationVersion("5.12.0")
    look.apply(start.application)

    sys.modules["qt"] = facade.makeQtModule(ui_loader.UiLoader)
    ctk = sys.modules["ctk"] = types.ModuleType("ctk", "CTK's widgets, as far as the host has them")
    import slicer
    import slicer.util

    for name, standIn in ui_loader.STAND_INS.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, facade.facadeOf(standIn, name))
    _completeSlicer(slicer, views)


def _completeSlicer(slicer, views):
    from . import application, core_application, module_host, small_modules, user

    for name in ("modules", "moduleNames"):
        module = sys.modules[f"slicer.{name}"] = types.ModuleType(f"slicer.{name}")
        setattr(slicer, name, module)
    slicer.app = core_application.Application(application.install(slicer, mainWindow=views))
    slicer.dicomDatabase = None
    slicer.selfTests = {}
    slicer.qSlicerScriptedLoadableModuleWidget = module_host.PAGE

    slicer.util._messageDisplay = user.tell
    slicer.util.delayDisplay = lambda message, *unused, **named: slicer.app.processEvents()
    slicer.util.selectModule = lambda module: module_host.select(getattr(module, "name", module))
    slicer.util.selectedModule = module_host.selected
    slicer.util.messageBox = lambda text, **named: user.tell(20, text, None, **named)

    for name, module in (("i18n", small_modules.i18n()), ("packaging", small_modules.packaging())):
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    sys.modules["SampleData"] = small_modules.sampleData()
    from . import module_base

    sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = module_base
    from . import wrapper

    sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = wrapper
    setMainWindow(True)


def setMainWindow(shown):
    """Have a main window, or none as with --no-main-window."""
    from PySide6 import QtWidgets

    if shown:
        start.window = QtWidgets.QMainWindow()
        start.window.setObjectName("qSlicerMainWindow")
    else:
        start.window.setObjectName("")
        start.window = None

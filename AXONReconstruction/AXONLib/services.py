"""What the modules ask of the application: the only file that touches slicer.app, layouts, files and dialogs.

Straight calls only, so that reading it once is enough to know what depends on a running Slicer.
"""

import importlib.util
import subprocess
import sys

import qt
import slicer
from slicer.i18n import tr as _

from AXONLib import process

HOMEPAGE = "https://github.com/axon-ct/SlicerAXON"
TORCH = ">=2.8,<2.13" if sys.platform == "win32" else ">=2.8"  # newer ones bundle paths that Windows finds too long

# ---- windows and events


def whenStarted(handler):
    """Call `handler` once the application is up."""
    slicer.app.connect("startupCompleted()", handler)


def whenQuitting(handler):
    slicer.app.connect("aboutToQuit()", handler)


def forgetQuitting(handler):
    slicer.app.disconnect("aboutToQuit()", handler)


def mainWindow():
    """The main window, or None with --no-main-window."""
    return slicer.util.mainWindow()


def layoutManager():
    """The layout manager, or None with --no-main-window."""
    return slicer.app.layoutManager()


def soon(handler):
    """Call `handler` once the events that wait now have been handled."""
    qt.QTimer.singleShot(0, handler)


# ---- layouts and views


def currentLayout():
    return layoutManager().layout


def defineLayout(number, xml):
    """Make a custom layout known under a number of at least 100."""
    node = layoutManager().layoutLogic().GetLayoutNode()
    if node.IsLayoutDescription(number):
        node.SetLayoutDescription(number, xml)
    else:
        node.AddLayoutDescription(number, xml)


def setLayout(number):
    layoutManager().setLayout(number)


def layoutShows(tag):
    """Whether the current layout has a view with this singleton tag."""
    nodes = layoutManager().layoutLogic().GetViewNodes()
    return any(nodes.GetItemAsObject(i).GetSingletonTag() == tag for i in range(nodes.GetNumberOfItems()))


def sliceWidget(name):
    """The slice widget of a view, by its singleton tag ("Red", ...); None if there is none."""
    return layoutManager().sliceWidget(name)


def sliceWidgets():
    manager = layoutManager()
    return [manager.sliceWidget(name) for name in manager.sliceViewNames()]


def threeDWidgets():
    manager = layoutManager()
    return [manager.threeDWidget(index) for index in range(manager.threeDViewCount)]


def busy():
    """A context in which the mouse shows that Slicer is at work."""
    return slicer.util.WaitCursor()


def placePoints(node):
    """Let the user place points of a markups node one after the other, until he presses Esc or the right button."""
    logic = markupsLogic()
    logic.SetActiveList(node)
    logic.StartPlaceMode(True)


def showInSliceViews(node):
    """Show a volume in all slice views, if there are any."""
    slicer.util.setSliceViewerLayers(background=node, fit=True)


def stopPlacing():
    """Give the mouse back, if it places points."""
    slicer.app.applicationLogic().GetInteractionNode().SwitchToViewTransformMode()


def hasModule(name):
    """Whether a module is loaded."""
    return hasattr(slicer.modules, name.lower())


def moduleWidget(name):
    """The widget of a scripted module that is loaded, made when first asked for."""
    return slicer.util.getModuleWidget(name)


def showModule(name):
    slicer.util.selectModule(name)


def showDicom():
    """Go to Slicer's DICOM module."""
    slicer.util.selectModule("DICOM")


# ---- logics of other modules


def volumeRenderingLogic():
    return slicer.modules.volumerendering.logic()


def camerasLogic():
    return slicer.modules.cameras.logic()


def markupsLogic():
    return slicer.modules.markups.logic()


# ---- files


def loadVolume(path):
    return slicer.util.loadVolume(str(path))


def dicomFiles(uids):
    """The files of DICOM instances, as the database knows them; "" for an unknown one."""
    database = getattr(slicer, "dicomDatabase", None)  # set late in Slicer's start
    return [database.fileForInstance(uid) for uid in uids] if database else []


def temporaryFolder():
    return slicer.util.tempDirectory()


def chooseFile(title, filters):
    """A file's path, or "" when the dialog was left."""
    return qt.QFileDialog.getOpenFileName(mainWindow(), title, "", filters)


def chooseFolder(title):
    return qt.QFileDialog.getExistingDirectory(mainWindow(), title)


def chooseSaveFile(title, proposal, filters):
    return qt.QFileDialog.getSaveFileName(mainWindow(), title, proposal, filters)


def openExternally(path):
    """Show a file in the system's own program."""
    return qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))


def registerSample(category, name, paths, nodes, thumbnail, load):
    """Offer files in Sample Data.

    `load` gets the entry when its picture is clicked; scripts that ask SampleData for it get the plain files.
    """
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=category,
        sampleName=name,
        uris=[path.as_uri() for path in paths],
        fileNames=[path.name for path in paths],
        nodeNames=list(nodes),
        thumbnailFileName=str(thumbnail),
        customDownloader=load,
    )


# ---- words to the user


def showError(title, advice=""):
    """What went wrong, and what to do about it."""
    slicer.util.errorDisplay(f"{title}\n\n{advice}".strip())


# ---- packages


def installDependencies(requirements):
    """Ask, and install what is missing into Slicer's Python; torch through the PyTorch extension.

    Args:
        requirements: the file that lists the other packages.

    Raises:
        ConfigError: declined, or it failed.
    """
    from slicer import packaging

    from axon_core.errors import ConfigError

    try:
        if importlib.util.find_spec("torch") is None:
            import PyTorchUtils

            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH)
            if torch is None:
                raise RuntimeError(_("PyTorch was not installed."))
        packaging.pip_ensure(packaging.load_requirements(requirements), requester="AXON")
    except ImportError as error:
        raise ConfigError(
            "setup.pytorch",
            _("The PyTorch extension of Slicer is missing."),
            _("Install 'PyTorch' in the Extensions Manager, restart Slicer and try again."),
        ) from error
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            "setup.failed",
            _("The packages were not installed: {error}").format(error=str(error).splitlines()[0]),
            _(
                "Check the internet connection and the free disk space. If a package was damaged, uninstall it "
                "in the Python console with slicer.util.pip_uninstall('torch'), restart Slicer and try again."
            ),
        ) from error


# ---- child processes


def pythonSlicer():
    """The Python that child processes run in: Slicer's own, or this one outside of Slicer."""
    return process.pythonExecutable()


def childEnvironment():
    """For the child to find axon_core where this process found it."""
    return process.workerEnvironment()

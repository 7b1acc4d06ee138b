"""The application around a scene: layout manager, views and the logics of Slicer's own modules, without Qt.

`install(slicer)` makes out of slicer-core what a module finds in a running Slicer as `slicer.mrmlScene`,
`slicer.app.layoutManager()` and `slicer.modules.<name>.logic()`. MRML and VTK are the real libraries; the layout
manager's part of making widgets for view nodes and giving each its rectangle is written here.

It draws off screen: with EGL where the system has it, else with OSMesa.
"""

import ctypes.util
import os
import pathlib
import tempfile
import types
import xml.etree.ElementTree as ElementTree

if "VTK_DEFAULT_OPENGL_WINDOW" not in os.environ:  # read by VTK when the first window is made
    os.environ["VTK_DEFAULT_OPENGL_WINDOW"] = (
        "vtkEGLRenderWindow" if ctypes.util.find_library("EGL") else "vtkOSOpenGLRenderWindow"
    )

import vtk

from .files import CoreIOManager
from .views import PlotWidget, SliceWidget, ThreeDWidget, registerDisplayableManagers

VIEWPORT = (640, 480)  # of the stand-in's window; small, as software draws


class Application:
    """The part of slicer.app that has to do with the scene, the views and files."""

    def __init__(self, scene, applicationLogic, layoutManager, folder):
        self._scene, self._logic, self._layoutManager = scene, applicationLogic, layoutManager
        self._folder = folder  # lives as long as the application
        self._files = CoreIOManager()

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def moduleLogic(self, name):
        return self._logic.GetModuleLogic(name)

    def layoutManager(self):
        """None without a main window."""
        return self._layoutManager

    def coreIOManager(self):
        return self._files

    ioManager = coreIOManager

    def processEvents(self):
        """Nothing waits here: there is no event loop."""


class LayoutManager:
    """qSlicerLayoutManager: makes a widget for every view node and lays out those of the current layout."""

    def __init__(self, scene, applicationLogic, viewport):
        import slicer

        self._slicer, self._scene, self._applicationLogic = slicer, scene, applicationLogic
        self._viewport, self._bar = viewport, 0
        self._sliceWidgets, self._threeDWidgets, self._plotWidgets = {}, {}, {}  # by node
        self._listeners = []
        self._making = False
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(applicationLogic)
        scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._onNodes)
        scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, self._onNodes)
        self._logic.SetMRMLScene(scene)
        self._node = self._logic.GetLayoutNode()
        self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onLayout)
        self._shown = None
        self._onNodes()
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    # ---- as in Slicer

    @property
    def layout(self):
        return self._node.GetViewArrangement()

    @property
    def threeDViewCount(self):
        """With those that the current layout does not show."""
        return len(self._threeDWidgets)

    def setLayout(self, number):
        """The number that is set already stays, shown or not; an unknown one becomes the conventional layout."""
        if number == self.layout:
            return
        if not self._node.IsLayoutDescription(number):
            number = self._node.SlicerLayoutConventionalView
        self._node.RemoveAllMaximizedViewNodes()
        self._node.SetViewArrangement(number)

    def layoutLogic(self):
        return self._logic

    def sliceViewNames(self):
        """With those that the current layout does not show."""
        return tuple(node.GetLayoutName() for node in self._sliceWidgets)

    def sliceWidget(self, name):
        return next((w for node, w in self._sliceWidgets.items() if node.GetLayoutName() == name), None)

    def threeDWidget(self, index):
        widgets = list(self._threeDWidgets.values())
        return widgets[index] if 0 <= index < len(widgets) else None

    def plotWidget(self, index):
        widgets = list(self._plotWidgets.values())
        return widgets[index] if 0 <= index < len(widgets) else None

    def mrmlSliceLogics(self):
        return self._applicationLogic.GetSliceLogics()

    def connect(self, signal, function):
        """Only layoutChanged(int)."""
        if signal != "layoutChanged(int)":
            raise ValueError(f"The stand-in's layout manager has no signal {signal}.")
        self._listeners.append(function)
        return True

    def disconnect(self, signal, function):
        self._listeners.remove(function)

    # ---- of the stand-in alone

    def resizeWindow(self, width, height, bar=0):
        """Give the layout that many pixels, of which each view loses `bar` on top to its controller."""
        self._viewport, self._bar = (width, height), bar
        self._arrange()

    def places(self):
        """The views that the layout shows: (widget, (x, y, width, height)), y from the top."""
        widgets = {**self._sliceWidgets, **self._threeDWidgets, **self._plotWidgets}
        rectangles = arrangement(self._node.GetCurrentLayoutDescription(), *self._viewport)
        return [
            (widget, rectangle)
            for (kind, tag), rectangle in rectangles.items()
            for node, widget in widgets.items()
            if node.GetSingletonTag() == tag and node.IsA(kind)
        ]

    def _onNodes(self, caller=None, event=None):
        """Have a widget for each view node; making one adds nodes of its own."""
        if self._making:
            return
        self._making = True
        try:
            self._matchNodes()
        finally:
            self._making = False

    def _matchNodes(self):
        for widgets, kind, make in (
            (self._sliceWidgets, "vtkMRMLSliceNode", SliceWidget),
            (self._threeDWidgets, "vtkMRMLViewNode", ThreeDWidget),
            (self._plotWidgets, "vtkMRMLPlotViewNode", PlotWidget),
        ):
            nodes = [self._scene.GetNthNodeByClass(i, kind) for i in range(self._scene.GetNumberOfNodesByClass(kind))]
            for node in [node for node in widgets if node not in nodes]:
                widgets.pop(node)._end()
            for node in nodes:
                if node not in widgets:
                    widgets[node] = make(node, self._applicationLogic)
                    widgets[node].resize(*self._viewport)

    def _onLayout(self, caller=None, event=None):
        if self._shown == (shown := (self.layout, self._node.GetCurrentLayoutDescription())):
            return
        self._shown = shown
        self._onNodes()
        self._arrange()
        for function in list(self._listeners):
            function(self.layout)

    def _arrange(self):
        for widget, (_x, _y, width, height) in self.places():
            widget.resize(width, height - self._bar)


def arrangement(description, width, height):
    """The rectangles that a layout gives its views.

    Args:
        description: XML, as vtkMRMLLayoutNode keeps it; boxes in boxes, in the shares of their splitSize.
        width, height: of the whole, pixels.

    Returns:
        dict: (class of the view node, singleton tag) -> (x, y, width, height), y from the top.
    """
    places = {}
    if not description:  # while a scene closes
        return places

    def place(element, x, y, w, h):
        if element.tag == "view":
            places[element.get("class"), element.get("singletontag")] = (x, y, w, h)
            return
        upright = element.get("type") == "vertical"
        items = element.findall("item")
        shares = [float(item.get("splitSize", 1)) for item in items]
        done = 0.0
        for item, share in zip(items, shares, strict=True):
            low, done = done / sum(shares), done + share
            high = done / sum(shares)
            if upright:
                top, bottom = round(low * h), round(high * h)
                place(item[0], x, y + top, w, bottom - top)
            else:
                left, right = round(low * w), round(high * w)
                place(item[0], x + left, y, right - left, h)

    place(ElementTree.fromstring(description), 0, 0, width, height)
    return places


def install(slicer, mainWindow=True, viewport=VIEWPORT):
    """Turn slicer-core into the inside of a running application.

    Sets `slicer.mrmlScene`, `slicer.app` and `slicer.modules.{colors, volumes, volumerendering, cameras, markups,
    transforms, subjecthierarchy}`; a `slicer.modules` that is there already is kept and added to.

    Args:
        slicer: the module.
        mainWindow: False as with --no-main-window: `layoutManager()` is None and there are no views.
        viewport: (width, height) in pixels of the area that a layout fills.

    Returns:
        Application: also `slicer.app`, until a host with Qt puts its own there.
    """
    folder = tempfile.TemporaryDirectory(prefix="slicer-")
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    (pathlib.Path(folder.name) / "share" / "ColorFiles").mkdir(parents=True)
    (pathlib.Path(folder.name) / ".slicer-cache").touch()
    logic.SetHomeDirectory(folder.name)
    logic.SetShareDirectory("share")
    logic.SetTemporaryPath(folder.name)
    cache, files = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(folder.name)
    files.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(files)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    registerDisplayableManagers(logic)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    slicer.mrmlScene = scene
    if not hasattr(slicer, "modules"):
        slicer.modules = types.SimpleNamespace()
    for name, make in (
        ("Colors", slicer.vtkSlicerColorLogic),  # volume display nodes ask it for their lookup tables
        ("SubjectHierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic),
        ("Volumes", slicer.vtkSlicerVolumesLogic),
        ("VolumeRendering", slicer.vtkSlicerVolumeRenderingLogic),
        ("Transforms", slicer.vtkSlicerTransformLogic),
        ("Markups", slicer.vtkSlicerMarkupsLogic),
        ("Cameras", slicer.vtkSlicerCamerasModuleLogic),
    ):
        moduleLogic = make()
        if name == "VolumeRendering":
            moduleLogic.SetModuleShareDirectory(str(pathlib.Path(__file__).parent))  # presets.xml
        moduleLogic.SetMRMLApplicationLogic(logic)  # before the scene: on meeting it a logic asks for others
        moduleLogic.SetMRMLScene(scene)
        logic.SetModuleLogic(name, moduleLogic)
        setattr(slicer.modules, name.lower(), types.SimpleNamespace(logic=lambda own=moduleLogic: own))
    manager = LayoutManager(scene, logic, viewport) if mainWindow else None
    slicer.app = Application(scene, logic, manager, folder)
    return slicer.app

"""The stand-in of Slicer's node selector.

Rows are added to and removed from a real QComboBox one at a time, so that which row becomes current when the chosen
node is deleted is Qt's own rule, as in Slicer: the row before it. A new node is never chosen by itself, except in an
empty box without "None" and without actions. While the scene closes rows stay; after it they are made anew.
"""

import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .widgets import stored


class _Observations:
    """What is observed, apart from the widget: it must end when Qt deletes the widget."""

    def __init__(self):
        self._tags = {}  # key -> [(object, tag)]

    def add(self, key, thing, event, handler):
        self._tags.setdefault(key, []).append((thing, thing.AddObserver(event, handler)))

    def end(self, key):
        for thing, tag in self._tags.pop(key, ()):
            thing.RemoveObserver(tag)

    def endAll(self):
        for key in list(self._tags):
            self.end(key)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAddedByUser = Signal(object)

    nodeTypes = stored("QStringList", "nodeTypes", [], "_rebuild")
    showHidden = stored(bool, "showHidden", False, "_rebuild")
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, "_rebuild")
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], "_rebuild")
    noneEnabled = stored(bool, "noneEnabled", False, "_rebuild")
    noneDisplay = stored(str, "noneDisplay", "None", "_rebuild")
    addEnabled = stored(bool, "addEnabled", True, "_rebuild")
    removeEnabled = stored(bool, "removeEnabled", True, "_rebuild")
    editEnabled = stored(bool, "editEnabled", False, "_rebuild")
    renameEnabled = stored(bool, "renameEnabled", False, "_rebuild")
    baseName = stored(str, "baseName", "")
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._attributes, self._nodeIDs = None, [], []
        self._observations = _Observations()
        self.destroyed.connect(self._observations.endAll)
        self._box = QtWidgets.QComboBox()
        self._box.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.currentTextChanged.connect(self._onCurrentChanged)
        self._box.activated.connect(self._onActivated)
        self.setEnabled(False)

    # ---- scene

    def mrmlScene(self):
        return self._scene

    @Slot(object)
    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        chosen = self.currentNodeID
        self._observations.end("scene")
        self._scene = scene
        if scene is not None:
            for event, handler in (
                (scene.NodeAddedEvent, _withNode(self._onNodeAdded)),
                (scene.NodeAboutToBeRemovedEvent, _withNode(self._onNodeAboutToBeRemoved)),
                (scene.EndCloseEvent, lambda *unused: self._rebuild()),
                (scene.EndImportEvent, lambda *unused: self._rebuild()),
            ):
                self._observations.add("scene", scene, event, handler)
        self._rebuild()
        self.setCurrentNodeID(chosen)
        self.setEnabled(scene is not None)

    def _fits(self, node):
        kind = next((t for t in self.nodeTypes if node.IsA(t)), None)
        if kind is None or (node.GetHideFromEditors() and not self.showHidden):
            return False
        if node.GetClassName() != kind and (
            not self.showChildNodeTypes or node.GetClassName() in self.hideChildNodeTypes
        ):
            return False
        wanted = [(name, value) for t, name, value in self._attributes if node.IsA(t)]
        return all(
            node.GetAttribute(name) is not None if value is None else node.GetAttribute(name) == str(value)
            for name, value in wanted
        )

    def _onNodeAdded(self, node):
        if not self._scene.IsImporting() and self._fits(node):
            self._insert(node)
            self.nodeAdded.emit(node)

    def _onNodeAboutToBeRemoved(self, node):
        row = self._box.findData(node.GetID())
        if row >= 0 and not self._scene.IsClosing():
            self.nodeAboutToBeRemoved.emit(node)
            self._forget(node.GetID())
            self._box.removeItem(row)

    # ---- rows: "None", the nodes, a separator and the actions

    def _actions(self):
        names = [
            ("renameEnabled", "Rename current node"),
            ("editEnabled", "Edit current node"),
            ("addEnabled", "Create new node"),
            ("removeEnabled", "Delete current node"),
        ]
        return [text for name, text in names if getattr(self, name)] if self._scene is not None else []

    def _insert(self, node):
        row = int(self.noneEnabled) + len(self._nodeIDs)
        self._box.insertItem(row, node.GetName() or "", node.GetID())
        self._nodeIDs.append(node.GetID())
        self._observations.add(node.GetID(), node, "ModifiedEvent", lambda *unused: self._rename(node))

    def _forget(self, nodeID):
        self._nodeIDs.remove(nodeID)
        self._observations.end(nodeID)

    def _rename(self, node):
        row = self._box.findData(node.GetID())
        if row >= 0 and self._box.itemText(row) != node.GetName():
            self._box.setItemText(row, node.GetName() or "")

    def _rebuild(self):
        """All rows anew; the chosen node stays chosen where it is still there."""
        chosen, had = self._box.currentData(), self._box.currentIndex() >= 0
        self._box.blockSignals(True)
        self._box.clear()
        for nodeID in list(self._nodeIDs):
            self._forget(nodeID)
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        nodes = self._scene.GetNodes() if self._scene is not None else None
        for i in range(nodes.GetNumberOfItems() if nodes else 0):
            if self._fits(nodes.GetItemAsObject(i)):
                self._insert(nodes.GetItemAsObject(i))
        actions = self._actions()
        if actions:
            self._box.insertSeparator(self._box.count())
            self._box.addItems(actions)
        row = self._box.findData(chosen) if chosen else -1
        self._box.setCurrentIndex(row if row >= 0 else 0 if self.noneEnabled else -1)
        self._box.blockSignals(False)
        if had and row < 0 and chosen:
            self._onCurrentChanged()

    # ---- the choice

    def _onCurrentChanged(self):
        node = self.currentNode()
        if node is None and self._box.currentIndex() > 0 and self.nodeCount():  # an action's row cannot be chosen
            self.setCurrentNode(self.nodeFromIndex(self.nodeCount() - 1))
            return
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node else "")

    def _onActivated(self, row):
        if self._box.itemData(row) or (self.noneEnabled and row == 0):
            self.nodeActivated.emit(self.currentNode())

    def currentNode(self):
        nodeID = self._box.currentData()
        return self._scene.GetNodeByID(nodeID) if self._scene is not None and nodeID else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    @Slot(str)
    def setCurrentNodeID(self, nodeID):
        row = self._box.findData(nodeID) if nodeID else -1
        self._box.setCurrentIndex(row if row >= 0 else 0 if self.noneEnabled else -1)

    def setCurrentNodeIndex(self, index):
        self._box.setCurrentIndex((index if index < self.nodeCount() else -1) + int(self.noneEnabled))

    currentNodeID = Property(str, lambda self: self._box.currentData() or "", setCurrentNodeID)

    def nodeCount(self):
        return len(self._nodeIDs)

    def nodeFromIndex(self, index):
        nodeID = self._box.itemData(index + int(self.noneEnabled)) if 0 <= index < self.nodeCount() else None
        return self._scene.GetNodeByID(nodeID) if nodeID else None

    def addAttribute(self, nodeType, name, value=None):
        self._attributes.append((nodeType, name, value))
        self._rebuild()

    def addNode(self, nodeType=None):
        """A new node in the scene, as by "Create new ..."."""
        nodeType = nodeType or self.nodeTypes[0]
        node = self._scene.CreateNodeByClass(nodeType)
        node.UnRegister(None)
        for kind, name, value in self._attributes:
            if node.IsA(kind):
                node.SetAttribute(name, str(value or ""))
        node.SetName(self._scene.GenerateUniqueName(self.baseName or node.GetNodeTagName()))
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        self._scene.RemoveNode(self.currentNode())


def _withNode(handler):
    def observe(caller, event, node):
        handler(node)

    observe.CallDataType = vtk.VTK_OBJECT
    return observe

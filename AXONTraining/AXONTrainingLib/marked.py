"""The module's own nodes, found by an attribute. Singleton tags would do that too, but keep them in a closed scene."""

import slicer

MARK = "AXON.Training"


def find(className, mark):
    """The node with this mark, or None."""
    return next((node for node in every(className) if node.GetAttribute(MARK) == mark), None)


def every(className):
    """All nodes of a class that have a mark."""
    return [node for node in slicer.util.getNodesByClass(className) if node.GetAttribute(MARK)]


def new(className, mark, name):
    """A new node with a mark, in the scene."""
    node = slicer.mrmlScene.CreateNodeByClass(className)
    node.UnRegister(None)
    node.SetAttribute(MARK, mark)
    node.SetName(name)
    return slicer.mrmlScene.AddNode(node)

"""What `slicer.util.loadVolume`, `saveNode`, `loadScene` and `saveScene` go through, on slicer-core's storage nodes."""

import pathlib

import slicer

_NODES = {"TransformFile": "vtkMRMLLinearTransformNode", "MarkupsFile": "vtkMRMLMarkupsFiducialNode"}
_ENDINGS = {
    ".mrb": "SceneFile",
    ".mrml": "SceneFile",
    ".h5": "TransformFile",
    ".tfm": "TransformFile",
    ".json": "MarkupsFile",
    ".fcsv": "MarkupsFile",
}


class CoreIOManager:
    """qSlicerCoreIOManager for scenes, volumes, transforms and markups."""

    def fileType(self, fileName):
        return _ENDINGS.get(pathlib.Path(fileName).suffix.lower(), "VolumeFile")

    def fileWriterFileType(self, node, extension=""):
        return "NodeFile"

    def loadNodes(self, fileType, properties, loadedNodes=None, userMessages=None):
        path = str(properties["fileName"])
        if fileType == "SceneFile":
            return self.loadScene(path)
        node = self._load(fileType, path, properties.get("name") or pathlib.Path(path).name.split(".")[0])
        if node is None:
            return False
        if loadedNodes is not None:
            loadedNodes.AddItem(node)
        if fileType == "VolumeFile" and properties.get("show", True):
            logic = slicer.app.applicationLogic()
            logic.GetSelectionNode().SetActiveVolumeID(node.GetID())
            logic.PropagateVolumeSelection()
        return True

    def saveNodes(self, fileType, properties, userMessages=None, scene=None):
        if fileType == "SceneFile":
            return self.saveScene(str(properties["fileName"]))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None and not node.AddDefaultStorageNode(str(properties["fileName"])):
            return False
        node.GetStorageNode().SetFileName(str(properties["fileName"]))
        return bool(node.GetStorageNode().WriteData(node))

    def loadScene(self, fileName, clear=True, userMessages=None):
        """A .mrb or .mrml file in place of the scene."""
        if pathlib.Path(fileName).suffix.lower() == ".mrb":
            return bool(slicer.mrmlScene.ReadFromMRB(str(fileName), clear, userMessages))
        slicer.mrmlScene.SetURL(str(fileName))
        return bool(slicer.mrmlScene.Connect(userMessages))

    def saveScene(self, fileName, screenShot=None, userMessages=None):
        """The scene with its data as an .mrb file."""
        return bool(slicer.mrmlScene.WriteToMRB(str(fileName), None, userMessages))

    def _load(self, fileType, path, name):
        if fileType == "VolumeFile":
            return slicer.modules.volumes.logic().AddArchetypeVolume(path, name)
        if fileType not in _NODES or not pathlib.Path(path).is_file():
            return None
        node = slicer.mrmlScene.AddNewNodeByClass(_NODES[fileType], name)
        if node.AddDefaultStorageNode(path) and node.GetStorageNode().ReadData(node):
            return node
        slicer.mrmlScene.RemoveNode(node)
        return None

"""The views of this module: films beside the CT for registration, result beside reference for comparison.

The views are the module's own (singleton tags "AXON..."), so that Slicer's own views stay as the user left them.
Without a main window everything here does nothing.
"""

from xml.sax.saxutils import escape

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from AXONLib import services
from AXONLib.bones import hideBones, showBones
from AXONLib.coarse import coarseCopy, removeCopy
from AXONLib.display import displayAsCT, renderVolume

FRONTAL, LATERAL, POSE = "AXONFrontal", "AXONLateral", "AXONPose"
POSE_PLANES = {"AXONPoseAxial": "Axial", "AXONPoseCoronal": "Coronal"}
REFERENCE, RESULT = "AXONReference", "AXONResult"  # the 3D views; their slice views add the plane
PLANES = {"Axial": "#F34A33", "Coronal": "#6EB04B", "Sagittal": "#EDD54C"}
FILM_COLOR = "#7DA7D9"

FIRST_LAYOUT = 5711  # a number that nobody else uses, for layouts and for view groups
GROUPS = {FRONTAL: 5711, LATERAL: 5712, POSE: 5713, RESULT: 5714}  # views follow each other inside a group only


# ---- layouts in XML


def _threeD(tag, label, group):
    return _view("vtkMRMLViewNode", tag, label, group, "")


def _slice(tag, label, group, plane, color):
    extra = f'<property name="orientation" action="default">{plane}</property>'
    return _view(
        "vtkMRMLSliceNode", tag, label, group, extra + f'<property name="viewcolor" action="default">{color}</property>'
    )


def _view(kind, tag, label, group, extra):
    return (
        f'<view class="{kind}" singletontag="{tag}">{extra}'
        f'<property name="viewlabel" action="default">{escape(label)}</property>'
        f'<property name="viewgroup" action="default">{group}</property></view>'
    )


def _box(direction, *items):
    """Items side by side ("horizontal") or one above the other: (share, XML) or XML alone."""
    pairs = [item if isinstance(item, tuple) else (500, item) for item in items]
    inside = "".join(f'<item splitSize="{share}">{xml}</item>' for share, xml in pairs)
    return f'<layout type="{direction}" split="true">{inside}</layout>'


def _filmsXml(tags):
    labels = {FRONTAL: _("Frontal film"), LATERAL: _("Lateral film")}
    films = [_slice(tag, labels[tag], GROUPS[tag], "Coronal", FILM_COLOR) for tag in tags]
    return _box("horizontal", *films)


def _registerXml(tags):
    """Films on the left, on the right the CT with its handles above its slices."""
    labels = {"Axial": _("CT A"), "Coronal": _("CT C")}
    slices = [_slice(tag, labels[plane], GROUPS[POSE], plane, PLANES[plane]) for tag, plane in POSE_PLANES.items()]
    right = _box("vertical", (600, _threeD(POSE, _("Pose"), GROUPS[POSE])), (400, _box("horizontal", *slices)))
    return _box("horizontal", (600, _filmsXml(tags)), (400, right))


def _compareXml(tags):
    """One half for each side: its 3D view and its slices, two by two."""
    labels = {REFERENCE: _("CT"), RESULT: _("AXON")}
    halves = []
    for side in tags:
        axial, coronal, sagittal = (
            _slice(side + plane, f"{labels[side]} {plane[0]}", GROUPS[RESULT], plane, color)
            for plane, color in PLANES.items()
        )
        solid = _threeD(side, labels[side], GROUPS[RESULT])
        halves.append(_box("vertical", _box("horizontal", axial, solid), _box("horizontal", coronal, sagittal)))
    return _box("horizontal", *halves)


_FILMS = ((FRONTAL,), (LATERAL,), (FRONTAL, LATERAL))
LAYOUTS = {  # (kind, singleton tags of what differs) -> XML; numbered in this order
    **{("films", tags): _filmsXml for tags in _FILMS},
    **{("register", tags): _registerXml for tags in _FILMS},
    **{("compare", tags): _compareXml for tags in ((RESULT,), (REFERENCE, RESULT))},
}


def numberOf(kind, tags):
    """The number under which Slicer knows a layout of LAYOUTS."""
    return FIRST_LAYOUT + list(LAYOUTS).index((kind, tags))


# ---- entering and leaving


class _Desk:
    """Which of this module's layouts are open, the last on top, and the user's layout beneath them."""

    def __init__(self):
        self._open = []  # numbers
        self._users = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView

    def show(self, kind, tags):
        """Open a layout, or bring it to the top; `kind` and `tags` as in LAYOUTS. Returns its number."""
        number = numberOf(kind, tags)
        shown = services.currentLayout()
        if not FIRST_LAYOUT <= shown < FIRST_LAYOUT + len(LAYOUTS):
            self._users, self._open = shown, []  # the user has gone elsewhere by himself
        services.defineLayout(number, LAYOUTS[kind, tags](tags))
        if shown == number and not services.layoutShows(tags[0]):  # a loaded scene named it before it was known
            services.setLayout(self._users)
        services.setLayout(number)
        self._open = [*(other for other in self._open if other != number), number]
        return number

    def close(self, number):
        """Show the layout beneath, unless the user has chosen another one meanwhile."""
        if number not in self._open:
            return
        self._open.remove(number)
        if services.layoutManager() is not None and services.currentLayout() == number:
            services.setLayout(self._open[-1] if self._open else self._users)


_desk = _Desk()


class CompareLayout:
    """Result and reference side by side: slices, cameras and window follow each other both ways."""

    def __init__(self):
        self._number = None
        self._links = []
        self._copies = {}  # side -> the volume that its 3D view shows, and the coarser copy that is drawn, or None

    def enter(self, referenceNode, resultNode):
        """Show a result beside its reference, or alone where the reference is None.

        Views that show a volume of the same place already keep their slice and camera.
        """
        if services.layoutManager() is None:
            return
        sides = {} if referenceNode is None else {REFERENCE: referenceNode}
        sides[RESULT] = resultNode
        self._unlink()
        before = self._number
        self._number = _desk.show("compare", tuple(sides))
        if before not in (None, self._number):
            _desk.close(before)
        moved = False
        for side, volume in sides.items():
            volume.CreateDefaultDisplayNodes()
            if volume.GetDisplayNode().GetAutoWindowLevel():
                displayAsCT(volume)
            self._render(side, volume)
            for plane in PLANES:
                widget = services.sliceWidget(side + plane)
                moved |= _setBackground(widget, volume)
                widget.mrmlSliceCompositeNode().SetLinkedControl(True)
                widget.mrmlSliceCompositeNode().SetHotLinkedControl(True)
        if moved:
            _whenSized(self._number, lambda: _fitSides(sides))
            for side in sides:
                _plainView(threeDView(side))
                _lookAt(threeDView(side), worldBounds([resultNode]), np.array([0.0, 1.0, 0.0]))
        if REFERENCE in sides:
            cameras = [_camera(threeDView(side)) for side in sides]
            displays = [volume.GetDisplayNode() for volume in sides.values()]
            self._links = [_Link(*cameras, _copyCamera), _Link(*displays, _copyWindow)]

    def _render(self, side, volume):
        """Draw a volume in its side's 3D view, a large one by a coarser copy."""
        drawn, copy = self._copies.get(side, (None, None))
        if drawn is not volume or (copy is not None and copy.GetScene() is None):
            self._forget(side)
            copy = coarseCopy(volume)
            self._copies[side] = (volume, copy)
        rendering = renderVolume(copy or volume, [threeDView(side)])
        if copy is not None:
            for node in (rendering, rendering.GetVolumePropertyNode(), rendering.GetROINode()):
                if node is not None:
                    node.SetSaveWithScene(False)

    def _forget(self, side):
        copy = self._copies.pop(side, (None, None))[1]
        if copy is not None:
            removeCopy(copy)

    def leave(self):
        """Unlink, and show the layout from before."""
        self._unlink()
        for side in list(self._copies):
            self._forget(side)
        _desk.close(self._number)
        self._number = None

    def _unlink(self):
        for link in self._links:
            link.stop()
        self._links = []


def _fitSides(sides):
    """Both sides show the same slices at the same size, through the result's centre."""
    largest = next(iter(sides))
    low, high = worldBounds([sides[RESULT]])
    for plane in PLANES:
        widget = services.sliceWidget(largest + plane)
        leader = widget.mrmlSliceNode()
        leader.SetOrientation(plane)
        widget.sliceLogic().FitSliceToBackground()
        leader.JumpSliceByOffsetting(*((low + high) / 2))
        for side in sides:
            follower = services.sliceWidget(side + plane).mrmlSliceNode()
            if follower is not leader:
                follower.SetFieldOfView(*leader.GetFieldOfView())
                follower.SetXYZOrigin(*leader.GetXYZOrigin())
                _setPlane(follower, slicer.util.arrayFromVTKMatrix(leader.GetSliceToRAS()))


def _whenSized(number, fit):
    """Fit views now, and once more when the window has given the views of a newly shown layout their sizes."""

    def again():
        if services.layoutManager() is not None and services.currentLayout() == number:
            fit()

    fit()
    services.soon(again)


_resultLayout = CompareLayout()
_registration = None  # number of the layout in which a registration goes on


def showResult(resultNode):
    """Show a result alone in this module's own views."""
    _resultLayout.enter(None, resultNode)


def showPreview(previewNode):
    """Show a result that is being made; to be called again after each change of the node."""
    _resultLayout.enter(None, previewNode)
    rendering = services.volumeRenderingLogic().GetFirstVolumeRenderingDisplayNode(previewNode)
    if rendering is not None:  # not saved with the scene, like the preview itself
        for node in (rendering, rendering.GetVolumePropertyNode(), rendering.GetROINode()):
            if node is not None:
                node.SetSaveWithScene(False)


def endPreview(resultNode):
    """Show the result in the preview's place, or, where there is none, the layout from before."""
    if resultNode is None:
        _resultLayout.leave()
    else:
        _resultLayout.enter(None, resultNode)


def showFilms(frontalNode, lateralNode):
    """Show films (one may be None) as they hang on the viewing box."""
    films = {tag: node for tag, node in ((FRONTAL, frontalNode), (LATERAL, lateralNode)) if node is not None}
    if services.layoutManager() is None or not films:
        return
    number = _desk.show("films", tuple(films))
    for tag, node in films.items():
        _showFilm(number, tag, node)


def showRegister(filmNodes, ctNode):
    """Show one or two films on their detectors (one frontal, one lateral) beside the CT in the X-ray room."""
    global _registration
    if services.layoutManager() is None:
        return
    films = {(FRONTAL if _isFrontal(node) else LATERAL): node for node in filmNodes}
    films = {tag: films[tag] for tag in (FRONTAL, LATERAL) if tag in films}
    before, _registration = _registration, _desk.show("register", tuple(films))
    if before not in (None, _registration):
        _desk.close(before)
    pose = threeDView(POSE)
    for tag in (FRONTAL, LATERAL):
        if tag in films:
            _showFilm(_registration, tag, films[tag], pose)
        else:
            _hideFilm(tag)
    showBones(ctNode, pose)
    moved = False
    for tag, plane in POSE_PLANES.items():
        widget = services.sliceWidget(tag)
        if _setBackground(widget, ctNode):
            moved = True
            widget.mrmlSliceNode().SetOrientation(plane)
            _whenSized(_registration, widget.sliceLogic().FitSliceToBackground)
    if moved:
        _plainView(pose)
        seen = [*films.values(), ctNode]
        _lookAt(pose, worldBounds(seen), _fromSources(list(films.values()), ctNode))


def leaveRegister():
    """Show the layout from before the registration."""
    global _registration
    _desk.close(_registration)
    _registration = None
    hideBones()
    for tag in (FRONTAL, LATERAL):
        _hideFilm(tag)


class _Link:
    """Two nodes of which each takes over what changes in the other; at the start the second follows the first."""

    def __init__(self, first, second, copy):
        self._copy, self._copying = copy, False
        self._observed = [
            (source, source.AddObserver(vtk.vtkCommand.ModifiedEvent, self._follower(source, target)))
            for source, target in ((first, second), (second, first))
        ]
        self._follow(first, second)

    def stop(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    def _follower(self, source, target):
        return lambda caller, event: self._follow(source, target)

    def _follow(self, source, target):
        if self._copying:
            return
        self._copying = True
        try:
            self._copy(source, target)
        finally:
            self._copying = False


def _copyCamera(source, target):
    modifying = target.StartModify()
    target.SetPosition(source.GetPosition())
    target.SetFocalPoint(source.GetFocalPoint())
    target.SetViewUp(source.GetViewUp())
    target.SetViewAngle(source.GetViewAngle())
    target.SetParallelProjection(source.GetParallelProjection())
    target.SetParallelScale(source.GetParallelScale())
    target.EndModify(modifying)
    target.ResetClippingRange()


def _copyWindow(source, target):
    modifying = target.StartModify()
    target.SetAutoWindowLevel(False)
    target.SetWindowLevel(source.GetWindow(), source.GetLevel())
    target.EndModify(modifying)


# ---- slice views


def _showFilm(number, tag, filmNode, viewNode=None):
    """Show a film in a slice view of a layout as its pixels lie: first row above, first column left.

    The slice plane is taken from the film, for where Slicer's own rotation to a volume's plane ends depends on how the
    view stood before. In a 3D view node, where one is given, the film is drawn where it stands.
    """
    widget = services.sliceWidget(tag)
    node = widget.mrmlSliceNode()
    moved = _setBackground(widget, filmNode)
    widget.mrmlSliceCompositeNode().SetLinkedControl(False)
    toWorld = _ijkToWorld(filmNode)
    right, down = (toWorld[:3, axis] / np.linalg.norm(toWorld[:3, axis]) for axis in (0, 1))
    middle = (np.array(filmNode.GetImageData().GetDimensions()) - 1) / 2
    plane = np.eye(4)
    plane[:3, :3] = np.column_stack([right, -down, np.cross(right, -down)])
    plane[:3, 3] = (toWorld @ [*middle, 1])[:3]
    shown = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    if moved or not np.allclose(plane[:3, :3], shown[:3, :3]) or abs(plane[:3, 2] @ (plane - shown)[:3, 3]) > 0.1:
        _setPlane(node, plane)
        _whenSized(number, widget.sliceLogic().FitSliceToBackground)
    if viewNode is not None and not node.IsThreeDViewIDPresent(viewNode.GetID()):
        node.AddThreeDViewID(viewNode.GetID())
    node.SetSliceVisible(viewNode is not None)


def _hideFilm(tag):
    """Take a film out of the 3D view."""
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSliceNode")
    if node is not None:
        node.SetSliceVisible(False)


def _isFrontal(filmNode):
    """Whether a film's columns run more from side to side than from front to back."""
    left, front, _up = np.abs(_ijkToWorld(filmNode)[:3, 0])
    return left >= front


def _setPlane(sliceNode, sliceToRas):
    sliceNode.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(sliceToRas))
    sliceNode.UpdateMatrices()


def _setBackground(widget, volumeNode):
    """Show one volume alone in a slice view, and keep Slicer from showing newly loaded ones there.

    Returns whether the view showed nothing before, or a volume of another place.
    """
    composite = widget.mrmlSliceCompositeNode()
    composite.SetDoPropagateVolumeSelection(False)
    before = composite.GetBackgroundVolumeID() and slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID())
    if before is volumeNode:
        return False
    composite.SetBackgroundVolumeID(volumeNode.GetID())
    composite.SetForegroundVolumeID(None)
    composite.SetLabelVolumeID(None)
    return not before or not np.allclose(worldBounds([before]), worldBounds([volumeNode]), atol=1)


# ---- 3D views


def threeDView(tag):
    """The 3D view node of a singleton tag, or None."""
    return slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLViewNode")


def _camera(viewNode):
    return services.camerasLogic().GetViewActiveCameraNode(viewNode)


def _plainView(viewNode):
    """Dark, without box and letters, with a cube that tells the directions."""
    modifying = viewNode.StartModify()
    viewNode.SetBackgroundColor(0.0, 0.0, 0.0)
    viewNode.SetBackgroundColor2(0.13, 0.14, 0.18)
    viewNode.SetBoxVisible(False)
    viewNode.SetAxisLabelsVisible(False)
    viewNode.SetOrientationMarkerType(slicer.vtkMRMLAbstractViewNode.OrientationMarkerTypeCube)
    viewNode.SetOrientationMarkerSize(slicer.vtkMRMLAbstractViewNode.OrientationMarkerSizeSmall)
    viewNode.EndModify(modifying)


def _lookAt(viewNode, bounds, direction):
    """Put the camera where it sees a box (low and high corner, RAS mm) whole, in a direction from its middle."""
    camera = _camera(viewNode)
    low, high = bounds
    middle, radius = (low + high) / 2, np.linalg.norm(high - low) / 2
    distance = 0.9 * radius / np.sin(np.radians(camera.GetViewAngle()) / 2)  # a chest does not fill its box's corners
    modifying = camera.StartModify()
    camera.SetFocalPoint(*middle)
    camera.SetPosition(*(middle + distance * direction / np.linalg.norm(direction)))
    camera.SetViewUp(0, 0, 1)
    camera.EndModify(modifying)
    camera.ResetClippingRange()


def _fromSources(filmNodes, ctNode):
    """A direction (RAS) from which one sees the patient before every film: from between their sources, and above."""
    patient = np.mean(worldBounds([ctNode]), axis=0)
    away = np.array([patient - np.mean(worldBounds([film]), axis=0) for film in filmNodes])
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    aside = away[1] if len(away) > 1 else np.cross(away[0], [0.0, 0.0, 1.0])
    return away[0] + 0.6 * aside + np.array([0.0, 0.0, 0.25])


# ---- where volumes lie


def worldBounds(volumeNodes):
    """Low and high corner, (3,) RAS mm each, of a box around volumes where their transforms put them."""
    boxes = np.zeros((len(volumeNodes), 6))
    for box, node in zip(boxes, volumeNodes, strict=True):
        node.GetRASBounds(box)
    return boxes[:, 0::2].min(0), boxes[:, 1::2].max(0)


def _ijkToWorld(volumeNode):
    """(4, 4): voxel index -> RAS mm in the world, through a linear parent transform."""
    ijkToRas, toWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(ijkToRas)
    if volumeNode.GetParentTransformNode() is not None:
        volumeNode.GetParentTransformNode().GetMatrixTransformToWorld(toWorld)
    return slicer.util.arrayFromVTKMatrix(toWorld) @ slicer.util.arrayFromVTKMatrix(ijkToRas)

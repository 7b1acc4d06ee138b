"""The live comparison: DRRs of the CT at its present pose over the real films, as pictures in the scene.

Every film has one colour picture that lies on its detector in the X-ray room. torch is imported with the first
comparison, not with this module.
"""

import contextlib
from dataclasses import replace

import numpy as np
import slicer

from AXONLib.volumes import FLIP, remove

QUICK_PIXELS, FINE_PIXELS = 256, 1024  # along a picture while something moves, and when it rests
QUICK_MS, FINE_MS = 40, 250  # between pictures of something that moves, and until it is taken to rest
FEWEST = 0.01  # of the film: fewer pixels are no ground to judge it by


class LiveComparison:
    """DRRs of a CT over its films.

    Args:
        ct: CTVolume, in its own frame.
        films: axon_core.registration.pose.Film of every film.
        pose: PoseController about the CT's middle.
        device: of torch, for the DRR.

    Attributes:
        nodes: vtkMRMLVectorVolumeNode of every film; empty until the first `update`. They are not saved with the scene.
        mode, amount: how film and DRR are laid over each other, as in axon_core.registration.overlay; call `compose`
            after a change.

    Raises:
        VolumeError: no body in the CT, or too short.
    """

    def __init__(self, ct, films, pose, device="cpu"):
        from axon_core.drr.live import LiveDRR

        self.pose = pose
        self.mode, self.amount = "opacity", 0.5
        with oneThread():
            self._drr = LiveDRR(ct, device)
            self._panes = [_Pane(film) for film in films]
        self.nodes = [_addPicture(film.geometry.view) for film in films]

    def close(self):
        """Take the pictures out of the scene."""
        for node in self.nodes:
            remove(node)

    def geometries(self):
        """XrayGeometry of every film."""
        return [pane.film.geometry for pane in self._panes]

    def setGeometries(self, geometries):
        """Take over what a registration found of pixel size and distances; call `update` afterwards."""
        for pane, geometry in zip(self._panes, geometries, strict=True):
            pane.film = replace(pane.film, geometry=replace(geometry, pixels=pane.film.geometry.pixels))
            pane.forgetMasks()

    # ---- pictures

    def update(self, size=QUICK_PIXELS):
        """Compute the DRRs at the present pose and show them.

        Args:
            size: pixels along each edge.

        Raises:
            ConfigError: the pose turns the patient out of the beam; the pictures stay as they are.
        """
        with oneThread():
            pose = self.pose.rigidPose()
            drrs = [self._drr.render(pose, size, pane.film.geometry) for pane in self._panes]
        for pane, drr in zip(self._panes, drrs, strict=True):
            pane.drr = drr
        self.compose()

    def compose(self):
        """Show the last DRRs anew: after a change of `mode`, `amount` or the masks."""
        for pane, node in zip(self._panes, self.nodes, strict=True):
            if pane.drr is not None:
                with oneThread():
                    picture = pane.comparison().picture(pane.drr, self.mode, self.amount)
                _show(node, picture, pane.film.geometry, self.pose.isocentreLps)

    def readouts(self):
        """How well the last DRRs agree with the films.

        Returns:
            list: for every film a pair (local NCC, gradient NCC) in [-1, 1]; None before the first `update` and where
                hardly a pixel counts.
        """
        with oneThread():
            return [pane.agreement() for pane in self._panes]

    # ---- what counts

    def setMasks(self, region=None, withoutMarkers=True):
        """Choose the pixels by which grey scales and read-outs go; call `compose` afterwards.

        Args:
            region: vtkMRMLMarkupsROINode, or None. It concerns the film on whose detector it lies (the nearest); there
                the pixels count over which its box stands.
            withoutMarkers: leave lead markers out.
        """
        chosen = None if region is None else self._filmOf(region)
        for index, pane in enumerate(self._panes):
            pane.region = self._box(region) if index == chosen else None
            pane.withoutMarkers = withoutMarkers
            pane.forgetMasks()

    def maskFor(self, index):
        """The valid pixels of a film, as a registration wants them: bool of the shape of the film's image."""
        return self._panes[index].mask().copy()

    def _box(self, region):
        """((4, 4) box -> LPS mm about the isocentre, (3,) mm) of a region of interest."""
        matrix = FLIP @ slicer.util.arrayFromVTKMatrix(region.GetObjectToWorldMatrix())
        matrix[:3, 3] -= self.pose.isocentreLps
        size = [0.0, 0.0, 0.0]
        region.GetSizeWorld(size)
        return matrix, np.array(size)

    def _filmOf(self, region):
        centre = self._box(region)[0][:3, 3]
        away = [abs(centre @ geometry.view.beam - geometry.isocentre_to_detector_mm) for geometry in self.geometries()]
        return int(np.argmin(away))


class _Pane:
    """One film, its masks, and what has been computed of them."""

    def __init__(self, film):
        self.film = film
        self.drr = None
        self.region, self.withoutMarkers = None, True
        self._images = {}  # by pixels along an edge
        self.forgetMasks()

    def forgetMasks(self):
        self._mask = None
        self._comparisons = {}  # by pixels along an edge

    def image(self, size):
        """(size, size) float32: the film on that many pixels."""
        if size not in self._images:
            import torch
            import torch.nn.functional as F

            image = torch.from_numpy(np.ascontiguousarray(self.film.image, np.float32))[None, None]
            way = {"mode": "area"} if size <= image.shape[-1] else {"mode": "bicubic", "align_corners": False}
            self._images[size] = F.interpolate(image, size=(size, size), **way)[0, 0].numpy()
        return self._images[size]

    def mask(self):
        """Bool of the shape of the film's image: inside collimation and region, without markers."""
        if self._mask is None:
            import torch

            from axon_core.registration.similarity import box_mask, valid_mask

            image = torch.from_numpy(np.ascontiguousarray(self.film.image, np.float32))
            self._mask = valid_mask(image, self.withoutMarkers).numpy()
            if self.film.mask is not None:
                self._mask &= self.film.mask
            if self.region is not None:
                self._mask &= box_mask(self.film.geometry, *self.region)
        return self._mask

    def comparison(self):
        """The film ready for DRRs of the last one's size."""
        from axon_core.registration.overlay import Comparison

        size = len(self.drr)
        if size not in self._comparisons:
            mask = self.mask()
            nearest = ((np.arange(size) + 0.5) * len(mask) / size).astype(int)
            self._comparisons[size] = Comparison(self.image(size), mask[np.ix_(nearest, nearest)])
        return self._comparisons[size]

    def agreement(self):
        """(local NCC, gradient NCC) of the last DRR, or None; at the resolution at which a registration ends."""
        if self.drr is None:
            return None
        import torch

        from axon_core.registration.pose import LEVELS
        from axon_core.registration.similarity import features, local_and_gradient_ncc, shrunk

        size = LEVELS[-1]
        film = torch.from_numpy(self.image(size))
        drr, mask = (shrunk(torch.from_numpy(image), size) for image in (self.drr, self.mask()))
        inside = mask > 0.99
        if inside.float().mean() < FEWEST:
            return None
        return local_and_gradient_ncc(*features(torch.stack([film, drr]), inside))


def _addPicture(view):
    """A colour picture for the scene, shown with its own brightness."""
    name = slicer.mrmlScene.GenerateUniqueName(f"{'Frontal' if view.is_frontal else 'Lateral'} film and DRR")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", name)
    node.SetVoxelVectorType(slicer.vtkMRMLVolumeNode.VoxelVectorTypeColorRGB)
    node.SetSaveWithScene(False)
    node.SetHideFromEditors(True)  # nobody's film
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0, 255)
    display.SetSaveWithScene(False)
    return node


def _show(node, picture, geometry, isocentreLps):
    """Write (h, h, 3) uint8 into a volume node on the detector: the middle of pixel (row, column) lies where
    `XrayGeometry.detector()` says, from the isocentre on."""
    toCorner, row, column = replace(geometry, pixels=len(picture)).rays()
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = column, row
    matrix[:3, 2] = np.cross(column, row) / np.linalg.norm(np.cross(column, row))
    matrix[:3, 3] = isocentreLps + geometry.source + toCorner
    with slicer.util.NodeModify(node):
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(FLIP @ matrix))
        image = node.GetImageData()
        if image is not None and image.GetDimensions() == (len(picture), len(picture), 1):
            slicer.util.arrayFromVolume(node)[0] = picture
            slicer.util.arrayFromVolumeModified(node)
        else:
            slicer.util.updateVolumeFromArray(node, picture[None])


@contextlib.contextmanager
def oneThread():
    """One thread for torch: a small picture takes many times longer on several that wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Throttle:
    """Turns many requests into few: `quick` at most every QUICK_MS while they come, `fine` once when they have ended.

    Args:
        quick, fine: functions without arguments.
        makeTimer: makes a timer as qt.QTimer is one; for tests.
    """

    def __init__(self, quick, fine, makeTimer=None):
        if makeTimer is None:
            import qt

            makeTimer = qt.QTimer
        self._quickTimer = self._timer(makeTimer, QUICK_MS, quick)
        self._fineTimer = self._timer(makeTimer, FINE_MS, fine)

    @staticmethod
    def _timer(makeTimer, milliseconds, function):
        timer = makeTimer()
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.connect("timeout()", function)
        return timer

    def request(self):
        """Something has changed."""
        if not self._quickTimer.active:
            self._quickTimer.start()
        self._fineTimer.start()

    def stop(self):
        """Forget what was requested."""
        self._quickTimer.stop()
        self._fineTimer.stop()

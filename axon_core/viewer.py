"""A volume in three dimensions, in the browser: three slices and a rendering, beside a CT if there is one.

The pictures are drawn by VTK in this process and sent to the page (trame), which listens on the loopback address only.
Slices are shown as radiologists read them: the patient's right on the image's left, head or front at the top, and in
sagittal slices the front on the left. Needs the extra ``viewer``.
"""

from __future__ import annotations

import base64
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE
from axon_core.errors import ConfigError
from axon_core.evaluation.report import WINDOWS

if TYPE_CHECKING:
    from axon_core.ctvolume import CTVolume

SIZE = (1400, 380)  # pixels of one volume's row of views


@dataclass(frozen=True)
class SliceView:
    """How one slice is looked at: the LPS axis that is cut, where the eye is, and what is up."""

    axis: int
    eye: tuple[float, float, float]
    up: tuple[float, float, float]
    letters: str  # at the picture's left and right, top and bottom


SLICE_VIEWS = {
    "Axial": SliceView(2, (0, 0, -1), (0, -1, 0), "RLAP"),
    "Coronal": SliceView(1, (0, -1, 0), (0, 0, 1), "RLHF"),
    "Sagittal": SliceView(0, (1, 0, 0), (0, 0, 1), "APHF"),
}


def image_data(volume: CTVolume) -> Any:
    """A `vtkImageData` that lies where the volume lies, in LPS millimetres."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    z, y, x = volume.hu.shape
    image.SetDimensions(x, y, z)
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirectionMatrix((volume.affine[:3, :3] / np.asarray(volume.spacing_mm)).ravel())
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(volume.hu, np.int16).ravel(), deep=True))
    return image


class Scene:
    """One row of views for each volume, under one set of controls.

    Args:
        volumes: (title, volume), rows from top to bottom. All rows show the same relative depth, window and camera.

    Attributes:
        window: the `vtkRenderWindow`, off screen.
    """

    def __init__(self, volumes: Sequence[tuple[str, CTVolume]]) -> None:
        import vtkmodules.vtkRenderingFreeType
        import vtkmodules.vtkRenderingOpenGL2
        import vtkmodules.vtkRenderingVolumeOpenGL2  # noqa: F401  VTK's way to choose its drawing code
        from vtkmodules.vtkRenderingCore import vtkRenderWindow

        self.window = vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetSize(SIZE[0], SIZE[1] * len(volumes))
        self.slices: list[tuple[SliceView, Any, np.ndarray]] = []  # view, plane, bounds in LPS
        self.properties: list[Any] = []
        self.renderings: list[Any] = []  # renderers of the 3D views
        self.camera: Any = None
        for row, (title, volume) in enumerate(volumes):
            low, high = 1 - (row + 1) / len(volumes), 1 - row / len(volumes)
            image = image_data(volume)
            for column, (name, view) in enumerate(SLICE_VIEWS.items()):
                left, right, top, bottom = tuple(view.letters)
                texts = {0: title, 2: name, 4: bottom, 5: right, 6: left, 7: top}
                self._add_slice(image, view, self._renderer((column / 4, low, (column + 1) / 4, high), texts))
            texts = {0: title, 2: "3D", 1: SYNTHETIC_NOTICE if volume.source.get("synthetic") else ""}
            self._add_rendering(image, self._renderer((0.75, low, 1, high), texts))
        for axis in range(3):
            self.cut(axis, 0.5)
        self.show("Lung")

    def cut(self, axis: int, depth: float) -> None:
        """Move the slices across an LPS axis to a depth in [0, 1] of each volume."""
        for view, plane, bounds in self.slices:
            if view.axis == axis:
                origin = bounds.mean(1)
                origin[axis] = bounds[axis, 0] + depth * (bounds[axis, 1] - bounds[axis, 0])
                plane.SetOrigin(origin)

    def show(self, hu_window: str) -> None:
        """Use one of `WINDOWS` for the slices."""
        low, high = WINDOWS[hu_window]
        for properties in self.properties:
            properties.SetColorWindow(high - low)
            properties.SetColorLevel((high + low) / 2)

    def turn(self, degrees: float) -> None:
        """Look at the renderings from another side: 0 from the front, 90 from the patient's left."""
        angle, distance = math.radians(degrees), self.camera.GetDistance()
        centre = np.array(self.camera.GetFocalPoint())
        self.camera.SetPosition(centre + distance * np.array([math.sin(angle), -math.cos(angle), 0]))
        for renderer in self.renderings:
            renderer.ResetCameraClippingRange()

    def jpeg(self) -> bytes:
        """The picture as it stands."""
        from vtkmodules.vtkIOImage import vtkJPEGWriter
        from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

        grabber, writer = vtkWindowToImageFilter(), vtkJPEGWriter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        writer.SetInputConnection(grabber.GetOutputPort())
        writer.SetQuality(90)
        writer.WriteToMemoryOn()
        writer.Write()
        return bytes(memoryview(writer.GetResult()))

    def _renderer(self, viewport: tuple[float, float, float, float], texts: Mapping[int, str]) -> Any:
        """A renderer with texts at its corners and edges (vtkCornerAnnotation's numbers)."""
        from vtkmodules.vtkRenderingAnnotation import vtkCornerAnnotation
        from vtkmodules.vtkRenderingCore import vtkRenderer

        renderer = vtkRenderer()
        renderer.SetViewport(viewport)
        annotation = vtkCornerAnnotation()
        annotation.SetMaximumFontSize(15)
        annotation.GetTextProperty().SetColor(1.0, 0.84, 0.37)
        annotation.GetTextProperty().ShadowOn()
        for place, text in texts.items():
            annotation.SetText(place, text)
        renderer.AddViewProp(annotation)
        self.window.AddRenderer(renderer)
        return renderer

    def _add_slice(self, image: Any, view: SliceView, renderer: Any) -> None:
        from vtkmodules.vtkCommonDataModel import vtkPlane
        from vtkmodules.vtkRenderingCore import vtkImageSlice
        from vtkmodules.vtkRenderingImage import vtkImageResliceMapper

        bounds = np.array(image.GetBounds()).reshape(3, 2)
        plane = vtkPlane()
        plane.SetNormal(np.eye(3)[view.axis])
        mapper = vtkImageResliceMapper()
        mapper.SetInputData(image)
        mapper.SetSlicePlane(plane)
        picture = vtkImageSlice()
        picture.SetMapper(mapper)
        renderer.AddViewProp(picture)
        camera, centre = renderer.GetActiveCamera(), bounds.mean(1)
        camera.ParallelProjectionOn()
        camera.SetFocalPoint(centre)
        camera.SetPosition(centre + 1000 * np.asarray(view.eye))
        camera.SetViewUp(view.up)
        camera.SetParallelScale(0.52 * np.ptp(bounds, axis=1).max())
        camera.SetClippingRange(1, 3000)
        self.slices.append((view, plane, bounds))
        self.properties.append(picture.GetProperty())

    def _add_rendering(self, image: Any, renderer: Any) -> None:
        from vtkmodules.vtkCommonDataModel import vtkPiecewiseFunction
        from vtkmodules.vtkRenderingCore import vtkColorTransferFunction, vtkVolume
        from vtkmodules.vtkRenderingVolumeOpenGL2 import vtkSmartVolumeMapper

        colour, opacity = vtkColorTransferFunction(), vtkPiecewiseFunction()
        for hu, rgb in (
            (-900, (0.25, 0.15, 0.15)),
            (-300, (0.75, 0.45, 0.35)),
            (150, (0.95, 0.9, 0.8)),
            (600, (1, 1, 1)),
        ):
            colour.AddRGBPoint(hu, *rgb)
        for hu, alpha in ((-1000, 0), (-950, 0), (-700, 0.004), (-400, 0.008), (60, 0.02), (160, 0.25), (600, 0.7)):
            opacity.AddPoint(hu, alpha)
        mapper = vtkSmartVolumeMapper()
        mapper.SetInputData(image)
        volume = vtkVolume()
        volume.SetMapper(mapper)
        look = volume.GetProperty()
        look.SetColor(colour)
        look.SetScalarOpacity(opacity)
        look.ShadeOn()
        look.SetInterpolationTypeToLinear()
        renderer.AddVolume(volume)
        self.renderings.append(renderer)
        if self.camera is None:  # the first row's camera, which looks from the front; later rows follow it
            self.camera = renderer.GetActiveCamera()
            centre = np.array(image.GetCenter())
            self.camera.SetFocalPoint(centre)
            self.camera.SetPosition(centre + np.array([0, -1000, 0]))
            self.camera.SetViewUp(0, 0, 1)
            renderer.ResetCamera()
            self.camera.Zoom(1.4)
        else:
            renderer.SetActiveCamera(self.camera)


def serve(volumes: Sequence[tuple[str, CTVolume]], port: int = 0, open_browser: bool = True) -> None:
    """Show the volumes until the process is interrupted.

    Args:
        volumes: (title, volume), from top to bottom.
        port: on 127.0.0.1; 0 takes a free one.
        open_browser: open the page.

    Errors:
        ConfigError: the extra ``viewer`` is not installed.
    """
    try:
        from trame.app import get_server
        from trame.ui.vuetify3 import SinglePageLayout
        from trame.widgets import html
        from trame.widgets import vuetify3 as v

        scene = Scene([(title, centred(volume)) for title, volume in volumes])
    except ImportError as error:
        raise ConfigError(
            "viewer.missing", "The viewer is not installed.", "Install it: pip install 'axon-core[viewer]'."
        ) from error
    server = get_server(name="axon", client_type="vue3")
    state = server.state
    depths = {name: name.lower() for name in SLICE_VIEWS}

    @state.change("hu_window", "turn", *depths.values())
    def update(**values: Any) -> None:
        scene.show(values["hu_window"])
        scene.turn(float(values["turn"]))
        for name, key in depths.items():
            scene.cut(SLICE_VIEWS[name].axis, float(values[key]))
        state.picture = "data:image/jpeg;base64," + base64.b64encode(scene.jpeg()).decode()

    def slider(key: str, label: str, start: float, low: float, high: float, step: float) -> None:
        v.VSlider(v_model=(key, start), label=label, min=low, max=high, step=step, hide_details=True, classes="mx-2")

    with SinglePageLayout(server) as layout:
        layout.title.set_text("AXON")
        layout.icon.hide()
        layout.footer.hide()
        with layout.toolbar:
            html.Span(SYNTHETIC_NOTICE, classes="text-red font-weight-bold mr-4")
            for name, key in depths.items():
                slider(key, name, 0.5, 0, 1, 0.005)
            slider("turn", "Turn", 0, -180, 180, 5)
            v.VSelect(
                v_model=("hu_window", "Lung"), items=("windows", list(WINDOWS)), hide_details=True, density="compact"
            )
        with layout.content, v.VContainer(fluid=True, classes="pa-0 bg-black fill-height"):
            html.Img(src=("picture", ""), style="width: 100%")
    if port:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigError("viewer.port", f"Port {port} is taken.", "Choose another, or none.") from error
    server.start(port=port, host="127.0.0.1", open_browser=open_browser, show_connection_info=True)


def centred(volume: CTVolume) -> CTVolume:
    """The volume moved so that its centre lies at the origin, where one camera sees all of them alike."""
    affine = volume.affine.copy()
    affine[:3, 3] -= volume.center_lps
    return replace(volume, affine=affine)

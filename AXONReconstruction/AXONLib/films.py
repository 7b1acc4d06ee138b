"""Films in the scene: one-slice volumes that remember the file they came from.

A film that this module loads holds bone-bright pixels and lies upright on the detector of an X-ray room around the
scene's origin. A film that Slicer loaded lies as Slicer put it. For the networks both are read from their file; one
whose file is gone, or whose pixels were changed since, is written to a new file first.
"""

import os
import pathlib
import zlib
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from axon_core.errors import FilmError, OutputError
from axon_core.geometry import XrayGeometry, XrayView
from axon_core.radiograph import Radiograph, StandardFilm, standardise
from AXONLib import services
from AXONLib.parameters import FrontalView, Polarity
from AXONLib.volumes import FLIP

FILE, PIXELS, SPACING = "AXON.Film.File", "AXON.Film.Checksum", "AXON.Film.SpacingKnown"
SHOWN_PIXELS = 256  # of the pictures in the panel


@dataclass(frozen=True)
class FilmSettings:
    """What the user says of a film where its file is wrong or silent.

    Attributes:
        view: "PA" or "AP"; None = as the file says.
        invert: whether dark and bright are exchanged; None = decided by the tags or the look.
        pixelSizeMm: at the detector; None = as the file says.
        mirrored: the patient's left is on the picture's left.
    """

    view: str | None = None
    invert: bool | None = None
    pixelSizeMm: float | None = None
    mirrored: bool = False


def frontalSettings(parameters):
    """The settings of the frontal film in an AXONParameters."""
    view = None if parameters.frontalView is FrontalView.AUTO else parameters.frontalView.value
    return FilmSettings(
        view, _invert(parameters.frontalPolarity), parameters.frontalPixelSize or None, parameters.frontalMirrored
    )


def lateralSettings(parameters):
    """The settings of the lateral film in an AXONParameters."""
    return FilmSettings(None, _invert(parameters.lateralPolarity), parameters.lateralPixelSize or None)


def _invert(polarity):
    return None if polarity is Polarity.AUTO else polarity is Polarity.INVERT


def loadFilm(path, name=None):
    """Read a film file of any kind that `Radiograph.load` knows and add it to the scene.

    Returns:
        vtkMRMLScalarVolumeNode: one slice, float32, bone bright, upright on the detector.

    Raises:
        FilmError: not a usable film.
    """
    film = Radiograph.load(path)
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name or pathlib.Path(path).stem)
    )
    slicer.util.updateVolumeFromArray(node, film.pixels[None])
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(FLIP @ _onDetector(film)))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetDefaultColorMap()
    node.SetAttribute(FILE, os.path.abspath(path))
    node.SetAttribute(PIXELS, _checksum(node))
    node.SetAttribute(SPACING, str(int(film.spacing_mm is not None)))
    return node


def _onDetector(film):
    """(4, 4): pixel (column, row, 0, 1) -> LPS mm, with the film's centre on the detector's."""
    view = film.view or XrayView.PA
    row, column = film.spacing_mm or (1.0, 1.0)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = view.column * column, view.row * row, view.beam
    matrix[:3, 2] *= np.sign(np.linalg.det(matrix[:3, :3]))  # a right-handed frame: the slice's normal means nothing
    centre = view.beam * XrayGeometry().isocentre_to_detector_mm
    rows, columns = film.pixels.shape
    matrix[:3, 3] = centre - matrix[:3, 0] * (columns - 1) / 2 - matrix[:3, 1] * (rows - 1) / 2
    return matrix


def check(node):
    """FilmError if a volume node cannot be a film: it must have one slice."""
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()[:2]) < 2:
        raise FilmError("film.no-pixels", _("{name} holds no image.").format(name=node.GetName()), _("Load it again."))
    if min(image.GetDimensions()) > 1:
        raise FilmError(
            "film.volume",
            _("{name} is a volume, not a film.").format(name=node.GetName()),
            _("Choose a plain X-ray here; a CT is chosen under 'Ground truth and registration'."),
        )


def inScene():
    """The nodes that may be films: volumes of one slice, no pictures of this module."""
    found = []
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        try:
            check(node)
        except FilmError:
            continue
        if not node.GetHideFromEditors():
            found.append(node)
    return found


def fileOf(node, folder):
    """A file from which `Radiograph.load` reads this film: its own, or one written into `folder`.

    Raises:
        FilmError: not a film. OutputError: the disk refuses.
    """
    check(node)
    own = node.GetAttribute(FILE)
    if own:
        if os.path.isfile(own) and node.GetAttribute(PIXELS) == _checksum(node):
            return own
        return _written(node, folder)
    uids = (node.GetAttribute("DICOM.instanceUIDs") or "").split()
    files = services.dicomFiles(uids) if len(uids) == 1 else []
    storage = node.GetStorageNode()
    if storage is not None and storage.GetFileName() and not node.GetModifiedSinceRead():
        files.append(storage.GetFullNameFromFileName())
    return next((path for path in files if _shows(path, node)), None) or _written(node, folder)


def _shows(path, node):
    """Whether a file can be read here and holds as many pixels as the film that Slicer read from it."""
    columns, rows, _slices = node.GetImageData().GetDimensions()
    try:
        return Radiograph.load(path).pixels.shape == (rows, columns)
    except FilmError:  # damaged, gone, or compressed in a way for which this Python has no decoder
        return False


def _written(node, folder):
    """Write a film's pixels as MetaImage, with its pixel size; 1 mm stands for an unknown one."""
    import SimpleITK as sitk

    pixels = np.squeeze(slicer.util.arrayFromVolume(node))
    if pixels.ndim == 3:  # colours of a picture: alpha counts for nothing
        pixels = pixels[..., :3].mean(-1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels, np.float32))
    column, row = node.GetSpacing()[:2]
    known = node.GetAttribute(SPACING) != "0"
    image.SetSpacing((column, row) if known else (1.0, 1.0))
    path = os.path.join(folder, f"film-{_checksum(node)}.mha")
    try:
        sitk.WriteImage(image, path)
    except RuntimeError as error:
        raise OutputError(
            "output.disk",
            _("{name} could not be written for the networks.").format(name=node.GetName()),
            _("Free space on the disk, and check the permissions of the folder for temporary files."),
        ) from error
    return path


def _checksum(node):
    """Of the pixels, eight hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(slicer.util.arrayFromVolume(node))):08x}"


def choice(node, settings, folder):
    """The film as the worker's jobs want it: a dict with the file and the settings."""
    invert = settings.invert
    path = fileOf(node, folder)
    if invert is None and node.GetAttribute(FILE) and path != node.GetAttribute(FILE):
        invert = False  # written from a node whose pixels are bone bright already
    return {
        "file": str(path),
        "view": settings.view,
        "invert": invert,
        "pixel_size_mm": settings.pixelSizeMm,
        "mirrored": settings.mirrored,
    }


def radiographOf(node, settings, folder):
    """Read a film as the networks will.

    Returns:
        Radiograph.

    Raises:
        FilmError: not a usable film.
    """
    from axon_core.film_choice import FilmChoice

    return FilmChoice(**choice(node, settings, folder)).load()


def standardFilm(radiograph, lateral=False, pixels=SHOWN_PIXELS):
    """What the network sees of a film; (pixels, pixels) in [-1, 1] with its warnings.

    Raises:
        FilmError: constant, or tagged as the other view.
    """
    from dataclasses import replace

    tagged = radiograph.view
    if tagged is not None and tagged.is_frontal == lateral:
        raise FilmError(
            "film.view",
            _("The lateral film is tagged as a frontal view.")
            if lateral
            else _("The frontal film is tagged as a lateral view."),
            _("Exchange the films."),
        )
    if lateral:
        radiograph = replace(radiograph, view=XrayView.LAT)
    return standardise(radiograph, pixels)


def facts(radiograph, standard: StandardFilm):
    """One line on a film: view, size, pixel size."""
    rows, columns = radiograph.pixels.shape
    view = _("view unknown") if radiograph.view is None else radiograph.view.value
    spacing = radiograph.spacing_mm
    if spacing is None:
        size = _("pixel size unknown")
    elif standard.scale_known:
        size = _("pixel size {mm:.3f} mm").format(mm=spacing[0])
    else:
        size = _("pixel size {mm:.3f} mm not believed").format(mm=spacing[0])
    return _("{view}, {columns} x {rows} pixels, {size}").format(view=view, columns=columns, rows=rows, size=size)

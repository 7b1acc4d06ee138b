"""What the sections of the panel share: the chosen films as read, the folder for files, the log."""

import os
import shutil
from dataclasses import dataclass

from slicer.i18n import tr as _

from axon_core.errors import AxonError, OutputError
from AXONLib import films, services
from AXONLib.signal import Signal


@dataclass
class ChosenFilm:
    """One film of the panel.

    Attributes:
        node: of the scene, or None.
        settings: films.FilmSettings.
        radiograph, standard: as read and as the network sees it; None if there is no film, or with an error.
        error: AxonError, or None.
        version: changes with the node's pixels.
    """

    node: object = None
    settings: object = None
    radiograph: object = None
    standard: object = None
    error: object = None
    version: object = None


class Session:
    """Lives as long as the panel. `parameters` is the wrapper of the scene's parameter node, or None.

    Signals:
        filmsChanged(): a film was chosen or is read differently.
        said(text): a line for the details.
    """

    def __init__(self):
        self.parameters = None
        self.frontal, self.lateral = ChosenFilm(), ChosenFilm()
        self.filmsChanged, self.said = Signal(), Signal()
        self._folder = None

    def folder(self, name=""):
        """A folder of this session for files, made when first asked for; OutputError if the disk refuses."""
        try:
            if self._folder is None or not os.path.isdir(self._folder):
                self._folder = services.temporaryFolder()
            path = os.path.join(self._folder, name)
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise OutputError(
                "output.disk",
                _("There is no folder for temporary files: {error}.").format(error=error.strerror),
                _("Free space on the disk, or choose another folder under Edit > Application Settings."),
            ) from error
        return path

    def close(self):
        """Remove the files of this session, with the reports of its results."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def readFilms(self):
        """Read the chosen films, those that changed since the last time."""
        p = self.parameters
        frontal = _read(self.frontal, p and p.frontal, p and films.frontalSettings(p), False, self.folder)
        lateral = _read(self.lateral, p and p.lateral, p and films.lateralSettings(p), True, self.folder)
        if frontal is not self.frontal or lateral is not self.lateral:
            self.frontal, self.lateral = frontal, lateral
            self.filmsChanged.emit()

    def filmTrouble(self):
        """What keeps the films from being used, in one line; "" when they are good."""
        if self.frontal.node is None:
            return _("Choose a frontal film.")
        for film in (self.frontal, self.lateral):
            if film.error:
                return str(film.error)
        if self.frontal.node is self.lateral.node:
            return _("The same film is chosen twice.")
        return ""

    def say(self, text):
        self.said.emit(text)


def _read(before, node, settings, lateral, folder):
    """The chosen film, the same object as before if nothing changed."""
    image = node and node.GetImageData()
    version = image and image.GetMTime()
    if (before.node, before.settings, before.version) == (node, settings, version):
        return before
    film = ChosenFilm(node, settings, version=version)
    if node is None:
        return film
    try:
        film.radiograph = films.radiographOf(node, settings, folder())
        film.standard = films.standardFilm(film.radiograph, lateral)
    except AxonError as error:
        film.error = error
    return film

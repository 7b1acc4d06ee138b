"""What the sections of the panel share: the chosen films as read, beside what every workplace has."""

from dataclasses import dataclass

from slicer.i18n import tr as _

from axon_core.errors import AxonError
from AXONLib import films
from AXONLib.signal import Signal
from AXONLib.workplace import Workplace


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


class Session(Workplace):
    """A workplace with films.

    Signals:
        filmsChanged(): a film was chosen or is read differently.
    """

    def __init__(self):
        super().__init__()
        self.frontal, self.lateral = ChosenFilm(), ChosenFilm()
        self.filmsChanged = Signal()

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

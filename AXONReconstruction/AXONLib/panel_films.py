"""The section 'X-rays' of the panel: choose, look at and correct the films."""

import html

from slicer.i18n import tr as _

from axon_core.errors import AxonError
from AXONLib import films, layout, pictures, services

EDGE = 200  # pixels of the pictures
FILM_FILES = "*.dcm *.dicom *.png *.jpg *.jpeg *.tif *.tiff *.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd"


class FilmsPanel:
    """Shows the films of the session and lets the user open others."""

    def __init__(self, ui, session):
        self.ui = ui
        self.session = session
        ui.openFrontalButton.connect("clicked(bool)", self.onOpenFrontal)
        ui.openLateralButton.connect("clicked(bool)", self.onOpenLateral)
        ui.standardiseButton.connect("toggled(bool)", self.onStandardise)
        ui.showFilmsButton.connect("clicked(bool)", self.onShowFilms)
        ui.dicomButton.connect("clicked(bool)", lambda *_unused: services.showDicom())
        session.filmsChanged.connect(self.showFilms)
        self.showFilms()

    def onOpenFrontal(self, *_unused):
        self._open(_("Open a frontal chest film"), "frontal")

    def onOpenLateral(self, *_unused):
        self._open(_("Open a lateral chest film"), "lateral")

    def _open(self, title, role):
        path = services.chooseFile(title, _("Films") + f" ({FILM_FILES});;" + _("All files") + " (*)")
        if path:
            self.open(path, role)

    def open(self, path, role):
        """Load a film file into the scene and choose it.

        Args:
            path: the file.
            role: "frontal" or "lateral".
        """
        try:
            with services.busy():
                node = films.loadFilm(path)
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        setattr(self.session.parameters, role, node)
        self.onShowFilms()

    def propose(self):
        """Choose the only film of the scene, if none is chosen."""
        parameters = self.session.parameters
        if parameters is not None and parameters.frontal is None:
            found = films.inScene()
            if len(found) == 1:
                parameters.frontal = found[0]

    def onStandardise(self, *_unused):
        self.showFilms()

    def onShowFilms(self, *_unused):
        if self.session.frontal.node or self.session.lateral.node:
            layout.showFilms(self.session.frontal.node, self.session.lateral.node)

    def showFilms(self):
        """Thumbnails and facts of the chosen films."""
        ui, session = self.ui, self.session
        lines = []
        for title, film, label in (
            (_("Frontal"), session.frontal, ui.frontalThumb),
            (_("Lateral"), session.lateral, ui.lateralThumb),
        ):
            pictures.show(label, self._picture(film, film is session.frontal), EDGE)
            if film.error:
                lines.append(f'<span style="color:#d0342c">{html.escape(str(film.error))}</span>')
            elif film.standard is not None:
                lines.append(f"<b>{title}:</b> " + html.escape(films.facts(film.radiograph, film.standard)))
                lines += [html.escape(text) for text in dict.fromkeys(film.standard.warnings)]
        if session.frontal.standard is not None:
            lines.append(_("L marks where the patient's left should be: is most of the heart on that side?"))
        if not lines:
            lines.append(
                _("Choose a frontal film, open one from a file, or get one under File > Download Sample Data > AXON.")
            )
        ui.filmsLabel.text = "<br>".join(lines)
        for widget in (
            ui.lateralThumb,
            ui.lateralPolarityLabel,
            ui.lateralPolarityCombo,
            ui.lateralPixelLabel,
            ui.lateralPixelSpin,
        ):
            widget.visible = session.lateral.node is not None
        ui.showFilmsButton.enabled = session.frontal.node is not None

    def _picture(self, film, frontal):
        """uint8 picture of a film as filed or as the network sees it; None without one."""
        if film.standard is None:
            return None
        if self.ui.standardiseButton.checked:
            image = pictures.greyOf(film.standard.image)
        else:
            image = pictures.stretched(film.radiograph.pixels)
            if film.settings.mirrored:
                image = image[:, ::-1]
        return pictures.markedLeft(image) if frontal else image

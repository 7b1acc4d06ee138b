"""The landmarks of the section 'Ground truth and registration': place, judge and use pairs of points."""

import html

import slicer
from slicer.i18n import tr as _

from axon_core.errors import AxonError
from AXONLib import landmarks, services

ROLES = {  # parameter -> name of its node, letter of its points, colour
    "filmLandmarks": (_("AXON film landmarks"), "F", (1.0, 0.8, 0.1)),
    "ctLandmarks": (_("AXON CT landmarks"), "C", (0.2, 0.8, 1.0)),
}


class LandmarksPanel:
    """Pairs of points on the film and in the CT, by number.

    Args:
        ui: the panel's widgets.
        session: the panel's session.
        registration: RegistrationPanel, whose pose they move.
    """

    def __init__(self, ui, session, registration):
        self.ui = ui
        self.session = session
        self.registration = registration
        ui.placeFilmButton.connect("clicked(bool)", lambda *_unused: self.place("filmLandmarks"))
        ui.placeCtButton.connect("clicked(bool)", lambda *_unused: self.place("ctLandmarks"))
        ui.solveLandmarksButton.connect("clicked(bool)", self.onSolve)
        ui.clearLandmarksButton.connect("clicked(bool)", self.onClear)

    def place(self, role):
        """Let the user place points; `role` is one of ROLES."""
        parameters = self.session.parameters
        if self.registration.pose is None:
            return
        node = getattr(parameters, role)
        if node is None:
            name, letter, color = ROLES[role]
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            node.SetControlPointLabelFormat(f"{letter}%d")
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetSelectedColor(*color)
            if role == "ctLandmarks":
                self.registration.pose.attach(node)
            setattr(parameters, role, node)
        services.placePoints(node)

    def pairs(self):
        """landmarks.LandmarkPairs, or None before both kinds of points were begun."""
        parameters = self.session.parameters
        if self.registration.pose is None or parameters.ctLandmarks is None or parameters.filmLandmarks is None:
            return None
        return landmarks.LandmarkPairs(parameters.ctLandmarks, parameters.filmLandmarks, self.registration.pose)

    def show(self):
        """How far the pairs lie apart."""
        self.ui.landmarksLabel.text = self._text()

    def _text(self):
        pairs = self.pairs()
        if pairs is None:
            return ""
        geometries = self.registration.comparison.geometries()
        try:
            apart, rms = pairs.residuals(geometries), pairs.rms(geometries)
        except AxonError as error:
            return html.escape(str(error))
        if rms is None:
            return ""
        each = ", ".join(f"{index + 1}: {value:.1f}" for index, value in enumerate(apart))
        return _("Landmarks apart, RMS {rms:.1f} mm ({each})").format(rms=rms, each=each)

    def onSolve(self, *_unused):
        pairs = self.pairs()
        if pairs is None:
            services.showError(_("There are no landmarks yet."), _("Place at least four on the film and in the CT."))
            return
        try:
            pose = pairs.solve(self.registration.comparison.geometries())
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self.registration.search.take(pose)

    def onClear(self, *_unused):
        services.stopPlacing()
        for role in ROLES:
            node = getattr(self.session.parameters, role)
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
                setattr(self.session.parameters, role, None)
        self.show()

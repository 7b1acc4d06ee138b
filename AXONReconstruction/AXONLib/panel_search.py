"""The automatic part of the section 'Ground truth and registration': search, its verdict, before and after."""

import html
import json
import os

from slicer.i18n import tr as _

from axon_core.errors import AxonError
from axon_core.geometry import XrayView
from AXONLib import logic, services
from AXONLib.job import startWorker

PLAIN = {  # the names of a registration's record in the panel's words
    "tilt": _("tilt"),
    "lean": _("lean"),
    "turn": _("rotation"),
    "left-right": _("left-right"),
    "depth": _("depth"),
    "up-down": _("up-down"),
}
UNITS = {"deg": (1, "°"), "mm": (1, " mm"), "relative": (100, " %")}  # factor and sign


class SearchPanel:
    """Finds the pose in a child process, and lets the user go back and forth between the old pose and the new one.

    Args:
        ui: the panel's widgets.
        session: the panel's session.
        registration: RegistrationPanel, whose pose it moves.

    Attributes:
        job: the search at work, or None.
        record: of the last search, as `axon register` writes it; None before the first.
    """

    def __init__(self, ui, session, registration):
        self.ui = ui
        self.session = session
        self.registration = registration
        self.job = self.record = None
        self._before = self._after = None  # poses around the last computed step
        ui.refineButton.connect("clicked(bool)", lambda *_unused: self.onSearch(False))
        ui.searchButton.connect("clicked(bool)", lambda *_unused: self.onSearch(True))
        ui.beforeAfterButton.connect("toggled(bool)", self.onBeforeAfter)
        ui.pixelSizeButton.connect("clicked(bool)", self.onPixelSize)

    def reset(self):
        """Forget what was found: the matching has ended."""
        self.cancel()
        self.record = self._before = self._after = None
        self.ui.beforeAfterButton.checked = False

    def refresh(self):
        running = self.job is not None
        self.ui.refineButton.text = _("Cancel") if running else _("Auto-refine")
        self.ui.searchButton.enabled = not running
        self.ui.registrationProgress.visible = running
        self.ui.beforeAfterButton.enabled = self._before is not None

    # ---- the search

    def onSearch(self, everywhere):
        """Start a search near the present pose or everywhere, or cancel the one at work."""
        if self.job is not None:
            self.cancel()
            self.refresh()
        elif self.registration.pose is not None:
            try:
                self.start(everywhere)
            except AxonError as error:
                services.showError(error.title, error.advice)

    def start(self, everywhere):
        """Start a search.

        Raises:
            AxonError: a file cannot be written, or the process not be started.
        """
        registration = self.registration
        registration.applyChoices()
        folder = self.session.folder("registration")
        request = logic.registration(
            self.session.parameters,
            folder,
            os.path.join(folder, "pose.json"),
            registration.pose.rigidPose(),
            self._masks(),
            everywhere,
            registration.distance.known(),
        )
        self.job = startWorker(request, folder, services.pythonSlicer(), services.childEnvironment())
        self.job.event.connect(self.onEvent)
        self.job.finished.connect(self.onFinished)
        self.ui.registrationProgress.value = 0
        self.refresh()

    def _masks(self):
        """Of the frontal and the lateral film, as they are standardised: a right lateral lies there as a left one."""
        comparison = self.registration.comparison
        masks = [
            comparison.maskFor(index)[:, :: -1 if geometry.view is XrayView.RL else 1]
            for index, geometry in enumerate(comparison.geometries())
        ]
        return [*masks, None][:2]

    def cancel(self):
        """End a search; the pose stays."""
        if self.job is not None:
            self.job.stop()
            self.job = None

    def onEvent(self, event):
        if event["type"] == "progress":
            self.ui.registrationProgress.value = round(100 * event["fraction"])
        else:
            self.session.say(event.get("text", ""))

    def onFinished(self, event):
        log, self.job = self.job.log, None
        if log:
            self.session.say(log)
        if event["type"] == "error":
            services.showError(event["title"], event.get("advice", ""))
        else:
            self.record = event["record"]
            self.registration.takeGeometries(logic.geometriesOf(self.record))
            self.take(logic.poseOfRecord(self.record))
        self.refresh()

    # ---- what was found

    def take(self, pose):
        """Take over a computed pose; the button 'Before' shows the one that it replaces."""
        controller = self.registration.pose
        self.ui.beforeAfterButton.checked = False
        self._before, self._after = controller.rigidPose(), pose
        controller.commit()
        controller.setRigidPose(pose)
        controller.commit()
        self.registration.throttle.request()
        self.registration.refresh()

    def onBeforeAfter(self, before):
        """Show the pose of before the last computed step while the button is down."""
        if self.registration.pose is not None and self._before is not None:
            self.registration.pose.setRigidPose(self._before if before else self._after)

    def save(self, path):
        """Write the pose: with all that is known of it while it is the one that was found, alone after it was moved.

        Raises:
            AxonError, OSError: it cannot be written.
        """
        pose = self.registration.pose
        if self.record is not None and pose.rigidPose() == self._after:
            path.write_text(json.dumps(self.record, indent=2), encoding="utf-8")
        else:
            pose.save(path)

    def verdict(self):
        """Lines of rich text: what the last search says of itself, and how well it knows each parameter."""
        if self.record is None:
            return []
        known = []
        for parameter in self.record["parameters"]:
            factor, sign = UNITS[parameter["unit"]]
            name = PLAIN.get(parameter["name"], parameter["name"])
            known.append(f"{name} ± {factor * parameter['sd']:.2g}{sign}")
        verdict = {"good": _("good"), "doubtful": _("doubtful"), "failed": _("failed")}[self.record["verdict"]]
        lines = [
            _("Last automatic step: {verdict}").format(verdict=verdict),
            *self.record["reasons"],
            _("Standard deviations: {list}").format(list=", ".join(known)),
        ]
        return [html.escape(line) for line in lines]

    def _pixelSize(self):
        return self.record and logic.pixelSizeOf(self.record, self.session.frontal.standard)

    def offerPixelSize(self):
        """Show the button with the pixel size that was found for a film that tells none."""
        found = self._pixelSize()
        self.ui.pixelSizeButton.visible = bool(found) and not self.session.parameters.frontalPixelSize
        if found:
            self.ui.pixelSizeButton.text = _("Use the found pixel size, {mm:.3f} mm").format(mm=found)

    def onPixelSize(self, *_unused):
        """Read the film with the pixel size that was found, and go on matching it."""
        self.session.parameters.frontalPixelSize = round(self._pixelSize(), 4)  # read anew, which ends the matching
        self.ui.registerButton.checked = True

"""The section 'Result' of the panel: look at the volume, compare it with the CT, export it."""

import html
import os

from slicer.i18n import tr as _

from axon_core.errors import AxonError
from AXONLib import display, layout, logic, pictures, services, volumes
from AXONLib.job import startWorker

PICTURE_WIDTH = 400
DIFFERENCE_OPACITY = 0.7


class ResultPanel:
    """Shows the chosen result."""

    def __init__(self, ui, session):
        self.ui = ui
        self.session = session
        self.compareLayout = layout.CompareLayout()
        self.job = None  # a comparison at work
        self._shown = None  # what the section shows: of which result and CT
        self._metrics = {}  # (result id, CT id) -> rich text
        ui.showResultButton.connect("clicked(bool)", self.onShow)
        ui.compareButton.connect("toggled(bool)", self.onCompare)
        ui.differenceButton.connect("toggled(bool)", self.onDifference)
        ui.exportVolumeButton.connect("clicked(bool)", self.onExportVolume)
        ui.exportDicomButton.connect("clicked(bool)", self.onExportDicom)
        ui.reportButton.connect("clicked(bool)", self.onReport)
        ui.saveReportButton.connect("clicked(bool)", self.onSaveReport)
        ui.resultSelector.addAttribute("vtkMRMLScalarVolumeNode", volumes.SYNTHETIC, "1")

    def refresh(self):
        """Bring the section up to date with the parameters."""
        ui, parameters = self.ui, self.session.parameters
        result = parameters and parameters.result
        truth = parameters and parameters.groundTruth
        synthetic = result is not None and result.GetAttribute(volumes.SYNTHETIC) == "1"
        for button in (ui.showResultButton, ui.exportVolumeButton, ui.exportDicomButton):
            button.enabled = synthetic
        report = (result.GetAttribute(volumes.REPORT) or "") if synthetic else ""
        ui.reportButton.enabled = ui.saveReportButton.enabled = os.path.isfile(report)
        ui.reportButton.toolTip = (
            _("Open the report of this result")
            if ui.reportButton.enabled
            else _("The report is there until Slicer is closed: save it before.")
        )
        ui.compareButton.enabled = bool(synthetic and truth)
        ui.compareButton.toolTip = (
            _("Result and CT side by side, with linked slices and cameras (Ctrl+Alt+C)")
            if truth
            else _("Choose a CT under 'Ground truth and registration' to see it beside the result")
        )
        ui.differenceButton.enabled = bool(synthetic and parameters.difference)
        ui.uncertaintySlider.enabled = bool(synthetic and parameters.uncertainty)
        if synthetic and parameters.uncertainty and not ui.differenceButton.checked:  # there is one overlay
            display.showUncertainty(result, parameters.uncertainty, parameters.uncertaintyOpacity)
        shown = (result and result.GetID(), truth and truth.GetID())
        if shown != self._shown:
            self._shown = shown
            self._showFacts(result if synthetic else None)
            if ui.compareButton.checked and not ui.compareButton.enabled:
                ui.compareButton.checked = False
            elif ui.compareButton.checked:
                self.compareLayout.enter(truth, result)

    def _showFacts(self, result):
        ui = self.ui
        picture = result.GetAttribute(volumes.PROJECTIONS) if result is not None else None
        pictures.showFile(ui.projectionThumb, picture if picture and os.path.isfile(picture) else None, PICTURE_WIDTH)
        provenance = volumes.provenanceOf(result) if result is not None else {}
        lines = [
            _("{view} film against the DRR of the result: NCC {ncc:.2f}").format(view=html.escape(view), ncc=ncc)
            for view, ncc in provenance.get("ncc", {}).items()
        ]
        if provenance:
            lines.append(
                html.escape(
                    _("{model}, {preset}, seeds {seeds}, {notice}").format(
                        model=provenance.get("model", ""),
                        preset=provenance.get("preset", ""),
                        seeds=", ".join(map(str, provenance.get("seeds", []))) or _("none"),
                        notice=provenance.get("notice", ""),
                    )
                )
            )
        ui.projectionLabel.text = "<br>".join(lines)
        ui.metricsLabel.text = self._metrics.get(self._shown, "")

    # ---- looking

    def onMade(self, result):
        """A reconstruction has ended: show it, and compare it where there is a CT."""
        self.ui.resultButton.collapsed = False
        display.displayAsCT(result)
        self.refresh()
        self.ui.differenceButton.checked = False
        if self.session.parameters.groundTruth is None:
            layout.showResult(result)
        elif self.ui.compareButton.checked:
            self.onCompare(True)
        else:
            self.ui.compareButton.checked = True

    def onShow(self, *_unused):
        result = self.session.parameters.result
        display.displayAsCT(result)
        self.ui.compareButton.checked = False
        layout.showResult(result)

    def onCompare(self, on):
        parameters = self.session.parameters
        if on and parameters and parameters.result:
            self.compareLayout.enter(parameters.groundTruth, parameters.result)
            if parameters.groundTruth is not None and parameters.difference is None:
                self.startComparison()
        elif not on:
            self.compareLayout.leave()

    def onDifference(self, on):
        parameters = self.session.parameters
        if parameters and parameters.result and parameters.difference:
            display.showDifference(
                [parameters.result, parameters.groundTruth], parameters.difference, DIFFERENCE_OPACITY if on else 0.0
            )
            self.refresh()

    # ---- metrics

    def startComparison(self):
        """Compute metrics and the difference map in a child process."""
        parameters = self.session.parameters
        if self.job is not None or parameters.groundTruth is None:
            return
        key = (parameters.result.GetID(), parameters.groundTruth.GetID())
        try:
            folder = self.session.folder("comparison")
            request = logic.comparison(
                parameters.result, parameters.groundTruth, folder, os.path.join(folder, parameters.result.GetID())
            )
            self.job = startWorker(request, folder, services.pythonSlicer(), services.childEnvironment())
        except AxonError as error:
            self.ui.metricsLabel.text = html.escape(str(error))
            return
        self.ui.metricsLabel.text = _("Comparing with the CT ...")
        self.job.finished.connect(lambda event: self._onCompared(key, event))

    def _onCompared(self, key, event):
        log, self.job = self.job.log, None
        if log:
            self.session.say(log)
        if event["type"] == "error":
            self.ui.metricsLabel.text = html.escape(f"{event['title']} {event.get('advice', '')}")
            return
        self._metrics[key] = logic.metricsTable(event["metrics"])
        parameters = self.session.parameters
        if key == (
            parameters.result and parameters.result.GetID(),
            parameters.groundTruth and parameters.groundTruth.GetID(),
        ):
            parameters.difference = logic.importDifference(event, parameters.result)
            self.ui.metricsLabel.text = self._metrics[key]
        self.refresh()

    # ---- export

    def onExportVolume(self, *_unused):
        result = self.session.parameters.result
        path = services.chooseSaveFile(
            _("Export the volume"), f"{result.GetName()}.nrrd", "NRRD (*.nrrd);;NIfTI (*.nii.gz);;MetaImage (*.mha)"
        )
        if path:
            self._export(lambda: volumes.exportVolume(result, path))

    def onExportDicom(self, *_unused):
        result = self.session.parameters.result
        folder = services.chooseFolder(_("Export as DICOM series into this folder"))
        if folder:
            self._export(lambda: volumes.exportDicom(result, folder))

    def _export(self, write):
        try:
            with services.busy():
                path = write()
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self.session.say(_("Exported: {path}").format(path=path))
        self.ui.projectionLabel.text += "<br>" + html.escape(_("Exported: {path}").format(path=path))

    def onReport(self, *_unused):
        services.openExternally(self.session.parameters.result.GetAttribute(volumes.REPORT))

    def onSaveReport(self, *_unused):
        result = self.session.parameters.result
        path = services.chooseSaveFile(_("Save the report"), f"{result.GetName()}.html", "HTML (*.html)")
        if path:
            self._export(lambda: volumes.copyFile(result.GetAttribute(volumes.REPORT), path))

    def stop(self):
        """End the child process: for scene close, reload and exit."""
        if self.job is not None:
            self.job.stop()
            self.job = None
        self.ui.compareButton.checked = self.ui.differenceButton.checked = False
        self._shown = None
        self._metrics.clear()  # a scene that is closed gives its nodes' ids away

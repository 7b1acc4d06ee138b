"""The section 'Stages and model' of the panel: what is trained, how good it is, and its way into use."""

import html
import pathlib
import time

from slicer.i18n import tr as _

from axon_core.errors import AxonError
from AXONLib import services
from AXONLib.job import startWorker
from AXONTrainingLib import cases, curves, request, runs
from AXONTrainingLib.advice import adviceOf

MODEL = "model"  # in the run: the folder that 'Use' exports to
RECONSTRUCTION = "AXONReconstruction"


class ModelPanel:
    """Lists the saved stages of the run, exports them, and hands the model to AXON Reconstruction."""

    def __init__(self, ui, workplace, views):
        self.ui, self.workplace, self.views = ui, workplace, views
        self.job = None
        self._then = None  # what to do with the exported folder
        ui.curvesButton.connect("clicked(bool)", self.onCurves)
        ui.stageCombo.connect("activated(int)", self.onStage)
        ui.exportButton.connect("clicked(bool)", self.onExport)
        ui.useButton.connect("clicked(bool)", self.onUse)
        self._stages = []
        self._chosen = None  # the stage whose picture is on show
        self._casesRun = None  # the run whose held-out cases are in the scene

    def run(self):
        p = self.workplace.parameters
        return None if p is None else runs.folderOf(p.run)

    def trouble(self):
        """What keeps the model from being exported; "" if nothing does."""
        if not any(each.stage == "endpoint" for each in self._stages):
            return _("Train the first stages, F(x) and bridge, at least until their first save.")
        return _("Wait: it is being exported.") if self.job is not None else ""

    def refresh(self):
        """Bring the section up to date with the run's folder."""
        ui = self.ui
        self._stages = runs.checkpoints(self.run())
        if self._casesRun not in (None, self.run()):
            self._casesRun = None
            cases.clear()
        ui.checkpointLabel.text = checkpointTable(self._stages) if self._stages else _("Nothing is saved yet.")
        names = [each.stage for each in self._pictures()]
        ui.stageCombo.clear()
        for name in names:
            ui.stageCombo.addItem(curves.stageTitle(name))
        ui.stageCombo.currentIndex = names.index(self._chosen) if self._chosen in names else len(names) - 1
        ui.stageCombo.enabled = bool(names)
        ui.distilledCheck.visible = bool(runs.students(self.run()))
        trouble = self.trouble()
        for button, text in (
            (ui.exportButton, _("Write weights, card and curves into a folder")),
            (ui.useButton, _("Export the model into the run's folder, and choose it in AXON Reconstruction")),
        ):
            button.enabled = not trouble
            button.toolTip = trouble or text

    def _pictures(self):
        return [each for each in self._stages if each.picture is not None]

    def onCurves(self, *_unused):
        """Show curves and the held-out cases, or go back."""
        if self.views.isOpen():
            self.views.close()
        else:
            self.views.open()
            self.onStage()

    def onStage(self, *_unused):
        """Show the held-out cases of the stage that is chosen."""
        found, index = self._pictures(), self.ui.stageCombo.currentIndex
        if 0 <= index < len(found):
            self.views.open()
            self._show(found[index].stage, found[index].picture)

    def onValidated(self, event):
        """A training has looked at its held-out cases: show them."""
        self._show(event["stage"], event["picture"])
        self.refresh()

    def _show(self, stage, picture):
        self._chosen, folder = stage, pathlib.Path(picture).parent
        title = curves.stageTitle(stage)
        self.views.show(picture, _("AXON held-out cases, {stage}").format(stage=title), synthetic=True)
        self._casesRun = folder.parent
        cases.show(folder, title)

    # ---- export

    def onExport(self, *_unused):
        """Ask for a folder and write the model there."""
        path = services.chooseFolder(_("Folder for the model"))
        if path:
            self.export(path, False, self._told)

    def onUse(self, *_unused):
        """Export into the run, and go to AXON Reconstruction with it."""
        if not services.hasModule(RECONSTRUCTION):
            services.showError(
                _("AXON Reconstruction is not loaded."), _("Add its folder to Slicer's module paths and restart.")
            )
            return
        self.export(self.run() / MODEL, True, self._handOver)

    def export(self, folder, overwrite, then):
        """Export in a child process; `then` is called with the result's line."""
        if self.trouble():
            return
        p = self.workplace.parameters
        job = request.exporting(p, folder, overwrite, p.distilled and bool(runs.students(self.run())))
        try:
            place = self.workplace.folder("export")
            self.job = startWorker(job, place, services.pythonSlicer(), services.childEnvironment())
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self._then = then
        self.job.finished.connect(self.onFinished)
        self.ui.exportLabel.text = _("Exporting ...")
        self.refresh()

    def onFinished(self, event):
        """The last line of the worker."""
        log, self.job = self.job.log, None
        if log:
            self.workplace.say(log)
        self.refresh()
        if event["type"] == "result":
            self._then(event)
        else:
            self.ui.exportLabel.text = html.escape(f"{event['title']} {adviceOf(event)}")
            services.showError(event["title"], adviceOf(event))

    def _told(self, event):
        text = _("Exported to {folder}: {stages}; {size:.1f} MB. By default it runs {default}.")
        self.ui.exportLabel.text = html.escape(
            text.format(
                folder=event["output"],
                stages=", ".join(event["stages"]),
                size=event["size_bytes"] / 1e6,
                default=", ".join(event["default_stages"]),
            )
        )

    def _handOver(self, event):
        """Choose the exported model in AXON Reconstruction, and go there."""
        self._told(event)
        widget = services.moduleWidget(RECONSTRUCTION)
        services.showModule(RECONSTRUCTION)
        widget.run.choose(event["output"])

    def stop(self):
        """End the child process at once: for reload and exit."""
        if self.job is not None:
            self.job.stop()
            self.job = None


def checkpointTable(stages):
    """Rich text of the saved stages."""
    titles = (_("stage"), _("step"), _("loss"), _("held out"), _("MAE"), _("PSNR"), _("last save"))
    head = "".join(f"<th align='left'>&nbsp;{title}&nbsp;</th>" for title in titles)
    rows = []
    for each in stages:
        cells = (
            html.escape(curves.stageTitle(each.stage)),
            f"{each.step}/{each.steps}",
            _number(each.loss, ".4g"),
            _number(each.heldOut, ".4g"),
            _number(each.mae, ".4f"),
            _number(each.psnr, ".2f"),
            time.strftime("%H:%M:%S" if time.time() - each.saved < 86400 else "%Y-%m-%d", time.localtime(each.saved)),
        )
        rows.append("<tr>" + "".join(f"<td>&nbsp;{cell}&nbsp;</td>" for cell in cells) + "</tr>")
    return f"<table cellspacing='2'><tr>{head}</tr>{''.join(rows)}</table>"


def _number(value, form):
    return "" if value is None else format(value, form)

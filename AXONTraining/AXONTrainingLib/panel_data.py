"""The section 'Data' of the panel: CTs and films into a cache, each case's picture to be judged."""

import html
import os

from slicer.i18n import tr as _

from axon_core.data.plan import PLAN_FILE, read_plan
from axon_core.errors import AxonError
from AXONLib import pictures, services
from AXONLib.duration import durationText
from AXONLib.job import startWorker
from AXONLib.signal import Signal
from AXONTrainingLib import curves, request, runs
from AXONTrainingLib.advice import adviceOf
from AXONTrainingLib.views import CASES, TRAINING

STRIP_WIDTH = 420  # pixels
STRIP = "strip.jpg"  # in a case's folder
SHEET = "contact_sheet.html"  # in a cache
RED = '<span style="color:#d0342c">{}</span>'


class DataPanel:
    """Prepares data in a child process and shows what came out.

    Signals:
        prepared(): the cache has changed.
    """

    def __init__(self, ui, workplace, views, installation):
        self.ui, self.workplace, self.views, self.installation = ui, workplace, views, installation
        self.prepared = Signal()
        self.job = None
        self._cancelled = False
        self._cases = []  # (name, picture or None, remarks)
        self._read = None  # the plan that the cases are of: path and time
        ui.sourceFolderButton.connect("clicked(bool)", self.onSourceFolder)
        ui.sourceTableButton.connect("clicked(bool)", self.onSourceTable)
        ui.cacheFolderButton.connect("clicked(bool)", self.onCacheFolder)
        ui.prepareButton.connect("clicked(bool)", self.onPrepare)
        ui.sheetButton.connect("clicked(bool)", self.onSheet)
        ui.caseCombo.connect("activated(int)", self.onCase)
        ui.previousCaseButton.connect("clicked(bool)", lambda *_unused: self.step(-1))
        ui.nextCaseButton.connect("clicked(bool)", lambda *_unused: self.step(1))

    # ---- folders

    def onSourceFolder(self, *_unused):
        self.choose(services.chooseFolder(_("Folder with CTs and films")), "source")

    def onSourceTable(self, *_unused):
        path = services.chooseFile(_("Table of CTs and films"), _("Tables") + " (*.csv);;" + _("All files") + " (*)")
        self.choose(path, "source")

    def onCacheFolder(self, *_unused):
        self.choose(services.chooseFolder(_("Folder for the prepared data")), "cache")

    def choose(self, path, name):
        """Take a path for a member of the parameters; nothing for an empty one."""
        if path:
            setattr(self.workplace.parameters, name, str(path))

    # ---- what is missing

    def trouble(self):
        """What keeps the preparation from starting, in one line; "" if nothing does."""
        p = self.workplace.parameters
        if p is None:
            return _("The scene is closing.")
        if not p.source.strip():
            return _("Choose a folder with chest CTs, or a table of them.")
        if not p.cache.strip():
            return _("Choose a folder for the prepared data.")
        try:
            request.splitOf(p.split)
        except AxonError as error:
            return str(error)
        if self.installation.report is None:
            return _("Wait: the installation is being checked.")
        problems = self.installation.problems()
        return f"{problems[0]['title']} {adviceOf(problems[0])}" if problems else ""

    def refresh(self):
        """Bring the section up to date with the parameters."""
        ui, trouble, running = self.ui, self.trouble(), self.job is not None
        ui.prepareBar.visible = running
        ui.prepareButton.text = _("Cancel") if running else _("Prepare")
        ui.prepareButton.enabled = running or not trouble
        ui.prepareButton.toolTip = (
            _("Stop; finished cases are kept.") if running else trouble or _("Bring CTs and films into training's form")
        )
        if not running:
            self._readPlan()
        ui.sheetButton.enabled = self._sheet() is not None

    def _sheet(self):
        folder = self._cache()
        return folder / SHEET if folder is not None and (folder / SHEET).is_file() else None

    def _cache(self):
        p = self.workplace.parameters
        return None if p is None else runs.folderOf(p.cache)

    # ---- cases

    def _readPlan(self):
        """The cases of a cache that was prepared before, when it is chosen or has changed."""
        folder = self._cache()
        plan = None if folder is None else folder / PLAN_FILE
        read = (plan, os.path.getmtime(plan)) if plan is not None and plan.is_file() else None
        if read == self._read:
            return
        self._read, self._cases = read, []
        if read is not None:
            try:
                found = read_plan(folder)
            except AxonError as error:
                self.ui.prepareLabel.text = RED.format(html.escape(f"{error.title} {adviceOf(error.to_dict())}"))
                return self._fillCases()
            for case in sorted(found.cases, key=lambda case: not case.warnings):  # those to look at come first
                remarks = [partTitle(case.split), *case.warnings, *case.notes]
                self._cases.append((case.name, folder / "cases" / case.key / STRIP, remarks))
            self._cases += [(case.name, None, [_("skipped"), case.reason]) for case in found.skipped]
            self.ui.prepareLabel.text = html.escape(self._summary(found))
        return self._fillCases()

    def _summary(self, plan):
        text = _("Prepared for {preset}: {train} to learn from, {val} held out, {test} for tests; {skipped} skipped.")
        return text.format(
            preset=plan.preset,
            train=len(plan.split("train")),
            val=len(plan.split("val")),
            test=len(plan.split("test")),
            skipped=len(plan.skipped),
        )

    def _fillCases(self):
        ui = self.ui
        ui.caseCombo.blockSignals(True)
        ui.caseCombo.clear()
        for name, _picture, remarks in self._cases:
            ui.caseCombo.addItem(f"{name} ({remarks[0]})" if remarks else name)
        ui.caseCombo.blockSignals(False)
        for widget in self._caseWidgets():
            widget.visible = bool(self._cases)
        if self._cases:
            self.showCase(0, inViews=False)

    def _caseWidgets(self):
        ui = self.ui
        return ui.caseCombo, ui.previousCaseButton, ui.nextCaseButton, ui.caseThumb, ui.caseLabel

    def onCase(self, *_unused):
        self.showCase(self.ui.caseCombo.currentIndex)

    def step(self, by):
        """Show the next case, or the one before."""
        if self._cases:
            self.showCase((self.ui.caseCombo.currentIndex + by) % len(self._cases))

    def showCase(self, index, inViews=True):
        """Show a case's picture in the panel and in the views."""
        name, picture, remarks = self._cases[index]
        self.ui.caseCombo.currentIndex = index
        pictures.showFile(self.ui.caseThumb, picture, STRIP_WIDTH)
        self.ui.caseLabel.text = html.escape("; ".join(remarks[1:]))
        self.ui.caseLabel.visible = bool(remarks[1:])
        if inViews and picture is not None:
            self.views.open(TRAINING if curves.exists() else CASES)
            self.views.show(picture, _("AXON case {name}").format(name=name))

    def onSheet(self, *_unused):
        """Open the page of all cases."""
        services.openExternally(self._sheet())

    # ---- the run

    def onPrepare(self, *_unused):
        """Start, or cancel what runs."""
        if self.job is not None:
            self._cancelled = True
            self.ui.prepareButton.enabled = False
            self.ui.prepareLabel.text = _("Cancelling ...")
            self.job.cancel()
        elif not self.trouble():
            self.start()

    def start(self):
        """Start a preparation; `prepared` follows, or an error is shown."""
        try:
            job = request.preparation(self.workplace.parameters)
            folder = self.workplace.folder("prepare")
            self.job = startWorker(job, folder, services.pythonSlicer(), services.childEnvironment())
        except AxonError as error:
            services.showError(error.title, error.advice)
            return
        self.job.event.connect(self.onEvent)
        self.job.finished.connect(self.onFinished)
        self._cancelled, self._cases, self._read = False, [], None
        self._fillCases()
        self.ui.prepareBar.value = 0
        self.ui.prepareLabel.text = _("Starting")
        self.refresh()

    def onEvent(self, event):
        """One line of the worker."""
        if event["type"] == "progress":
            self.ui.prepareBar.value = round(100 * event["fraction"])
            if event["eta_s"] is not None:
                text = _("{n} cases done, {time} to go")
                self.ui.prepareLabel.text = text.format(n=len(self._cases), time=durationText(event["eta_s"]))
        elif event["type"] == "case":
            remarks = [_("skipped"), event["skipped"]] if event["skipped"] else [_("done"), *event["warnings"]]
            self._cases.append((event["name"], event["picture"], remarks))
            for text in remarks[1:]:
                self.workplace.say(f"{event['name']}: {text}")
            self.ui.caseCombo.addItem(f"{event['name']} ({remarks[0]})")
            for widget in self._caseWidgets():
                widget.visible = True
            self.showCase(len(self._cases) - 1)
        else:
            self.workplace.say(event.get("text", ""))

    def onFinished(self, event):
        """The last line of the worker."""
        log, self.job = self.job.log, None
        if log:
            self.workplace.say(log)
        self.refresh()
        if event["type"] == "result":
            for text in event["warnings"]:
                self.ui.prepareLabel.text += " " + html.escape(text)
        elif self._cancelled:
            self.ui.prepareLabel.text = _("Cancelled. Finished cases are kept: 'Prepare' goes on.")
        else:
            advice = adviceOf(event)
            self.ui.prepareLabel.text = RED.format(html.escape(f"{event['title']} {advice}"))
            services.showError(event["title"], advice)
        self.prepared.emit()

    def stop(self):
        """End the child process at once; finished cases are kept."""
        if self.job is not None:
            self.job.stop()
            self.job = None
            self.ui.prepareBar.visible = False


def partTitle(part):
    """A part of the patients in words."""
    return {"train": _("learn"), "val": _("held out"), "test": _("test"), "films": _("films only")}.get(part, part)

"""What of the worker's needs is installed, asked for once."""

from axon_core.errors import AxonError
from AXONLib import services
from AXONLib.job import Job
from AXONLib.process import WorkerProcess
from AXONLib.signal import Signal


class Installation:
    """The worker's report on itself, see `axon_core.selfcheck.report`; None until it has come.

    Signals:
        changed(): it has come.
    """

    def __init__(self, say):
        """`say` is given what the worker prints."""
        self.report = None
        self.changed = Signal()
        self._say = say
        self._job = None

    def check(self):
        """Ask, unless that was done."""
        if self.report is not None or self._job is not None:
            return
        command = [services.pythonSlicer(), "-m", "axon_core.worker", "--selfcheck"]
        try:
            self._job = Job(WorkerProcess(command, services.childEnvironment()))
        except AxonError as error:
            self.onChecked({"type": "error", "problems": [error.to_dict()]})
            return
        self._job.finished.connect(self.onChecked)

    def onChecked(self, report):
        """The worker's last line."""
        if self._job is not None and self._job.log:
            self._say(self._job.log)
        self._job = None
        report.setdefault("problems", [report] if report["type"] == "error" else [])
        self.report = {"devices": [], "default_device": None, "training": [], **report}
        for problem in self.problems():
            self._say(f"{problem['title']} {problem['advice']}")
        self.changed.emit()

    def problems(self):
        """What is missing or broken; a model is not needed here."""
        report = self.report or {"problems": [], "training": []}
        return [p for p in report["problems"] if not p["code"].startswith("model.")] + report["training"]

    def device(self, name):
        """What is known of a device, or of the best one for "auto"; None if it is not there."""
        name = self.report["default_device"] if name == "auto" else name
        return next((device for device in self.report["devices"] if device["name"] == name), None)

    def forget(self):
        """Ask again the next time."""
        self.stop()
        self.report = None

    def stop(self):
        if self._job is not None:
            self._job.stop()
            self._job = None

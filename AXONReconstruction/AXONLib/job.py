"""A long job of the panel: a worker process, polled by a timer of the event loop."""

import qt

from AXONLib import process
from AXONLib.signal import Signal

POLL_MS = 50


class Job:
    """Hands on what a `process.WorkerProcess` tells, in the thread of the event loop.

    Signals:
        event(dict): one line of the worker, in order; not the last one.
        finished(dict): the last line, of type "result" or "error", once. Nothing of the job is left running then.
    """

    def __init__(self, worker):
        self.event, self.finished = Signal(), Signal()
        self._worker = worker
        self._running = True
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        self._timer.start()

    def running(self):
        """False as soon as `finished` is told, or after `stop`."""
        return self._running

    @property
    def log(self):
        """The last lines that the worker wrote to standard error."""
        return self._worker.log

    def cancel(self, graceSeconds=1.0):
        """Ask the worker to stop and return at once; `finished` follows when it has, or is killed after the grace."""
        self._worker.cancel(graceSeconds)

    def release(self):
        """Forget the handlers and hand the worker to the caller, who ends it. The job must not be used then."""
        self._end()
        self.event.disconnectAll()
        self.finished.disconnectAll()
        return self._worker

    def stop(self):
        """Kill the worker and forget the handlers: for scene close, reload and exit. The job must not be used then."""
        self.release().kill()

    def _poll(self):
        for event in self._worker.events():
            if event["type"] in process.LAST:
                self._end()
                self.finished.emit(event)
            else:
                self.event.emit(event)

    def _end(self):
        if self._running:
            self._running = False
            self._timer.stop()
            self._timer.disconnect("timeout()", self._poll)


def startWorker(request, folder, executable, environment):
    """Start one request as a Job; see `process.startWorker`."""
    return Job(process.startWorker(request, folder, executable, environment))

"""What the sections of a panel share whatever they do: the parameters, a folder for files, a log."""

import os
import shutil

from slicer.i18n import tr as _

from axon_core.errors import OutputError
from AXONLib import services
from AXONLib.signal import Signal


class Workplace:
    """Lives as long as the panel. `parameters` is the wrapper of the scene's parameter node, or None.

    Signals:
        said(text): a line for the details.
    """

    def __init__(self):
        self.parameters = None
        self.said = Signal()
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
        """Remove the files of this session."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def say(self, text):
        self.said.emit(text)

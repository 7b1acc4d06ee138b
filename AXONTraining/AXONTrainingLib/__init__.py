"""What stands behind the module AXONTraining, beside AXONLib, which it shares with AXON Reconstruction."""

import sys


def forget():
    """Let the next import read every file of AXONTrainingLib anew: for the reload button of developers."""
    for name in [name for name in sys.modules if name.startswith(__name__ + ".")]:
        del sys.modules[name]
        globals().pop(name.removeprefix(__name__ + "."), None)  # where `from AXONTrainingLib import ...` looks first

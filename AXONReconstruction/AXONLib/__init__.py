"""What stands behind the AXON modules. Importing it makes `axon_core` importable.

Installed, `axon_core` lies beside the modules. In a source checkout it lies one folder above this module's folder.
"""

import importlib.util
import pathlib
import sys

if importlib.util.find_spec("axon_core") is None:
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))


def forget():
    """Let the next import read every file of AXONLib anew: for the reload button of developers."""
    for name in [name for name in sys.modules if name.startswith(__name__ + ".")]:
        del sys.modules[name]
        globals().pop(name.removeprefix(__name__ + "."), None)  # where `from AXONLib import ...` looks first

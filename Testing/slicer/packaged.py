"""The tree that users get: what CMake packages, installed into a folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).resolve().parent / "cmake_stub"
# Nothing is compiled: CMake shall not try the compilers that `project(AXON)` asks for; any program will do.
NO_COMPILER = [
    f"-DCMAKE_{language}_COMPILER{value}" for language in ("C", "CXX") for value in ("_FORCED=1", f"={sys.executable}")
]


def cmake(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run CMake: the system's, or the one that pip brought."""
    program = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("cmake is not installed")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def configured(folder: Path, source: Path = ROOT) -> Path:
    """Configure the extension with the stub in the place of Slicer; returns the build folder.

    It holds ``PACKAGED.txt`` and ``TESTED.txt`` with a file a line, and ``fields.txt`` with the extension's facts.
    """
    build = folder / "build"
    cmake("-S", source, "-B", build, f"-DSlicer_DIR={STUB}", *NO_COMPILER)
    return build


def packagedTree(folder: Path) -> Path:
    """Install the extension below `folder`; returns the folder with the modules, as Slicer would be given it."""
    build = configured(folder)
    cmake("--install", build, "--prefix", folder / "installed")
    return folder / "installed" / "qt-scripted-modules"

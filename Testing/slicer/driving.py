"""Driving the panel of AXONReconstruction in tests: open it, wait for it, look at the scene behind it."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "AXONReconstruction" / "AXONReconstruction.py"
FILM = ROOT / "Resources" / "Samples" / "hannover_fff13f3a_pa.png"
CT = ROOT / "Resources" / "SampleData" / "acrin_042_ct.nrrd"
SCOUT = ROOT / "Resources" / "SampleData" / "acrin_042_scout_ap.nrrd"
for path in (ROOT / "AXONReconstruction", ROOT / "Testing" / "core"):  # AXONLib; film_files
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers: small jobs, many of them

NEVER_MS = 10**8
OF_VIEWS = ("vtkMRMLAbstractViewNode", "vtkMRMLSliceCompositeNode", "vtkMRMLCameraNode", "vtkMRMLLayoutNode")
OF_SLICER = ("vtkMRMLColorNode", "vtkMRMLInteractionNode", "vtkMRMLSelectionNode", "vtkMRMLSubjectHierarchyNode")
OF_SLICES = (  # what Slicer itself draws slices and handles with in 3D, where hidden
    "vtkMRMLModelNode",
    "vtkMRMLModelDisplayNode",
    "vtkMRMLSliceDisplayNode",
    "vtkMRMLTransformNode",
)


@functools.cache
def _selfcheck() -> str:
    command = [sys.executable, "-m", "axon_core.worker", "--selfcheck"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120).stdout


def selfcheck() -> dict:
    """What the worker says of this installation, asked for once."""
    return copy.deepcopy(json.loads(_selfcheck()))


@contextlib.contextmanager
def panel(installation: dict | None = None, estimates: bool = False, module: Path = MODULE) -> Iterator:
    """The module's widget, set up and entered; unloaded afterwards.

    Args:
        installation: the report of the self-check; None for that of the worker. {} for the panel to ask by itself.
        estimates: whether the panel has times measured by itself.
        module: the module's file.
    """
    import slicer
    from host import module_host

    widget = module_host.load(module).widgetRepresentation().self()
    try:
        if not estimates:
            widget.run._timer.setInterval(NEVER_MS)
        if installation != {}:
            if widget.run._check is not None:  # the panel has begun by itself
                widget.run._check.stop()
            widget.run.onChecked(installation or selfcheck())
        slicer.util.selectModule("AXONReconstruction")
        yield widget
    finally:
        module_host.unload("AXONReconstruction")
        slicer.app.processEvents()


@contextlib.contextmanager
def noticed(started) -> Iterator[list]:
    """For fixtures of more than one test: an empty scene, and an error at the end if a slot or observer raised."""
    import slicer
    from host import user

    raised, before = [], sys.excepthook
    sys.excepthook = lambda kind, error, trace: raised.append(error)
    user.reset()
    slicer.mrmlScene.Clear(0)
    try:
        yield raised
    finally:
        sys.excepthook = before
        slicer.mrmlScene.Clear(0)
    assert not raised, f"raised in a slot or observer: {raised}"


def spin(until: Callable[[], object], seconds: float = 120.0) -> object:
    """Let the event loop run until something is true, and return that; AssertionError if it never is."""
    import slicer

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slicer.app.processEvents()
        if found := until():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


def wait(seconds: float) -> None:
    """Let the event loop run."""
    import slicer

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.01)


def told() -> list[str]:
    """What the user was told in boxes, and the list emptied."""
    from host import user

    texts = [message.text for message in user.messages]
    user.messages.clear()
    return texts


def content() -> dict[str, str]:
    """id -> name of the scene's nodes, without those that belong to views or to Slicer."""
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLNode")
    return {
        node.GetID(): node.GetName()
        for node in nodes
        if not any(map(node.IsA, OF_VIEWS + OF_SLICER))
        and not (node.GetHideFromEditors() and any(map(node.IsA, OF_SLICES)))
    }


def volumeNames() -> list[str]:
    import slicer

    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")]


def isAlive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def group(pid: int) -> list[int]:
    """The live processes of a process group."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, leader = stat.read_text().rsplit(")", 1)[1].split()[:3]
            if int(leader) == pid and state != "Z":
                members.append(int(stat.parent.name))
    return members

"""Driving the panel of AXONTraining in tests."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import driving

MODULE = driving.ROOT / "AXONTraining" / "AXONTraining.py"
if str(MODULE.parent) not in sys.path:
    sys.path.insert(0, str(MODULE.parent))  # AXONTrainingLib


@contextlib.contextmanager
def panel(installation: dict | None = None, estimates: bool = False, module: Path = MODULE) -> Iterator:
    """The module's widget, set up and entered; unloaded afterwards.

    Args:
        installation: the report of the self-check; None for that of the worker, {} for the panel to ask by itself.
        estimates: whether the panel has the cost counted by itself.
        module: the module's file.
    """
    import slicer
    from host import module_host

    widget = module_host.load(module).widgetRepresentation().self()
    try:
        if not estimates:
            widget.train._timer.setInterval(driving.NEVER_MS)
        if installation != {}:
            widget.installation.stop()
            widget.installation.onChecked(installation or driving.selfcheck())
        slicer.util.selectModule("AXONTraining")
        yield widget
    finally:
        module_host.unload("AXONTraining")
        slicer.app.processEvents()


def choose(widget, folder: Path, **choices: object) -> None:
    """Drawn chests, and folders below `folder` for everything; the tiny preset on the CPU, F(x) and bridge alone."""
    from AXONLib.parameters import Device
    from AXONTrainingLib import drawn
    from AXONTrainingLib.parameters import Budget, Preset

    if not (folder / "chests").exists():
        drawn.write(folder / "chests")
    values = {
        "source": str(folder / "chests"),
        "cache": str(folder / "cache"),
        "run": str(folder / "run"),
        "preset": Preset.TINY,
        "device": Device.CPU,
        "keptChests": 4,
        "budget": Budget.STEPS,
        "budgetSteps": 30,
        "trainPrior": False,
        "trainFine": False,
        "trainSuperResolution": False,
        **choices,
    }
    for name, value in values.items():
        setattr(widget._parameterNode, name, value)


def prepared(widget) -> None:
    """Press Prepare, and wait; one process prepares, which is quicker for three drawn chests."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})  # the child inherits it
    widget.ui.prepareButton.click()
    if cores:
        os.sched_setaffinity(0, cores)
    assert widget.data.job is not None, widget.ui.prepareButton.toolTip
    driving.spin(lambda: widget.data.job is None)


def started(widget) -> int:
    """Press Start or Resume; the child's process id."""
    widget.ui.applyButton.click()
    assert widget.train.job is not None, widget.ui.applyButton.toolTip
    return widget.train.job._worker.pid


def trained(widget) -> None:
    """Press Start, and wait for the end."""
    started(widget)
    driving.spin(lambda: widget.train.job is None, seconds=600.0)

"""The host, started once for the tests in this folder; an exception that Slicer would only print fails the test."""

import importlib.util
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

# The modules are for Slicer's Python, 3.12; the library alone also runs on 3.10.
if sys.version_info < (3, 11) or importlib.util.find_spec("slicer") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def started():
    """`host` with `slicer`, `qt` and `ctk` importable, views included."""
    import host

    host.start()
    return host


@pytest.fixture
def hosted(started, monkeypatch):
    """The host with an empty scene; what slots and observers raise fails the test unless it is taken off `.raised`."""
    import slicer
    from host import user

    started.raised = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: started.raised.append(error))
    user.reset()
    slicer.mrmlScene.Clear(0)
    yield started
    slicer.app.processEvents()
    slicer.mrmlScene.Clear(0)
    assert not started.raised, f"raised in a slot or observer: {started.raised}"

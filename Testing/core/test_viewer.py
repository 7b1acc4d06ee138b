"""The browser viewer: what lies where in its pictures, and who can reach it."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axon_core.ctvolume import CTVolume
from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid
from axon_core.viewer import SLICE_VIEWS, Scene, centred, serve

pytest.importorskip("vtkmodules", reason="the extra viewer is not installed")
DRAW = "from vtkmodules.vtkRenderingCore import vtkRenderWindow as W; import vtkmodules.vtkRenderingOpenGL2; " + (
    "w = W(); w.SetOffScreenRendering(1); w.Render(); assert w.SupportsOpenGL()"
)


@pytest.fixture(scope="module")
def drawing() -> None:
    """Skips where VTK finds no OpenGL; asked in a process of its own, because VTK may end it."""
    if subprocess.run([sys.executable, "-c", DRAW], capture_output=True, timeout=120).returncode:
        pytest.skip("VTK cannot draw here: no OpenGL (on Debian: libegl1)")


@pytest.fixture(scope="module")
def marked() -> CTVolume:
    """Air with one bright cube near the patient's left, front and head, on an oblique-free grid far from the origin."""
    hu = np.full((32, 32, 32), -1000.0, np.float32)
    hu[22:27, 5:10, 22:27] = 1000.0  # z up, y front, x left
    return CTVolume.from_grid(hu, CanonicalGrid(32, center_lps=(50.0, -80.0, 300.0)), {"synthetic": True})


def tiles(scene: Scene) -> list[np.ndarray]:
    """The picture cut into its views, without their texts."""
    picture = np.asarray(Image.open(io.BytesIO(scene.jpeg())).convert("L"), float)
    width = picture.shape[1] // 4
    return [picture[40:-40, i * width + 40 : (i + 1) * width - 40] for i in range(4)]


def test_the_marked_corner_is_where_radiologists_expect_it(drawing: None, marked: CTVolume) -> None:
    scene = Scene([("marked", centred(marked))])
    for axis, depth in ((0, 0.77), (1, 0.23), (2, 0.77)):  # through the cube
        scene.cut(axis, depth)
    for name, view in zip(SLICE_VIEWS, tiles(scene), strict=False):
        rows, columns = np.nonzero(view > 128)
        assert len(rows), name
        assert (columns.mean() > view.shape[1] / 2) == (name != "Sagittal"), (
            name
        )  # left on the right; front on the left
        assert rows.mean() < view.shape[0] / 2, name  # front or head at the top


def test_a_slice_beside_the_cube_is_dark_and_turning_moves_it(drawing: None, marked: CTVolume) -> None:
    scene = Scene([("marked", centred(marked))])
    scene.cut(2, 0.2)
    *slices, front = tiles(scene)
    assert (slices[0] > 128).sum() == 0
    scene.turn(180)
    back = tiles(scene)[3]

    def middle(picture: np.ndarray) -> float:
        return float(np.nonzero(picture > 60)[1].mean()) / picture.shape[1]

    assert middle(front) > 0.5 > middle(back)


def test_windows_change_the_grey_of_soft_tissue(drawing: None) -> None:
    scene = Scene([("water", CTVolume.from_grid(np.zeros((16, 16, 16), np.float32), CanonicalGrid(16)))])
    greys = {}
    for name in ("Lung", "Soft tissue"):
        scene.show(name)
        greys[name] = np.median(tiles(scene)[0])
    assert greys["Lung"] == pytest.approx(255 * 1050 / 1300, abs=4)
    assert greys["Soft tissue"] == pytest.approx(255 * 160 / 400, abs=4)


def test_only_this_machine_can_look_and_ctrl_c_ends_it(drawing: None, marked: CTVolume, tmp_path: Path) -> None:
    path = marked.save(tmp_path / "volume.nrrd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "axon_core", "view", str(path.parent), "--no-browser", "--port", str(port)]
    log = tmp_path / "log"
    with open(log, "w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            for _ in range(120):
                if process.poll() is not None or "App running" in log.read_text():
                    break
                time.sleep(0.5)
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).read()
            assert b"<div" in page
            if os.name == "posix" and sys.platform == "linux":  # the whole of 127.0.0.0/8 is this machine
                with pytest.raises(OSError):
                    socket.create_connection(("127.0.0.2", port), timeout=5)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    assert "Traceback" not in log.read_text()


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch, marked: CTVolume) -> None:
    monkeypatch.setitem(sys.modules, "trame.app", None)
    with pytest.raises(ConfigError, match="viewer"):
        serve([("marked", marked)])

"""Whatever a user or a machine does wrong ends a job with one line that helps, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axon_core.ctvolume import CTVolume
from axon_core.film_write import write_film
from axon_core.geometry import XrayGeometry, XrayView

sys.path.insert(0, str(Path(__file__).parent))
import film_files

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
WORKER = "import sys; from axon_core.worker import main; sys.exit(main(sys.argv[1:]))"


def failure(job: dict[str, Any], folder: Path, before: str = "") -> tuple[int, dict[str, Any]]:
    """Exit status and last line of a job that fails; `before` is run in its process first.

    Nothing may lie in `folder` afterwards but what was there, and no stack trace in the log.
    """
    names = {path.name for path in folder.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{WORKER}", "-"],
        input=json.dumps(job), capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {path.name for path in folder.iterdir()} == names
    assert "Traceback" not in done.stderr, done.stderr
    assert [line["type"] for line in lines].count("error") == 1
    assert set(lines[-1]) == {"type", "code", "title", "advice"} and all(lines[-1].values())
    return done.returncode, lines[-1]


def colour_photograph(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(path)


def thumbnail(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)).save(path)


def volume(path: Path) -> None:
    CTVolume(np.random.default_rng(0).normal(0, 300, (20, 70, 70)), np.eye(4)).save(path)


def lateral(path: Path) -> None:
    pixels = film_files.lateral(180, 180)
    shown = (pixels - pixels.min()) / float(np.ptp(pixels))
    write_film(path, path.name, shown, XrayGeometry(XrayView.LAT, 180), {})


def dicom(**tags: Any) -> Callable[[Path], None]:
    pixels = film_files.frontal(180, 180)
    stored = ((pixels - pixels.min()) / np.ptp(pixels) * 4095).astype(np.uint16)
    return lambda path: path.write_bytes(film_files.dicom(stored, **tags)) and None


@pytest.mark.parametrize(
    ("name", "draw", "code"),
    [
        ("photo.jpg", colour_photograph, "film.colour"),
        ("icon.png", thumbnail, "film.too-small"),
        ("ct.nrrd", volume, "film.volume"),
        ("slice.dcm", dicom(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "film.is-ct"),
        ("cine.dcm", dicom(NumberOfFrames=12), "film.multi-frame"),
        ("lat.dcm", lateral, "film.view"),
    ],
)
def test_what_is_no_frontal_film(
    name: str, draw: Callable[[Path], None], code: str, tiny_model: Path, tmp_path: Path
) -> None:
    draw(tmp_path / name)
    job = {"frontal": {"file": str(tmp_path / name)}, "output": str(tmp_path / "out"), "model": str(tiny_model)}
    status, line = failure(job, tmp_path)
    assert status == 3 and line["code"] == code


def test_models_that_cannot_be_used(film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    job = {"frontal": str(film_png), "output": str(tmp_path / "out"), "model": "axon-giant"}
    status, line = failure(job, tmp_path)
    assert status == 5 and line["code"] == "model.not-found" and "axon-giant" in line["title"]
    shutil.copytree(tiny_model, tmp_path / "spoiled")
    weights = tmp_path / "spoiled" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    status, line = failure({**job, "model": str(tmp_path / "spoiled")}, tmp_path)
    assert status == 5 and line["code"] == "model.damaged"


@pytest.mark.parametrize("task", ["reconstruct", "plan"])
def test_too_little_memory(task: str, film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = (
        "from axon_core.model import AxonModel\n"
        "def super_resolve(self, volume): raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')\n"
        "AxonModel.super_resolve = super_resolve\n"
    )
    job = {"frontal": str(film_png), "output": str(tmp_path / "out")} if task == "reconstruct" else {}
    status, line = failure({**job, "task": task, "model": str(tiny_model), "device": "cpu"}, tmp_path, before)
    assert status == 7 and line["code"] == "device.memory"


@pytest.mark.skipif(os.name == "nt", reason="the size of files is limited by other means")
@pytest.mark.parametrize("form", ["nrrd", "nii.gz", "mha", "dicom"])
def test_a_full_disk(form: str, film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    """No file may grow beyond 4 kB: to the program the same as a full disk."""
    before = "import axon_core.pipeline, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"
    job = {"frontal": str(film_png), "model": str(tiny_model), "device": "cpu", "preset": "preview"}
    (tmp_path / "out").mkdir()
    status, line = failure({**job, "output": str(tmp_path / "out"), "format": form}, tmp_path, before)
    assert status == 6 and line["code"] == "output.cannot-write" and not list((tmp_path / "out").iterdir())
    assert "volume" in line["title"] or form == "dicom"


@pytest.mark.skipif(os.name == "nt", reason="the size of files is limited by other means")
def test_a_full_disk_for_a_pose_and_a_comparison(tmp_path: Path) -> None:
    from axon_core.data.phantom import thorax
    from axon_core.drr.film import simulate
    from axon_core.geometry import CanonicalGrid

    grid = CanonicalGrid(48)
    ct = CTVolume(thorax(5, grid), grid.affine)
    ct.save(tmp_path / "ct.nrrd")
    film, record = simulate(ct, XrayGeometry(pixels=128))
    write_film(tmp_path / "pa.png", "pa.png", film, XrayGeometry(pixels=128), record)
    before = "import axon_core.pipeline, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    for job, output in (
        ({"task": "register", "ct": "ct.nrrd", "frontal": str(tmp_path / "pa.png"), "global_search": False}, "p.json"),
        ({"task": "compare", "result": str(tmp_path / "ct.nrrd"), "truth_to_result": np.eye(4).tolist()}, "out"),
    ):
        files = {"ct" if "ct" in job else "truth": str(tmp_path / "ct.nrrd"), "output": str(tmp_path / output)}
        status, line = failure({**job, **files}, tmp_path, before)
        assert status == 6 and line["code"] == "output.cannot-write"


@pytest.mark.parametrize(
    ("content", "said"), [(b"no array", "cannot be read"), ("pickle", "cannot be read"), ("float", "holds float64")]
)
def test_masks_that_are_none(content: Any, said: str, tmp_path: Path) -> None:
    mask = tmp_path / "mask.npy"
    if isinstance(content, bytes):
        mask.write_bytes(content)
    else:
        np.save(mask, np.array([None]) if content == "pickle" else np.zeros((512, 512)), allow_pickle=True)
    job = {"task": "register", "ct": "ct.nrrd", "frontal": "pa.png", "frontal_mask": str(mask)}
    status, line = failure({**job, "output": str(tmp_path / "pose.json")}, tmp_path)
    assert status == 2 and line["code"] == "register.mask" and said in line["title"]

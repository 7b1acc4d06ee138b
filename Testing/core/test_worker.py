"""The worker speaks JSON lines, refuses wrong jobs, and stops at once without leaving anything behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axon_core import SYNTHETIC_NOTICE
from axon_core.errors import Cancelled, ConfigError, OutputError
from axon_core.film_choice import FilmChoice
from axon_core.job import PRODUCT, ReconstructJob, Result
from axon_core.job_compare import CompareJob
from axon_core.job_plan import PlanJob
from axon_core.job_register import RegisterJob
from axon_core.staging import StagedFolder, check_output

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def worker(job: dict[str, Any] | str, *, by_file: Path | None = None) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, lines and log of one real worker process."""
    text = job if isinstance(job, str) else json.dumps(job)
    if by_file:
        by_file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "axon_core.worker", str(by_file) if by_file else "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


# ---- the job


STILL = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
JOBS: dict[type, dict[str, Any]] = {
    ReconstructJob: {"frontal": "a.png", "output": "o"},
    RegisterJob: {"ct": "ct.nrrd", "frontal": "a.png", "output": "pose.json"},
    CompareJob: {"result": "r.nrrd", "truth": "t.nrrd", "truth_to_result": STILL, "output": "o"},
    PlanJob: {},
}


def test_job_from_json_has_the_documented_keys() -> None:
    job = ReconstructJob.from_dict(
        {"frontal": {"file": "a.png", "view": "AP", "invert": True, "pixel_size_mm": 1, "mirrored": True},
         "lateral": None, "model": "m", "preset": "fast", "seeds": [4, 5], "device": "cpu", "output": "o",
         "overwrite": False, "previews": True}
    )  # fmt: skip
    assert job.seeds == (4, 5) and job.previews and job.frontal == FilmChoice("a.png", "AP", True, 1, True)
    assert ReconstructJob.from_dict({"frontal": "a", "lateral": "b", "output": "o"}).lateral == FilmChoice("b")
    register = RegisterJob.from_dict({**JOBS[RegisterJob], "start": {"rotation_deg": [90, 0, 0]}, "sdd_mm": None})
    assert register.start.pose.rotation == pytest.approx((np.pi / 2, 0, 0)) and register.global_search
    assert RegisterJob.from_dict({**JOBS[RegisterJob], "start": None}).start.pose.translation == (0, 0, 0)


@pytest.mark.parametrize("kind", JOBS)
def test_every_job_wants_its_keys_and_no_others(kind: Any) -> None:
    kind.from_dict(JOBS[kind])
    with pytest.raises(ConfigError) as caught:
        kind.from_dict({**JOBS[kind], "sedes": [1]})
    assert caught.value.code == "config.unknown-key"
    for key in JOBS[kind]:
        with pytest.raises(ConfigError) as caught:
            kind.from_dict({other: value for other, value in JOBS[kind].items() if other != key})
        assert caught.value.code == "config.missing-key"
        with pytest.raises(ConfigError) as caught:
            kind.from_dict({**JOBS[kind], key: 7})
        assert caught.value.code == "config.type"


@pytest.mark.parametrize(
    ("kind", "change", "code"),
    [
        (ReconstructJob, {"output": None}, "config.type"),
        (ReconstructJob, {"seeds": 3}, "config.type"),
        (ReconstructJob, {"seeds": ["1"]}, "config.type"),
        (ReconstructJob, {"seeds": []}, "job.seeds"),
        (ReconstructJob, {"seeds": [1, 1]}, "job.seeds"),
        (ReconstructJob, {"seeds": [-1]}, "job.seeds"),
        (ReconstructJob, {"view": "PA"}, "config.unknown-key"),
        (ReconstructJob, {"lateral": 7}, "config.type"),
        (ReconstructJob, {"format": "stl"}, "job.format"),
        (ReconstructJob, {"overwrite": "yes"}, "config.type"),
        (ReconstructJob, {"frontal": {"file": "a", "colour": 1}}, "config.unknown-key"),
        (ReconstructJob, {"frontal": {"view": "PA"}}, "config.missing-key"),
        (ReconstructJob, {"frontal": ""}, "film.file"),
        (ReconstructJob, {"frontal": {"file": "a", "view": "top"}}, "film.view"),
        (ReconstructJob, {"frontal": {"file": "a", "invert": 1}}, "film.invert"),
        (ReconstructJob, {"frontal": {"file": "a", "mirrored": None}}, "config.type"),
        (ReconstructJob, {"lateral": {"file": "a", "pixel_size_mm": 0}}, "film.pixel-size-mm"),
        (ReconstructJob, {"lateral": {"file": "a", "pixel_size_mm": True}}, "film.pixel-size-mm"),
        (RegisterJob, {"start": {"rotation_deg": [1, 2]}}, "job.start"),
        (RegisterJob, {"start": {"translation_mm": [1, 2, float("nan")]}}, "job.start"),
        (RegisterJob, {"start": [0, 0, 0]}, "config.type"),
        (RegisterJob, {"sdd_mm": "far"}, "job.sdd-mm"),
        (RegisterJob, {"frontal_mask": 1}, "job.frontal-mask"),
        (RegisterJob, {"lateral_mask": "m.npy"}, "job.lateral-mask"),
        (CompareJob, {"truth_to_result": STILL[:3]}, "job.truth-to-result"),
        (CompareJob, {"truth_to_result": [[1, 0], [0, 1]]}, "job.truth-to-result"),
        (CompareJob, {"truth_to_result": [[2, 0, 0, 0], *STILL[1:]]}, "pose.not-rigid"),
        (PlanJob, {"seeds": 0}, "job.seeds"),
        (PlanJob, {"views": 3}, "job.views"),
    ],
)
def test_wrong_jobs_are_config_errors(kind: Any, change: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind.from_dict({**JOBS[kind], **change})
    assert caught.value.code == code and caught.value.advice


def test_result_never_holds_nan() -> None:
    json.dumps(Result(Path("o"), {}, {"frontal": float("nan")}, {}).to_dict(), allow_nan=False)


# ---- staging


def test_result_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), StagedFolder(output, PRODUCT) as staging:
        (staging.folder / "volume.nrrd").write_text("half")
        raise RuntimeError
    assert not output.exists() and not list(output.parent.iterdir())
    with StagedFolder(output, PRODUCT) as staging:
        (staging.folder / "volume.nrrd").write_text("whole")
        assert not output.exists()
    assert [p.name for p in output.iterdir()] == ["volume.nrrd"] and list(output.parent.iterdir()) == [output]


def test_overwriting_replaces_results_and_only_results(tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "dicom").mkdir(parents=True)
    (output / "dicom" / "1.dcm").touch()
    (output / "volume.mha").write_text("old")
    (output / "notes.txt").write_text("mine")
    (output / "provenance.json").write_text(json.dumps({"notice": SYNTHETIC_NOTICE}))
    with pytest.raises(OutputError, match="earlier result"), StagedFolder(output, PRODUCT):
        pass
    with StagedFolder(output, PRODUCT, overwrite=True) as staging:
        (staging.folder / "volume.nrrd").write_text("new")
    assert sorted(p.name for p in output.iterdir()) == ["notes.txt", "volume.nrrd"]


@pytest.mark.parametrize("provenance", [None, "{", "[]", '{"notice": "mine"}'])
def test_a_scan_with_our_file_names_is_left_alone(tmp_path: Path, provenance: str | None) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").touch()
    if provenance is not None:
        (tmp_path / "provenance.json").write_text(provenance)
    with pytest.raises(OutputError) as caught, StagedFolder(tmp_path, PRODUCT, overwrite=True):
        pass
    assert caught.value.code == "output.foreign" and (tmp_path / "dicom" / "1.dcm").exists()


def test_foreign_files_in_a_result_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "thesis.doc").touch()
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path, PRODUCT, overwrite=True)
    assert caught.value.code == "output.foreign-folder"
    with pytest.raises(OutputError):
        check_output(tmp_path / "dicom" / "thesis.doc", PRODUCT, overwrite=True)


def test_claiming_stops_the_move_and_later_previews(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(Cancelled), StagedFolder(output, PRODUCT) as staging:
        staging.previews()
        assert staging.claim()
        staging.remove()
        with pytest.raises(Cancelled):
            staging.previews()
    assert not list(tmp_path.iterdir())
    with StagedFolder(output, PRODUCT) as staging:
        (staging.folder / "volume.nrrd").touch()
    assert not staging.claim(), "too late: the result is there"
    assert (output / "volume.nrrd").exists()


# ---- real processes


def test_a_job_from_films_to_files(film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = {"frontal": str(film_png), "lateral": str(film_png), "model": str(tiny_model), "preset": "fast",
           "seeds": [3, 4], "device": "cpu", "output": str(output), "previews": True}  # fmt: skip
    status, lines, log = worker(job, by_file=tmp_path / "job.json")
    assert status == 0, (lines, log)
    progress = [line["fraction"] for line in lines if line["type"] == "progress"]
    assert progress == sorted(progress) and progress[-1] == 1.0 and progress[0] >= 0
    result = lines[-1]
    assert result["type"] == "result" and set(result["ncc"]) == {"frontal", "lateral"}
    assert set(result["files"]) == {"volume", "uncertainty", "report", "picture", "projections", "provenance"}
    assert all(Path(path).is_file() and Path(path).parent == output for path in result["files"].values())
    assert [line["text"] for line in lines if line["type"] == "warning"] == result["warnings"]
    provenance = json.loads((output / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["seeds"] == [3, 4] and provenance["notice"].startswith("SYNTHETIC")

    previews = [line for line in lines if line["type"] == "preview"]
    assert previews and all(Path(line["path"]).parent == output / "previews" for line in previews)
    with np.load(previews[-1]["path"]) as preview:
        assert preview["hu"].dtype == np.int16 and preview["hu"].ndim == 3
        size, spacing = preview["hu"].shape[0], preview["affine"][0, 0]
        assert size * spacing == pytest.approx(360.0) and preview["affine"].shape == (4, 4)
    assert {p.name for p in tmp_path.iterdir()} == {"out", "job.json"}


@pytest.mark.parametrize(
    ("job", "status", "code"),
    [
        ("{not json", 2, "job.json"),
        ("[]", 2, "job.json"),
        ('{"frontal": "nowhere.png", "output": "unused", "colour": 1}', 2, "config.unknown-key"),
        ('{"frontal": "nowhere.png", "output": "unused"}', 3, "film.missing"),
        ('{"task": "dance"}', 2, "job.task"),
        ('{"task": ["register"]}', 2, "job.task"),
    ],
)
def test_errors_are_one_last_line(job: str, status: int, code: str) -> None:
    done, lines, log = worker(job)
    assert done == status and lines[-1]["type"] == "error" and lines[-1]["code"] == code
    assert lines[-1]["title"] and lines[-1]["advice"] and "Traceback" not in log
    assert not Path("unused").exists()


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


LONG_OPERATION = """
import sys
import torch
from axon_core import worker
from axon_core.job import ReconstructJob
def run(self, staging, callback):
    with staging:
        (staging.previews() / "preview-0001.npz").touch()
        (staging.folder / "volume.nrrd").touch()
        print("a library prints")
        worker_lines[0].emit("progress", stage="long", fraction=0.5, eta_s=None)
        big = torch.ones(8000, 8000)
        big @ big  # one operation of many seconds
worker_lines = []
made = worker.Lines.__init__
worker.Lines.__init__ = lambda self, stream: (made(self, stream), worker_lines.append(self))[0]
ReconstructJob.run = run
sys.exit(worker.main([sys.argv[1]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking them")
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_cancel_inside_one_long_operation(by: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"frontal": "a.png", "output": str(tmp_path / "out")}))
    child = start(LONG_OPERATION, str(tmp_path / "job.json"))
    assert child.stdout is not None
    while json.loads(child.stdout.readline())["stage"] != "long":
        pass
    time.sleep(0.5)
    assert (tmp_path / "out" / "previews").is_dir()
    child.send_signal(by)
    asked = time.monotonic()
    output, log = child.communicate(timeout=30)
    assert time.monotonic() - asked < 2.0
    assert child.returncode == Cancelled.exit_code == 130
    assert [json.loads(line)["code"] for line in output.splitlines()] == ["cancelled"]
    assert "a library prints" in log
    assert [p.name for p in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking them")
def test_cancel_when_nobody_reads_the_lines(tmp_path: Path) -> None:
    program = LONG_OPERATION.replace(
        "big = ", "[worker_lines[0].emit('warning', text='x' * 999) for _ in range(999)]; big = "
    )
    (tmp_path / "job.json").write_text(json.dumps({"frontal": "a.png", "output": str(tmp_path / "out")}))
    child = start(program, str(tmp_path / "job.json"))
    while not (tmp_path / "out" / "previews" / "preview-0001.npz").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=2.0) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["job.json"]
    child.communicate()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking them")
def test_cancel_on_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"frontal": "a.png", "output": str(tmp_path / "out")}))
    child = start(LONG_OPERATION, str(tmp_path / "job.json"))
    assert child.stdout is not None and child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=30)
    assert child.returncode == 130 and json.loads(output.splitlines()[-1])["code"] == "cancelled"


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking them")
def test_cancel_a_real_job(film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    job = {"frontal": str(film_png), "model": str(tiny_model), "preset": "paper", "device": "cpu", "previews": True,
           "seeds": list(range(50)), "output": str(tmp_path / "out")}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    child = start(
        "import sys; from axon_core.worker import main; sys.exit(main(sys.argv[1:]))", str(tmp_path / "job.json")
    )
    assert child.stdout is not None
    while json.loads(child.stdout.readline())["type"] != "preview":
        pass
    child.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    output, _ = child.communicate(timeout=30)
    assert time.monotonic() - asked < 2.0 and child.returncode == 130
    assert json.loads(output.splitlines()[-1])["code"] == "cancelled"
    assert [p.name for p in tmp_path.iterdir()] == ["job.json"]


def test_needs_no_command_line_libraries() -> None:
    program = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None; import axon_core.worker; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT).returncode == 0

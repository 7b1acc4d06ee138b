"""Registration, comparison, plan and self-check as the worker does them, in real processes on files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import training_data

from axon_core import job_plan
from axon_core.ctvolume import CTVolume
from axon_core.data.phantom import thorax
from axon_core.drr.film import simulate
from axon_core.errors import AxonError, ConfigError
from axon_core.film_choice import FilmChoice
from axon_core.film_write import write_film
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry
from axon_core.job_compare import CompareJob, compared
from axon_core.job_plan import PlanJob
from axon_core.job_register import RegisterJob
from axon_core.radiograph import Radiograph, standardise
from axon_core.registration.files import FILM_PIXELS, laid_on_detector

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
DEGREES, MILLIMETRES = (3.0, -2.0, 2.0), (8.0, 10.0, -12.0)
POSE = RigidPose(tuple(np.deg2rad(DEGREES).tolist()), MILLIMETRES)  # type: ignore[arg-type]


def worker(job: dict[str, Any] | str, **environment: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, lines and log of a job, or of a bare argument."""
    argument, text = (job, "") if isinstance(job, str) else ("-", json.dumps(job))
    command = [sys.executable, "-m", "axon_core.worker", argument]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, timeout=120
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom's ``ct.nrrd``, far off the origin, and its film ``pa.dcm`` in `POSE`."""
    folder = tmp_path_factory.mktemp("case")
    grid = CanonicalGrid(72, 360.0, (10.0, -150.0, 900.0))
    ct = CTVolume(thorax(5, grid), grid.affine)
    ct.save(folder / "ct.nrrd")
    geometry = XrayGeometry(pixels=256)
    film, record = simulate(ct, geometry, POSE)
    write_film(folder / "pa.dcm", "pa.dcm", film, geometry, record)
    return folder


# ---- register


def test_registration_starts_where_it_is_told_and_leaves_its_record(case: Path, tmp_path: Path) -> None:
    job = {"task": "register", "ct": str(case / "ct.nrrd"), "frontal": str(case / "pa.dcm"), "global_search": False,
           "output": str(tmp_path / "pose.json"),
           "start": {"rotation_deg": [2.5, -2, 2], "translation_mm": [8, 10, -11]}}  # fmt: skip
    status, lines, log = worker(job)
    assert status == 0, (lines, log)
    found = lines[-1]["record"]
    assert found == json.loads((tmp_path / "pose.json").read_text()) and lines[-1]["output"] == job["output"]
    np.testing.assert_allclose(found["rotation_deg"], DEGREES, atol=1.0)
    np.testing.assert_allclose(found["translation_mm"][::2], MILLIMETRES[::2], atol=1.0)
    assert found["similarity"][0]["before"] > 0.7, "the start is near"
    shown = [line["fraction"] for line in lines if line.get("stage") == "registration"]
    assert len(shown) > 3 and shown == sorted(shown) and shown[-1] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["pose.json"]
    refused = worker(job)[1][-1]
    assert refused["code"] == "output.exists" and json.loads((tmp_path / "pose.json").read_text()) == found


def test_what_a_mask_hides_does_not_matter(case: Path, tmp_path: Path) -> None:
    """A film whose upper half lies 40 mm to one side."""
    import pydicom

    film = pydicom.dcmread(case / "pa.dcm")
    pixels = film.pixel_array.copy()
    pixels[:128] = np.roll(pixels[:128], 24, axis=1)
    film.PixelData = pixels.tobytes()
    film.save_as(tmp_path / "spoiled.dcm")
    mask = np.ones((FILM_PIXELS, FILM_PIXELS), bool)
    mask[: FILM_PIXELS // 2 + 20] = False
    np.save(tmp_path / "mask.npy", mask)
    errors = []
    for name in (None, str(tmp_path / "mask.npy")):
        job = RegisterJob(
            str(case / "ct.nrrd"), FilmChoice(str(tmp_path / "spoiled.dcm")), str(tmp_path / f"{name is None}.json"),
            frontal_mask=name, global_search=False,
        )  # fmt: skip
        record = job.run(job.staging(), lambda _: None).record
        errors.append(abs(record["translation_mm"][0] - MILLIMETRES[0]))
    assert errors[1] < 2.0 < 5.0 < errors[0]


def test_masks_stay_on_the_film() -> None:
    film = Radiograph(np.random.default_rng(0).random((80, 60)), (4.0, 4.0), source={"right_lateral": True})
    standard = replace(standardise(film, 64), view=film.view or standardise(film, 64).view)
    mask = np.zeros((64, 64), bool)
    mask[:, :40] = True
    laid = laid_on_detector(standard, mask=mask)
    assert laid.mask is not None and not standard.mask.all()
    assert np.array_equal(laid.mask[:, ::-1], mask & standard.mask), "a right lateral is seen by its own beam"
    assert laid_on_detector(standard).mask is None
    with pytest.raises(ConfigError) as caught:
        laid_on_detector(standard, mask=mask[:32])
    assert caught.value.code == "register.mask"


# ---- compare


def test_a_moved_truth_is_moved_back(case: Path, tmp_path: Path) -> None:
    """The same phantom in another frame: with the right matrix only that error is left which was made on purpose."""
    ct = CTVolume.load(case / "ct.nrrd")
    result = ct.onto(CanonicalGrid(60, 300.0, ct.center_lps))
    result.hu[:, :, :6] += 40.0
    result.save(tmp_path / "result.nrrd")
    moved = CTVolume(ct.hu, POSE.matrix @ ct.affine)
    moved.save(tmp_path / "truth.nii.gz")
    job = {"task": "compare", "result": str(tmp_path / "result.nrrd"), "truth": str(tmp_path / "truth.nii.gz"),
           "truth_to_result": np.linalg.inv(POSE.matrix).tolist(), "output": str(tmp_path / "right")}  # fmt: skip
    right, wrong = (
        worker(one)[1][-1]
        for one in (job, {**job, "truth_to_result": np.eye(4).tolist(), "output": str(tmp_path / "wrong")})
    )
    values, bad = ({m["name"]: m["value"] for m in made["metrics"]} for made in (right, wrong))
    assert values["MAE"] == pytest.approx(4.0, abs=0.1) and bad["MAE"] > 20.0
    assert values["SSIM"] > 0.9 > bad["SSIM"]
    assert values["PSNR"] == pytest.approx(20 * np.log10(2000 / 40) + 10, abs=1.0), "clipping takes some of it away"
    assert values["compared"] == 100.0 > bad["compared"]
    assert all(m["definition"] for m in right["metrics"]) and "not counted" in right["metrics"][-1]["definition"]
    truth, difference, result = (
        CTVolume.load(path) for path in (right["files"]["truth"], right["files"]["difference"], job["result"])
    )
    np.testing.assert_allclose(difference.hu, result.hu - truth.hu, atol=0.51)
    np.testing.assert_allclose(truth.affine, result.affine, atol=1e-4)
    assert difference.source["synthetic"] and not truth.source.get("synthetic")
    assert json.loads(Path(right["files"]["metrics"]).read_text())["metrics"] == right["metrics"]
    assert worker(job)[1][-1]["code"] == "output.exists"
    assert worker({**job, "overwrite": True})[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"result.nrrd", "truth.nii.gz", "right", "wrong"}


def test_only_what_both_hold_is_compared(tmp_path: Path) -> None:
    """A truth that ends halfway: whatever the result says beyond does not count, the rest is exact."""
    rng = np.random.default_rng(0)
    grid = CanonicalGrid(32, 320.0)
    hu = np.rint(rng.normal(0, 300, grid.shape))
    CTVolume(hu[:16], grid.affine).save(tmp_path / "truth.nrrd")
    hu[16:] = 900.0
    CTVolume(hu, grid.affine).save(tmp_path / "result.nrrd")
    files = {
        "result": str(tmp_path / "result.nrrd"),
        "truth": str(tmp_path / "truth.nrrd"),
        "output": str(tmp_path / "o"),
    }
    job = CompareJob.from_dict({**files, "truth_to_result": np.eye(4).tolist()})
    made = job.run(job.staging(), lambda _: None)
    values = {metric.name: metric.value for metric in made.metrics}
    assert values == {"MAE": 0.0, "PSNR": None, "SSIM": pytest.approx(1.0), "compared": 50.0}
    assert not CTVolume.load(made.output / "truth.nrrd").hu[16:].max() > -1000.0
    with pytest.raises(AxonError):  # all zero: nothing that `load` takes for a CT, and nothing that a CT would be
        CTVolume.load(made.output / "difference.nrrd")
    away = np.eye(4)
    away[0, 3] = 1000.0
    job = CompareJob.from_dict({**files, "truth_to_result": away.tolist(), "overwrite": True})
    with pytest.raises(AxonError) as caught:
        job.run(job.staging(), lambda _: None)
    assert caught.value.code == "compare.no-overlap" and (made.output / "metrics.json").exists()


def test_metrics_of_a_small_overlap_have_no_similarity() -> None:
    inside = np.zeros((16, 16, 16), bool)
    inside[:8] = True
    values = {m.name: m.value for m in compared(np.zeros(inside.shape), np.full(inside.shape, 100.0), inside)}
    assert values["SSIM"] is None and values["MAE"] == 100.0 and values["PSNR"] == pytest.approx(20 * np.log10(20.0))


# ---- plan


def test_a_plan_of_every_preset_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    job = {"task": "plan", "model": str(tiny_model), "device": "cpu", "seeds": 2, "views": 2}
    status, lines, log = worker(job, TMPDIR=str(tmp_path))
    assert status == 0, (lines, log)
    plan = lines[-1]
    assert list(plan["seconds"]) == ["preview", "fast", "quality", "paper"] and plan["device"] == "cpu"
    assert list(plan["seconds"].values()) == sorted(plan["seconds"].values()) and plan["seconds"]["preview"] > 0.5
    assert plan["basis"] == "measured" and "threads" in plan["reason"]
    assert not list(tmp_path.iterdir())
    assert worker({**job, "device": "abacus"})[1][-1]["code"] == "device.missing"


def test_what_is_too_slow_is_scaled_from_smaller_cubes(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_plan, "_timed", lambda evaluate, device: [evaluate()])
    monkeypatch.setattr(job_plan, "_evaluation", lambda model, stage, edge: lambda: 2.0 + edge**3 / 1000)
    monkeypatch.setattr(job_plan, "PATIENCE_S", 0.0)
    costs = []
    monkeypatch.setattr(job_plan.Cost, "of", lambda self, count: costs.append(self) or 0.0)
    job = PlanJob(str(tiny_model), "cpu")
    assert job.run(job.staging(), lambda _: None).basis == "estimated"
    assert 2.0 + 16**3 / 1000 in [pytest.approx(cost.each) for cost in costs if not cost.measured]


# ---- cancelling


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking them")
@pytest.mark.parametrize(("task", "stage"), [("register", "registration"), ("compare", "reading"), ("plan", "loading")])
def test_cancelled_tasks_leave_nothing(task: str, stage: str, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    ct, output = str(case / "ct.nrrd"), str(tmp_path / "out")
    jobs: dict[str, dict[str, Any]] = {
        "register": {"ct": ct, "frontal": str(case / "pa.dcm"), "output": output},
        "compare": {"result": ct, "truth": ct, "truth_to_result": np.eye(4).tolist(), "output": output},
        "plan": {"model": str(tiny_model)},
    }
    command = [sys.executable, "-m", "axon_core.worker", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    child = subprocess.Popen(command, env={**ENVIRONMENT, "TMPDIR": str(tmp_path)}, **pipes)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps({"task": task, **jobs[task]}))
    child.stdin.close()
    while json.loads(child.stdout.readline())["stage"] != stage:
        pass
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".partial-"]
    child.send_signal(signal.SIGTERM)
    last = json.loads(child.stdout.read().splitlines()[-1])
    assert child.wait(timeout=10) == 130 and last["code"] == "cancelled"
    assert not list(tmp_path.iterdir())


# ---- self-check


def test_a_whole_installation(tiny_model: Path, tmp_path: Path) -> None:
    """Three models: one good, one with a wrong sum, one that is no model."""
    for name in ("good", "spoiled", "foreign"):
        shutil.copytree(tiny_model, tmp_path / "Models" / name)
    weights = tmp_path / "Models" / "spoiled" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    (tmp_path / "Models" / "foreign" / "model.safetensors").write_bytes(b"a poem")
    (tmp_path / "Models" / "foreign" / "model.safetensors.sha256").unlink()
    status, lines, log = worker("--selfcheck", AXON_RESOURCES=str(tmp_path))
    assert status == 0 and len(lines) == 1 and lines[0]["type"] == "result", (lines, log)
    found = lines[0]
    assert found["problems"] == [] and found["torch"] and found["monai"]
    assert [one["name"] for one in found["devices"]] == ["cuda", "mps", "cpu"]
    assert all(one["text"] for one in found["devices"]) and found["devices"][2]["available"]
    assert found["default_device"] == next(one["name"] for one in found["devices"] if one["available"])
    models = {model["name"]: model for model in found["models"]}
    assert models["good"]["problem"] is None and models["good"]["checksum_ok"] and models["good"]["parameters"] > 1000
    assert models["good"]["grid_size"] * models["good"]["grid_spacing_mm"] == 360.0 and models["good"]["views"] == [
        1,
        2,
    ]
    assert models["spoiled"]["problem"]["code"] == "model.damaged" and models["spoiled"]["checksum_ok"] is False
    assert models["foreign"]["problem"]["code"] == "model.format" and models["foreign"]["checksum_ok"] is None
    assert models["foreign"]["size_bytes"] == 6 and models["foreign"]["title"] is None
    assert len({tuple(model) for model in found["models"]}) == 1, "all have the same keys"


def test_without_a_usable_model(tmp_path: Path) -> None:
    (tmp_path / "Models").mkdir()
    for folder, code in ((tmp_path, "model.none"), (tmp_path / "nowhere", "resources.missing")):
        status, lines, _ = worker("--selfcheck", AXON_RESOURCES=str(folder))
        assert status == 1 and lines[-1]["type"] == "error" and lines[-1]["code"] == code


ABSENT = "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)"


@pytest.mark.parametrize(
    ("module", "content", "code"),
    [
        ("torch", ABSENT, "package.missing"),
        ("torch", "raise OSError('libc10.so: no such file')", "package.broken"),
        ("torch", "import one_of_its_own", "package.missing"),
        ("monai", "raise AttributeError('np.float')", "package.broken"),
        ("safetensors", ABSENT, "package.missing"),
        ("numpy", ABSENT, "package.missing"),
    ],
)
def test_absent_and_broken_libraries_are_told(module: str, content: str, code: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(content)
    status, lines, log = worker("--selfcheck", PYTHONPATH=str(tmp_path))
    assert status == 1 and len(lines) == 1 and "Traceback" not in log
    found = lines[0]
    assert found["type"] == "error" and found["code"] == code and module in found["title"].lower()
    assert found["advice"] and found["python"] and found["problems"][0]["code"] == code
    assert found.get(module) is None and found["devices"] == []


@pytest.mark.parametrize("module", ["torch", "monai", "safetensors"])
def test_a_job_without_its_library_is_told_in_one_line(
    module: str, film_png: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / f"{module}.py").write_text(ABSENT)
    job = {"frontal": str(film_png), "output": str(tmp_path / "out"), "model": str(tiny_model)}
    status, lines, _ = worker(job, PYTHONPATH=str(tmp_path / "fake"))
    assert status == 1 and lines[-1]["code"] == "package.missing" and module in lines[-1]["title"]
    assert [path.name for path in tmp_path.iterdir()] == ["fake"]


# ---- what is needed


ONLY = """
import importlib.metadata, re, sys
from importlib.machinery import PathFinder

allowed, open_ = set(), {open_}
while open_:
    name = open_.pop()
    allowed.add(name)
    try:
        wanted = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    names = {{re.match(r"[\\w.-]+", line)[0].lower().replace("_", "-") for line in wanted if "extra ==" not in line}}
    open_ |= names - allowed
homes = importlib.metadata.packages_distributions()

class Hide:
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        owners = {{owner.lower().replace("_", "-") for owner in homes.get(name.split(".")[0], ())}}
        if owners and not owners & (allowed | {{"axon-core"}}):
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hide()
from axon_core.worker import main
status = main(sys.argv[1:])
used = {{name.split(".")[0] for name in sys.modules}}
print(sorted(used & {{"monai", "einops", "typer", "skimage"}}), file=sys.stderr)
sys.exit(status)
"""
BASE = {"numpy", "torch", "simpleitk", "pydicom", "scipy", "pillow", "safetensors"}


@pytest.mark.parametrize("task", ["preview", "paper", "register", "compare", "selfcheck", "train"])
def test_needs_few_libraries(task: str, case: Path, tiny_model: Path, film_png: Path, tmp_path: Path) -> None:
    """With everything hidden that Slicer has not and that is not among the few to be installed."""
    ct = str(case / "ct.nrrd")
    jobs: dict[str, dict[str, Any]] = {
        "preview": {"frontal": str(film_png), "model": str(tiny_model), "preset": "preview", "format": "dicom"},
        "paper": {"frontal": str(film_png), "model": str(tiny_model), "preset": "paper", "previews": True},
        "register": {"task": "register", "ct": ct, "frontal": str(case / "pa.dcm"), "global_search": False},
        "compare": {"task": "compare", "result": ct, "truth": ct, "truth_to_result": np.eye(4).tolist()},
        "train": {"task": "train", "preset": "tiny", "parts": ["prior"], "steps": 2, "device": "cpu"},
    }
    if task == "train":
        jobs[task]["data"] = str(training_data.write_pairs(tmp_path / "pairs", 2))
    whole = task in ("paper", "selfcheck", "train")
    (tmp_path / "job.json").write_text(json.dumps({**jobs.get(task, {}), "output": str(tmp_path / "out")}))
    more = {"monai", "einops"} if whole else set()
    program = ONLY.format(open_=BASE | more | ({"lightning-fabric"} if task == "train" else set()))
    argument = "--selfcheck" if task == "selfcheck" else str(tmp_path / "job.json")
    command = [sys.executable, "-c", program, argument]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, (done.stdout[-600:], done.stderr[-2000:])
    assert done.stderr.splitlines()[-1] == ("['einops', 'monai']" if whole else "[]")

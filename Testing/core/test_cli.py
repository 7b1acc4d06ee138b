"""The command line: instant help, one-line errors, exit codes, nothing overwritten, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from axon_core import SYNTHETIC_NOTICE, cli, cli_info, cli_reconstruct
from axon_core.config import parse_seeds
from axon_core.ctvolume import CTVolume
from axon_core.errors import ConfigError, DeviceError, FilmError, ModelError, OutputError, VolumeError
from axon_core.job import FORMATS

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
COMMANDS = ("reconstruct", "demo", "models", "info", "drr", "register", "view", "selfcheck", "prepare")


def axon(*arguments: object) -> Any:
    """Run a command in this process; the result has exit_code, stdout, stderr."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box of water with bone on the patient's left, in air."""
    hu = np.full((24, 24, 24), -1000.0, np.float32)
    hu[4:20, 4:20, 4:20] = 0
    hu[6:18, 6:18, 15:18] = 800
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = (300, -50, 700)  # far off the isocentre
    path = tmp_path_factory.mktemp("ct") / "box.nrrd"
    CTVolume(hu, affine).save(path)
    return path


# ---- help


def test_help_is_light_and_quick() -> None:
    program = (
        "import sys, time; from axon_core import cli\n"
        "try: cli.app(['--help'], prog_name='axon')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'SimpleITK', 'pydicom', 'PIL', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), time.process_time())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=True)
        for _ in range(2)
    ]
    loaded, seconds = zip(*(run.stdout.splitlines()[-1].rsplit(" ", 1) for run in runs), strict=True)
    assert set(loaded) == {"[]"}
    assert min(map(float, seconds)) < 0.6, "0.2 s on a quiet machine"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_and_exit_codes(command: str) -> None:
    text = " ".join(axon(command, "--help").stdout.split())
    assert "Examples" in text and f"axon {command}" in text and "Exit status: 0" in text


def test_documented_exit_codes_are_those_of_the_errors() -> None:
    text = " ".join(axon("--help").stdout.split())
    documented = {int(code): meaning for code, meaning in re.findall(r"(\d+) ([^,.]+)", text.split("Exit status:")[1])}
    for kind, word in {ConfigError: "option", FilmError: "film", VolumeError: "CT", ModelError: "model",
                       OutputError: "written", DeviceError: "device"}.items():  # fmt: skip
        assert word in documented[kind.exit_code]
    assert "cancelled" in documented[130]


def test_options_offer_what_the_job_knows() -> None:
    assert tuple(member.value for member in cli_reconstruct.Format) == FORMATS


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("0,7,42", (0, 7, 42)), ("5,", (5,)), ("4, 2", (4, 2))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-2", "a", "1.5", "1,b"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_seeds(text)


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["reconstruct"], 2),
        (["reconstruct", "nowhere.png", "-o", "unused", "--format", "stl"], 2),
        (["reconstruct", "nowhere.png", "-o", "unused", "--seeds", "x"], 2),
        (["reconstruct", "nowhere.png", "-o", "unused"], 3),
        (["drr", "nowhere.nii", "-o", "unused.png"], 4),
        (["drr", "nowhere.nii", "-o", "unused.gif"], 6),
        (["info", "nowhere"], 2),
        (["info", "x" * 300], 2),  # longer than any file system allows
        (["view", "x" * 300], 4),
        (["reconstruct", "x" * 300, "-o", "unused"], 3),
    ],
)
def test_errors_are_short_and_leave_nothing(
    arguments: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = axon(*arguments)
    assert done.exit_code == status and done.stderr.strip() and not done.stdout
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_and_json_is_json(tmp_path: Path) -> None:
    assert "Traceback" in axon("info", tmp_path / "nowhere", "--debug").stderr
    done = axon("info", tmp_path / "nowhere", "--json")
    assert done.exit_code == 2 and set(json.loads(done.stdout)["error"]) == {"code", "title", "advice"}


def test_bugs_are_told_in_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_info, "understand", broken)
    done = axon("info", tmp_path)
    assert done.exit_code == 1 and "ZeroDivisionError" in done.stderr and "--debug" in done.stderr


# ---- commands


def test_reconstruct_writes_everything_once(film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    basic = ["reconstruct", film_png, "-o", output, "--model", tiny_model, "--preset", "fast", "--device", "cpu"]
    done = axon(*basic, "--seeds", 2, "--pixel-size", 1.5, "--view", "AP", "--no-invert", "--format", "nii.gz")
    assert done.exit_code == 0, done.output
    assert SYNTHETIC_NOTICE in done.stdout
    names = {"volume.nii.gz", "uncertainty.nii.gz", "report.html", "report.png", "projections.png", "provenance.json"}
    assert {p.name for p in output.iterdir()} == names
    provenance = json.loads((output / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["seeds"] == [0, 1] and provenance["preset"] == "fast" and set(provenance["ncc"]) == {"frontal"}
    final, spread = (CTVolume.load(output / f"{name}.nii.gz") for name in ("volume", "uncertainty"))
    assert final.center_lps == pytest.approx(spread.center_lps, abs=1e-3) and spread.hu.min() >= 0

    before = (output / "volume.nii.gz").read_bytes()
    refused = axon(*basic, "--json")
    assert refused.exit_code == 6 and json.loads(refused.stdout)["error"]["code"] == "output.exists"
    assert (output / "volume.nii.gz").read_bytes() == before

    replaced = axon(*basic, "--json", "--force", "--format", "dicom")
    told = json.loads(replaced.stdout)
    assert replaced.exit_code == 0 and set(told["files"]) == {
        "volume",
        "report",
        "picture",
        "projections",
        "provenance",
    }
    assert {p.name for p in output.iterdir()} == {
        "dicom",
        "report.html",
        "report.png",
        "projections.png",
        "provenance.json",
    }
    assert CTVolume.load(output / "dicom").hu.ndim == 3
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_drr_shows_bone_on_the_patients_left(ct_file: Path, tmp_path: Path) -> None:
    from PIL import Image

    output = tmp_path / "film.png"
    done = axon("drr", ct_file, "-o", output, "--size", 64, "--preset", "linear", "--json")
    record = json.loads(done.stdout)
    assert done.exit_code == 0 and record["geometry"]["pixels"] == 64 and record["note"] == SYNTHETIC_NOTICE
    with Image.open(output) as picture:
        film = np.asarray(picture).astype(float)
        assert picture.text["Comment"] == SYNTHETIC_NOTICE
    half = film[16:48]
    assert half[:, 33:46].max() == film.max() > half[:, 18:30].mean() > film[:, :6].mean(), (
        "centred, bone right of middle"
    )
    assert axon("drr", ct_file, "-o", output).exit_code == 6
    for view in ("LL", "RL"):
        done = axon("drr", ct_file, "-o", output, "--force", "--view", view, "--size", 32, "--preset", "linear")
        assert done.exit_code == 0 and SYNTHETIC_NOTICE in done.stdout
        lateral = np.asarray(Image.open(output)).astype(float)
        assert np.abs(lateral - lateral[:, ::-1]).mean() < 3, "the box is symmetric from front to back"


def test_drr_moves_the_patient(ct_file: Path, tmp_path: Path) -> None:
    """40 mm to the patient's left move the shadow by as much times the magnification; a clinic film in DICOM."""
    from axon_core.radiograph import Radiograph

    films = []
    for name, pose in (("rest.dcm", "0,0,0,0,0,0"), ("moved.dcm", "0,0,0,40,0,0")):
        done = axon("drr", ct_file, "-o", tmp_path / name, "--size", 128, "--pose", pose)
        assert done.exit_code == 0, done.stderr
        films.append(Radiograph.load(tmp_path / name))
    profiles = [np.abs(np.diff(film.pixels[48:80].mean(0))) for film in films]
    pitch = films[0].spacing_mm[0]
    shifts = [np.corrcoef(profiles[0][: 127 - k], profiles[1][k:])[0, 1] for k in range(30)]
    assert int(np.argmax(shifts)) == pytest.approx(40 * 1.125 / pitch, abs=1.5)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--pose", "1,2,3"], 2, "neither six numbers"),
        (["--pose", "nowhere.json"], 2, "holds no pose"),
        (["--pose", "0,0,0,2000,0,0"], 2, "misses the body"),
        (["--pose", "0,0,0,0,1650,0"], 2, "between source and detector"),
        (["--sdd", "100"], 2, "lies between"),
    ],
)
def test_drr_tells_what_is_wrong(ct_file: Path, tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    done = axon("drr", ct_file, "-o", tmp_path / "film.png", "--size", 32, *arguments)
    assert done.exit_code == status and said in done.stderr
    assert not list(tmp_path.iterdir())


def test_info_knows_films_volumes_and_models(film_png: Path, ct_file: Path, tiny_model: Path) -> None:
    film, volume, model = (json.loads(axon("info", path, "--json").stdout) for path in (film_png, ct_file, tiny_model))
    assert film["kind"] == "film" and film["pixels"] == [200, 160] and film["source"]["format"] == "PNG"
    assert volume["kind"] == "volume" and volume["voxels"] == [24, 24, 24] and volume["hu"] == [-1000.0, 800.0]
    assert model["kind"] == "model" and model["grid"] == 16 and model["title"] == "untrained"
    text = axon("info", ct_file).stdout
    assert "kind" in text and "volume" in text


def test_info_says_what_is_wrong_with_the_right_kind(tmp_path: Path, tiny_model: Path) -> None:
    nothing = tmp_path / "text.txt"
    nothing.write_text("no image")
    assert axon("info", nothing).exit_code == 3
    assert axon("info", tmp_path).exit_code == 4
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:1000])
    assert axon("info", broken).exit_code == 5


def test_models_and_selfcheck(
    tiny_model: Path, film_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for the bundled resources, whole and then damaged."""
    model = tmp_path / "Models" / "axon-small"
    model.parent.mkdir()
    monkeypatch.setenv("AXON_RESOURCES", str(tmp_path))
    assert json.loads(axon("models", "--json").stdout) == {"models": []}
    assert axon("selfcheck", "--json").exit_code == 1

    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (tmp_path / "Samples").mkdir()
    (tmp_path / "Samples" / "film.png").write_bytes(film_png.read_bytes())
    listed = json.loads(axon("models", "--json").stdout)["models"]
    assert [entry["name"] for entry in listed] == ["axon-small"]
    assert "axon-small" in axon("models").stdout
    done = axon("selfcheck", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["well"], told
    assert {check["name"] for check in told["checks"]} == {"packages", "devices", "weights", "computation"}

    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    done = axon("selfcheck")
    assert done.exit_code == 1 and "FAILED weights" in " ".join(done.stdout.split())


def test_demo_replaces_its_own_result(
    tiny_model: Path, film_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = tmp_path / "resources"
    (resources / "Models").mkdir(parents=True)
    (resources / "Models" / "axon-small").symlink_to(tiny_model)
    (resources / "Samples").mkdir()
    (resources / "Samples" / "film.png").write_bytes(film_png.read_bytes())
    monkeypatch.setenv("AXON_RESOURCES", str(resources))
    assert axon("demo", "-o", tmp_path / "demo", "--preset", "preview").exit_code == 0
    assert axon("demo", "-o", tmp_path / "demo", "--preset", "preview").exit_code == 6
    for _ in range(2):
        done = axon("demo", "-o", tmp_path / "demo", "--preset", "preview", "--force")
        assert done.exit_code == 0 and str(tmp_path / "demo" / "report.html") in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(by: signal.Signals, film_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["reconstruct", str(film_png), "-o", str(tmp_path / "out"), "--model", str(tiny_model)]
    arguments += ["--preset", "paper", "--seeds", "500", "--device", "cpu"]
    program = (
        "import signal, sys, axon_core.pipeline; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from axon_core.cli import main; main()"
    )
    command = [sys.executable, "-c", program, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not any(p.name.startswith(".partial") for p in tmp_path.iterdir()) and child.poll() is None:
        time.sleep(0.05)
    time.sleep(1.5)
    child.send_signal(by)
    _, log = child.communicate(timeout=20)
    assert child.returncode == 130 and "Cancelled" in log and "Traceback" not in log, log
    assert not list(tmp_path.iterdir())

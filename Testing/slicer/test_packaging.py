"""The extension as CMake packages it: nothing is forgotten, and what is installed works by itself."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from packaged import NO_COMPILER, ROOT, STUB, cmake, configured, packagedTree

HOME = "https://github.com/axon-ct/SlicerAXON"
RAW = "https://raw.githubusercontent.com/axon-ct/SlicerAXON/main/"
MODULES = [path.parent for path in sorted(ROOT.glob("*/CMakeLists.txt"))]
ENDINGS = {".py", ".ui", ".svg", ".png", ".json", ".toml", ".npz", ".csv", ".html", ".nrrd", ".safetensors", ".txt"}
NOT_SHIPPED = {"CMakeLists.txt", "Testing", "__pycache__"}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return configured(tmp_path_factory.mktemp("configured"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packagedTree(tmp_path_factory.mktemp("Ä b"))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that sees the installed tree and no other place of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AXON")}
    environment.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, cwd=tree)


# ---- CMake


def test_everything_is_packaged_once(build: Path) -> None:
    """Every file of the kinds that are needed at run time, and no other."""
    folders = [
        *MODULES,
        ROOT / "axon_core",
        *(ROOT / "Resources" / name for name in ("Models", "Samples", "SampleData")),
    ]
    wanted = {
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in ENDINGS and not NOT_SHIPPED & set(path.relative_to(folder).parts)
    }
    packaged = [Path(line) for line in lines(build / "PACKAGED.txt")]
    assert len(packaged) == len(set(packaged))
    assert wanted - set(packaged) == set()
    others = {path.relative_to(ROOT).as_posix() for path in set(packaged) - wanted}
    models = {name for name in others if name.startswith("Resources/Models/")}  # model cards, checksums
    assert others - models == {"Resources/ATTRIBUTION.md"}


def test_files_of_two_sources_do_not_meet(build: Path, tree: Path) -> None:
    assert len([path for path in tree.rglob("*") if path.is_file()]) == len(lines(build / "PACKAGED.txt"))


def test_slicer_finds_the_modules_and_nothing_else(tree: Path) -> None:
    """Slicer takes every script at the top for a module."""
    assert {path.name for path in tree.glob("*.py")} == {f"{module.name}.py" for module in MODULES}
    for module in MODULES:
        assert (tree / "Resources" / "Icons" / f"{module.name}.png").is_file()
        assert (tree / "Resources" / "UI" / f"{module.name}.ui").is_file()


def test_self_tests_are_registered(build: Path) -> None:
    tested = {Path(line).relative_to(ROOT).as_posix() for line in lines(build / "TESTED.txt")}
    assert tested == {
        "AXONReconstruction/AXONReconstruction.py",
        "AXONReconstruction/Scripts/axon_batch.py",
        "AXONTraining/AXONTraining.py",
        "AXONTraining/Scripts/axon_train_batch.py",
    }


def test_the_six_fields_of_an_extension(build: Path) -> None:
    fields = dict(line.split("=", 1) for line in lines(build / "fields.txt"))
    assert set(fields) == {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert fields["HOMEPAGE"] == HOME and fields["DEPENDS"] == "PyTorch"
    assert "not for diagnosis" in fields["DESCRIPTION"]
    for address in [fields["ICONURL"], *fields["SCREENSHOTURLS"].split()]:
        assert address.startswith(RAW) and (ROOT / address.removeprefix(RAW)).is_file()


def test_a_missing_file_stops_cmake(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "M").mkdir(parents=True)
    for name in ("M.py", "m.ui"):
        (source / "M" / name).touch()
    text = (
        "cmake_minimum_required(VERSION 3.20.6)\nproject(X)\nfind_package(Slicer REQUIRED)\n"
        "include(${Slicer_USE_FILE})\nslicerMacroBuildScriptedModule(NAME M SCRIPTS M/M.py RESOURCES M/m.ui)\n"
    )
    arguments = ("-S", source, "-B", tmp_path / "build", f"-DSlicer_DIR={STUB}", *NO_COMPILER)
    (source / "CMakeLists.txt").write_text(text)
    cmake(*arguments)
    (source / "CMakeLists.txt").write_text(text.replace("m.ui", "m.ui M/more.ui"))
    failed = cmake(*arguments, check=False)
    assert failed.returncode != 0 and "M/more.ui" in failed.stderr
    (source / "CMakeLists.txt").write_text(text + "include(${Slicer_EXTENSION_GENERATE_CONFIG})\n")
    failed = cmake(*arguments, check=False)
    assert failed.returncode != 0 and "EXTENSION_HOMEPAGE" in failed.stderr


# ---- the installed tree


def test_the_library_finds_its_weights_and_films_there(tree: Path) -> None:
    program = (
        "import axon_core, axon_core.resources as r, axon_core.model as m;"
        "print(axon_core.__file__); print(r.folder()); print(r.demo_film());"
        "print(m.AxonModel.from_pretrained('axon-small').path)"
    )
    done = python(tree, "-c", program)
    assert done.returncode == 0, done.stderr
    places = [Path(line) for line in done.stdout.splitlines()]
    assert all(tree in place.parents for place in places) and places[1] == tree / "Resources"


def test_the_worker_checks_itself_there(tree: Path) -> None:
    done = python(tree, "-m", "axon_core.worker", "--selfcheck")
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["type"] == "result", (last, done.stderr)
    [model] = [model for model in last["models"] if model["name"] == "axon-small"]
    assert Path(model["folder"]).is_relative_to(tree) and model["checksum_ok"]


def test_both_modules_use_the_same_library_there(tree: Path) -> None:
    program = "import AXONLib, AXONTrainingLib.runs as r; print(AXONLib.__file__); print(r.__file__)"
    done = python(tree, "-c", program)
    assert done.returncode == 0, done.stderr
    places = [Path(line) for line in done.stdout.splitlines()]
    assert places == [tree / "AXONLib" / "__init__.py", tree / "AXONTrainingLib" / "runs.py"]


@pytest.mark.parametrize(("script", "word"), [("axon_batch.py", "--manifest"), ("axon_train_batch.py", "--minutes")])
def test_the_batch_scripts_start_there(tree: Path, script: str, word: str) -> None:
    done = python(tree, str(tree / "Scripts" / script), "--help")
    assert done.returncode == 0 and word in done.stdout, done.stderr


def test_the_modules_compile_in_python_without_ours_beside(tree: Path) -> None:
    program = "import compileall, sys; sys.exit(not compileall.compile_dir('.', quiet=1, force=True))"
    copy = tree.parent / "compiled"
    shutil.copytree(tree, copy)
    assert subprocess.run([sys.executable, "-c", program], cwd=copy).returncode == 0


# ---- texts for Slicer and its index


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("AXONReconstruction/Resources/requirements.txt", set()),
        ("AXONTraining/Resources/requirements-training.txt", {"lightning-fabric", "matplotlib"}),
    ],
)
def test_requirements_bring_no_torch_and_pin_nothing(file: str, more: set[str]) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    asked = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = {re.match(r"[\w-]+", line)[0] for line in asked}
    assert names == {"monai", "einops", "safetensors"} | more
    assert all(">=" in line and "==" not in line for line in asked)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{line}"' in project for line in asked), "as for pip"


def test_the_entry_of_the_extension_catalog() -> None:
    """The rules of slicer-extension-catalog-entry-schema-v1.0.1."""
    entry = json.loads((ROOT / "AXON.json").read_text(encoding="utf-8"))
    kinds = {
        "$schema": str,
        "build_dependencies": list,
        "build_subdirectory": str,
        "category": str,
        "enabled": bool,
        "scm_revision": str,
        "scm_type": str,
        "scm_url": str,
        "tier": int,
    }
    assert {"$schema", "category", "scm_url"} <= set(entry) <= set(kinds)
    assert all(type(value) is kinds[key] for key, value in entry.items())
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["scm_url"] == f"{HOME}.git" and 1 <= entry["tier"] <= 5
    assert entry["category"] == "Image Synthesis" and entry.get("scm_type", "git") == "git"
    assert entry["build_dependencies"] == ["PyTorch"], "as EXTENSION_DEPENDS"
    project = re.search(r"^project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
    assert project == "AXON" and (ROOT / "LICENSE").is_file()


def test_the_repository_stays_small(build: Path) -> None:
    """The extension index takes repositories up to 100 MB."""
    assert sum(Path(line).stat().st_size for line in lines(build / "PACKAGED.txt")) < 40e6


def test_tables_in_the_package_are_tables(tree: Path) -> None:
    """What is installed is what lies in the checkout, byte by byte, also for files that are no text."""
    for path in tree.rglob("*"):
        if path.suffix in {".csv", ".npz", ".safetensors", ".nrrd"}:
            source = ROOT / path.relative_to(tree)
            assert path.read_bytes() == source.read_bytes()
            if path.suffix == ".csv":
                assert list(csv.reader(path.read_text().splitlines()))

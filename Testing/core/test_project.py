"""What holds the project together: packages, versions, floors, resources, and a wheel that has everything inside."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import axon_core
from axon_core import resources
from axon_core.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
]


def plain(requirement: str) -> str:
    """Normalised name of a requirement."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_every_package_is_shipped() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "axon_core").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"axon_core._resources"}


def test_one_version() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "axon_core.__version__"}
    assert f"## [{axon_core.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_has_a_tested_version() -> None:
    pinned = {plain(line) for line in CONSTRAINTS}
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *(item for items in extras.values() for item in items)]
    missing = {plain(item) for item in asked} - pinned - {"axon-core", "tomli"}
    assert not missing
    assert all(re.search(r"==[\w.]+", line) for line in CONSTRAINTS)


def test_the_version_pins_fit_this_interpreter_once_each() -> None:
    from packaging.requirements import Requirement

    fitting = [Requirement(line) for line in CONSTRAINTS]
    names = [plain(r.name) for r in fitting if r.marker is None or r.marker.evaluate()]
    assert len(names) == len(set(names))


def test_every_import_is_declared() -> None:
    """A library imported anywhere in the package is a dependency, or belongs to an extra."""
    distribution = {
        "PIL": "pillow",
        "lightning_fabric": "lightning-fabric",
        "skimage": "scikit-image",
        "tomllib": "tomli",
        "vtkmodules": "vtk",
    }
    extras = PROJECT["project"]["optional-dependencies"]
    declared = {plain(item) for items in [PROJECT["project"]["dependencies"], *extras.values()] for item in items}
    for path in (ROOT / "axon_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for top in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"axon_core"}:
                name = distribution.get(top, top).lower().replace("_", "-")
                assert name in declared, f"{path.relative_to(ROOT)} imports {top}"


def test_ci_runs_tests_and_lint() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text and "make test" in text and "make lint" in text
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}: $(STAMP)" in makefile for target in ("demo", "test", "lint", "screenshots"))


def test_importing_the_library_is_light() -> None:
    program = "import sys, axon_core, axon_core.errors; sys.exit(bool({'torch', 'numpy', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ---- resources


def test_resources_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AXON_RESOURCES", raising=False)
    assert resources.folder() == ROOT / "Resources"


def test_the_environment_chooses_the_resources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Models").mkdir()
    monkeypatch.setenv("AXON_RESOURCES", str(tmp_path))
    assert resources.folder() == tmp_path
    with pytest.raises(ConfigError, match="No film"):
        resources.demo_film()
    (tmp_path / "Samples" / "b").mkdir(parents=True)
    for name in ("Samples/b/z.png", "Samples/y.dcm", "Samples/LICENCE.txt"):
        (tmp_path / name).touch()
    assert resources.demo_film() == tmp_path / "Samples" / "b" / "z.png"
    monkeypatch.setenv("AXON_RESOURCES", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        resources.folder()


def test_an_installed_package_finds_its_own_resources(tmp_path: Path) -> None:
    package = tmp_path / "axon_core"
    (package / "_resources" / "Models").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "resources.py"):
        shutil.copy(ROOT / "axon_core" / name, package)
    environment = {key: value for key, value in os.environ.items() if key != "AXON_RESOURCES"}
    program = "from axon_core.resources import folder; print(folder())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    )
    assert Path(done.stdout.strip()) == (package / "_resources").resolve()


def test_the_wheel_holds_weights_samples_presets_and_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "axon_core", source / "axon_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "Resources", source / "Resources")
    (source / "Resources" / "Models" / "probe" / "deep").mkdir(parents=True)
    (source / "Resources" / "Models" / "probe" / "deep" / "model.safetensors").write_bytes(b"weights")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("axon_core-*.whl"))) as wheel:
        inside = set(wheel.namelist())
    assert "axon_core/_resources/Models/probe/deep/model.safetensors" in inside
    for folder, prefix in ((ROOT / "Resources", "axon_core/_resources"), (ROOT / "axon_core", "axon_core")):
        wanted = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        if prefix.endswith("_resources"):
            wanted = [p for p in wanted if p.relative_to(folder).parts[0] in ("Models", "Samples", "ATTRIBUTION.md")]
        for path in wanted:
            assert f"{prefix}/{path.relative_to(folder).as_posix()}" in inside

"""`axon evaluate` from models and data to a report, its pictures, and the paper's figures beside ours."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
import chest_files
import training_data

from axon_core import cli
from axon_core.evaluation import figures, suite_run
from axon_core.evaluation.compare import Comparison, Failure
from axon_core.evaluation.render import render
from axon_core.evaluation.suites import MAIN, SUITES, missing_rows, paper_rows, rows_of
from axon_core.evaluation.table_formats import Table
from axon_core.evaluation.tables import Data, Report
from axon_core.evaluation.uncertainty import calibration


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients to train on, two to test."""
    return chest_files.prepared(tmp_path_factory.mktemp("cohort"))


def axon(*args: object) -> Any:
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, args)])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without renderings: they are tested apart."""
    monkeypatch.setattr(figures, "render", lambda hu, spacing: np.zeros((4, 4, 3)))


# --- the paper's figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "count"), [("table1", 10), ("table2", 6), ("table3", 9), ("table4", 12)])
def test_the_papers_figures_fit_each_other(suite: str, count: int) -> None:
    """The mean of PSNRs lies a little above the PSNR of the mean MSE; a mistyped digit would show."""
    rows = paper_rows(suite)
    assert len(rows) == count and suite in SUITES
    for row in rows:
        mean = {name: float(row.values[name][0]) for name in MAIN}
        assert 0.0 < mean["PSNR"] + 10 * math.log10(mean["MSE"]) < 0.26
        assert mean["MAE"] ** 2 < mean["MSE"] < mean["MAE"]
        assert all(
            0 < float(sd) < 0.25 * float(value) for value, sd in (row.values[n] for n in ("MAE", "PSNR", "SSIM"))
        )
    assert len({(row.row, row.data, row.views, row.grid) for row in rows}) == count


def test_tables_that_share_a_row_agree() -> None:
    seen: dict[Any, Any] = {}
    for suite in ("table1", "table2", "table3"):
        for row in paper_rows(suite):
            key = row.row, row.data, row.views, row.grid
            assert seen.setdefault(key, row.values) == row.values


# --- which model makes which row -------------------------------------------------------------------------------------


def test_rows_of_the_tables(tiny_model: Path) -> None:
    model = str(tiny_model)
    rows, failures = rows_of("table1", [model])
    assert [(row.row, row.label, row.stages) for row in rows] == [
        ("", "AXON F(x)", ()),
        ("axon-coarse", "AXON CoarseDiff", ("coarse",)),
        ("axon", "AXON", ("coarse", "fine")),
    ]
    assert not failures
    assert [line.row for line in missing_rows("table1", rows)] == ["xray2ctpa", "repeat-concat", "x2ct-gan"]
    twice, _ = rows_of("table1", [model, f"big={model}", model])
    assert len({row.label for row in twice if "big" in row.label}) == 3 and twice[0].label == "AXON F(x) (tiny)"
    third, _ = rows_of("table3", [f"with-syn={model}"])
    assert [(row.row, row.stages, row.enlarged) for row in third] == [
        ("", ("coarse", "fine"), False),
        ("", ("coarse", "fine"), True),
        ("with-syn", ("coarse", "fine", "super-resolution"), False),
    ]
    fourth, _ = rows_of("table4", [f"coarse-l2={model}", f"fine-rc-encoder={model}", f"with-drrs={model}"])
    assert [row.stages for row in fourth] == [("coarse",), ("fine",), ("coarse", "fine")]
    assert len(missing_rows("table4", fourth)) == 9
    _, failures = rows_of("table1", [model, "no-such-model"])
    assert failures[0].method == "no-such-model" and "no model" in failures[0].reason


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(cache: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 2 of an untrained model on two cases, two seeds, with a model that does not exist."""
    folder = tmp_path_factory.mktemp("report") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "render", lambda hu, spacing: np.zeros((4, 4, 3)))
        patch.setattr(figures, "TILE", 0.6)  # smaller, and so faster
        result = axon(
            *("--suite", "table2", "--data", cache, "--models", tiny_model, "no-such-model", "-o", folder),
            *("--seeds", "2", "--processes", "1", "--device", "cpu"),
        )
    assert result.exit_code == 0, result.output
    assert "left out no-such-model" in result.output.replace("\n", " ")
    return folder


def test_the_report_says_how_everything_was_made(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    for expected in (
        "| mean volume of the training CTs, 16³ | measured | - | 16³ | 2 |",
        "| constant, 16³ | measured |",
        "| AXON CoarseDiff, mean of 2 seeds | measured | 2 | 16³ | 2 |",
        "| X2CT-GAN | measured | 1 |  | 0 | not given | not given | not given | not given |",
        "| AXON, LIDC-IDRI | paper | 2 | 128³ | 16 | 0.0342 ± 0.0067 | 0.0070 ± 0.0018 | 21.71 ± 1.18 |",
        "not compared with the others: the paper's split is not published",
        "are those of 2 training CTs",
        "| no-such-model | every case |",
        "not stated",
        "2 frontal drawn, 2 lateral drawn",
        "10 log10(1 / MSE)",
        "[-100, 900]",
        "SYNTHETIC",
        "figures/p2-1-slices.png",
    ):
        assert expected in text, expected
    first = text.split("## ")[1]
    assert first.count("mean volume of") == 1  # what looks at no film stands once
    made = next(line for line in text.splitlines() if line.startswith("| AXON | 1 | cache | test | 2 |"))
    assert "0, 1" in made and "coarse 8, fine 12" in made and "wide [-1000, 1000]" in made


def test_the_report_is_there_for_programs(report: Path) -> None:
    lines = list(csv.DictReader((report / "report.csv").open(encoding="utf-8")))
    measured = [line for line in lines if line["from"] == "measured"]
    assert len(measured) == 14 and len(lines) == 14 + len(paper_rows("table2"))
    row = next(line for line in measured if (line["method"], line["films"]) == ("AXON F(x)", "2"))
    assert float(row["PSNR low"]) <= float(row["PSNR mean"]) <= float(row["PSNR high"])
    assert float(row["PSNR p"]) >= 0.5 and int(row["parameters"]) > 1000 and row["n"] == "2"
    samples = list(csv.DictReader((report / "scores.csv").open(encoding="utf-8")))
    assert {line["seed"] for line in samples if line["method"] == "AXON"} == {"0", "1", "mean"}
    psnr = [float(line["PSNR"]) for line in samples if (line["method"], line["films"]) == ("AXON F(x)", "2")]
    assert np.mean(psnr) == pytest.approx(float(row["PSNR mean"]), abs=1e-4)
    told = json.loads((report / "evaluation.json").read_text())
    assert told["job"]["suite"] == "table2" and told["job"]["seeds"] == [0, 1]


def test_the_page_stands_alone(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(list((report / "figures").glob("*.png"))) == 10
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "{{" not in page
    assert '<tr class="paper">' in page and '<tr class="missing">' in page


def test_pictures_are_as_announced(report: Path) -> None:
    names = sorted(path.name for path in (report / "figures").iterdir())
    assert {"calibration-1.png", "p2-2-errors.png", "p2-1-seeds-1.png", "p2-1-slices.png"} <= set(names)
    assert not any(name.startswith("p3") for name in names)  # one case is pictured
    with Image.open(report / "figures" / "p2-1-slices.png") as picture:
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1) and picture.width > 600


def test_a_second_run_computes_nothing(
    report: Path, cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (report / "scores").iterdir()}
    monkeypatch.setattr(suite_run, "mean_volume", None)
    result = axon(
        *("--suite", "table2", "--data", cache, "--models", tiny_model, "-o", report, "--seeds", "2"),
        *("--processes", "1", "--json", "--reference", "AXON F(x)", "--pictures", "0", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert {path.name: path.stat().st_mtime_ns for path in (report / "scores").iterdir()} == before
    assert told["references"] == ["AXON F(x)"] and told["window"] == "wide" and told["failures"] == []
    row = next(row for row in told["rows"] if row["method"] == "AXON" and row["films"] == 1)
    assert row["metrics"]["PSNR"]["difference"]["n"] == 2


def test_a_ct_and_super_resolution(tmp_path: Path, tiny_model: Path, quick: None) -> None:
    """Straight from CT files, without training CTs: 32 voxels beside 16."""
    ct = chest_files.save(tmp_path / "a.nrrd", slices=58)
    result = axon(
        *("--suite", "table3", "--ct", ct, "--models", f"with-syn={tiny_model}", "-o", tmp_path / "out"),
        *("--views", "1", "--json", "--pictures", "0", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| AXON γ = 2, with synthetic inputs \| measured \| 1 \| 32³ \| 1 \| 0\.\d+ \|", text)
    assert re.search(r"trilinear x2 \| measured \| 1 \| 32³", text) and "no training CTs were named" in text
    assert "mean volume of" not in text and "without synthetic inputs | measured | 1 |  | 0 | not given" in text


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--suite", "table4", "--models", "MODEL"), "evaluate.row"),
        (("--suite", "table4", "--models", "l3=MODEL"), "evaluate.row"),
        (("--suite", "table1", "--models", "none"), "evaluate.no-model"),
        (("--suite", "table1", "--models", "MODEL", "--views", "3"), "evaluate.views"),
        (("--suite", "table1", "--models", "MODEL", "--window", "bone"), "evaluate.window"),
        (("--suite", "table1", "--models", "MODEL", "--preset", "best"), "evaluate.preset"),
        (("--suite", "table1", "--models", "MODEL", "--split", "val"), "evaluate.no-case"),
        (("--suite", "table1", "--models", "MODEL", "--ct", "x.nrrd"), "evaluate.data"),
        (("--suite", "table1", "--models", "MODEL", "--reference", "nobody"), "evaluate.reference"),
        (("--suite", "table1", "--models", "MODEL", "-o", "FOREIGN"), "output.foreign-folder"),
    ],
)
def test_what_cannot_be_done_is_told(
    args: tuple[str, ...], code: str, cache: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("")
    places = {"MODEL": str(tiny_model), "l3=MODEL": f"l3={tiny_model}", "FOREIGN": str(foreign)}
    monkeypatch.setattr(suite_run, "evaluate_in_processes", lambda *_: Comparison())
    result = axon("-o", tmp_path / "out", *(places.get(arg, arg) for arg in args), "--data", cache, "--json")
    told = json.loads(result.output)["error"]
    assert told["code"] == code and result.exit_code != 0 and "\n" not in told["title"]


def test_a_stopped_run_says_that_it_goes_on(
    cache: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite_run, "evaluate_in_processes", interrupted)
    result = axon("--suite", "table1", "--data", cache, "--models", tiny_model, "-o", tmp_path / "o", "--json")
    told = json.loads(result.output)["error"]
    assert result.exit_code == 130 and told["code"] == "cancelled" and "goes on" in told["advice"]


def test_a_patient_is_not_in_training_and_test(tmp_path: Path, tiny_model: Path) -> None:
    ct = chest_files.save(tmp_path / "a.nrrd")
    result = axon(
        *("--suite", "table1", "--ct", ct, "--train-ct", ct, "--models", tiny_model, "-o", tmp_path / "o", "--json")
    )
    assert json.loads(result.output)["error"]["code"] == "evaluate.leak" and not (tmp_path / "o").exists()


# --- tables and pictures ---------------------------------------------------------------------------------------------


def test_a_table_in_two_languages() -> None:
    table = Table("A & B", ["x|y", "n"], notes=["<note>"])
    table.add(["<b>", 1], "paper")
    assert table.markdown() == "## A & B\n\n| x\\|y | n |\n| --- | --- |\n| <b> | 1 |\n\n<note>\n"
    assert '<tr class="paper"><td>&lt;b&gt;</td><td>1</td></tr>' in table.html()
    assert "&lt;note&gt;" in table.html() and "A &amp; B" in table.html()


def test_a_rendering_shows_right_on_the_left_and_the_head_up() -> None:
    hu = training_data.body(1, 32).numpy()
    hu[22:26, 14:18, 6:10] = 900.0  # high up on the patient's right
    picture = render(hu, 11.0, 0.0, 64)
    assert picture.shape == (64, 64, 3) and picture.min() >= 0 and picture.max() <= 1
    bone = picture[..., 2] > 0.4
    rows, columns = np.nonzero(bone)
    assert (
        bone.any() and rows.mean() == pytest.approx(64 - 2 * 24, abs=4) and columns.mean() == pytest.approx(16, abs=4)
    )
    front = hu.copy()
    front[22:26, 14:18, 6:10] = 0.0
    front[22:26, 6:10, 14:18] = 900.0  # before the middle: a viewer on the patient's left sees it to the left of it
    turned = render(front, 11.0, 40.0, 64)[..., 2] > 0.4
    assert np.nonzero(turned)[1].mean() < 30
    assert not (render(np.full((16,) * 3, -1000.0), 20.0, pixels=32) > 0).any()


def test_pictures_without_a_run(tmp_path: Path) -> None:
    """Volumes of different fineness beside each other, a stretched cube, slices that are not known."""
    fine, coarse = training_data.body(1, 32).numpy(), training_data.body(2, 16).numpy()
    extent = (300.0, 240.0, 400.0)
    figures.compare(
        {"a": coarse, "CT": fine}, tmp_path / "c.png", films=[np.zeros((8, 8))], extent_mm=extent, solid=False
    )
    known = np.arange(32) > 16
    figures.errors({"a": coarse, "b": fine}, fine, tmp_path / "e.png", known=known)
    with Image.open(tmp_path / "e.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    grey = (np.abs(colours - 191) <= 1).all(1).mean()
    assert grey > 0.1  # the unknown half of coronal and sagittal slices
    rng = np.random.default_rng(0)
    curve = calibration(rng.normal(size=500), rng.uniform(1, 2, 500), rng.normal(size=500), 4)
    figures.calibration_curve({"a": curve, "b": curve}, tmp_path / "k.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("c.png", "e.png", "k.png"))


def test_a_report_of_nothing_but_failures(tiny_model: Path) -> None:
    comparison = Comparison([], [Failure("one", "AXON", 1, "The CT is torn.")])
    rows, _ = rows_of("table1", [str(tiny_model)])
    report = Report("table1", "Table 1", comparison, rows, Data("cache", "test"), (1,), {})
    text = "\n".join(table.markdown() for table in report.tables)
    assert "nothing was measured" in text and "| AXON | one | 1 | The CT is torn. |" in text and "paper" in text
    assert report.csv().count("\n") == 1 + len(paper_rows("table1"))

"""Comparing methods: cases, units, records, what fails, what is resumed."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import chest_files
import evaluate_doubles as doubles

from axon_core.baselines.predict import predict
from axon_core.data.cache import validation_cases
from axon_core.errors import AxonError, ConfigError, OutputError, VolumeError
from axon_core.evaluation.cases import CtCase, cache_cases, ct_cases, mean_volume, same_patients
from axon_core.evaluation.compare import Settings, common_window, evaluate_cases, mean_label, volumes_of
from axon_core.evaluation.methods import FixedMethod, ModelMethod, trivial_methods
from axon_core.evaluation.processes import evaluate_in_processes
from axon_core.evaluation.scores import scores
from axon_core.intensity import AXON_PAPER, WIDE

CASES = [doubles.DrawnCase("one", 1), doubles.DrawnCase("two", 2)]


def code_of(call: Any) -> str:
    with pytest.raises(AxonError) as caught:
        call()
    return caught.value.code


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, two to train on, two to test; one of these has a real film."""
    folder = tmp_path_factory.mktemp("cohort")
    chest_files.prepared(folder)
    whole = json.loads((folder / "cache" / "plan.json").read_text())
    case = next(case for case in whole["cases"] if case["name"] == "p3")
    case["films"] = {"frontal": "real"}
    (folder / "cache" / "plan.json").write_text(json.dumps(whole))
    film = np.random.default_rng(0).integers(-32767, 32767, (2, 32, 32)).astype(np.int16)
    np.save(folder / "cache" / "cases" / case["key"] / "films.npy", film)
    return folder / "cache"


# --- cases -----------------------------------------------------------------------------------------------------------


def test_cases_of_a_cache_are_its_validation_cases(cache: Path) -> None:
    cases, fixed = cache_cases(cache, "test"), validation_cases(cache, "test")
    assert [case.name for case in cases] == [case.name for case in fixed] == ["p2", "p3"]
    for case, expected in zip(cases, fixed, strict=True):
        chest = case.open()
        torch.testing.assert_close(chest.films(32), expected.films)
        torch.testing.assert_close(WIDE.encode(chest.truth(16))[None], expected.target)
        assert (torch.from_numpy(chest.known(16)) <= expected.weight[0, :, 0, 0].bool()).all()
        assert chest.known(16).sum() >= 11 and chest.extent_mm == pytest.approx((360.0,) * 3)
    assert cases[1].open().origin == {"frontal": "real", "lateral": "drawn"}
    assert cases[0].key() != cases[1].key() == cache_cases(cache, "test")[1].key()
    assert code_of(lambda: cache_cases(cache, "val")) == "evaluate.no-case"
    assert same_patients(cache_cases(cache, "train"), cases) == []


def test_a_film_of_another_size_is_resized(cache: Path) -> None:
    chest = cache_cases(cache, "test")[1].open()
    half = chest.films(16)[0]
    assert half.shape == (16, 16)
    assert float(half.mean()) == pytest.approx(float(chest.films(32)[0].mean()), abs=0.02)
    assert code_of(lambda: chest.truth(24)) == "evaluate.size"


def test_a_ct_file_is_a_case(tmp_path: Path) -> None:
    path = chest_files.save(tmp_path / "a.b.nrrd", slices=58)
    case = CtCase(path, 32)
    chest = case.open()
    films = chest.films(32)
    assert (case.name, case.patient) == ("a", "a") and films.shape == (2, 32, 32)
    assert float(films.min()) == -1.0 and float(films.max()) == 1.0 and not torch.equal(films[0], films[1])
    assert chest.truth(16).shape == (16, 16, 16) and chest.origin == {"frontal": "drawn", "lateral": "drawn"}
    key = case.key()
    path.write_bytes(path.read_bytes() + b" ")
    assert case.key() != key
    assert [each.render for each in ct_cases([path], 256)] == [256] and ct_cases([path], 64)[0].render == 128
    assert code_of(lambda: ct_cases([tmp_path / "none.nrrd"])) == "evaluate.no-ct"
    assert code_of(lambda: ct_cases([path, path])) == "evaluate.same-name"


def test_the_mean_volume_is_the_mean(cache: Path) -> None:
    cases = cache_cases(cache, "train")
    mean = mean_volume(cases, 16)
    truths = torch.stack([case.open().truth(16) for case in cases])
    np.testing.assert_allclose(mean, truths.mean(0).numpy(), atol=1e-3)
    constant, whole = trivial_methods(mean)
    assert float(np.ptp(constant.hu)) == 0.0 and constant.hu[0, 0, 0] == pytest.approx(mean.mean())
    assert whole.volume(torch.empty(0), 0).shape == (16, 16, 16) and constant.key != whole.key


# --- methods ---------------------------------------------------------------------------------------------------------


def test_a_model_method_is_its_model(tiny_model: Path) -> None:
    from axon_core.baselines.models import open_model

    model = open_model(tiny_model)
    films = torch.rand(2, 32, 32) * 2 - 1
    plain, drawn = ModelMethod(model, "F(x)", ()), ModelMethod(model, "X", ("coarse",))
    expected = model.config.hu_window.decode(predict(model, films[None], 3, stages=("coarse",)))[0, 0]
    torch.testing.assert_close(drawn.volume(films, 3), expected)
    assert not plain.random and drawn.random and plain.key != drawn.key
    assert plain.facts["steps"] == "1" and drawn.facts["steps"].startswith("coarse ") and plain.facts["eta"] == "-"
    assert plain.facts["parameters"] < drawn.facts["parameters"] and plain.facts["training FLOP"] == "not stated"
    fine = ModelMethod(model, "x2", ("super-resolution",))
    assert fine.size == 32 and fine.volume(films, 0).shape == (32, 32, 32)
    enlarged = ModelMethod(model, "tri", (), enlarged=True).volume(films, 0)
    assert enlarged.shape == (32, 32, 32)
    assert float(enlarged.mean()) == pytest.approx(float(plain.volume(films, 0).mean()), abs=2)
    model.card = dataclasses.replace(model.card, notes="Small. Training FLOP: 3.1e15.")
    assert ModelMethod(model, "F(x)", ()).facts["training FLOP"] == "3.1e15"


# --- units -----------------------------------------------------------------------------------------------------------


def test_records_hold_what_was_measured(tmp_path: Path) -> None:
    method = doubles.Noisy("noisy", 300.0)
    settings = Settings((1, 2), (0, 1, 2), pictures=("one",))
    found = evaluate_cases([method, FixedMethod("flat", np.zeros((16, 16, 16)))], CASES, tmp_path, settings)
    assert not found.failures and len(found.records) == 8 and method.seen == 2
    evaluate_cases([method], CASES[:1], tmp_path / "one", Settings((1,)))
    assert method.seen == 1
    record = found.records[0]
    chest = CASES[0].open()
    truth, known = chest.truth(16), chest.known(16)
    volume = method.volume(chest.films(32)[:1], 1)
    expected = {k: v for k, v in scores(volume, truth, 22.5, WIDE, known).items() if math.isfinite(v)}
    assert {key: record["samples"][1][key] for key in expected} == pytest.approx(expected)
    assert record["samples"][1]["PSNR [axon-paper]"] == scores(volume, truth, 22.5, AXON_PAPER, known)["PSNR"]
    assert record["mean"]["PSNR"] > record["samples"][0]["PSNR"] + 1.0  # noise averages out
    assert (
        record["calibration"]["seeds"] == 3 and 0.95 < record["ct"]["NCC frontal"] < 1.0
    )  # judged by line integrals, filmed by physics
    assert "NCC lateral" not in record["samples"][0] and "NCC lateral" in found.records[1]["samples"][0]
    assert found.records[2]["films"] == {} and found.records[2]["seeds"] == [0]
    rows = found.scores(1)
    assert set(rows) == {"noisy", mean_label("noisy", 3), "flat"} and set(rows["noisy"]) == {"one", "two"}
    assert rows["noisy"]["one"]["PSNR"] == pytest.approx(np.mean([s["PSNR"] for s in record["samples"]]))
    assert found.patients() == {"one": "one", "two": "two"}
    with np.load(volumes_of(tmp_path, record)) as kept:
        np.testing.assert_allclose(kept["samples"][1], volume, atol=0.51)
        assert kept["truth"].shape == (16, 16, 16) and kept["films"].shape == (1, 32, 32)
    assert len(list(tmp_path.glob("*.npz"))) == 4  # of the case that is pictured


def test_what_is_known_is_not_computed_again(tmp_path: Path) -> None:
    method = doubles.Noisy("noisy")
    first = evaluate_cases([method], CASES, tmp_path)
    assert method.calls == 2
    again = doubles.Noisy("another label")
    second = evaluate_cases([again], CASES, tmp_path)
    assert again.calls == 0 and [r["samples"] for r in second.records] == [r["samples"] for r in first.records]
    assert {record["method"] for record in second.records} == {"another label"}
    evaluate_cases([again], CASES, tmp_path, Settings(seeds=(0, 1)))
    evaluate_cases([again], CASES, tmp_path, Settings(window="axon-paper"))
    evaluate_cases([doubles.Noisy("noisy", 81.0)], CASES, tmp_path)
    assert again.calls == 6
    path = next(iter(tmp_path.glob("*.json")))
    path.write_text(path.read_text()[:50])  # a damaged record is made anew
    third = evaluate_cases([again], CASES, tmp_path)
    evaluate_cases([again], CASES, tmp_path, Settings(seeds=(0, 1)))
    evaluate_cases([again], CASES, tmp_path, Settings(window="axon-paper"))
    evaluate_cases([doubles.Noisy("noisy", 81.0)], CASES, tmp_path)
    assert json.loads(path.read_text()) and third.records == second.records
    evaluate_cases([again], CASES, tmp_path, Settings(pictures=("two",)))  # its volumes are wanted now
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_what_fails_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    broken = [
        doubles.Noisy("raises", fails=ValueError("secret")),
        doubles.Noisy("refuses", fails=VolumeError("x", "It is upside down.", "Turn it.")),
        doubles.Noisy("memory", fails=MemoryError()),
        doubles.Noisy("numbers", sigma=math.nan),
        doubles.Noisy("size", size=24),
    ]
    cases = [doubles.DrawnCase("bad", -1), doubles.DrawnCase("worse", -2), CASES[0]]
    told: list[Any] = []
    found = evaluate_cases([*broken, doubles.Noisy("good")], cases, tmp_path, told=told.append)
    reasons = {failure.method: failure.reason for failure in found.failures if failure.case == "one"}
    assert reasons == {
        "raises": "Internal error: ValueError.",
        "refuses": "It is upside down.",
        "memory": "It does not fit into memory.",
        "numbers": "The volume holds values that are no numbers.",
        "size": "Volumes of 24 voxels cannot be judged by a CT of 32.",
    }
    assert {failure.reason for failure in found.failures if failure.case == "bad"} == {"The CT is torn."}
    assert {failure.reason for failure in found.failures if failure.case == "worse"} == {"Internal error: KeyError."}
    assert [(record["case"], record["method"]) for record in found.records] == [("one", "good")]
    assert len(told) == 18 and not list(tmp_path.glob(".*"))


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        evaluate_cases([doubles.Noisy("noisy")], CASES, tmp_path / "file" / "folder")


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path) -> None:
    method = doubles.Noisy("noisy", fails=KeyboardInterrupt(), after=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate_cases([method], CASES, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    again = doubles.Noisy("noisy")
    assert len(evaluate_cases([again], CASES, tmp_path).records) == 2 and again.calls == 1


def test_only_one_case_is_open_at_a_time(tmp_path: Path) -> None:
    doubles.OPENED.clear()
    evaluate_cases([doubles.Noisy("noisy")], [doubles.DrawnCase(str(k), k) for k in range(4)], tmp_path)
    assert len(doubles.OPENED) == 4 and sum(chest() is not None for chest in doubles.OPENED) <= 1


def test_methods_are_judged_in_a_window_that_all_cover() -> None:
    wide, narrow = doubles.Noisy("wide"), doubles.Noisy("narrow", window=AXON_PAPER)
    assert common_window([wide]) == WIDE and common_window([wide, narrow]) == AXON_PAPER
    assert common_window([wide], "axon-paper") == AXON_PAPER
    assert code_of(lambda: common_window([wide, narrow], "wide")) == "evaluate.window"
    assert code_of(lambda: common_window([wide, doubles.Noisy("wide")])) == "evaluate.labels"
    for bad in ({"views": (3,)}, {"views": ()}, {"seeds": ()}, {"window": "bone"}):
        with pytest.raises(ConfigError):
            Settings(**bad)


def test_a_narrow_window_has_no_projection(tmp_path: Path) -> None:
    found = evaluate_cases([doubles.Noisy("narrow", window=AXON_PAPER)], CASES[:1], tmp_path)
    assert found.records[0]["window"] == "axon-paper" and found.records[0]["ct"] == {}
    assert "NCC frontal" not in found.records[0]["samples"][0]


# --- processes -------------------------------------------------------------------------------------------------------


def test_two_processes_find_the_same(tmp_path: Path) -> None:
    late = doubles.DrawnCase("late", 2)  # and yet first in the result
    cases = [doubles.DrawnCase("bad", -1), late, CASES[0], doubles.DrawnCase("kills", -9)]
    found = evaluate_in_processes(doubles.noisy(), doubles.noisy, cases, tmp_path / "a", Settings(), 2)
    alone = evaluate_cases(doubles.noisy(), [late, CASES[0]], tmp_path / "b")
    assert [r["case"] for r in found.records] == ["late", "one"]
    for one, other in zip(found.records, alone.records, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert {failure.case: failure.reason for failure in found.failures} == {
        "bad": "The CT is torn.",
        "kills": "Its process was killed, probably because memory ran out.",
    }


def test_a_stopped_run_ends_at_once_with_all_its_processes(tmp_path: Path) -> None:
    """Ctrl-C comes when the first case is told: no process is left, no half record, and the next run goes on."""

    stopped: list[float] = []

    def stop(outcome: Any) -> None:
        stopped.append(time.monotonic())
        raise KeyboardInterrupt

    cases = [doubles.DrawnCase(str(k), k) for k in range(100)]
    with pytest.raises(KeyboardInterrupt):
        evaluate_in_processes(doubles.slow(), doubles.slow, cases, tmp_path, Settings(), 2, stop)
    assert not active_children() and time.monotonic() - stopped[0] < 30  # of each process's second case 60 s are left
    files = list(tmp_path.iterdir())
    assert 1 <= len(files) < 10 and all(json.loads(path.read_text()) for path in files)

"""From manifests and folders to a cache: what is found, what is skipped and why, and what a second run does."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
import chest_files
import film_files

from axon_core import cli
from axon_core.ctvolume import CTVolume
from axon_core.data import manifest, plan, prepare, real_films
from axon_core.data.cache import before_the_films, case_folder, read_films, read_hu
from axon_core.data.manifest import film_view, known_view, read_source, write_manifest
from axon_core.data.pairs import expose_pair
from axon_core.data.plan import CaseEntry, Layout, Skipped, read_plan
from axon_core.data.prepare import PrepareOptions
from axon_core.drr.appearance import clinic_look
from axon_core.errors import AxonError, ConfigError, OutputError, VolumeError
from axon_core.geometry import CanonicalGrid, RigidPose
from axon_core.radiograph import Radiograph
from axon_core.resources import folder as resources

TINY = PrepareOptions("tiny")


@pytest.fixture(autouse=True)
def small_cubes(monkeypatch):
    """Caches of 32 voxels: many times faster."""
    monkeypatch.setattr(plan, "SMALLEST_RENDER", 32)


def table(folder: Path, *lines: str, head: str = "patient,ct,frontal,lateral,split") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def code_of(call) -> str:
    with pytest.raises(AxonError) as caught:
        call()
    assert caught.value.advice and "\n" not in caught.value.title
    return caught.value.code


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_written(tmp_path):
    rows = [
        manifest.Row("b", "b", tmp_path / "b" / "ct", tmp_path / "b" / "pa.dcm"),
        manifest.Row("a", "a", tmp_path / "a.nrrd", None, tmp_path / "l.dcm"),
        manifest.Row("a#2", "a", tmp_path / "a2.nrrd"),
    ]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert read_source(tmp_path / "manifest.csv") == rows == read_source(tmp_path)
    assert str(tmp_path) not in (tmp_path / "manifest.csv").read_text()


def test_a_manifest_of_a_spreadsheet_program_is_read(tmp_path):
    (tmp_path / "m.csv").write_bytes("\ufeffpatient , ct\r\nÄnne,x.nrrd\r\n".encode())
    assert read_source(tmp_path / "m.csv")[0].patient == "Änne"


@pytest.mark.parametrize(
    ("head", "lines", "code"),
    [
        ("patient,film", ["a,x"], "manifest.columns"),
        ("patient,ct,sex", ["a,x,f"], "manifest.columns"),
        ("patient,ct", [",x"], "manifest.line"),
        ("patient,ct", ["a,"], "manifest.line"),
        ("patient,ct,split", ["a,x,validation"], "manifest.line"),
        ("patient,ct,split", ["a,x,val", "a,y,test"], "manifest.two-splits"),
        ("patient,ct", [], "manifest.empty"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_line(tmp_path, head, lines, code):
    assert code_of(lambda: read_source(table(tmp_path, *lines, head=head))) == code


def test_nothing_and_an_empty_folder_are_refused(tmp_path):
    assert code_of(lambda: read_source(tmp_path / "nowhere")) == "manifest.missing"
    assert code_of(lambda: read_source(tmp_path)) == "manifest.empty"
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert code_of(lambda: read_source(tmp_path / "m.csv")) == "manifest.unreadable"


def film(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(film_files.dicom(pixels, **{"PatientID": "SECRET-ID", "PatientName": "Secret^Name", **tags}))
    return path


def test_a_folder_shows_its_patients_by_itself(tmp_path):
    ct = chest_files.series(tmp_path / "x" / "ct")
    front = film(tmp_path / "x" / "b" / "1.dcm", film_files.frontal(), ViewPosition="PA")
    film(tmp_path / "x" / "b" / "2.dcm", film_files.frontal(), ViewPosition="AP")
    side = film(tmp_path / "x" / "b" / "0.dcm", film_files.lateral(), Modality="CR")
    film(tmp_path / "y" / "0.dcm", film_files.frontal(), PatientID="OTHER")
    film(tmp_path / "x" / "b" / "3.dcm", film_files.frontal(), Modality="MR")
    chest_files.save(tmp_path / "z" / "someone.nii.gz", slices=3)
    (tmp_path / "notes.txt").write_text("no data")
    rows = read_source(tmp_path)
    first, named, other = rows
    assert (first.ct, first.frontal, first.lateral) == (ct, front, side)
    assert (named.name, named.films) == ("someone", {})
    assert other.ct is None and set(other.films) == {"frontal"} and other.patient != first.patient
    assert all("SECRET" not in row.patient and "OTHER" not in row.patient for row in rows)


@pytest.mark.parametrize(
    ("pixels", "tags", "view"),
    [
        (film_files.lateral(), {"ViewPosition": "PA"}, ("frontal", "tags")),
        (film_files.frontal(), {"ViewPosition": "LL"}, ("lateral", "tags")),
        (film_files.frontal(), {"PatientOrientation": ["A", "F"]}, ("lateral", "tags")),
        (film_files.lateral(), {"PatientOrientation": ["L", "F"]}, ("frontal", "tags")),
        (film_files.lateral(), {"ViewPosition": "PA", "PatientOrientation": ["A", "F"]}, ("frontal", "tags")),
        (film_files.frontal(), {}, ("frontal", "look")),
        (film_files.lateral(), {}, ("lateral", "look")),
        (film_files.lateral()[:, ::-1], {}, ("lateral", "look")),
        (255 - film_files.lateral(), {"PhotometricInterpretation": "MONOCHROME1"}, ("lateral", "look")),
    ],
)
def test_the_view_is_that_of_the_tags_then_of_the_look(tmp_path, pixels, tags, view):
    assert film_view(film(tmp_path / "f.dcm", np.ascontiguousarray(pixels), **tags)) == view


def test_a_film_that_cannot_be_read_is_a_guess(tmp_path):
    (tmp_path / "f.dcm").write_bytes(b"no film")
    assert film_view(tmp_path / "f.dcm") == ("frontal", "guess")


def test_the_bundled_films_are_frontal():
    data = resources() / "SampleData"
    if not data.is_dir():
        pytest.skip("SampleData is not part of an installation")
    assert known_view(Radiograph.load(data / "hannover_8da14fff_pa.png"))[0] == "frontal"


# --- what is skipped -------------------------------------------------------------------------------------------------


def truncated(path: Path) -> Path:
    chest_files.save(path / "ct.nrrd")
    whole = (path / "ct.nrrd").read_bytes()
    (path / "ct.nrrd").write_bytes(whole[: len(whole) // 2])
    return path / "ct.nrrd"


def with_nan(path: Path) -> Path:
    import SimpleITK as sitk

    path.mkdir(parents=True)
    hu = chest_files.drawn().hu.copy()
    hu[:30] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(path / "ct.nrrd"))
    return path / "ct.nrrd"


def two_series(path: Path) -> Path:
    chest_files.series(path)
    other = chest_files.series(path / "other", volume=chest_files.drawn(seed=1))
    for file in other.iterdir():
        shutil.move(file, path / f"other-{file.name}")
    other.rmdir()
    return path


def shifted(path: Path) -> Path:
    path.mkdir(parents=True)
    ct = chest_files.drawn()
    return CTVolume(ct.hu + 1024, ct.affine).save(path / "ct.nrrd")


ODD = {
    "truncated": truncated,
    "nan": with_nan,
    "two series mixed": two_series,
    "not in Hounsfield units": shifted,
    "missing slices": lambda path: chest_files.series(path, lambda ds, k: "skip" if 20 <= k < 24 else None),
    "wrong modality": lambda path: chest_files.series(path, lambda ds, k: setattr(ds, "Modality", "MR")),
    "too short": lambda path: chest_files.save(path / "ct.nrrd", slices=12),
    "not there": lambda path: path / "nowhere.nrrd",
    "empty folder": lambda path: path.mkdir(parents=True) or path,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ODD)
def test_an_odd_case_is_skipped_with_one_line_and_the_rest_goes_on(tmp_path, what):
    odd = ODD[what](tmp_path / "odd")
    for name in "ab":
        chest_files.save(tmp_path / f"{name}.nrrd")
    told = []
    made = prepare.prepare(
        table(tmp_path, "a,a.nrrd,,,", f"odd,{odd.relative_to(tmp_path)},,,", "b,b.nrrd,,,"),
        tmp_path / "cache",
        TINY,
        lambda done, count, outcome: told.append((done, count, outcome.name)),
    )
    assert [case.name for case in made.cases] == ["a", "b"]
    (skipped,) = made.skipped
    assert skipped.name == "odd" and skipped.reason and "\n" not in skipped.reason
    assert not skipped.reason.startswith("Internal error")
    assert told == [(1, 3, "a"), (2, 3, "odd"), (3, 3, "b")]
    assert skipped.reason.split(":")[0] in (tmp_path / "cache" / "contact_sheet.html").read_text()


def tilted(ds, k):
    ds.ImagePositionPatient = [float(v) for v in np.add(ds.ImagePositionPatient, [0, 1.2 * k, 0])]


def with_localizer(ds, k):
    if k == 0:
        ds.ImageType, ds.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]


@pytest.mark.parametrize("change", [tilted, with_localizer])
def test_a_series_that_can_be_repaired_is_used_with_a_note(tmp_path, change):
    chest_files.series(tmp_path / "ct", change)
    made = prepare.prepare_case(manifest.Row("a", "a", tmp_path / "ct"), Layout.of("tiny"), tmp_path / "cache")
    assert isinstance(made, CaseEntry) and made.notes and not made.warnings


def test_whatever_happens_to_one_case_does_not_stop_the_others(tmp_path, monkeypatch):
    chest_files.save(tmp_path / "a.nrrd")
    row = manifest.Row("a", "a", tmp_path / "a.nrrd")
    for error, reason in ((KeyError("Secret^Name"), "Internal error: KeyError."), (MemoryError(), "memory")):
        monkeypatch.setattr(prepare, "place_case", lambda *_, error=error: (_ for _ in ()).throw(error))
        made = prepare.prepare_case(row, Layout.of("tiny"), tmp_path / "cache")
        assert isinstance(made, Skipped) and reason in made.reason and "Secret" not in made.reason


def test_nothing_of_dicoms_identity_is_told_or_stored(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(real_films, "_registered", lambda *_: None)  # the search takes its time
    chest_files.series(tmp_path / "in" / "ct")
    film(tmp_path / "in" / "x" / "f.dcm", film_files.frontal(), ViewPosition="LL")
    chest_files.series(tmp_path / "in" / "short", lambda ds, k: "skip" if k > 8 else None)
    options = ["-o", str(tmp_path / "c"), "-p", "tiny", "--split", "100,0,0", "--workers", "1"]
    result = CliRunner().invoke(cli.app, ["prepare", str(tmp_path / "in"), *options])
    assert result.exit_code == 0, result.output
    out = result.output + "".join(capfd.readouterr())
    assert "skipped" in out
    for path in (tmp_path / "c").rglob("*"):
        out += path.read_bytes().decode("latin-1") if path.is_file() else path.name
    assert "ecret" not in out and "SECRET" not in out


# --- films -----------------------------------------------------------------------------------------------------------


def png(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_films_are_left_out_with_the_reason_and_the_ct_stays(tmp_path):
    chest_files.series(tmp_path / "ct")
    film(tmp_path / "side.dcm", film_files.lateral(), ViewPosition="LL")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    rows = table(tmp_path, "a,ct,side.dcm,broken.png,train", "b,ct,,,val")
    made = prepare.prepare(rows, tmp_path / "cache", TINY)
    case = made.cases[0]
    assert case.films == {} and len(case.warnings) == 2
    assert "tagged as a lateral" in case.warnings[0] and case.warnings[1].startswith("The lateral film was left out")


def test_a_film_of_another_patient_is_no_film_of_this_one(tmp_path):
    chest_files.series(tmp_path / "ct")
    front = film(tmp_path / "f.dcm", film_files.frontal(), PatientID="OTHER")
    made = prepare.prepare_case(manifest.Row("a", "a", tmp_path / "ct", front), Layout.of("tiny"), tmp_path / "cache")
    assert isinstance(made, Skipped) and "different patients" in made.reason


def test_a_film_that_does_not_fit_is_left_out(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 180)).astype(np.uint8)
    found = real_films.real_films(chest_files.drawn(), {"frontal": png(tmp_path / "n.png", noise)}, 32)
    assert found.images == {} and found.pose is None
    assert "similarity" in found.warnings[-1] and "0.45 is asked" in found.warnings[-1]


@pytest.mark.parametrize(
    ("after", "kept", "told"),
    [
        ([(0.6, 0.5)], ["frontal", "lateral"], ""),
        ([(0.6, 0.44), (0.6,)], ["frontal"], "The lateral film was left out: it fits no pose"),
        ([(0.3, 0.6), (0.4,), (0.6,)], ["lateral"], "The frontal film was left out: it fits no pose"),
        ([(0.3, 0.4), (0.4,), (0.4,)], [], "The films were left out: similarity 0.30, 0.40 to the CT, 0.45 is asked."),
    ],
)
def test_each_film_is_used_that_fits(tmp_path, monkeypatch, after, kept, told):
    """All films in one pose, else each for itself."""
    searches = iter(after)

    def register(films, *_):
        geometry = tuple(film.geometry for film in films)
        reasons = ("depth is poorly determined", "tilt is poorly determined")
        return SimpleNamespace(
            after=next(searches), verdict="doubtful", reasons=reasons, geometry=geometry, pose=RigidPose()
        )

    monkeypatch.setattr(
        real_films, "Registrar", lambda _: SimpleNamespace(register=register, isocentre_lps=np.zeros(3))
    )
    files = {
        "frontal": png(tmp_path / "f.png", film_files.frontal()),
        "lateral": png(tmp_path / "l.png", film_files.lateral()),
    }
    found = real_films.real_films(chest_files.drawn(), files, 32)
    assert list(found.images) == kept == list(found.geometry) and any(text.startswith(told) for text in found.warnings)
    if kept:
        assert any("tilt" in text for text in found.warnings)
        assert any("depth" in text for text in found.warnings) == (kept != ["frontal"])


def test_films_without_a_ct_are_laid_where_chests_lie(tmp_path):
    front = png(tmp_path / "f.png", film_files.frontal())
    side = png(tmp_path / "l.png", film_files.lateral())
    row = manifest.Row("a", "a", None, front, side)
    case = prepare.prepare_case(row, Layout.of("tiny"), tmp_path / "cache")
    assert isinstance(case, CaseEntry)
    assert "lateral" in case.films and case.spacing_mm == () and read_films(tmp_path / "cache", case).shape[0] == 2
    sideways = png(tmp_path / "s.png", np.ascontiguousarray(np.rot90(film_files.frontal())))
    alone = prepare.prepare_case(manifest.Row("a", "a", None, sideways), Layout.of("tiny"), tmp_path / "cache")
    assert isinstance(alone, Skipped) and "left out" in alone.reason


def test_a_real_film_sees_the_ct_that_casts_it(tmp_path, monkeypatch):
    """A CT and its own scout: in the pose that is stored, the canonical projector draws the stored film."""
    data = resources() / "SampleData"
    if not data.is_dir():
        pytest.skip("SampleData is not part of an installation")
    monkeypatch.setattr(plan, "SMALLEST_RENDER", 128)
    row = manifest.Row("a", "a", data / "acrin_042_ct.nrrd", data / "acrin_042_scout_ap.nrrd")
    layout = Layout.of("small")
    case = prepare.prepare_case(row, layout, tmp_path)
    assert isinstance(case, CaseEntry) and case.films == {"frontal": "real"} and len(case.film_frame) == 3
    stored, hu = read_films(tmp_path, case)[0], read_hu(tmp_path, case)
    fits = []
    for volume in (before_the_films(hu, case)[0], hu):
        film = clinic_look(expose_pair(volume, CanonicalGrid(128), 256)[0])
        middle = (slice(60, 196), slice(60, 196))
        fits.append(float(np.corrcoef(film[middle].ravel(), stored[middle].ravel())[0, 1]))
    assert fits[0] > 0.93 and fits[0] > fits[1] + 0.15, fits


# --- the paper's form ------------------------------------------------------------------------------------------------


def test_the_papers_form_is_the_whole_ct_stretched(tmp_path):
    layout = Layout.of("axon-paper")
    small = dataclasses.replace(layout, render=64, model=dataclasses.replace(layout.model, size=32, film_size=64))
    ct = chest_files.drawn()
    ct.save(tmp_path / "a.nrrd")
    case = prepare.prepare_case(manifest.Row("a", "a", tmp_path / "a.nrrd"), small, tmp_path)
    assert isinstance(case, CaseEntry)
    np.testing.assert_allclose(
        np.multiply(case.spacing_mm, 64), np.array(ct.hu.shape[::-1]) * chest_files.SPACING, rtol=0.01
    )
    assert case.known == (0, 64) and case.films == {"frontal": "drr", "lateral": "drr"} and case.film_frame == ()
    hu, films = read_hu(tmp_path, case), read_films(tmp_path, case)
    assert hu.shape == (64, 64, 64) and hu[:, 52:].max() < -500, "no couch"
    heart = hu[10:25, 12:30]
    assert (heart[..., 33:48] > 0).float().mean() > (heart[..., 16:31] > 0).float().mean() + 0.05, (
        "on the patient's left"
    )
    assert films.shape == (2, 64, 64) and (films.amin((1, 2)) == -1).all() and films.std() > 0.3


# --- runs after the first --------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    """A source of three patients, prepared."""
    for k in range(3):
        chest_files.save(tmp_path / f"{k}.nrrd", seed=k)
    source = table(tmp_path, "a,0.nrrd,,,train", "b,1.nrrd,,,train", "c,2.nrrd,,,val")
    return source, tmp_path / "cache", prepare.prepare(source, tmp_path / "cache", TINY)


def test_a_second_run_makes_nothing_anew(begun, monkeypatch):
    source, cache, made = begun
    monkeypatch.setattr(prepare, "_made", None)
    assert prepare.prepare(source, cache, TINY) == made


def test_a_damaged_case_and_only_that_is_made_again(begun, monkeypatch):
    source, cache, made = begun
    damaged = case_folder(cache, made.cases[1].key) / "hu.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-100])
    remade, real = [], prepare._made
    monkeypatch.setattr(prepare, "_made", lambda row, *rest: remade.append(row.name) or real(row, *rest))
    assert prepare.prepare(source, cache, TINY) == made
    assert remade == ["b"] and damaged.read_bytes() == whole


def test_other_content_and_other_settings_are_other_cases(begun, tmp_path):
    source, cache, made = begun
    chest_files.drawn(seed=9).save(tmp_path / "1.nrrd", overwrite=True)
    again = prepare.prepare(source, cache, TINY)
    assert [a.key == b.key for a, b in zip(again.cases, made.cases, strict=True)] == [True, False, True]
    row = manifest.Row("a", "a", tmp_path / "0.nrrd")
    addresses = set()
    for content in (b"one", b"two"):
        (tmp_path / "same.nrrd").write_bytes(content)
        addresses.add(prepare._address(manifest.Row("a", "a", tmp_path / "same.nrrd"), Layout.of("tiny"), 0.45))
    assert len(addresses) == 2
    tiny, small = Layout.of("tiny"), Layout.of("small")
    assert prepare._address(row, small, 0.45) != prepare._address(row, tiny, 0.45)
    other = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, sr=small.model.sr))
    assert prepare._address(row, other, 0.45) == prepare._address(row, tiny, 0.45), "networks change nothing"


def test_the_parts_may_change_without_new_work(begun, tmp_path, monkeypatch):
    _, cache, made = begun
    monkeypatch.setattr(prepare, "_made", None)
    again = prepare.prepare(table(tmp_path, "x,0.nrrd,,,test", "b,1.nrrd,,,train"), cache, TINY)
    assert [(case.name, case.split) for case in again.cases] == [("x", "test"), ("b", "train")]
    assert [case.key for case in again.cases] == [case.key for case in made.cases[:2]]


def test_processes_give_what_one_gives(begun, tmp_path):
    source, _, made = begun
    many = prepare.prepare(source, tmp_path / "many", PrepareOptions("tiny", workers=2))
    # spawned processes know nothing of this module's small cubes: the layout is handed to them
    assert many == made


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="asks Linux for the child processes")
def test_a_killed_run_leaves_no_process_and_can_be_gone_on_with(begun, tmp_path):
    source, _, made = begun
    program = (
        "import sys, pathlib\n"
        "from axon_core.data import plan, prepare\n"
        "if __name__ == '__main__':\n"
        "    plan.SMALLEST_RENDER = 32\n"
        "    source, cache = map(pathlib.Path, sys.argv[1:])\n"
        "    told = lambda done, *_: print(done, flush=True)\n"
        "    prepare.prepare(source, cache, prepare.PrepareOptions('tiny', workers=2), told)\n"
    )
    (tmp_path / "run.py").write_text(program)
    command = [sys.executable, str(tmp_path / "run.py"), str(source), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "1\n"
        children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        run.kill()
    assert len(children) >= 2
    until = time.monotonic() + 20
    while any(alive(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in children)
    assert prepare.prepare(source, tmp_path / "killed", TINY) == made


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


# --- what stops a run ------------------------------------------------------------------------------------------------


def test_another_presets_cache_and_foreign_folders_are_left_alone(begun, tmp_path):
    source, cache, _ = begun
    before = (cache / "plan.json").read_bytes()
    assert code_of(lambda: prepare.prepare(source, cache, PrepareOptions("small"))) == "prepare.other-preset"
    assert (cache / "plan.json").read_bytes() == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()
    assert code_of(lambda: prepare.prepare(source, tmp_path / "letters", TINY)) == "output.foreign-folder"
    assert code_of(lambda: prepare.prepare(source, source, TINY)) == "output.is-file"


def test_a_single_patient_is_told_before_the_work(tmp_path):
    chest_files.save(tmp_path / "a.nrrd")
    source = table(tmp_path, "a,a.nrrd,,,")
    assert code_of(lambda: prepare.prepare(source, tmp_path / "c", TINY)) == "prepare.one-patient"
    assert not (tmp_path / "c").exists()
    made = prepare.prepare(source, tmp_path / "c", PrepareOptions("tiny", (100.0, 0.0, 0.0)))
    assert [case.split for case in made.cases] == ["train"]


def test_no_usable_case_is_an_error(tmp_path):
    with pytest.raises(VolumeError, match="None of 2 cases") as caught:
        prepare.prepare(table(tmp_path, "a,x.nrrd,,,", "b,y.nrrd,,,"), tmp_path / "c", TINY)
    assert caught.value.code == "prepare.no-case"


@pytest.mark.parametrize("percent", [(80.0, 5.0, 10.0), (110.0, -20.0, 10.0)])
def test_parts_add_up(percent):
    with pytest.raises(ConfigError, match="100 %"):
        PrepareOptions("tiny", percent)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path, monkeypatch):
    for name in "ab":
        chest_files.save(tmp_path / f"{name}.nrrd", seed=ord(name))
    source, saved, real = table(tmp_path, "a,a.nrrd,,,", "b,b.nrrd,,,"), [], np.save

    def full(path, array):
        saved.append(path)
        if len(saved) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, array)

    with monkeypatch.context() as patch, pytest.raises(OutputError) as caught:
        patch.setattr(prepare.np, "save", full)
        prepare.prepare(source, tmp_path / "c", TINY)
    assert "b" in caught.value.title and "run again" in caught.value.advice
    assert [path.name[0] for path in (tmp_path / "c" / "cases").iterdir()] != ["."]
    assert len(list((tmp_path / "c" / "cases").iterdir())) == 1
    done = []
    prepare.prepare(source, tmp_path / "c", TINY, lambda *outcome: done.append(outcome))
    assert len(done) == 2 and len(read_plan(tmp_path / "c").cases) == 2


def test_a_disk_that_is_too_small_is_told_before_the_work(begun, tmp_path, monkeypatch):
    source, cache, _ = begun
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    assert code_of(lambda: prepare.prepare(source, tmp_path / "new", TINY)) == "prepare.space"
    prepare.prepare(source, cache, TINY)  # nothing is missing there


# --- the page and the command ----------------------------------------------------------------------------------------


def test_the_page_shows_the_bad_ones_first_and_needs_no_other_file(begun):
    _, cache, made = begun
    odd = dataclasses.replace(made.cases[2], warnings=("look at <this>",))
    shown = dataclasses.replace(made, cases=(*made.cases[:2], odd), skipped=(Skipped("<d>", "broken"),))
    pictures = {case.name: case_folder(cache, case.key) / "strip.jpg" for case in shown.cases}
    page = prepare.write_sheet(cache, shown, pictures).read_text()
    order = [page.index(text) for text in ("&lt;d&gt;", ">c <", "look at &lt;this&gt;", ">a <", ">b <")]
    assert order == sorted(order) and page.count("data:image/jpeg;base64,") == 3
    assert "http" not in page and "<this>" not in page and "2 train, 1 val" in page
    with Image.open(pictures["a"]) as picture:
        assert picture.size == (5 * 144, 144)
        assert np.asarray(picture).std() > 30


def test_the_command_tells_what_it_did(begun, tmp_path):
    source, _, _ = begun
    run = CliRunner().invoke
    (tmp_path / "1.nrrd").write_bytes(b"NRRD0004\n")
    done = run(cli.app, ["prepare", str(source), "-o", str(tmp_path / "c"), "-p", "tiny", "--workers", "1", "--json"])
    facts = json.loads(done.stdout)
    assert done.exit_code == 0 and facts["cases"] == {"train": 1, "val": 1, "test": 0, "films": 0}
    assert facts["skipped"][0]["name"] == "b" and Path(facts["sheet"]).is_file()
    told = run(cli.app, ["prepare", str(source), "-o", str(tmp_path / "c"), "-p", "tiny", "--workers", "1"])
    assert "skipped b:" in told.output and "2 cases" in told.output
    for wrong in ("80,20", "a,b,c"):
        assert run(cli.app, ["prepare", str(source), "-o", "x", "--split", wrong]).exit_code == 2
    helped = " ".join(run(cli.app, ["prepare", "--help"]).stdout.split())
    assert "Examples" in helped and "axon prepare" in helped and "Exit status: 0" in helped


def test_training_reads_what_was_prepared(begun):
    from axon_core.data.cache import CacheDataset

    films, target, weight = CacheDataset(begun[1])[0]
    assert films.shape == (2, 32, 32) and target.shape == weight.shape == (1, 16, 16, 16)
    assert torch.isfinite(target).all()

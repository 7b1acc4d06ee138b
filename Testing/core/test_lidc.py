"""LIDC-IDRI from the index of the Imaging Data Commons: who has films, what is fetched, and the manifest of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
import film_files

from axon_core import cli
from axon_core.data import lidc
from axon_core.data.lidc import Series
from axon_core.data.manifest import read_source
from axon_core.errors import AxonError


def one(patient: int, modality: str, uid: str, images: int = 2) -> Series:
    return Series(f"LIDC-IDRI-{patient:04d}", modality, uid, images, 10.0, "CC BY 3.0")


EVERY = [
    one(3, "CT", "3.1", 3),
    one(3, "DX", "3.2", 2),
    one(1, "DX", "1.2", 1),
    one(1, "CT", "1.1", 3),
    one(1, "CR", "1.3", 1),
    one(2, "CT", "2.1"),
    one(4, "DX", "4.1"),
]


class Client:
    """Brings what is asked for, but for the series named in `lost`."""

    def __init__(self, lost: tuple[str, ...] = ()) -> None:
        self.lost = lost
        self.asked: list[str] = []

    def download_from_selection(
        self, downloadDir: str, seriesInstanceUID: list[str], dirTemplate: str, **_: Any
    ) -> None:
        assert dirTemplate == "%PatientID/%Modality_%SeriesInstanceUID"
        self.asked += seriesInstanceUID
        for series in EVERY:
            if series.uid in seriesInstanceUID and series.uid not in self.lost:
                folder = series.folder(Path(downloadDir))
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(series.images):
                    drawn = film_files.lateral() if number == 0 else film_files.frontal()
                    tags = {"ViewPosition": "PA"} if series.uid == "1.3" else {}
                    (folder / f"{number}.dcm").write_bytes(film_files.dicom(drawn, Modality=series.modality, **tags))


@pytest.fixture
def patients() -> list[lidc.Patient]:
    return lidc.paired(EVERY)


def code_of(call: Any) -> str:
    with pytest.raises(AxonError) as caught:
        call()
    assert caught.value.advice
    return caught.value.code


def test_only_patients_with_a_ct_and_a_film_count(patients):
    assert [patient.name for patient in patients] == ["LIDC-IDRI-0001", "LIDC-IDRI-0003"]
    assert [patient.film_images for patient in patients] == [2, 2]
    assert patients[0].to_dict() == {
        "patient": "LIDC-IDRI-0001",
        "cts": 1,
        "ct_slices": 3,
        "film_series": 2,
        "film_images": 2,
        "megabytes": 30.0,
        "licence": ["CC BY 3.0"],
    }


def test_patients_are_named_by_number_or_name(patients):
    assert [p.name for p in lidc.chosen(patients, ["3", "LIDC-IDRI-0001", "3"])] == ["LIDC-IDRI-0003", "LIDC-IDRI-0001"]
    assert lidc.chosen(patients, []) == patients
    assert code_of(lambda: lidc.chosen(patients, ["2"])) == "lidc.patient"


def test_the_index_that_ships_with_the_package_knows_the_cohort():
    """Numbers of version 25 of the index; needs the extra "lidc"."""
    pytest.importorskip("idc_index")
    found = lidc.paired(lidc.read_series(lidc.open_index()))
    assert len(found) == 290 and sum(patient.film_images >= 2 for patient in found) == 199
    assert {series.licence for patient in found for series in patient.series} == {"CC BY 3.0"}


def test_a_download_ends_in_a_manifest_with_the_views(patients, tmp_path):
    done = []
    path = lidc.download(Client(), patients, tmp_path / "d", told=lambda *told: done.append(told[:2]))
    rows = read_source(path)
    assert done == [(1, 2), (2, 2)] and [row.patient for row in rows] == ["LIDC-IDRI-0001", "LIDC-IDRI-0003"]
    assert rows[0].ct == tmp_path / "d" / "LIDC-IDRI-0001" / "CT_1.1" and rows[1].ct.is_dir()
    assert rows[0].frontal.parent.name == "CR_1.3", "its tags say so"
    assert rows[0].lateral.parent.name == "DX_1.2", "it looks so"
    assert (rows[1].lateral.name, rows[1].frontal.name) == ("0.dcm", "1.dcm")
    assert str(tmp_path) not in path.read_text()


def test_a_film_whose_view_is_sure_goes_before_a_guess(patients, tmp_path, monkeypatch):
    monkeypatch.setattr(lidc, "film_view", lambda path: ("frontal", "guess" if path.name == "0.dcm" else "look"))
    rows = read_source(lidc.download(Client(), patients[1:], tmp_path / "d"))
    assert rows[0].frontal.name == "1.dcm" and rows[0].lateral is None


def test_going_on_fetches_only_what_is_missing(patients, tmp_path):
    lost = Client(lost=("3.2",))
    assert code_of(lambda: lidc.download(lost, patients, tmp_path / "d")) == "lidc.incomplete"
    assert code_of(lambda: lidc.download(Client(), patients, tmp_path / "d")) == "lidc.not-empty"
    (tmp_path / "d" / "LIDC-IDRI-0001" / "CT_1.1" / "0.dcm").unlink()
    wanted = lidc.missing(patients, tmp_path / "d")
    assert {series.uid for series in wanted.series} == {"3.2", "1.1"}
    assert (wanted.complete, wanted.megabytes) == (3, 20.0)
    client = Client()
    lidc.download(client, patients, tmp_path / "d", resume=True)
    assert sorted(client.asked) == ["1.1", "3.2"] and (tmp_path / "d" / "manifest.csv").is_file()


def test_a_small_disk_is_told_before_anything_is_fetched(patients, tmp_path, monkeypatch):
    monkeypatch.setattr(lidc.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    client = Client()
    assert code_of(lambda: lidc.download(client, patients, tmp_path / "d")) == "lidc.space"
    assert client.asked == [] and not (tmp_path / "d").exists()


@pytest.fixture
def axon(monkeypatch):
    """The command, with an index of our own and a client that refuses to fetch."""
    monkeypatch.setattr(lidc, "open_index", SimpleNamespace)
    monkeypatch.setattr(lidc, "read_series", lambda _: EVERY)
    return lambda *arguments: CliRunner().invoke(cli.app, ["data", "lidc", *map(str, arguments)])


def test_the_list_and_the_dry_run_touch_nothing(axon, tmp_path):
    listed = json.loads(axon("--list", "--json").stdout)["patients"]
    assert [patient["patient"] for patient in listed] == ["LIDC-IDRI-0001", "LIDC-IDRI-0003"]
    told = axon("--list").stdout
    assert "2 patients with CT and film, 2 of them" in told and "CC BY 3.0" in told
    dry = axon("--download", tmp_path / "d", "--patients", "1", "--dry-run", "--json")
    facts = json.loads(dry.stdout)
    assert (facts["series"], facts["megabytes"], facts["manifest"]) == (3, 30.0, None)
    assert (
        "Patients: 1; 3 series to fetch (0.03 GB"
        in axon("--download", tmp_path / "d", "--patients", "1", "--dry-run").stdout
    )
    assert not (tmp_path / "d").exists()


def test_one_of_both_is_asked(axon, tmp_path):
    assert axon().exit_code == axon("--list", "--download", tmp_path).exit_code == 2


def test_without_the_extra_the_way_on_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "idc_index", None)
    done = CliRunner().invoke(cli.app, ["data", "lidc", "--list", "--json"])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "lidc.no-index" and "axon-core[lidc]" in error["advice"]


def test_help_has_examples(axon):
    for text in (axon("--help").stdout, CliRunner().invoke(cli.app, ["data", "--help"]).stdout):
        assert "axon data lidc --list" in text and "Exit status: 0" in " ".join(text.split())

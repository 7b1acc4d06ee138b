"""A job with two DICOM films: each in its place, and both named in the result."""

from __future__ import annotations

import sys
from pathlib import Path

import pydicom
import pytest

from axon_core.errors import FilmError
from axon_core.film_choice import FilmChoice
from axon_core.film_write import write_film
from axon_core.geometry import XrayGeometry, XrayView
from axon_core.job import ReconstructJob
from axon_core.radiograph import Radiograph

sys.path.insert(0, str(Path(__file__).parent))
import film_files


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pa.dcm`` and ``lat.dcm``."""
    folder = tmp_path_factory.mktemp("films")
    made = {"pa.dcm": (film_files.frontal, XrayView.PA), "lat.dcm": (film_files.lateral, XrayView.LAT)}
    for name, (draw, view) in made.items():
        pixels = draw(180, 180)
        shown = (pixels - pixels.min()) / float(pixels.max() - pixels.min())
        write_film(folder / name, name, shown, XrayGeometry(view, 180), {})
    return folder


def job(films: Path, output: Path, model: Path, front: str, side: str) -> ReconstructJob:
    frontal, lateral = (FilmChoice(str(films / name)) for name in (front, side))
    return ReconstructJob(frontal, str(output), lateral, str(model), "preview", device="cpu", format="dicom")


def test_both_films_are_referenced_in_the_volume(films: Path, tmp_path: Path, tiny_model: Path) -> None:
    made = job(films, tmp_path / "out", tiny_model, "pa.dcm", "lat.dcm")
    result = made.run(made.staging(), lambda _: None)
    assert set(result.ncc) == {"frontal", "lateral"}
    ct = pydicom.dcmread(next((tmp_path / "out" / "dicom").glob("*.dcm")))
    named = {item.ReferencedSOPInstanceUID for item in ct.SourceImageSequence}
    assert named == {Radiograph.load(films / name).source["sop_instance_uid"] for name in ("pa.dcm", "lat.dcm")}


@pytest.mark.parametrize(("front", "side"), [("lat.dcm", "pa.dcm"), ("pa.dcm", "pa.dcm"), ("lat.dcm", "lat.dcm")])
def test_films_in_the_wrong_place_are_refused(films, tmp_path, tiny_model, front, side) -> None:
    made = job(films, tmp_path / "out", tiny_model, front, side)
    with pytest.raises(FilmError) as caught:
        made.run(made.staging(), lambda _: None)
    assert caught.value.code == "film.view"
    assert not (tmp_path / "out").exists()

"""The samples: registered, there, free to be passed on, and what they claim to be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "AXONReconstruction"))


@pytest.fixture
def sources(hosted, monkeypatch: pytest.MonkeyPatch) -> dict:
    """What Slicer's list holds after registration: name -> entry."""
    import slicer

    from AXONLib import sample_data

    monkeypatch.setattr(slicer.modules, "sampleDataSources", {}, raising=False)
    sample_data.register()
    sample_data.register()
    registered = slicer.modules.sampleDataSources["AXON"]
    assert len(registered) == 3
    return {source.sampleName: source for source in registered}


def test_each_has_its_files_and_its_picture(sources: dict) -> None:
    from PIL import Image

    for source in sources.values():
        assert len(source.uris) == len(source.fileNames) == len(source.nodeNames)
        for uri, name in zip(source.uris, source.fileNames, strict=True):
            assert uri.startswith("file:///") and Path(uri).name == name
            assert list((ROOT / "Resources").glob(f"Sample*/{name}"))
        with Image.open(source.thumbnailFileName) as picture:
            assert picture.size == (260, 280)


def test_films_are_loaded_as_films(sources: dict, tmp_path: Path) -> None:
    from AXONLib import films

    seen = []
    for name in ("Chest X-ray 1 (PA)", "Chest X-ray 2 (PA)"):
        source = sources[name]
        [node] = source.customDownloader(source)
        assert node.GetName() == source.nodeNames[0] and node.GetImageData().GetDimensions()[2] == 1
        film = films.radiographOf(node, films.FilmSettings(), str(tmp_path))
        assert film.source["sha256"] and min(film.pixels.shape) > 500
        seen.append(film.source["sha256"])
    assert len(set(seen)) == 2


def test_the_ct_comes_with_its_scout(sources: dict, tmp_path: Path) -> None:
    from AXONLib import films, volumes

    source = sources["Chest CT and its scout (AP)"]
    ct, scout = source.customDownloader(source)
    assert (ct.GetName(), scout.GetName()) == tuple(source.nodeNames)
    volume = volumes.ctVolumeOf(ct)
    assert np.allclose(np.abs(np.linalg.eigvals(volume.affine[:3, :3])), 2.5), "millimetres"
    assert volume.hu.min() == -1024 and np.mean(volume.hu < -500) > 0.2, "lungs and air"
    film = films.radiographOf(scout, films.FilmSettings(view="AP"), str(tmp_path))
    assert film.spacing_mm == pytest.approx((0.675, 0.622)), "at the detector, whose film is 1.125 times the patient"


def test_the_scout_is_a_film_of_that_ct(sources: dict, tmp_path: Path) -> None:
    """In the pose that follows from both series' table positions they agree better than 20 mm beside it."""
    from axon_core.drr.live import LiveDRR
    from axon_core.geometry import RigidPose, XrayGeometry, XrayView
    from AXONLib import films, volumes

    source = sources["Chest CT and its scout (AP)"]
    ct, scout = source.customDownloader(source)
    film = films.standardFilm(films.radiographOf(scout, films.FilmSettings(view="AP"), str(tmp_path)))
    live, geometry = LiveDRR(volumes.ctVolumeOf(ct)), XrayGeometry(XrayView.AP, 256)

    def agreement(x: float, z: float) -> float:
        drr = live.render(RigidPose((0, 0, 0), (x, 0, z)), 256, geometry)
        return np.corrcoef(np.asarray(film.image).ravel(), np.asarray(drr).ravel())[0, 1]

    x, z = -10.6, 48.3
    beside = [agreement(x + a, z + b) for a, b in ((20, 0), (-20, 0), (0, 20), (0, -20))]
    assert agreement(x, z) > max(beside) and agreement(x, z) > 0.8


def test_the_first_is_shown(sources: dict) -> None:
    import slicer

    for source in sources.values():
        nodes = source.customDownloader(source)
        view = "Red" if len(nodes) > 1 else "AXONFrontal"  # a film as it hangs, a CT in Slicer's own views
        shown = slicer.app.layoutManager().sliceWidget(view).sliceLogic().GetBackgroundLayer().GetVolumeNode()
        assert shown is nodes[0]


def test_without_a_main_window(hosted, sources: dict) -> None:
    hosted.setMainWindow(False)
    try:
        source = sources["Chest X-ray 2 (PA)"]
        assert source.customDownloader(source)
    finally:
        hosted.setMainWindow(True)


def test_every_sample_may_be_passed_on() -> None:
    """Its source and a licence that allows it stand in ATTRIBUTION.md; they stay small."""
    rows = (ROOT / "Resources" / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    for folder in ("Samples", "SampleData"):
        for file in (ROOT / "Resources" / folder).iterdir():
            [row] = [row for row in rows if row.startswith(f"| `{folder}/{file.name}` |")]
            licence = row.rstrip(" |").rpartition("|")[2].strip()
            assert licence in {"CC BY 3.0", "CC BY 4.0", "CC0", "public domain"}
            assert file.stat().st_size < 6e6

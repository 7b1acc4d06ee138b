"""The report shows the right voxels the right way round, works offline, and always says that it is synthetic."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from axon_core import SYNTHETIC_NOTICE
from axon_core.ctvolume import CTVolume
from axon_core.evaluation import report
from axon_core.evaluation.report import PLANES, WINDOWS, film_edges, heat, shrink, to_bytes, write_report
from axon_core.geometry import XrayView
from axon_core.model import AxonModel
from axon_core.pipeline import Reconstruction, reconstruct
from axon_core.radiograph import Radiograph

HOSTILE = "</script><script>alert(1)</script><b>&"


@pytest.fixture(scope="module")
def made(film_png: Path, tiny_model: Path) -> Reconstruction:
    """A real reconstruction whose volume was exchanged for one in which every direction looks different."""
    film = Radiograph.load(film_png)
    result = reconstruct(film, film, model=AxonModel.from_pretrained(tiny_model), preset="fast", seeds=(0, 1))
    z, y, x = np.mgrid[0:1:24j, 0:1:20j, 0:1:16j]
    hu = (-1000 + 900 * z + 500 * y + 200 * x).astype(np.float32)
    affine = np.diag([5.0, 4.0, 3.0, 1.0])
    return replace(
        result,
        final=CTVolume(hu, affine),
        std=CTVolume(100 * np.abs(hu) / 1000, affine),
        warnings=(*result.warnings, HOSTILE),
    )


def page_data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def unpack(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


# ---- which way round


@pytest.mark.parametrize(
    ("plane", "edge", "axis", "end"),
    [
        ("Axial", "R", 2, 0), ("Axial", "L", 2, -1), ("Axial", "A", 1, 0), ("Axial", "P", 1, -1),
        ("Coronal", "R", 2, 0), ("Coronal", "L", 2, -1), ("Coronal", "H", 0, -1), ("Coronal", "F", 0, 0),
        ("Sagittal", "A", 1, 0), ("Sagittal", "P", 1, -1), ("Sagittal", "H", 0, -1), ("Sagittal", "F", 0, 0),
    ],
)  # fmt: skip
def test_each_letter_stands_where_that_side_of_the_patient_is(plane: str, edge: str, axis: int, end: int) -> None:
    """In LPS [z, y, x] the first x is the patient's right, the first y the front, the last z the head."""
    volume = np.zeros((5, 7, 9))
    np.moveaxis(volume, axis, 0)[end] = 1
    chosen = next(p for p in PLANES if p.name == plane)
    image = chosen.cut(volume)
    sides = (image[:, 0], image[:, -1], image[0], image[-1])  # left, right, top, bottom
    lit = [side.min() == 1 for side in sides]
    assert [letter for letter, on in zip(chosen.edges, lit, strict=True) if on] == [edge]


def test_radiological_convention_of_every_plane() -> None:
    assert {p.name: p.edges for p in PLANES} == {"Axial": "RLAP", "Coronal": "RLHF", "Sagittal": "APHF"}


@pytest.mark.parametrize("view", XrayView)
def test_film_letters_follow_the_view(view: XrayView) -> None:
    """The right edge is where the column index grows to; the bottom where the row index grows to."""
    letters = {(1, 0, 0): "L", (-1, 0, 0): "R", (0, -1, 0): "A", (0, 1, 0): "P", (0, 0, -1): "F", (0, 0, 1): "H"}
    left, right, top, bottom = film_edges(view)
    assert (left, right) == (letters[tuple(-view.column)], letters[tuple(view.column)])
    assert (top, bottom) == (letters[tuple(-view.row)], letters[tuple(view.row)])


def test_aspect_keeps_millimetres_square() -> None:
    volume = np.zeros((2, 3, 4))
    spacing = (1.0, 2.0, 5.0)
    extent = {"Axial": (3 * 2.0, 4 * 1.0), "Coronal": (2 * 5.0, 4 * 1.0), "Sagittal": (2 * 5.0, 3 * 2.0)}
    for plane in PLANES:
        rows, columns = plane.cut(volume).shape
        high, wide = extent[plane.name]
        assert rows * plane.aspect(spacing) / columns == pytest.approx(high / wide)


# ---- numbers


def test_bytes_are_linear_and_clipped() -> None:
    assert to_bytes(np.array([-2000, -1000, 0, 1000, 5000]), -1000, 1000).tolist() == [0, 0, 128, 255, 255]


def test_shrink_keeps_means_and_limits_edges() -> None:
    volume = np.random.default_rng(0).normal(size=(20, 30, 40))
    small, factor = shrink(volume, 20)
    assert factor == 2 and small.shape == (10, 15, 20)
    assert small.mean() == pytest.approx(volume.mean())
    assert small[3, 4, 5] == pytest.approx(volume[6:8, 8:10, 10:12].mean())
    assert shrink(volume, 40)[0] is volume
    assert max(shrink(np.zeros((3, 3, 41)), 20)[0].shape) <= 20


def test_heat_grows_brighter() -> None:
    brightness = heat(np.arange(256)[None]).astype(int).sum(-1)[0]
    assert (np.diff(brightness) >= -1).all() and brightness[-1] > 600 > 10 > brightness[0]


def test_page_holds_the_volume(made: Reconstruction) -> None:
    data = page_data(report.render_html(made))
    assert data["shape"] == list(made.final.hu.shape) and data["spacing"] == [5.0, 4.0, 3.0]
    assert np.array_equal(unpack(data["hu"]), to_bytes(made.final.hu, -1000, 1000).ravel())
    assert np.array_equal(unpack(data["std"]), to_bytes(made.std.hu, 0, data["std_high"]).ravel())
    assert data["std_high"] >= np.percentile(made.std.hu, 99)


def test_page_shows_a_coarser_spread_where_it_lies(made: Reconstruction) -> None:
    """Super-resolution doubles the final volume only; the spread keeps the coarse voxels of the same cube."""
    coarse = np.zeros((12, 10, 8), np.float32)
    coarse[5, 2, 6] = 400
    affine = np.diag([10.0, 8.0, 6.0, 1.0])
    affine[:3, 3] = (2.5, 2.0, 1.5)
    data = page_data(report.render_html(replace(made, std=CTVolume(coarse, affine))))
    shown = unpack(data["std"]).reshape(made.final.hu.shape)
    assert shown[10:12, 4:6, 12:14].min() > 0 and shown.sum() > 0
    assert shown[:8].max() == shown[14:].max() == shown[:, 8:].max() == shown[:, :, :10].max() == 0


# ---- the page


def test_page_is_self_contained_and_escapes_what_it_is_given(made: Reconstruction) -> None:
    page = report.render_html(made)
    assert HOSTILE not in page and "alert(1)" in page
    assert page.count("<script") == 2
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r'http-equiv|base64,[^"]*', "", page)
    assert "default-src 'none'" in page
    assert "{{" not in page


def test_page_tells_notice_ncc_and_provenance(made: Reconstruction) -> None:
    page = report.render_html(made)
    assert f'<div id="notice" role="alert">{SYNTHETIC_NOTICE}</div>' in page
    assert "position: sticky" in page.split("#notice")[1].split("}")[0]
    for view, value in made.ncc.items():
        assert f"{view} {value:.2f}" in page and f"NCC {value:.3f}" in page
    assert made.provenance["weights_sha256"] in page
    for stage in made.stages:
        assert f"<figcaption>{stage}<span>" in page.replace("&lt;", "<")


def test_one_seed_says_that_the_spread_is_unknown(made: Reconstruction) -> None:
    page = report.render_html(replace(made, std=None))
    assert "std" not in page_data(page) and "nothing is known about the spread" in page
    page = report.render_html(replace(made, std=None, provenance={**made.provenance, "seeds": []}))
    assert "nothing is known about the spread" not in page and "draw nothing at random" in page


def test_written_files_replace_earlier_ones(made: Reconstruction, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "report.html").write_text("old")
    files = write_report(made, tmp_path)
    page, picture = files["report"], files["picture"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["projections.png", "report.html", "report.png"]
    assert SYNTHETIC_NOTICE in page.read_text(encoding="utf-8")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[3, :] == (163, 19, 29)).all(), "the notice's red bar spans the picture"
    assert (pixels[:40] == 255).all(-1).sum() > 200, "and holds white letters"


def test_picture_has_a_row_for_every_film_the_slices_and_the_spread(made: Reconstruction) -> None:
    films, volumes = report._film_rows(made), report._volume_rows(made)
    assert [row[0][0] for row in films + volumes] == ["Film, frontal", "Film, lateral", "Axial", "Axial spread"]
    shown = volumes[0][1][2]
    assert np.array_equal(shown, to_bytes(made.final.hu[::-1, 10, :], *WINDOWS["Lung"]))
    assert len(report._volume_rows(replace(made, std=None))) == 1
    assert report.render_projections(made).height < report.render_picture(made).height / 2 + 200


# ---- in a browser

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *("--disable-component-update", "--disable-sync", "--virtual-time-budget=8000", "--dump-dom"),
]
PROBE = """<pre id="probe-result"></pre><script>
const timer = setInterval(() => {
  if (document.getElementById("viewer").hidden) return;
  clearInterval(timer);
  const grab = () => Object.fromEntries(Object.entries(planes).map(([name, p]) => [name, Array.from(
    p.canvas.getContext("2d").getImageData(0, 0, p.cols, p.rows).data)]));
  const shots = {Lung: grab()};
  for (const button of document.querySelectorAll("#controls button")) {
    button.click();
    shots[button.textContent] = grab();
  }
  document.querySelector("#controls button").click();
  const slider = planes.Axial.slider;
  slider.value = 3; slider.dispatchEvent(new Event("input"));
  shots.moved = grab();
  document.getElementById("probe-result").textContent = JSON.stringify(shots);
}, 50);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page is not opened (apt-get install chromium)")
def test_browser_draws_exactly_the_slices(made: Reconstruction, tmp_path: Path) -> None:
    page = write_report(made, tmp_path)["report"]
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    document = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    shots = json.loads(re.search(r'<pre id="probe-result">(.*?)</pre>', document)[1])
    assert set(shots) == {*WINDOWS, "Uncertainty", "moved"}

    levels = -1000 + to_bytes(made.final.hu, -1000, 1000) * (2000 / 255)
    for window, limits in WINDOWS.items():
        for plane in PLANES:
            expected = to_bytes(plane.cut(levels), *limits)
            drawn = np.array(shots[window][plane.name]).reshape(*expected.shape, 4)
            assert np.abs(drawn[..., :3] - expected[..., None].astype(int)).max() <= 1, (window, plane.name)
    high = page_data(page.read_text(encoding="utf-8"))["std_high"]
    for plane in PLANES:
        expected = heat(to_bytes(plane.cut(made.std.hu), 0, high)).astype(int)
        drawn = np.array(shots["Uncertainty"][plane.name]).reshape(*expected.shape[:2], 4)
        assert np.abs(drawn[..., :3] - expected).max() <= 1, plane.name
    expected = to_bytes(PLANES[0].cut(levels, 3), *WINDOWS["Lung"])
    assert (
        np.abs(np.array(shots["moved"]["Axial"]).reshape(*expected.shape, 4)[..., 0] - expected.astype(int)).max() <= 1
    )
    assert 'id="broken" class="card warnings">' in document and 'style="display: block' not in document

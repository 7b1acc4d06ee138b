"""Films in the scene: where they lie, which file stands for them, and what the user's corrections do to them."""

from __future__ import annotations

import types

import driving
import film_files
import numpy as np
import pytest
from PIL import Image

ROWS, COLUMNS = 180, 200


@pytest.fixture
def films(hosted):
    from AXONLib import films

    return films


@pytest.fixture
def parameters(hosted):
    import slicer

    from AXONLib.parameters import AXONParameters

    return AXONParameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "chest.png"
    Image.fromarray(film_files.frontal(ROWS, COLUMNS)).save(path)
    return path


def dicom(path, pixels=None, **tags):
    """A DX file, 2 x 1.9 mm pixels."""
    pixels = film_files.frontal(ROWS, COLUMNS) if pixels is None else pixels
    path.write_bytes(film_files.dicom(pixels, **{"ImagerPixelSpacing": [2.0, 1.9], **tags}))
    return path


def ras(node, row, column):
    """Where a pixel lies in the world."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return (slicer.util.arrayFromVTKMatrix(matrix) @ [column, row, 0, 1])[:3]


def pixels(node):
    import slicer

    return slicer.util.arrayFromVolume(node)[0]


def write(node, array):
    import slicer

    slicer.util.updateVolumeFromArray(node, array)


# ---- where a film lies


@pytest.mark.parametrize(
    ("view", "spacing", "corner"),
    [
        # first pixel of the first row: the patient's right shoulder, seen from the front
        ("PA", (2.0, 1.9), lambda away: (99.5 * 1.9, away, 89.5 * 2.0)),
        ("AP", (2.0, 1.9), lambda away: (99.5 * 1.9, -away, 89.5 * 2.0)),
        # of a left lateral film: the back of the neck; the detector is on the patient's left
        ("LL", (2.0, 1.9), lambda away: (-away, -99.5 * 1.9, 89.5 * 2.0)),
    ],
)
def test_a_film_lies_upright_on_the_detector(films, tmp_path, view, spacing, corner):
    from axon_core.geometry import XrayGeometry

    node = films.loadFilm(dicom(tmp_path / "film.dcm", ViewPosition=view))
    first, last = ras(node, 0, 0), ras(node, ROWS - 1, COLUMNS - 1)
    assert np.allclose(first, corner(XrayGeometry().isocentre_to_detector_mm), atol=1e-4)
    middle = (first + last) / 2
    assert np.allclose(np.abs(middle).max(), XrayGeometry().isocentre_to_detector_mm)
    assert np.allclose(np.sort(np.abs(middle))[:2], 0, atol=1e-6)
    assert np.allclose(ras(node, 1, 0) - first, [0, 0, -spacing[0]])


def test_a_picture_of_unknown_size_counts_one_millimetre_a_pixel(films, png):
    node = films.loadFilm(png)
    assert node.GetAttribute(films.SPACING) == "0" and np.allclose(node.GetSpacing()[:2], 1)
    assert np.allclose(ras(node, 0, 0)[[0, 2]], [99.5, 89.5])


def test_bone_is_bright_whatever_the_file_stores(films, tmp_path, png):
    stored = 255 - film_files.frontal(ROWS, COLUMNS)
    tagged = dicom(tmp_path / "m1.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    dark = tmp_path / "dark.png"
    Image.fromarray(stored).save(dark)
    for path in (png, tagged, dark):
        film = pixels(films.loadFilm(path))
        spine, lung = film[70:90, 95:105].mean(), film[70:90, 50:65].mean()
        assert film.shape == (ROWS, COLUMNS) and spine > lung + 50, path.name


def test_films_get_names_of_their_own(films, png):
    names = [films.loadFilm(png).GetName(), films.loadFilm(png).GetName(), films.loadFilm(png, "Mine").GetName()]
    assert len(set(names)) == 3 and names[0] == "chest" and names[2] == "Mine"


# ---- the file that stands for it


def test_an_unchanged_film_is_read_from_its_own_file(films, png, tmp_path):
    node = films.loadFilm(png)
    assert films.fileOf(node, tmp_path) == str(png)
    assert films.choice(node, films.FilmSettings(), tmp_path)["invert"] is None


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_a_film_whose_file_is_not_its_own_any_more_is_written_anew(films, tmp_path, what):
    from axon_core.radiograph import Radiograph

    path = dicom(
        tmp_path / "film.dcm", 255 - film_files.frontal(ROWS, COLUMNS), PhotometricInterpretation="MONOCHROME1"
    )
    node = films.loadFilm(path)
    if what == "changed":
        array = pixels(node).copy()
        array[10:20, 10:20] = 0
        write(node, array[None])
    else:
        path.unlink()
    chosen = films.choice(node, films.FilmSettings(), tmp_path)
    assert chosen["file"] != str(path) and chosen["invert"] is False  # bone is bright in the scene already
    film = Radiograph.load(chosen["file"], invert=chosen["invert"])
    assert np.array_equal(film.pixels, pixels(node)) and film.spacing_mm == pytest.approx((2.0, 1.9))


def test_an_unknown_pixel_size_stays_unknown_when_written(films, png, tmp_path):
    from axon_core.radiograph import Radiograph

    node = films.loadFilm(png)
    write(node, pixels(node)[None] + 1)
    node.SetSpacing(0.5, 0.5, 1)
    assert Radiograph.load(films.fileOf(node, tmp_path)).spacing_mm is None


def test_a_film_of_the_dicom_database_is_read_from_its_instance(films, tmp_path, monkeypatch):
    import slicer

    path = dicom(tmp_path / "instance")
    database = types.SimpleNamespace(fileForInstance=lambda uid: str(path) if uid == "1.2.3.4" else "")
    monkeypatch.setattr(slicer, "dicomDatabase", database)
    node = slicer.util.addVolumeFromArray(film_files.frontal()[None])
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3.4")
    assert films.fileOf(node, tmp_path) == str(path)
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3.5")
    assert films.fileOf(node, tmp_path).endswith(".mha")
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3.4 1.2.3.5")  # a series, whatever it is
    assert films.fileOf(node, tmp_path).endswith(".mha")


def test_a_film_that_slicer_loaded_is_read_from_its_file_until_it_is_changed(films, tmp_path):
    import slicer

    from axon_core.radiograph import Radiograph

    path = dicom(tmp_path / "film.dcm")
    node = slicer.util.loadVolume(str(path))
    assert films.fileOf(node, tmp_path) == str(path)
    write(node, pixels(node)[None] // 2)
    changed = films.fileOf(node, tmp_path)
    assert changed.endswith(".mha") and np.array_equal(Radiograph.load(changed, invert=False).pixels, pixels(node))


def test_a_colour_picture_of_slicer_is_a_film_all_the_same(films, tmp_path):
    """slicer-core reads no PNG, therefore the node is made as Slicer's reader makes it."""
    import slicer

    from axon_core.radiograph import Radiograph

    grey = film_files.frontal(ROWS, COLUMNS)
    path = tmp_path / "colours.png"
    Image.fromarray(np.stack([grey] * 3, -1)).save(path)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    write(node, np.stack([grey, grey, grey, np.full_like(grey, 255)], -1)[None])  # alpha counts for nothing
    written = films.fileOf(node, tmp_path)
    assert written.endswith(".mha")
    slicer.util.saveNode(node, str(tmp_path / "colours.nrrd"))
    node.GetStorageNode().SetFileName(str(path))
    assert films.fileOf(node, tmp_path) == str(path)
    for file in (written, path):
        assert np.abs(Radiograph.load(file, invert=False).pixels - grey).max() < 1


def test_a_film_that_is_saved_with_a_scene_is_found_again(films, png, tmp_path):
    import slicer

    films.loadFilm(png)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    node = slicer.util.getNode("chest")
    assert films.fileOf(node, tmp_path) == str(png)
    png.unlink()
    assert films.choice(node, films.FilmSettings(), tmp_path)["invert"] is False


# ---- what cannot be a film


def test_a_volume_is_no_film(films, tmp_path):
    import slicer

    node = slicer.util.addVolumeFromArray(np.zeros((20, 30, 40), np.int16), name="Chest CT")
    with pytest.raises(films.FilmError) as refused:
        films.fileOf(node, tmp_path)
    assert refused.value.code == "film.volume"
    assert "Chest CT is a volume" in refused.value.title and "Ground truth" in refused.value.advice


def test_an_empty_node_is_no_film(films, tmp_path):
    import slicer

    with pytest.raises(films.FilmError, match="holds no image"):
        films.fileOf(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no film", film_files.dicom(np.full((64, 64), 7, np.uint8))])
def test_a_file_that_is_no_film_leaves_the_scene_alone(films, tmp_path, content):
    path = tmp_path / "film"
    path.write_bytes(content)
    before = driving.content()
    with pytest.raises(films.FilmError):
        films.loadFilm(path)
    assert driving.content() == before


# ---- the user's corrections


def test_the_choices_reach_the_job(films, parameters, png, tmp_path):
    from AXONLib import logic
    from AXONLib.parameters import FrontalView, Polarity

    parameters.frontal = films.loadFilm(png)
    side = tmp_path / "side.png"
    Image.fromarray(film_files.lateral()).save(side)
    parameters.lateral = films.loadFilm(side)
    plain = {"file": str(png), "view": None, "invert": None, "pixel_size_mm": None, "mirrored": False}
    job = logic.reconstruction(parameters, tmp_path, tmp_path / "out")
    assert job["frontal"] == plain and job["lateral"] == {**plain, "file": str(side)}
    parameters.frontalView, parameters.frontalPolarity = FrontalView.AP, Polarity.INVERT
    parameters.frontalPixelSize, parameters.frontalMirrored = 0.4, True
    parameters.lateralPolarity, parameters.lateralPixelSize = Polarity.KEEP, 0.3
    job = logic.reconstruction(parameters, tmp_path, tmp_path / "out")
    assert job["frontal"] == {**plain, "view": "AP", "invert": True, "pixel_size_mm": 0.4, "mirrored": True}
    assert job["lateral"] == {**plain, "file": str(side), "invert": False, "pixel_size_mm": 0.3}


@pytest.fixture
def standard(films, png, tmp_path):
    """settings -> what the network sees of the picture."""
    node = films.loadFilm(png)

    def seen(**settings):
        return films.standardFilm(films.radiographOf(node, films.FilmSettings(**settings), tmp_path))

    return seen


def test_a_mirrored_film_is_turned_round(standard):
    assert np.allclose(standard(mirrored=True).image, standard().image[:, ::-1], atol=1e-5)


def test_an_inverted_film_has_dark_bones(standard):
    kept, inverted = standard(invert=False), standard(invert=True)
    inside = kept.mask & inverted.mask
    assert np.corrcoef(kept.image[inside], inverted.image[inside])[0, 1] < -0.99


def test_a_pixel_size_gives_the_film_its_true_size(standard):
    assert not standard().scale_known
    small, large = standard(pixelSizeMm=1.5), standard(pixelSizeMm=2.0)
    assert small.scale_known and large.scale_known
    edges = [film.mask.any(axis=0).sum() * film.detector_mm / 256 for film in (small, large)]
    assert edges == pytest.approx([300, 400], abs=4)


def test_a_view_replaces_the_guess(standard):
    assert standard().view.value == "PA" and any("view is unknown" in text for text in standard().warnings)
    known = standard(view="AP")
    assert known.view.value == "AP" and not any("view is unknown" in text for text in known.warnings)


@pytest.mark.parametrize(("view", "lateral", "words"), [("LL", False, "lateral view"), ("PA", True, "frontal view")])
def test_exchanged_films_are_told(films, tmp_path, view, lateral, words):
    node = films.loadFilm(dicom(tmp_path / "film.dcm", ViewPosition=view))
    with pytest.raises(films.FilmError, match=words) as refused:
        films.standardFilm(films.radiographOf(node, films.FilmSettings(), tmp_path), lateral)
    assert refused.value.advice == "Exchange the films."


def test_the_facts_of_a_film_in_one_line(films, tmp_path, png):
    def facts(path, **settings):
        film = films.radiographOf(films.loadFilm(path), films.FilmSettings(**settings), tmp_path)
        return films.facts(film, films.standardFilm(film))

    assert facts(png) == "view unknown, 200 x 180 pixels, pixel size unknown"
    assert facts(dicom(tmp_path / "a.dcm", ViewPosition="AP")) == "AP, 200 x 180 pixels, pixel size 2.000 mm"
    assert facts(png, pixelSizeMm=0.1).endswith("pixel size 0.100 mm not believed")

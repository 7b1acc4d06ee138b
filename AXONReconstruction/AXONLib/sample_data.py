"""The films and the CT under File > Download Sample Data > AXON. They come with the extension, without a download."""

import pathlib
from dataclasses import dataclass

from slicer.i18n import tr as _

from axon_core import resources
from AXONLib import services

CATEGORY = "AXON"
ICONS = pathlib.Path(__file__).resolve().parents[1] / "Resources" / "Icons"


@dataclass(frozen=True)
class Sample:
    """One entry of the category.

    Attributes:
        name: shown below the picture.
        thumbnail: file in `ICONS`.
        files: in the folder of `resources.folder`; a CT's name ends with "_ct".
        nodes: name of the node of each file.
    """

    name: str
    thumbnail: str
    files: tuple[str, ...]
    nodes: tuple[str, ...]

    def paths(self):
        """The files, as absolute pathlib.Path."""
        return [(resources.folder() / file).absolute() for file in self.files]


def samples():
    """What the category offers."""
    return (
        Sample(
            _("Chest X-ray 1 (PA)"),
            "SampleXray1.png",
            ("Samples/hannover_fff13f3a_pa.png",),
            ("Chest X-ray 1",),
        ),
        Sample(
            _("Chest X-ray 2 (PA)"),
            "SampleXray2.png",
            ("SampleData/hannover_8da14fff_pa.png",),
            ("Chest X-ray 2",),
        ),
        Sample(
            _("Chest CT and its scout (AP)"),
            "SampleCTAndScout.png",
            ("SampleData/acrin_042_ct.nrrd", "SampleData/acrin_042_scout_ap.nrrd"),
            ("Chest CT", "Scout of the chest CT"),
        ),
    )


def register():
    """Enter the samples into Slicer's list; a second call changes nothing."""
    for sample in samples():
        services.registerSample(CATEGORY, sample.name, sample.paths(), sample.nodes, ICONS / sample.thumbnail, load)


def load(source):
    """Add a sample's files to the scene and show the first; what Slicer calls when its picture is clicked.

    Args:
        source: a SampleData.SampleDataSource of ours.

    Returns:
        list: the nodes, in the order of the files.
    """
    from AXONLib import films, layout  # not at Slicer's start: it brings what reads films

    sample = next(sample for sample in samples() if sample.name == source.sampleName)
    nodes = []
    for path, name in zip(sample.paths(), sample.nodes, strict=True):
        if path.stem.endswith("_ct"):
            node = services.loadVolume(path)
            node.SetName(name)
        else:
            node = films.loadFilm(path, name)
        nodes.append(node)
    if len(nodes) == 1:
        layout.showFilms(nodes[0], None)
    else:
        services.showInSliceViews(nodes[0])
    return nodes

"""Drawn chests on disk, for the self test and for a first try without data: networks learn nothing of use from them."""

import pathlib

import numpy as np

from axon_core.ctvolume import CTVolume

SPACING = 6.0  # mm
SPLITS = ("train", "train", "val")


def chest(seed):
    """A body of water with two lungs, a heart and a spine, 264 mm long; CTVolume."""
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[:60, :60] - 29.5) * SPACING
    z = ((np.arange(44) - 21.5) * SPACING)[:, None, None]
    wide, deep = random.uniform(125, 150), random.uniform(85, 105)
    hu = np.full((44, 60, 60), -1000.0, np.float32)
    hu[:, (x / wide) ** 2 + (y / deep) ** 2 < 1] = 40.0
    for side in (-62, 62):
        lung = random.uniform(36, 44), random.uniform(55, 68), random.uniform(90, 110)
        hu[((x - side) / lung[0]) ** 2 + (y / lung[1]) ** 2 + ((z - 10) / lung[2]) ** 2 < 1] = -850.0
    hu[((x - 25) / 45) ** 2 + ((y + 25) / 40) ** 2 + ((z + 30) / 45) ** 2 < 1] = 50.0
    hu[:, x**2 + (y - 60) ** 2 < 18**2] = 500.0
    return CTVolume(hu, np.diag([SPACING, SPACING, SPACING, 1.0]))


def write(folder):
    """Write three chests with their table; returns the folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    lines = ["patient,ct,frontal,lateral,split"]
    for number, split in enumerate(SPLITS):
        chest(number).save(folder / f"drawn-{number}.nrrd")
        lines.append(f"drawn-{number},drawn-{number}.nrrd,,,{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder

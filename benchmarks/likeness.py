"""How much do our DRRs look like real chest films? Simple statistics, and a classifier that tries to tell them apart.

    python benchmarks/likeness.py DATA_FOLDER [--picture likeness.png] [--json likeness.json] [--poses 6]

DATA_FOLDER holds `cxr/` (films, with `index.csv`: id, patient, view) and `ct/` (`*.nii.gz`). Every frontal film, and
frontal DRRs of every CT in several poses and collimations, go through `radiograph.standardise` as 8-bit pictures, and
through the same low-pass, below which the CTs' voxels still tell something. Measured are quantiles of brightness, the
radial power spectrum, and the local contrast at four scales. A logistic regression on them is cross-validated in folds
that never part a patient or a CT; its AUC says how well it tells DRRs from films: 0.5 is not at all. Brightness and
contrast are what a film's processing makes of it; what is left of the CT (voxels, arms, breath, table) is in there too.

Compared are

- linear: line integrals of one energy through the prepared CT, stretched: what most DRR code gives;
- physics: `blur.restored` and `physics.expose` (spectrum, scatter, noise, blur), the logarithm stretched;
- clinic: the same with `clinic_look`;
- random: random exposures with random looks, as in training;
- nanodrr: that package on the CT file as it is (where nanodrr is installed).

It needs scikit-learn. CTs that are kept for testing are left out (--without).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from axon_core.ctvolume import CTVolume
from axon_core.data.cases import place_case
from axon_core.drr.appearance import clinic_look, random_look, stretch
from axon_core.drr.blur import blur, restored, voxel_sigma_mm
from axon_core.drr.exposure import Exposure, random_exposure
from axon_core.drr.materials import densities
from axon_core.drr.physics import attenuation_film, expose
from axon_core.drr.projector import Projector
from axon_core.geometry import CanonicalGrid, RigidPose, XrayGeometry, XrayView
from axon_core.intensity import hu_to_mu
from axon_core.radiograph import Radiograph, standardise

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Testing" / "core"))
import oracles

GRID = 180  # voxels along the 360 mm cube: 2 mm
PIXELS, DETECTOR_MM = 448, 390.0
INTERPOLATED = 0.7  # share of its voxels by which the second interpolation, onto the cube, blurs like a CT's own
FILM = 256  # pixels of the standardised film
LOW_PASS = 1.0  # pixels of it; then every second is kept: 3.4 mm, about what a CT of 2.5 mm voxels resolves
KEPT_FOR_TESTS = ("lidc-idri-0010", "lung-pet-ct-dx-a0001")
PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
BANDS, CONTRAST_SCALES = 8, (1.0, 2.0, 4.0, 8.0)
FOLDS, REPEATS = 5, 10


@dataclass(frozen=True)
class Shot:
    """How one DRR is taken: the pose, and what the collimator leaves, in shares of the detector (rows, columns)."""

    pose: RigidPose
    rows: tuple[float, float]
    columns: tuple[float, float]
    seed: int

    def field(self, film: Any) -> tuple[slice, slice]:
        """What the collimator leaves of a film (h, w)."""
        ends = zip(film.shape, (self.rows, self.columns), strict=True)
        rows, columns = (slice(round(low * n), round(high * n)) for n, (low, high) in ends)
        return rows, columns


@dataclass(frozen=True)
class Sample:
    """One standardised film: its picture (n, n) in [-1, 1], where it is film, and whose."""

    image: np.ndarray
    mask: np.ndarray
    group: str


# --- films -----------------------------------------------------------------------------------------------------------


def draw_shot(seed: int) -> Shot:
    """A patient who does not stand quite straight, collimated to a field between landscape and portrait."""
    random = np.random.default_rng(seed)
    angles = np.deg2rad(random.normal(0, (4.0, 2.0, 3.0)))
    shift = random.normal(0, (6.0, 10.0, 8.0))
    margins = random.uniform((0.0, 0.0, 0.0, 0.0), (0.08, 0.12, 0.07, 0.07))
    return Shot(
        RigidPose(tuple(angles.tolist()), tuple(shift.tolist())),
        (margins[0], 1 - margins[1]),
        (margins[2], 1 - margins[3]),
        seed,
    )


def as_sample(film: np.ndarray, group: str) -> Sample:
    """A film, bone bright, as an 8-bit picture of unknown scale would come in."""
    low, high = float(film.min()), float(film.max())
    picture = np.round(255 * (film - low) / max(high - low, 1e-6)).astype(np.float32)
    standard = standardise(Radiograph(picture, view=XrayView.PA), FILM)
    return Sample(standard.image, standard.mask, group)


def real_films(folder: Path) -> list[Sample]:
    """All frontal films of the index, without scouts."""
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["view"].rstrip("?") in ("PA", "AP")]
    samples = []
    for row in rows:
        film = Radiograph.load(folder / f"{row['id']}.png", view="PA", invert=False)
        samples.append(as_sample(film.pixels, row["patient"]))
    return samples


def ct_files(folder: Path, without: tuple[str, ...]) -> list[Path]:
    """One file for each CT, the finer where there are two."""
    finest: dict[str, Path] = {}
    for path in sorted(folder.glob("*.nii.gz")):  # "x.nii.gz" before "x_1.5mm.nii.gz"
        name = path.name.removesuffix(".nii.gz")
        if not name.endswith("_seg") and not name.startswith(without):
            finest[name.split("_")[0]] = path
    return list(finest.values())


def simulated(path: Path, shots: list[Shot]) -> dict[str, list[Sample]]:
    """DRRs of one CT, by kind."""
    volume = CTVolume.load(path)
    case = place_case(volume, path.name.split(".")[0], GRID)
    hu = torch.from_numpy(case.hu)
    geometry = XrayGeometry(XrayView.PA, PIXELS, detector_mm=DETECTOR_MM)
    affine = CanonicalGrid(GRID).affine
    channels = torch.stack([hu_to_mu(hu), *(0.1 * part for part in densities(hu).values())])
    projector = Projector(channels, affine, geometry.view.beam)
    voxel_mm = math.hypot(max(volume.spacing_mm), CanonicalGrid(GRID).spacing_mm * INTERPOLATED)
    sigma = voxel_sigma_mm(voxel_mm) * geometry.magnification / geometry.pitch_mm
    kinds: dict[str, list[Sample]] = {}
    for shot in shots:
        integrals, *parts = projector(geometry, shot.pose)
        areal = restored(torch.stack(parts), sigma)
        for kind, film in drrs(integrals, areal, geometry, shot).items():
            kinds.setdefault(kind, []).append(as_sample(film.numpy(), case.name))
    return kinds


def drrs(integrals: torch.Tensor, areal: torch.Tensor, geometry: XrayGeometry, shot: Shot) -> dict[str, torch.Tensor]:
    """Every kind of DRR of one patient in one pose, collimated.

    Args:
        integrals: (h, w) line integrals of one energy.
        areal: (2, h, w) soft tissue and bone [g/cm2].
        geometry, shot: how.
    """
    generator = torch.Generator().manual_seed(shot.seed)
    field = shot.field(integrals)
    usual = attenuation_film(expose(areal, geometry, Exposure(seed=shot.seed)))[field]
    varied = attenuation_film(expose(areal, geometry, random_exposure(generator)))[field]
    return {
        "linear": stretch(integrals[field]),
        "physics": stretch(usual),
        "clinic": clinic_look(usual),
        "random": random_look(generator).apply(varied),
    }


def nanodrr_films(path: Path, shots: list[Shot]) -> list[Sample]:
    """What nanodrr's users get of the CT file: line integrals as brightness, table and cut ends included."""
    volume = CTVolume.load(path)
    centred = volume.affine.copy()
    middle = 0.5 * (np.array(volume.hu.shape[::-1]) - 1)
    centred[:3, 3] = -centred[:3, :3] @ middle
    projector = oracles.Nanodrr(hu_to_mu(volume.hu), centred)
    geometry = XrayGeometry(XrayView.PA, PIXELS // 2, detector_mm=DETECTOR_MM)  # slow; the low-pass allows it
    name = path.name.split(".")[0]
    samples = []
    for shot in shots:
        film = projector(geometry, shot.pose)
        samples.append(as_sample(film[shot.field(film)], name))
    return samples


# --- features --------------------------------------------------------------------------------------------------------


def features(sample: Sample) -> dict[str, np.ndarray]:
    """By group: quantiles of brightness, log power in bands of frequency, log contrast at scales."""
    rows, columns = np.nonzero(sample.mask)
    film = sample.image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    film = blur(torch.from_numpy(film.copy()), LOW_PASS).numpy()[::2, ::2]
    return {
        "brightness": np.percentile(film, PERCENTILES),
        "spectrum": power_spectrum(film),
        "contrast": local_contrast(film),
    }


def power_spectrum(film: np.ndarray) -> np.ndarray:
    """(BANDS,) log of the mean power between equal steps of frequency up to Nyquist's, in a Hann window."""
    window = np.hanning(film.shape[0])[:, None] * np.hanning(film.shape[1])
    power = np.abs(np.fft.fft2((film - film.mean()) * window)) ** 2 / (window**2).sum()
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in film.shape), indexing="ij"))
    band = np.minimum((radius / 0.5 * BANDS).astype(int), BANDS)  # the corners beyond Nyquist's are left out
    sums = np.bincount(band.ravel(), power.ravel(), BANDS + 1)
    return np.log(sums[:BANDS] / np.bincount(band.ravel(), minlength=BANDS + 1)[:BANDS] + 1e-12)


def local_contrast(film: np.ndarray) -> np.ndarray:
    """(scales,) log of the mean absolute difference between the film and itself blurred, scale by scale."""
    smooth = [torch.from_numpy(np.ascontiguousarray(film))]
    smooth += [blur(smooth[0], scale) for scale in CONTRAST_SCALES]
    return np.log([float((a - b).abs().mean()) + 1e-6 for a, b in pairwise(smooth)])


# --- telling them apart ----------------------------------------------------------------------------------------------


def auc(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over repeated cross-validations of the AUC of features x (samples, features)."""
    values = []
    for seed in range(REPEATS):
        score = np.zeros(len(y))
        for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(x, y, groups):
            model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
            score[test] = model.fit(x[train], y[train]).decision_function(x[test])
        values.append(roc_auc_score(y, score))
    return float(np.mean(values)), float(np.std(values))


def table(real: list[Sample], kinds: dict[str, list[Sample]]) -> dict[str, dict[str, tuple[float, float]]]:
    """AUC of every kind with all features and with each group alone."""
    measured = {kind: [features(sample) for sample in drr] for kind, drr in kinds.items()}
    films = [features(sample) for sample in real]
    groups = [sample.group for sample in real]
    result: dict[str, dict[str, tuple[float, float]]] = {}
    for kind, drr in measured.items():
        both, owners = films + drr, np.array(groups + [sample.group for sample in kinds[kind]])
        x = {name: np.stack([sample[name] for sample in both]) for name in films[0]}
        y = np.repeat((0, 1), (len(films), len(drr)))
        picked = {"all": np.concatenate(list(x.values()), 1), **x}
        result[kind] = {name: auc(values, y, owners) for name, values in picked.items()}
    return result


def sheet(rows: dict[str, list[Sample]], count: int = 8) -> Image.Image:
    """Some films of each kind in rows, the same patients below each other."""
    size, left = FILM, 90
    picture = Image.new("L", (left + count * size, len(rows) * size), 0)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for row, (kind, samples) in enumerate(rows.items()):
        draw.text((6, row * size + size // 2), kind, fill=255, font=font)
        chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(int)]
        for column, sample in enumerate(chosen):
            pixels = np.uint8(np.round(127.5 * (sample.image + 1)))
            picture.paste(Image.fromarray(pixels), (left + column * size, row * size))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--without", nargs="*", default=list(KEPT_FOR_TESTS), help="names of CTs to leave out")
    parser.add_argument("--poses", type=int, default=6, help="DRRs of each kind and CT")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    real = real_films(args.data / "cxr")
    with_nanodrr = importlib.util.find_spec("nanodrr") is not None
    kinds: dict[str, list[Sample]] = {}
    for index, path in enumerate(ct_files(args.data / "ct", tuple(args.without))):
        shots = [draw_shot(1000 * index + pose) for pose in range(args.poses)]
        films = simulated(path, shots) | ({"nanodrr": nanodrr_films(path, shots)} if with_nanodrr else {})
        for kind, samples in films.items():
            kinds.setdefault(kind, []).extend(samples)
        print(path.name, flush=True)
    result = table(real, kinds)
    print(f"AUC of {len(real)} films against {len(next(iter(kinds.values())))} DRRs of each kind; 0.5 is alike")
    columns = list(next(iter(result.values())))
    print(f"{'':10}" + "".join(f"{name:>16}" for name in columns))
    for kind, values in result.items():
        print(f"{kind:10}" + "".join(f"{mean:>9.3f} ±{sd:.3f}" for mean, sd in values.values()))
    if args.picture:
        sheet({"real": real, **kinds}).save(args.picture)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

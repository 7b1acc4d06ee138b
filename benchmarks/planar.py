"""How well are frontal films brought onto the canonical detector where there is no CT?

    python benchmarks/planar.py DATA_FOLDER [--output FOLDER] [--draws 12] [--parts synthetic real volumes]
                                [--model axon-small] [--make-atlas FILE]

DATA_FOLDER holds `ct/*.nii.gz` (training CTs and the two test CTs) and `cxr/*.png` with `cxr/index.csv` (columns id and
view; lateral views start with L). Parts:

- synthetic: films simulated from each CT in a random look, turned, scaled and shifted at random, placed by an atlas
  that does not contain the CT. Errors are at the corners of the CT's own lung box: against where the CT really lies
  ("truth": includes how much chests differ from their mean), and against where its unmoved, plain film is placed
  ("repeat").
- real: every frontal film of the folder; counts the plausible ones and draws contact sheets: each film as it lies and
  as it is placed, with the atlas' lungs (yellow), their box (cyan) and the midline (green).
- volumes: PSNR of F(x) from misplaced films of the test CTs with and without alignment.

`--make-atlas` writes the atlas of the training CTs, the one that comes with the package, and does nothing else.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy import ndimage

from axon_core.data.cases import Case, load_case
from axon_core.data.pairs import expose_pair
from axon_core.drr.appearance import clinic_look, random_look
from axon_core.drr.projector import Projector
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.radiograph import Radiograph, StandardFilm, standardise
from axon_core.registration.atlas import Atlas, bundled_atlas, lung_box, on_grid
from axon_core.registration.atlas_make import make_atlas
from axon_core.registration.placement import place
from axon_core.registration.planar import Alignment, align

TEST_CASES = ("lidc-idri-0010", "lung-pet-ct-dx-a0001")
SIZE, DETECTOR_MM = 256, 430.0
PITCH_MM, MIDDLE = DETECTOR_MM / SIZE, 0.5 * (SIZE - 1)
GOOD_MM = 10.0  # mean error at the corners up to which a film counts as found
MAX_ROTATION, SCALES, MAX_SHIFT_MM = math.radians(8), (0.75, 1.3), 50.0


@dataclass(frozen=True)
class Chest:
    """A CT and its frontal film on the canonical detector.

    Attributes:
        case: the CT.
        log_film: (SIZE, SIZE), before any look.
        lungs: (SIZE, SIZE) mm of lung along each ray.
        corners: (4, 2) corners of its lung box, mm from the detector's centre.
    """

    case: Case
    log_film: torch.Tensor
    lungs: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, path: Path) -> Chest:
        case = load_case(str(path))
        grid = CanonicalGrid(case.hu.shape[0])
        log_film = expose_pair(torch.from_numpy(case.hu), grid, SIZE)[0]
        air = torch.from_numpy(lung_mask(case).astype(np.float32))
        lungs = Projector(air, grid.affine, XrayView.PA.beam, 2)(XrayGeometry(XrayView.PA, SIZE))[0].numpy()
        opened = ndimage.binary_opening(lungs > 40.0, np.ones((15, 15))).astype(np.float32)
        left, right, top, bottom = lung_box(on_grid(opened, np.ones_like(opened, bool), DETECTOR_MM)[0] > 0.5)
        corners = np.array([(x, y) for x in (left, right) for y in (top, bottom)])
        return cls(case, log_film, lungs, corners)


def lung_mask(case: Case) -> np.ndarray:
    """(z, y, x) bool: air inside the body, the largest piece and what else is at least a seventh of it."""
    tissue = case.hu > -500
    air = np.stack([ndimage.binary_fill_holes(plane) for plane in tissue]) & ~tissue & case.known[:, None, None]
    labels, _ = ndimage.label(ndimage.binary_opening(air))
    volumes = np.bincount(labels.ravel())
    volumes[0] = 0
    return (volumes > volumes.max() / 7)[labels]


def atlas_of(chests: Sequence[Chest]) -> Atlas:
    films = np.stack([clinic_look(chest.log_film).numpy() for chest in chests])
    return make_atlas([chest.case.name for chest in chests], films, np.stack([chest.lungs for chest in chests]))


# ---------------------------------------------------------------- misplaced films


def random_misplacement(generator: torch.Generator, scaled: bool = True) -> Alignment:
    """The similarity that would put a film right again."""
    turn, size, x, y = (2 * torch.rand(4, generator=generator) - 1).tolist()
    low, high = np.log(SCALES)
    scale = math.exp(0.5 * (low + high) + 0.5 * (high - low) * size) if scaled else 1.0
    return Alignment(turn * MAX_ROTATION, scale, (x * MAX_SHIFT_MM, y * MAX_SHIFT_MM))


def misplaced(log_film: torch.Tensor, truth: Alignment, generator: torch.Generator | None) -> np.ndarray:
    """A film that `truth` would bring onto the canonical detector; a random look, or the plain one without generator.

    Where it shows what the projection does not reach it is black, as outside a collimator.
    """
    row, column = np.indices((SIZE, SIZE))
    on_film = np.stack([column - MIDDLE, row - MIDDLE], -1) * PITCH_MM
    x, y = np.moveaxis(truth.to_detector(on_film) / PITCH_MM + MIDDLE, -1, 0)
    moved = ndimage.map_coordinates(log_film.numpy(), [y, x], order=1, mode="nearest").astype(np.float32)
    reached = (np.abs(x - MIDDLE) < SIZE / 2) & (np.abs(y - MIDDLE) < SIZE / 2)
    look = clinic_look if generator is None else random_look(generator).apply
    return np.where(reached, look(torch.from_numpy(moved)).numpy(), -1.0)


def shown_at(film: StandardFilm, truth: Alignment, canonical_mm: np.ndarray) -> np.ndarray:
    """(n, 2) canonical mm -> mm at which `film`, made of a misplaced one, shows them."""
    file = truth.to_film(canonical_mm)[:, ::-1] / PITCH_MM + MIDDLE
    here = np.linalg.solve(film.to_original, np.column_stack([file, np.ones(len(file))]).T).T
    return (here[:, 1::-1] - MIDDLE) * PITCH_MM


def similarity(source: np.ndarray, target: np.ndarray) -> Alignment:
    """Least squares similarity between point sets, as complex numbers: target = a source + b."""
    z, w = (points @ np.array([1, 1j]) for points in (source, target))
    dz, dw = z - z.mean(), w - w.mean()
    a = (dw @ dz.conj()) / (dz @ dz.conj()).real
    b = w.mean() - a * z.mean()
    return Alignment(float(np.angle(a)), float(abs(a)), (float(b.real), float(b.imag)))


@dataclass(frozen=True)
class Trial:
    """Residuals of one film: at the corners [mm], in rotation [degrees] and in scale [%]."""

    truth_mm: float
    repeat_mm: float
    rotation: float
    scale: float
    before_mm: float
    plausible: bool


def trial(chest: Chest, atlas: Atlas, generator: torch.Generator, scaled: bool) -> Trial:
    truth = random_misplacement(generator, scaled)
    pixels = misplaced(chest.log_film, truth, generator)
    spacing = None if scaled else (PITCH_MM, PITCH_MM)
    radiograph = Radiograph(pixels, spacing, XrayView.PA)
    standard = standardise(radiograph, SIZE, DETECTOR_MM)
    found = align(standard, atlas=atlas)
    ends = shown_at(place(radiograph, standard, found), truth, chest.corners)
    plain = Radiograph(misplaced(chest.log_film, Alignment(), None), spacing, XrayView.PA)
    usual = standardise(plain, SIZE, DETECTOR_MM)
    home = shown_at(place(plain, usual, align(usual, atlas=atlas)), Alignment(), chest.corners)
    left = similarity(home, ends)
    return Trial(
        distance(ends, chest.corners),
        distance(ends, home),
        abs(math.degrees(left.rotation)),
        100 * abs(math.log(left.scale)),
        distance(shown_at(standard, truth, chest.corners), chest.corners),
        found.plausible,
    )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of paired points."""
    return float(np.linalg.norm(a - b, axis=1).mean())


def synthetic(train: Sequence[Chest], test: Sequence[Chest], draws: int) -> None:
    """Print the table of errors."""
    alone = {chest.case.name: atlas_of([other for other in train if other is not chest]) for chest in train}
    alone |= {chest.case.name: bundled_atlas() for chest in test}
    print("| films | n | before | truth | repeat | rotation ° | scale % | found | plausible |")
    print("|---" * 9 + "|")
    for title, chests in (("training CTs, left out", train), ("test CTs", test)):
        for scaled in (True, False):
            trials = [
                trial(chest, alone[chest.case.name], torch.Generator().manual_seed(1000 * i + draw), scaled)
                for i, chest in enumerate(chests)
                for draw in range(draws)
            ]
            columns = [
                summary([getattr(t, name) for t in trials])
                for name in ("before_mm", "truth_mm", "repeat_mm", "rotation", "scale")
            ]
            found = np.mean([t.repeat_mm < GOOD_MM for t in trials])
            plausible = np.mean([t.plausible for t in trials])
            size = "size unknown" if scaled else "size known"
            print(
                f"| {title}, {size} | {len(trials)} | {' | '.join(columns)} | {found:.0%} | {plausible:.0%} |",
                flush=True,
            )
    print(f"\nMedian (95 %) mm; found: repeat < {GOOD_MM:g} mm.\n")


def summary(values: Sequence[float]) -> str:
    return f"{np.median(values):.1f} ({np.percentile(values, 95):.1f})"


# ---------------------------------------------------------------- real films


def frontal_films(folder: Path) -> list[tuple[Path, XrayView]]:
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["view"].startswith("L")]
    views = (XrayView.AP if row["view"].startswith("AP") else XrayView.PA for row in rows)
    return [(folder / f"{row['id']}.png", view) for row, view in zip(rows, views, strict=True)]


def real(folder: Path, output: Path, per_sheet: int = 20) -> None:
    """Align every frontal film, print one line each and the counts, and draw the sheets."""
    films = frontal_films(folder)
    tiles, seconds, plausible = [], [], 0
    for number, (path, view) in enumerate(films):
        radiograph = Radiograph.load(path, view=view)
        standard = standardise(radiograph, SIZE, DETECTOR_MM)
        started = time.process_time()
        found = align(standard)
        seconds.append(time.process_time() - started)
        plausible += found.plausible
        text = f"{number} {found.score:.2f} x{found.scale:.2f} {math.degrees(found.rotation):+.1f} a{found.stretch:.2f}"
        print(f"{text} {path.stem} {' '.join(found.reasons)}", flush=True)
        tiles.append(pair(standard, place(radiograph, standard, found), found, text))
    print(
        f"\n{plausible} of {len(films)} films plausible; {np.median(seconds):.2f} s of one processor each (median).\n"
    )
    output.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(tiles), per_sheet):
        sheet(tiles[first : first + per_sheet]).save(output / f"planar-{first // per_sheet}.png")


def pair(before: StandardFilm, after: StandardFilm, found: Alignment, text: str) -> Image.Image:
    """A film as it lies and as it is placed, side by side."""
    row, column = np.indices((SIZE, SIZE))
    here = np.stack([column - MIDDLE, row - MIDDLE], -1) * PITCH_MM
    fields = [lung_field(points, found) for points in (found.to_detector(here), here)]
    image = Image.fromarray(
        np.hstack([outlined(f.image, field) for f, field in zip((before, after), fields, strict=True)])
    )
    draw = ImageDraw.Draw(image)
    left, right, top, bottom = (edge / PITCH_MM + MIDDLE for edge in bundled_atlas().box_mm)
    draw.rectangle((SIZE + left, top, SIZE + right, bottom), outline=(0, 190, 190))
    draw.line((SIZE + MIDDLE, 0, SIZE + MIDDLE, SIZE), fill=(0, 160, 0))
    draw.text((4, 2), text, (90, 255, 90) if found.plausible else (255, 80, 80))
    return image


def lung_field(detector_mm: np.ndarray, found: Alignment) -> np.ndarray:
    """(SIZE, SIZE) bool: whether the fit sees lung at these places of the detector."""
    atlas = bundled_atlas()
    centre, shrunk = np.array(atlas.centre_mm), found.fitted_scale / found.scale
    x, y = np.moveaxis(centre + (detector_mm - centre) * shrunk / np.array([1.0, found.stretch]), -1, 0)
    middle, pitch = 0.5 * (len(atlas.field) - 1), 4.0
    return ndimage.map_coordinates(atlas.field, [y / pitch + middle, x / pitch + middle], order=1) > 0.5


def outlined(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    colour = np.repeat(np.uint8(np.clip((image + 1) * 127.5, 0, 255))[..., None], 3, -1)
    colour[field ^ ndimage.binary_erosion(field)] = (255, 200, 0)
    return colour


def sheet(tiles: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    width, height = tiles[0].size
    page = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height))
    for index, tile in enumerate(tiles):
        page.paste(tile, (index % columns * width, index // columns * height))
    return page


# ---------------------------------------------------------------- volumes


def volumes(chests: Sequence[Chest], name: str, draws: int) -> None:
    """PSNR of F(x), in the window and over the slices that the CT covers, from films in and out of place.

    "own frame" compares with the CT moved as the film shows it, so that a mere offset of the whole chest does not
    count; "canonical" with the CT where it really lies.
    """
    from axon_core.evaluation.metrics import psnr
    from axon_core.model import AxonModel

    model = AxonModel.from_pretrained(name)
    scores: dict[str, list[tuple[float, float]]] = {}
    for i, chest in enumerate(chests):
        factor = chest.case.hu.shape[0] // model.config.size
        truth = F.avg_pool3d(model.config.hu_window.encode(torch.from_numpy(chest.case.hu))[None, None], factor)
        known = torch.from_numpy(chest.case.known).view(-1, factor).all(1).float()[None, None, :, None, None]
        known = known.expand_as(truth)
        for draw in range(draws):
            generator = torch.Generator().manual_seed(1000 * i + draw)
            for title, moved in (("in place", Alignment()), ("misplaced", random_misplacement(generator))):
                radiograph = Radiograph(misplaced(chest.log_film, moved, None), None, XrayView.PA)
                standard = standardise(radiograph, SIZE, DETECTOR_MM)
                found = align(standard)
                placed = place(radiograph, standard, found)
                needed = placed if found.needed else standard
                for suffix, film in (("", standard), (", aligned", placed), (", aligned where needed", needed)):
                    with torch.no_grad():
                        made = model.endpoint(torch.from_numpy(film.image)[None, None]).float()
                    shown = similarity(chest.corners, shown_at(film, moved, chest.corners))
                    pairs = ((moved_volume(truth, shown, -1.0), moved_volume(known, shown, 0.0)), (truth, known))
                    both = [psnr(*((v[there > 0.5].clamp(-1, 1) + 1) / 2 for v in (made, ct))) for ct, there in pairs]
                    scores.setdefault(title + suffix, []).append((both[0], both[1]))
    print("| film | n | PSNR, own frame | PSNR, canonical |\n|---|---|---|---|")
    for title, values in scores.items():
        cells = [f"{column.mean():.2f} ± {column.std():.2f}" for column in np.array(values).T]
        print(f"| {title} | {len(values)} | {' | '.join(cells)} |")
    print()


def moved_volume(volume: torch.Tensor, shown: Alignment, fill: float, extent_mm: float = 360.0) -> torch.Tensor:
    """(1, 1, n, n, n) moved so that its film moves by `shown`: scale, turn about y, shift over magnification.

    A film's y is down, so -z; its x is the volume's.
    """
    back = np.linalg.inv(shown.matrix)
    shift = back[:2, 2] / XrayGeometry().magnification / (extent_mm / 2)
    theta = np.array(
        [  # grid_sample's (x, y, z) of the source from those of the target
            [back[0, 0], 0, -back[0, 1], shift[0]],
            [0, 1 / shown.scale, 0, 0],
            [-back[1, 0], 0, back[1, 1], -shift[1]],
        ]
    )
    grid = F.affine_grid(torch.from_numpy(theta)[None].float(), list(volume.shape), align_corners=False)
    return F.grid_sample(volume - fill, grid, align_corners=False) + fill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("output/planar"), help="folder of the contact sheets")
    parser.add_argument("--draws", type=int, default=12, help="random placements of each CT")
    parser.add_argument("--parts", nargs="+", default=["synthetic", "real", "volumes"])
    parser.add_argument("--model", default="axon-small", help="name or folder")
    parser.add_argument("--make-atlas", type=Path, help="write the atlas of the training CTs here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in (args.data / "ct").glob("*.nii.gz") if "_" not in path.name)
    name = {path: path.name.split(".")[0] for path in paths}
    train_paths = [path for path in paths if name[path] not in TEST_CASES]
    if args.make_atlas:
        atlas_of([Chest.of(path) for path in train_paths]).save(args.make_atlas)
        return
    if "real" in args.parts:
        real(args.data / "cxr", args.output)
    test = [Chest.of(path) for path in paths if name[path] in TEST_CASES]
    if "volumes" in args.parts:
        volumes(test, args.model, args.draws)
    if "synthetic" in args.parts:
        synthetic([Chest.of(path) for path in train_paths], test, args.draws)


if __name__ == "__main__":
    main()

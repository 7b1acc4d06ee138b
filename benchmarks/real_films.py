"""Real films without a CT: does the volume cast the film that it came from, and could it be a chest?

    python benchmarks/real_films.py FOLDER_OR_FILMS... --ct TRAINING_CTS... --model axon-small -o results
                                    [--preset fast] [--align] [--spread 10] [--spread-preset paper] [--seeds 4]
                                    [--scout DATA_FOLDER]

A folder gives its frontal films: by the column `view` of its index.csv if it has one, else by tags, else by their look.
For each film:

- NCC: of the film and the film that its volume would cast, inside the film's area. High does not mean true depth.
- lung volume, and width and depth of the body: of `axon_core.evaluation.tissue`.
- W1: Wasserstein-1 distance in HU between the body's voxels and those of all CTs together, within the slices that most
  CTs cover, clipped to [-1000, 1000] HU. Its yardstick is each CT's own distance to the others.
- spread: with --spread, the mean standard deviation over the seeds inside the body, of the first so many films.

Written: numbers.csv and numbers.json, summary.md, and contact sheets page-1.png, ... with film, re-projection and three
slices of every film. --scout scores one volume against its CT: the AP scout of acrin-nsclc-fdg-pet-042 (see
real_case.py), where the table's coordinates tell which part of the patient the film's geometry puts where.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from real_case import CT, MAGNIFICATION, PIXEL_MM, SCOUT, SCOUT_LEFT_TOP, TUBE_MM
from scipy.stats import wasserstein_distance

from axon_core.ctvolume import AIR_HU, CTVolume
from axon_core.data.cases import Case, load_case
from axon_core.data.manifest import known_view
from axon_core.drr.film import clinic_film
from axon_core.drr.prepare import body_mask
from axon_core.errors import AxonError
from axon_core.evaluation.metrics import summarise
from axon_core.evaluation.report import PLANES, WINDOWS, to_bytes
from axon_core.evaluation.scores import scores
from axon_core.evaluation.tissue import ml, tissues
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.intensity import WIDE
from axon_core.model import AxonModel
from axon_core.pipeline import PRESETS, Reconstruction, reconstruct
from axon_core.radiograph import Radiograph, standardise
from axon_core.walks import Quality

SIZE = 128  # voxels along the cube of the CTs
EDGES = np.arange(-1000.0, 1001.0, 10.0)  # of the HU histograms' bins
EVERY = "fast, every stage"
PRESETS[EVERY] = Quality(everything=True)  # the spread of the sampled stages at an affordable number of steps
NUMBERS = {
    "ncc": ("projection NCC", "", 3),
    "lung_ml": ("lung volume", "ml", 0),
    "width_mm": ("width of the body", "mm", 0),
    "depth_mm": ("depth of the body", "mm", 0),
    "w1_hu": ("W1 to the CTs", "HU", 0),
    "spread_hu": ("spread over seeds", "HU", 1),
    "spread_ncc": ("projection NCC, mean of the seeds", "", 3),
}
Scores = dict[str, dict[str, float]]
Shown = tuple[tuple[str, str], list[np.ndarray]]  # two lines, and five pictures
TILE, GAP, ACROSS, DOWN = 196, 4, 2, 6  # of a contact sheet
CAPTION = 34


@dataclass(frozen=True)
class FilmFile:
    """A film, and what its folder says about it: view None and licence "" if it says nothing."""

    path: Path
    view: str | None
    licence: str


class Chests:
    """What the CTs look like: the yardstick of plausibility."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.slices = np.mean([case.known for case in cases], axis=0) >= 0.5
        self.measured = [measures(case.hu, case.known, case.known & self.slices) for case in cases]
        self.pooled = sum(counts / counts.sum() for _, counts in self.measured)

    def own(self) -> list[dict[str, float]]:
        """The same numbers of the CTs themselves, W1 to all others."""
        return [
            {**numbers, "w1_hu": distance(counts, self.pooled - counts / counts.sum())}
            for numbers, counts in self.measured
        ]

    def plausibility(self, hu: np.ndarray) -> dict[str, float]:
        """Numbers of a volume on the same cube."""
        inside = np.repeat(self.slices, len(hu) // SIZE) if len(hu) >= SIZE else self.slices[:: SIZE // len(hu)]
        numbers, counts = measures(hu, np.ones(len(hu), bool), inside)
        return {**numbers, "w1_hu": distance(counts, self.pooled)}


def measures(hu: np.ndarray, known: np.ndarray, inside: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Lung volume in the known slices; of those inside, the body's size, and the histogram of its HU.

    Width (left-right) and depth (front-back) in mm are medians over slices; nan without a body.
    """
    spacing = CanonicalGrid(len(hu)).spacing_mm
    found = tissues(hu, spacing)
    body = found.body[inside]
    counts = np.histogram(hu[inside][body].clip(EDGES[0], EDGES[-1]), EDGES)[0].astype(float)
    spans = [[np.ptp(np.flatnonzero(plane.any(axis))) + 1 for axis in (0, 1)] for plane in body if plane.any()]
    width, depth = (float(value) * spacing for value in np.median(spans or [[np.nan] * 2], axis=0))
    return {"lung_ml": ml(found.lung, spacing, known), "width_mm": width, "depth_mm": depth}, counts


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 in HU; nan where there is no body."""
    centres = 0.5 * (EDGES[1:] + EDGES[:-1])
    return float(wasserstein_distance(centres, centres, a, b)) if a.sum() and b.sum() else float("nan")


def frontal_films(places: Sequence[Path]) -> Iterator[FilmFile]:
    """Frontal films of folders, and all files that are named."""
    for place in places:
        index = (place if place.is_dir() else place.parent) / "index.csv"
        told = {}
        if index.exists():
            with open(index, newline="", encoding="utf-8") as stream:
                told = {row["id"]: row for row in csv.DictReader(stream)}
        for path in sorted(p for p in place.iterdir() if p.suffix != ".csv") if place.is_dir() else [place]:
            row = told.get(path.stem, {})
            view = row.get("view", "")[:2].strip()  # "PA?" and "AP (CT scout)" too
            if view != "L":
                yield FilmFile(path, view if view in ("PA", "AP") else None, row.get("licence", ""))


def measured(
    film: FilmFile, model: AxonModel, chests: Chests, args: argparse.Namespace, spread: bool
) -> tuple[dict[str, Any], Reconstruction | None] | None:
    """(row of numbers, reconstruction); (row, None) of a film that is refused; None of one that is not frontal."""
    row: dict[str, Any] = {"film": film.path.stem, "licence": film.licence, "view": film.view or ""}
    try:
        loaded = Radiograph.load(film.path, view=film.view)
        row["look"] = known_view(replace(loaded, view=None))[0]
        if film.view is None and known_view(loaded)[0] == "lateral":
            return None
        made = reconstruct(loaded, model=model, preset=args.preset, device="cpu", align=args.align)
        row["ncc"] = made.ncc["frontal"]
        row |= chests.plausibility(made.final.hu)
        row["warnings"] = " ".join(made.warnings)
        if spread:
            row |= seed_spread(loaded, model, args)
    except AxonError as error:
        return row | {"refused": error.title}, None
    return row, made


def seed_spread(film: Radiograph, model: AxonModel, args: argparse.Namespace) -> dict[str, float]:
    """Mean standard deviation over the seeds inside the body, where the stages draw at random."""
    seeds = range(args.seeds)
    made = reconstruct(film, model=model, preset=args.spread_preset, seeds=seeds, device="cpu", align=args.align)
    if made.std is None:
        return {}
    mean = next(v for v in reversed(list(made.stages.values())) if v.hu.shape == made.std.hu.shape)
    body = tissues(mean.hu, mean.spacing_mm[0]).body
    return {"spread_hu": float(made.std.hu[body].mean()), "spread_ncc": made.ncc["frontal"]}


def tiles(made: Reconstruction) -> list[np.ndarray]:
    """Film as the network saw it, re-projection, axial, coronal and sagittal slice; bytes."""
    pictures = [to_bytes(made.films["frontal"].image, -1, 1), to_bytes(made.reprojections["frontal"], -1, 1)]
    return pictures + slices(made.final.hu)


def slices(hu: np.ndarray) -> list[np.ndarray]:
    """Axial and coronal through the middle, sagittal through the left lung; bytes."""
    middle = len(hu) // 2
    cuts = zip(PLANES, (middle, middle, len(hu) * 5 // 8), strict=True)
    return [to_bytes(plane.cut(hu, at), *WINDOWS["Lung"]) for plane, at in cuts]


def caption(row: dict[str, Any]) -> tuple[str, str]:
    """Two lines above a film."""
    words = [
        f"NCC {row['ncc']:.2f}",
        f"lungs {row['lung_ml']:.0f} ml",
        f"{row['width_mm']:.0f} x {row['depth_mm']:.0f} mm",
    ]
    words.append(f"W1 {row['w1_hu']:.0f} HU")
    if "spread_hu" in row:
        words.append(f"spread {row['spread_hu']:.0f} HU")
    return f"{row['film']} {row['view']}   {row['licence']}", ",  ".join(words)


def draw_sheet(shown: Sequence[Shown]) -> Image.Image:
    """A page of films, two in a row."""
    cell, height = 5 * (TILE + GAP) + 3 * GAP, TILE + CAPTION + GAP
    sheet = Image.new("L", (ACROSS * cell, -(-len(shown) // ACROSS) * height + 20), 30)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    parts = "film | re-projection | axial | coronal | sagittal through the left lung; HU -1050 to 250; SYNTHETIC"
    draw.text((GAP, 2), parts, 255, font)
    for number, (lines, pictures) in enumerate(shown):
        x, y = number % ACROSS * cell, number // ACROSS * height + 20
        for line, text in enumerate(lines):
            draw.text((x + GAP, y + 16 * line), text, 220, font)
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(np.ascontiguousarray(picture)).resize((TILE, TILE), Image.Resampling.BILINEAR)
            sheet.paste(tile, (x + GAP + column * (TILE + GAP), y + CAPTION))
    return sheet


def scout_scores(data: Path, model: AxonModel, cases: Sequence[Case], args: argparse.Namespace) -> Scores:
    """Scores against the CT of acrin-nsclc-fdg-pet-042, in the cube that the scout's own coordinates place.

    Across and along the patient the cube's middle is the point that the scout shows in its middle, at the patient's
    depth; front to back, where one film says nothing, it is where bodies lie in training. Draws scout.png.
    """
    volume = CTVolume.load(data / CT)
    fan = TUBE_MM / (TUBE_MM + volume.center_lps[1])
    spacing = (PIXEL_MM * MAGNIFICATION, PIXEL_MM * MAGNIFICATION / fan)
    scout = Radiograph.load(data / SCOUT, view=XrayView.AP, spacing_mm=spacing)
    size = model.config.film_size
    row, column, _ = standardise(scout, size).to_original @ [0.5 * (size - 1), 0.5 * (size - 1), 1.0]
    x, z = (SCOUT_LEFT_TOP[0] + PIXEL_MM * column) / fan, SCOUT_LEFT_TOP[1] - PIXEL_MM * row
    case = load_case(str(data / CT), SIZE)
    placed = CanonicalGrid(SIZE, center_lps=(float(x), case.grid.center_lps[1], float(z)))
    body = body_mask(volume.hu, np.asarray(volume.spacing_mm))
    marked = replace(volume, hu=np.where(body, volume.hu, AIR_HU)).onto(placed, -9999.0).hu
    known = (marked > -2000).any((1, 2))
    first, last = np.flatnonzero(known)[[0, -1]] + (1, -1)  # the outermost slices are blends with the outside
    known[:first], known[last + 1 :] = False, False
    truth = np.where(marked > -2000, marked, AIR_HU).astype(np.float32)
    truth[:first], truth[last + 1 :] = truth[first], truth[last]  # as `data.cases` does: no film shows a cut edge
    drawn = clinic_film(torch.from_numpy(truth), CanonicalGrid(SIZE).affine, XrayGeometry(XrayView.AP, size)).numpy()
    pitch = XrayGeometry(XrayView.AP, size).pitch_mm
    simulated = Radiograph(drawn, (pitch, pitch), XrayView.AP)
    found = {}
    shown: list[Shown] = [(("the CT, and a film simulated from it", ""), [to_bytes(drawn, -1, 1)] * 2 + slices(truth))]
    for name, film in (("the scout", scout), ("a film simulated from its CT in the same place", simulated)):
        made = reconstruct(film, model=model, preset=args.preset, device="cpu")
        found[f"AXON, from {name}"] = {
            **scores(made.final.hu, truth, placed.spacing_mm, WIDE, known),
            "NCC": made.ncc["frontal"],
        }
        shown.append(((f"AXON, from {name}", ""), tiles(made)))
    mean = np.mean([other.hu for other in cases if other.name != case.name], axis=0)
    found["mean volume of the other CTs"] = scores(mean, truth, placed.spacing_mm, WIDE, known)
    lifted = [mean[np.clip(np.arange(SIZE) + by, 0, SIZE - 1)] for by in range(-32, 33)]
    best = min(lifted, key=lambda hu: float(np.square(hu[known] - truth[known]).mean()))
    found["the same, at the height where it fits the CT best"] = scores(best, truth, placed.spacing_mm, WIDE, known)
    moved = np.round(np.asarray(placed.center_lps) - np.asarray(case.grid.center_lps), 1).tolist()
    print(f"The scout's cube lies {moved} mm (LPS) from the body's place; {known.sum()} of its slices are known.")
    save_sheet(draw_sheet(shown), args.out / "scout.png")
    return found


def summary(rows: Sequence[dict[str, Any]], chests: Chests, scout: Scores) -> str:
    """Markdown: mean, sd and range of every number, the same of the CTs, and what was refused."""
    lines = ["| number | films: mean ± sd | range | n | CTs: mean ± sd | range | n |", "|---" * 7 + "|"]
    own = chests.own()
    for key, (name, unit, digits) in NUMBERS.items():
        cells = []
        for source in (rows, own):
            values = [row[key] for row in source if key in row and np.isfinite(row[key])]
            if not values:
                cells += ["-", "-", "0"]
                continue
            mean, sd, n = summarise(values)
            cells += [f"{mean:.{digits}f} ± {sd:.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"]
            cells.append(str(n))
        lines.append(f"| {name}{f', {unit}' if unit else ''} | {' | '.join(cells)} |")
    refused = [f"- {row['film']}: {row['refused']}" for row in rows if "refused" in row]
    lines += ["", f"Refused: {len(refused)}.", *refused]
    if scout:
        keys = ("PSNR", "MAE", "SSIM", "MAE body", "MAE lung", "lung volume error", "NCC")
        lines += ["", f"| scout | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
        for name, values in scout.items():
            lines.append(f"| {name} | {' | '.join(f'{values[k]:.4g}' if k in values else '-' for k in keys)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="+", help="folders or files")
    parser.add_argument("--ct", nargs="+", required=True, help="CTs of training, the yardstick")
    parser.add_argument("--model", default="axon-small", help="name or folder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--align", action="store_true", help="place films that lie far off")
    parser.add_argument("--spread", type=int, default=0, help="so many films also with several seeds")
    parser.add_argument("--spread-preset", default=EVERY, help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--scout", type=Path, help="folder with ct/ and cxr/ of acrin-nsclc-fdg-pet-042")
    args = parser.parse_args()
    started = time.perf_counter()
    model = AxonModel.from_pretrained(args.model)
    chests = Chests([load_case(path, SIZE) for path in args.ct])
    scout = scout_scores(args.scout, model, chests.cases, args) if args.scout else {}
    rows: list[dict[str, Any]] = []
    shown: list[Shown] = []
    page = 1
    for film in frontal_films(args.films):
        found = measured(film, model, chests, args, len(rows) < args.spread)
        if found is None:
            continue
        row, made = found
        rows.append(row)
        print(
            f"{time.perf_counter() - started:6.0f} s  {row['film']}: {row.get('refused') or caption(row)[1]}",
            flush=True,
        )
        if made is not None:
            shown.append((caption(row), tiles(made)))
        if len(shown) == ACROSS * DOWN:
            save_sheet(draw_sheet(shown), args.out / f"page-{page}.png")
            shown, page = [], page + 1
    if shown:
        save_sheet(draw_sheet(shown), args.out / f"page-{page}.png")
    write(rows, chests, scout, model, args)


def save_sheet(sheet: Image.Image, target: Path) -> None:
    with atomic_file(target, overwrite=True) as path:
        sheet.save(path)


def write(
    rows: Sequence[dict[str, Any]],
    chests: Chests,
    scout: Scores,
    model: AxonModel,
    args: argparse.Namespace,
) -> None:
    """numbers.csv, numbers.json and summary.md."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        atomic_file(args.out / "numbers.csv", overwrite=True) as path,
        open(path, "w", newline="", encoding="utf-8") as f,
    ):
        writer = csv.DictWriter(f, columns)
        writer.writeheader()
        writer.writerows(rows)
    told = {"model": model.sha256, "preset": args.preset, "align": args.align, "seeds": args.seeds}
    told |= {"spread_preset": args.spread_preset, "films": rows, "cts": chests.own(), "scout": scout}
    with atomic_file(args.out / "numbers.json", overwrite=True) as path:
        path.write_text(json.dumps(told, indent=1), encoding="utf-8")
    text = summary(rows, chests, scout)
    with atomic_file(args.out / "summary.md", overwrite=True) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

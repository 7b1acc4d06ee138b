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

from axon_core.ctvolume import CTVolume
from axon_core.data.cases import Case, load_case
from axon_core.data.manifest import known_view
from axon_core.drr.film import clinic_film
from axon_core.errors import AxonError
from axon_core.evaluation.metrics import summarise
from axon_core.evaluation.report import PLANES, WINDOWS, to_bytes
from axon_core.evaluation.scores import scores
from axon_core.evaluation.tissue import lung_volume_ml, tissues
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.intensity import WIDE
from axon_core.model import AxonModel
from axon_core.pipeline import FINE, PRESETS, Quality, Reconstruction, reconstruct
from axon_core.radiograph import Radiograph, standardise

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
TILE, GAP, ACROSS, DOWN = 196, 4, 2, 6  # of a contact sheet
CAPTION = 34
SHOWN = ("ncc", "lung_ml", "width_mm", "depth_mm", "w1_hu", "spread_hu", "spread_ncc")


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
        self.counts = [histogram(case.hu, case.known & self.slices) for case in cases]
        self.pooled = sum(counts / counts.sum() for counts in self.counts)

    def own(self) -> list[dict[str, float]]:
        """The same numbers of the CTs themselves, W1 to all others."""
        rows = []
        for case, counts in zip(self.cases, self.counts, strict=True):
            others = self.pooled - counts / counts.sum()
            inside = case.known & self.slices
            spacing = case.grid.spacing_mm
            row = {**body_size(case.hu, inside, spacing), "w1_hu": distance(counts, others)}
            rows.append({"lung_ml": lung_volume_ml(case.hu, spacing, case.known), **row})
        return rows

    def plausibility(self, hu: np.ndarray, spacing_mm: float) -> dict[str, float]:
        """Numbers of a volume on the same cube."""
        inside = np.repeat(self.slices, len(hu) // SIZE) if len(hu) >= SIZE else self.slices[:: SIZE // len(hu)]
        return {
            "lung_ml": lung_volume_ml(hu, spacing_mm),
            **body_size(hu, inside, spacing_mm),
            "w1_hu": distance(histogram(hu, inside), self.pooled),
        }


def histogram(hu: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Counts of the body's HU in some slices."""
    body = tissues(hu, 360.0 / len(hu)).body
    return np.histogram(hu[inside][body[inside]].clip(EDGES[0], EDGES[-1]), EDGES)[0].astype(float)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 in HU; nan where there is no body."""
    centres = 0.5 * (EDGES[1:] + EDGES[:-1])
    return float(wasserstein_distance(centres, centres, a, b)) if a.sum() and b.sum() else float("nan")


def body_size(hu: np.ndarray, inside: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """Width (left-right) and depth (front-back) of the body in mm, medians over slices; nan without a body."""
    body = tissues(hu, spacing_mm).body[inside]
    body = body[body.any((1, 2))]
    if not len(body):
        return {"width_mm": float("nan"), "depth_mm": float("nan")}
    width, depth = (float(np.median([np.ptp(np.flatnonzero(s.any(axis))) + 1 for s in body])) for axis in (0, 1))
    return {"width_mm": width * spacing_mm, "depth_mm": depth * spacing_mm}


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


def measured(film: FilmFile, model: AxonModel, chests: Chests, args: argparse.Namespace, spread: bool) -> Any:
    """(row of numbers, reconstruction); (row, None) of a film that is refused; None of one that is not frontal."""
    row: dict[str, Any] = {"film": film.path.stem, "licence": film.licence, "view": film.view or ""}
    try:
        loaded = Radiograph.load(film.path, view=film.view)
        row["look"] = known_view(replace(loaded, view=None))[0]
        if film.view is None and known_view(loaded)[0] == "lateral":
            return None
        made = reconstruct(loaded, model=model, preset=args.preset, device="cpu", align=args.align)
        row["ncc"] = made.ncc["frontal"]
        row |= chests.plausibility(made.final.hu, made.final.spacing_mm[0])
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
    hu = made.final.hu
    middle = len(hu) // 2
    cuts = zip(PLANES, (middle, middle, len(hu) * 5 // 8), strict=True)  # sagittal: through the left lung
    return pictures + [to_bytes(plane.cut(hu, at), *WINDOWS["Lung"]) for plane, at in cuts]


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


def draw_sheet(shown: Sequence[tuple[dict[str, Any], list[np.ndarray]]]) -> Image.Image:
    """A page of films, two in a row."""
    cell, height = 5 * (TILE + GAP) + 3 * GAP, TILE + CAPTION + GAP
    sheet = Image.new("L", (ACROSS * cell, -(-len(shown) // ACROSS) * height + 20), 30)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    parts = "film | re-projection | axial | coronal | sagittal through the left lung; HU -1050 to 250; SYNTHETIC"
    draw.text((GAP, 2), parts, 255, font)
    for number, (row, pictures) in enumerate(shown):
        x, y = number % ACROSS * cell, number // ACROSS * height + 20
        for line, text in enumerate(caption(row)):
            draw.text((x + GAP, y + 16 * line), text, 220, font)
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(np.ascontiguousarray(picture)).resize((TILE, TILE), Image.Resampling.BILINEAR)
            sheet.paste(tile, (x + GAP + column * (TILE + GAP), y + CAPTION))
    return sheet


def scout_scores(data: Path, model: AxonModel, cases: Sequence[Case], preset: str) -> dict[str, dict[str, float]]:
    """Scores against the CT of acrin-nsclc-fdg-pet-042, in the cube that the scout's own coordinates place.

    Across and along the patient the cube's middle is the point that the scout shows in its middle, at the patient's
    depth; front to back, where one film says nothing, it is the middle of the body, as in training.
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
    truth = CTVolume(case.hu, case.grid.affine).onto(placed).hu
    marks = np.broadcast_to(case.known[:, None, None], case.hu.shape).astype(np.float32)
    known = CTVolume(marks, case.grid.affine).onto(placed, 0.0).hu[:, SIZE // 2, SIZE // 2] > 0.99
    drawn = clinic_film(torch.from_numpy(truth), CanonicalGrid(SIZE).affine, XrayGeometry(XrayView.AP, size)).numpy()
    pitch = XrayGeometry(XrayView.AP, size).pitch_mm
    others = [other for other in cases if other.name != case.name]
    real = reconstruct(scout, model=model, preset=preset, device="cpu")
    simulated = reconstruct(Radiograph(drawn, (pitch, pitch), XrayView.AP), model=model, preset=preset, device="cpu")
    volumes = {
        "AXON, from the scout": real.final.hu,
        "AXON, from a film simulated from the CT in the same place": simulated.final.hu,
        "mean volume of the other CTs": np.mean([other.hu for other in others], axis=0),
    }
    found = {name: scores(hu, truth, placed.spacing_mm, WIDE, known) for name, hu in volumes.items()}
    found["AXON, from the scout"]["NCC"] = real.ncc["frontal"]
    found["AXON, from a film simulated from the CT in the same place"]["NCC"] = simulated.ncc["frontal"]
    moved = np.asarray(placed.center_lps) - np.asarray(case.grid.center_lps)
    print(
        f"The placed cube lies {np.round(moved, 1).tolist()} mm (LPS) from the body's middle; {known.sum()} slices known."
    )
    folder = data.name
    del folder
    return found, (real, simulated, truth)


def summary(rows: Sequence[dict[str, Any]], chests: Chests, scout: dict[str, dict[str, float]]) -> str:
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
    scout = scout_scores(args.scout, model, chests.cases, args.preset) if args.scout else {}
    rows, shown, page = [], [], 0
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
            shown.append((row, tiles(made)))
        if len(shown) == ACROSS * DOWN:
            shown, page = [], save_page(shown, page + 1, args.out)
    if shown:
        save_page(shown, page + 1, args.out)
    write(rows, chests, scout, model, args)


def save_page(shown: Sequence[tuple[dict[str, Any], list[np.ndarray]]], page: int, out: Path) -> int:
    """Write a contact sheet; its number."""
    with atomic_file(out / f"page-{page}.png", overwrite=True) as path:
        draw_sheet(shown).save(path)
    return page


def write(
    rows: Sequence[dict[str, Any]],
    chests: Chests,
    scout: dict[str, dict[str, float]],
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

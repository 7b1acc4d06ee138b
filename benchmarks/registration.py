"""How well is the pose of a CT found from one or two chest films, and how fast? Beside rivals, on the same fakes.

    python benchmarks/registration.py --ct FOLDER_OR_FILES... --cache FOLDER [--sets rigid pair deformed]
                                      [--methods none truth floor axon axon-global sitk nanodrr] [--cases N]
                                      [--slow-cases N] [--threads 2] [--json FILE] [--picture FILE] [--render-only]

The films are fakes with a known pose, up to 10 degrees and 30 mm on every axis, made by another engine with another
look (`registration_fakes.py`). Sets:

- rigid: one PA film of the patient as the CT has him;
- pair: PA and left lateral film under one pose;
- deformed: PA; another breath, other shoulders. No rigid pose fits everywhere; around the spine the truth is exact.

Methods, all from the identity:

- none, truth: the identity and the true pose, for orientation;
- floor: the best 2D affine there is, fitted to the true landmarks: what no method in the plane of the film can beat;
- axon, axon-global: ours from a single start, and with its global search. They find the open field themselves and are
  timed from the CT as it was read, couch included;
- sitk: SimpleITK, 2D similarity and then affine with Mattes' mutual information from the film to the DRR of the start;
- nanodrr: nanodrr's renderer and similarities with Adam, on few cases because it is slow.

The rivals are given the true open field and a CT without couch, neither of which is timed. Distances: `pd` is the mean
distance of the projections of 300 points of the trunk from where they belong, on the detector, divided by the
magnification; `mTRE` the mean distance of the points in space. A case succeeds with pd < 3 mm.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from reconstruct import markdown, measure_machine
from registration_fakes import (
    SETS,
    Chest,
    Fake,
    Recipe,
    camera_of,
    chest,
    geometry_of,
    intrinsics,
    load_or_make,
    nanodrr,
    recipes,
    subject_of,
)

from axon_core.ctvolume import CTVolume
from axon_core.drr.projector import Projector
from axon_core.errors import AxonError

SUCCESS_MM = 3.0
SITK_PIXELS = 256
ADAM_STAGES = ((64, 100, 70), (128, 160, 60))  # pixels, samples along a ray, steps
ADAM_RATES = (1e-2, 1.0)  # rad, mm for each step at first
PICTURE_PIXELS = 256
PICTURE_CASES = 6  # of each set; half of them the worst

Place = Callable[[str, np.ndarray], np.ndarray]  # view, (n, 3) points of the CT -> (n, 2) mm on the detector


@dataclass(frozen=True)
class Answer:
    """What a method says.

    Attributes:
        place: where on the film of a view it takes points of the CT to lie.
        motion: (4, 4) of the patient about the isocentre; None for methods in the plane of the film.
        similarity, verdict: the method's own opinion of its answer, where it has one.
    """

    place: Place
    motion: np.ndarray | None = None
    similarity: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class Task:
    """A case as a method gets it: the fake, the CT as it was read, the CT without couch (at the isocentre)."""

    fake: Fake
    ct: CTVolume
    body: Chest


def on_detector(view: str, points: np.ndarray) -> np.ndarray:
    """(n, 3) LPS mm about the isocentre -> (n, 2) mm down and right of the detector's middle."""
    geometry = geometry_of(view)
    return (geometry.project(points) - 0.5 * (geometry.pixels - 1)) * geometry.pitch_mm


def moved_by(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 3) -> (n, 3)."""
    return points @ motion[:3, :3].T + motion[:3, 3]


def posed(motion: np.ndarray, **more: Any) -> Answer:
    """The answer of a method that finds a pose."""
    return Answer(lambda view, points: on_detector(view, moved_by(motion, points)), motion, **more)


# --- methods ---------------------------------------------------------------------------------------------------------


def none(task: Task) -> Answer:
    """The start."""
    return posed(np.eye(4))


def truth(task: Task) -> Answer:
    """The true pose: how far deformed tissue lies from where even that puts it."""
    return posed(task.fake.pose.matrix)


def floor(task: Task) -> Answer:
    """Per film, the least-squares affine from the points' projections at the start to their true ones."""
    fits = {}
    for view in task.fake.recipe.views:
        before = on_detector(view, task.fake.landmarks)
        after = on_detector(view, moved_by(task.fake.pose.matrix, task.fake.landmarks))
        fits[view] = np.linalg.lstsq(np.c_[before, np.ones(len(before))], after, rcond=None)[0]

    def place(view: str, points: np.ndarray) -> np.ndarray:
        return np.c_[on_detector(view, points), np.ones(len(points))] @ fits[view]

    return Answer(place)


def axon(task: Task, global_search: bool = False) -> Answer:
    """Ours: films and CT as they are."""
    from axon_core.registration.pose import Film, RegisterOptions, register

    films = [Film(film, geometry_of(view)) for view, film in task.fake.films.items()]
    found = register(task.ct, films, options=RegisterOptions(global_search=global_search))
    return posed(found.pose.matrix, similarity=float(found.similarity), verdict=str(found.verdict))


def axon_global(task: Task) -> Answer:
    """Ours with the global search."""
    return axon(task, global_search=True)


def sitk_affine(task: Task) -> Answer:
    """SimpleITK's similarity, then affine, from each film to the DRR of the start, by Mattes' mutual information."""
    transforms = {view: _affine(task, view) for view in task.fake.recipe.views}

    def place(view: str, points: np.ndarray) -> np.ndarray:
        to_film = transforms[view].GetInverse()  # registration maps the film (fixed) to the DRR (moving)
        there = [to_film.TransformPoint((column, row)) for row, column in on_detector(view, points).tolist()]
        return np.array(there)[:, ::-1]

    return Answer(place)


def _affine(task: Task, view: str) -> sitk.Transform:
    film = _detector_image(shrunk(task.fake.films[view], SITK_PIXELS))
    open_field = shrunk(task.fake.open_field[view].astype(np.float32), SITK_PIXELS) > 0.99
    drr = _detector_image(drr_of(task.body, view, np.eye(4), SITK_PIXELS))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricFixedMask(_detector_image(open_field.astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 0.0])
    similarity, affine = sitk.Similarity2DTransform(), sitk.AffineTransform(2)
    _optimise(method, similarity, film, drr)
    affine.SetMatrix(similarity.GetMatrix())
    affine.SetTranslation(similarity.GetTranslation())
    _optimise(method, affine, film, drr)
    return affine


def _optimise(method: sitk.ImageRegistrationMethod, transform: sitk.Transform, film: Any, drr: Any) -> None:
    """Improve `transform` in place, by up to 200 steps on each level."""
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(film, drr)


def _detector_image(pixels: np.ndarray) -> sitk.Image:
    """(n, n) of a whole detector as an image whose points are mm (right, down) of the detector's middle."""
    image = sitk.GetImageFromArray(pixels)
    pitch = geometry_of("PA").detector_mm / pixels.shape[0]
    image.SetSpacing((pitch, pitch))
    image.SetOrigin((-pitch * (pixels.shape[0] - 1) / 2,) * 2)
    return image


def nanodrr_adam(task: Task) -> Answer:
    """nanodrr's renderer with the similarities of its registrations, by Adam: 64, then 128 pixels."""
    engine = nanodrr()
    subject = subject_of(task.body.hu, task.body.spacing)
    similarity = _similarity(engine.metrics)
    sdd = torch.tensor([geometry_of("PA").sdd_mm])
    rotation, translation = (torch.full((1, 3), 1e-6, requires_grad=True) for _ in range(2))
    groups = [{"params": [rotation], "lr": ADAM_RATES[0]}, {"params": [translation], "lr": ADAM_RATES[1]}]
    adam = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, sum(steps for _, _, steps in ADAM_STAGES))
    motion, best = np.eye(4), -math.inf
    for pixels, samples, steps in ADAM_STAGES:
        films = [_prepared(task.fake, view, pixels) for view in task.fake.recipe.views]
        k_inv, best = intrinsics(pixels), -math.inf
        for _ in range(steps):
            pose = engine.convert(rotation, translation, "so3_log")
            to_patient = torch.linalg.inv(pose)
            scores = []
            for camera, film, open_field in films:
                drr = engine.render(subject, k_inv, to_patient @ camera, sdd, pixels, pixels, samples)
                scores.append(similarity(_standardised(drr, open_field), film))
            total = torch.stack(scores).mean()
            if total.item() > best:
                motion, best = pose[0].detach().double().numpy(), total.item()
            adam.zero_grad()
            (-total).backward()
            adam.step()
            schedule.step()
    return posed(motion, similarity=best)


def _prepared(fake: Fake, view: str, pixels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The camera of a view, its film (1, 1, n, n) and its open field."""
    film, open_field = (
        torch.from_numpy(shrunk(image.astype(np.float32), pixels))[None, None]
        for image in (fake.films[view], fake.open_field[view])
    )
    return torch.from_numpy(camera_of(view)).float(), _standardised(film, open_field > 0.99), open_field > 0.99


def _similarity(metrics: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Half global and local correlation of the images, half local correlation of their gradients."""
    image = metrics.MultiscaleNormalizedCrossCorrelation2d([None, 9], [0.5, 0.5])
    gradient = metrics.GradientNormalizedCrossCorrelation2d(patch_size=11, sigma=1.0)
    return lambda a, b: (0.5 * image(a, b) + 0.5 * gradient(a, b)).mean()


def _standardised(image: torch.Tensor, open_field: torch.Tensor) -> torch.Tensor:
    """Mean 0 and deviation 1 in the open field, 0 elsewhere."""
    values = image[open_field]
    return torch.where(open_field, (image - values.mean()) / (values.std() + 1e-6), 0.0)


METHODS: dict[str, tuple[str, Callable[[Task], Answer]]] = {
    "none": ("none (start)", none),
    "truth": ("the true pose", truth),
    "floor": ("best 2D affine there is", floor),
    "axon": ("axon", axon),
    "axon-global": ("axon, global search", axon_global),
    "sitk": ("SimpleITK affine, MI", sitk_affine),
    "nanodrr": ("nanodrr + Adam", nanodrr_adam),
}
SLOW = ("nanodrr",)


# --- pictures --------------------------------------------------------------------------------------------------------


def shrunk(image: np.ndarray, pixels: int) -> np.ndarray:
    """(h, w) float32 averaged over areas to (pixels, pixels)."""
    return F.interpolate(torch.from_numpy(image)[None, None], size=(pixels, pixels), mode="area")[0, 0].numpy()


def drr_of(body: Chest, view: str, motion: np.ndarray, pixels: int) -> np.ndarray:
    """(pixels, pixels) line integrals by our projector, the patient moved by a (4, 4) motion."""
    geometry = replace(geometry_of(view), pixels=pixels)
    mu = torch.from_numpy(np.maximum(0.02 * (1 + body.hu / 1000), 0).astype(np.float32))
    return Projector(mu, motion @ body.affine, geometry.view.beam)(geometry)[0].numpy()


def equalised(image: np.ndarray, open_field: np.ndarray) -> np.ndarray:
    """Ranks in the open field, [0, 1]; 0 elsewhere. Film and DRR then share a tone curve."""
    flat = np.zeros(image.shape, np.float32)
    ranks = image[open_field].argsort().argsort()
    flat[open_field] = ranks / max(1, len(ranks) - 1)
    return flat


def strip(task: Task, view: str, motion: np.ndarray) -> np.ndarray:
    """(n, 4 n) film, DRR before, DRR after, film and DRR after as a checkerboard."""
    n = PICTURE_PIXELS
    open_field = shrunk(task.fake.open_field[view].astype(np.float32), n) > 0.99
    film = equalised(shrunk(task.fake.films[view], n), open_field)
    before, after = (equalised(drr_of(task.body, view, m, n), open_field) for m in (np.eye(4), motion))
    squares = (np.add.outer(np.arange(n) // (n // 8), np.arange(n) // (n // 8)) % 2).astype(bool)
    return np.concatenate([film, before, after, np.where(squares, film, after)], 1)


def draw(rows: Sequence[Row], bench: Bench, path: Path) -> None:
    """A contact sheet of cases spread over each set and its worst ones, by the last method that found poses."""
    strips, labels = [], []
    for group in dict.fromkeys(row.task.group for row in rows):
        own = [row for row in rows if row.task.group == group and row.motion is not None]
        own = [row for row in own if row.method not in ("none", "truth")]
        own = [row for row in own if row.method == own[-1].method]
        for row in _chosen(own):
            task = bench.task(row.task)
            for view in row.task.views:
                strips.append(strip(task, view, row.motion))
                labels.append(
                    f"{group} {row.task.index} {view} {row.task.ct}, {row.method}: pd {row.scores['pd']:.1f} mm"
                )
    if not strips:
        return
    sheet = Image.fromarray((np.concatenate(strips) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    for number, label in enumerate(labels):
        pen.text((6, number * PICTURE_PIXELS + 4), label, fill=255)
    sheet.save(path)


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """The worst rows, and as many evenly spread over the others, best first."""
    ordered = sorted(rows, key=lambda row: row.scores["pd"])
    worst = ordered[len(ordered) - PICTURE_CASES // 2 :] if len(ordered) > PICTURE_CASES else []
    others = ordered[: len(ordered) - len(worst)]
    spread = (
        np.unique(np.linspace(0, len(others) - 1, PICTURE_CASES - len(worst)).round().astype(int)) if others else []
    )
    return [*(others[i] for i in spread), *worst]


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One method on one case; `scores` in mm, degrees and seconds."""

    task: Recipe
    method: str
    scores: dict[str, float]
    motion: np.ndarray | None
    similarity: float | None
    verdict: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "set": self.task.group,
            "case": self.task.index,
            "ct": self.task.ct,
            "truth": list(self.task.pose),
            "method": self.method,
            **self.scores,
            "motion": None if self.motion is None else self.motion.tolist(),
            "similarity": self.similarity,
            "verdict": self.verdict,
        }


def scored(fake: Fake, answer: Answer) -> dict[str, float]:
    """Distances between where points lie and where the answer takes them to lie.

    - pd, core: on the film at the isocentre, the trunk's points and those around the spine, moved by the true pose;
    - film: the same for the trunk's points with the deformation, which no pose can follow;
    - mtre, angle, dx, depth, dz: of the pose, in space; depth is along the PA beam.
    """
    truth = fake.pose.matrix
    pairs = {"pd": (fake.landmarks,) * 2, "core": (fake.core,) * 2, "film": (fake.landmarks, fake.moved)}
    scores = {}
    for name, (points, actual) in pairs.items():
        errors = [
            np.linalg.norm(answer.place(view, points) - on_detector(view, moved_by(truth, actual)), axis=1).mean()
            / geometry_of(view).magnification
            for view in fake.recipe.views
        ]
        scores[name] = float(np.mean(errors))
    if answer.motion is not None:
        difference = moved_by(answer.motion, fake.landmarks) - moved_by(truth, fake.landmarks)
        scores["mtre"] = float(np.linalg.norm(difference, axis=1).mean())
        turn = answer.motion[:3, :3] @ truth[:3, :3].T
        scores["angle"] = math.degrees(math.acos(float(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
        scores |= dict(zip(("dx", "depth", "dz"), np.abs(answer.motion - truth)[:3, 3].tolist(), strict=True))
    return scores


def run_case(task: Task, name: str) -> Row:
    """Let one method answer one case; a method that gives up is scored at the start."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        answer = METHODS[name][1](task)
    except (AxonError, RuntimeError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        answer = replace(none(task), verdict=f"gave up: {told[-1]}")
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    scores = scored(task.fake, answer) | spent
    return Row(task.fake.recipe, name, scores, answer.motion, answer.similarity, answer.verdict)


@dataclass(frozen=True)
class Bench:
    """Where CTs and fakes come from."""

    cts: dict[str, Path]
    cache: Path

    def fake(self, recipe: Recipe) -> Fake:
        """From the cache, or rendered."""
        return load_or_make(recipe, self.cts[recipe.ct], self.cache)

    def task(self, recipe: Recipe) -> Task:
        """The fake with its CT."""
        path = self.cts[recipe.ct]
        return Task(self.fake(recipe), _ct(path), chest(path))


@lru_cache(maxsize=2)
def _ct(path: Path) -> CTVolume:
    return CTVolume.load(path)


def render_all(bench: Bench, cases: Sequence[Recipe]) -> None:
    """Fill the cache, CT by CT, because taking a patient off the couch takes seconds."""
    for number, recipe in enumerate(sorted(cases, key=lambda recipe: recipe.ct), 1):
        bench.fake(recipe)
        print(f"\r  film {number} of {len(cases)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def run_set(bench: Bench, cases: Sequence[Recipe], options: argparse.Namespace) -> list[Row]:
    """Every method on the cases of a set, CT by CT."""
    rows = []
    slow = {recipe.index for recipe in cases[: options.slow_cases]}
    for recipe in sorted(cases, key=lambda recipe: recipe.ct):
        task = bench.task(recipe)
        for name in options.methods:
            if name in SLOW and recipe.index not in slow:
                continue
            row = run_case(task, name)
            rows.append(row)
            told = f"pd {row.scores['pd']:6.2f} mm, {row.scores['wall_s']:6.2f} s {row.verdict or ''}"
            print(f"  {recipe.group} {recipe.index:3d} {recipe.ct:24s} {name:12s} {told}", file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: (options.methods.index(row.method), row.task.index))


# --- reporting -------------------------------------------------------------------------------------------------------

HEAD = ("method", "n", "pd < 3 mm", "pd median", "mean", "95 %", "max", "mTRE", "turn °", "dx", "depth", "dz")
DEFORMED_HEAD = ("spine pd < 3 mm", "spine pd median", "pd to the moved tissue, median")


def table(group: str, rows: Sequence[Row]) -> str:
    """A set's results: medians where nothing else is said."""
    more = DEFORMED_HEAD if group == "deformed" else ()
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row.scores for row in rows if row.method == method]
        pd = np.array([scores["pd"] for scores in own])
        line = [METHODS[method][0], len(own), _share(pd), *map(float, (np.median(pd), pd.mean()))]
        line += [float(np.percentile(pd, 95)), float(pd.max())]
        line += [_median(own, key) for key in ("mtre", "angle", "dx", "depth", "dz")]
        if more:
            line += [_share(np.array([scores["core"] for scores in own])), _median(own, "core"), _median(own, "film")]
        lines.append([*line, _median(own, "wall_s"), _median(own, "cpu_s")])
    return markdown(f"Set `{group}`, mm", (*HEAD, *more, "wall s", "CPU s"), lines)


def _share(distances: np.ndarray) -> str:
    good = int((distances < SUCCESS_MM).sum())
    return f"{good} ({good / len(distances):.0%})"


def _median(scores: Sequence[dict[str, float]], key: str) -> float | str:
    return float(np.median([score[key] for score in scores])) if key in scores[0] else "cannot"


def verdicts(rows: Sequence[Row]) -> str:
    """Does a method know when it is wrong? Per verdict, how many answers are within 3 mm."""
    found: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        if row.verdict is not None:
            found.setdefault((METHODS[row.method][0], row.verdict), []).append(row.scores["pd"] < SUCCESS_MM)
    lines = [(*key, len(good), sum(good)) for key, good in sorted(found.items())]
    return (
        markdown("What the methods say of their answers", ("method", "verdict", "n", "pd < 3 mm"), lines)
        if lines
        else ""
    )


def ct_files(given: Sequence[Path], exclude: Sequence[str]) -> dict[str, Path]:
    """Name -> file; of a folder its NIfTI files, less those whose name contains one of `exclude`."""
    files = [f for path in given for f in (sorted(path.glob("*.nii.gz")) if path.is_dir() else [path])]
    return {f.name.split(".nii")[0]: f for f in files if not any(part in f.name for part in exclude)}


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", nargs="+", type=Path, required=True, help="CT files, or folders of NIfTI files")
    parser.add_argument("--exclude", nargs="*", default=["_seg", "_1.5mm"], help="parts of names of files to skip")
    parser.add_argument("--cache", type=Path, required=True, help="folder in which the fakes are kept")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--cases", type=int, default=None, help="only the first of each set")
    parser.add_argument("--slow-cases", type=int, default=10, help=f"of each set for {', '.join(SLOW)}")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write every case here")
    parser.add_argument("--picture", type=Path, help="contact sheet: film, DRR before, DRR after, checkerboard")
    parser.add_argument("--render-only", action="store_true", help="fill the cache and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    bench = Bench(ct_files(options.ct, options.exclude), options.cache)
    if not bench.cts:
        parser.error("no CTs found")
    cases = {group: recipes(group, list(bench.cts), options.seed)[: options.cases] for group in options.sets}
    render_all(bench, [recipe for recipes_ in cases.values() for recipe in recipes_])
    if not options.render_only:
        report(bench, cases, options)


def report(bench: Bench, cases: dict[str, list[Recipe]], options: argparse.Namespace) -> None:
    """Run, and print and write what came out."""
    machine = {**measure_machine("small", 1), "seed": options.seed, "CTs": len(bench.cts)}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows: list[Row] = []
    for group, recipes_ in cases.items():
        rows += (found := run_set(bench, recipes_, options))
        print(table(group, found))
        print(verdicts(found), flush=True)
        if options.json:
            written = {"machine": machine, "cts": list(bench.cts), "cases": [row.to_dict() for row in rows]}
            options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        draw(rows, bench, options.picture)


if __name__ == "__main__":
    main()

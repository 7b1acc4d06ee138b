"""How good are the volumes? Every stage beside trivial baselines, on CTs that training never saw.

    python benchmarks/quality.py --model Resources/Models/axon-small --train CT... --test CT... [--seeds 4]
                                 [--json scores.json] [--picture test-cases.png]

Films are simulated from each test CT in the canonical pose by X-ray physics (`axon_core.drr.film`), so the numbers say
how well depth is recovered, not how well a real film is understood. Metrics are on [0, 1] (data range 1) over the
slices that the CT covers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from axon_core.data.cases import Case, load_case
from axon_core.diffusion import bridge, gaussian
from axon_core.diffusion.sampling import SeededNoise
from axon_core.drr.film import clinic_film
from axon_core.evaluation.metrics import SSIM_NAMES, edge_sharpness, mae, mse, psnr, ssim3d, summarise
from axon_core.evaluation.report import PLANES, WINDOWS, to_bytes
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.model import AxonModel, Hint
from axon_core.walks import walk_coarse, walk_fine

METRICS: dict[str, Callable[..., float]] = {
    "MAE": mae,
    "MSE": mse,
    "PSNR": psnr,
    "SSIM": ssim3d,
    "edges": edge_sharpness,
}


class Subject:
    """A test chest at both resolutions, and its films."""

    def __init__(self, case: Case, model: AxonModel) -> None:
        window, size = model.config.hu_window, model.config.size
        hu = torch.from_numpy(case.hu)
        self.name = case.name
        self.fine_truth = window.encode(hu)[None, None]
        self.truth = F.avg_pool3d(self.fine_truth, hu.shape[0] // size)
        self.known = torch.from_numpy(case.known)
        affine = CanonicalGrid(hu.shape[0]).affine
        views = (XrayGeometry(view, model.config.film_size) for view in (XrayView.PA, XrayView.LAT))
        self.films = torch.stack([clinic_film(hu, affine, view) for view in views])[None]

    def score(self, volume: torch.Tensor) -> dict[str, float]:
        """Metrics of (1, 1, n, n, n) in [-1, 1] against the truth at the same resolution."""
        truth = self.truth if volume.shape[-1] == self.truth.shape[-1] else self.fine_truth
        factor = len(self.known) // truth.shape[-1]
        slices = self.known.view(-1, factor).all(1)
        a, b = (((v.float().clamp(-1, 1) + 1) / 2)[0, 0][slices] for v in (volume, truth))
        return {name: metric(a, b) for name, metric in METRICS.items()}


class Table:
    """Rows of mean +- sd over the subjects."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, float]]] = {}

    def add(self, row: str, scores: dict[str, float]) -> None:
        self.rows.setdefault(row, []).append(scores)

    def markdown(self) -> str:
        lines = ["| method | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
        for row, scores in self.rows.items():
            cells = []
            for name in METRICS:
                summary = summarise([score[name] for score in scores])
                digits = 2 if name in ("PSNR", "edges") else 4
                cells.append(f"{summary.mean:.{digits}f} ± {summary.sd:.{digits}f}")
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def bridge_sample(model: AxonModel, y: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
    """One bridge sample; one step is the prediction at m = 1."""
    return walk_coarse(model, y, bridge.times(steps), SeededNoise([seed])).clamp(-1, 1)


def fine_sample(model: AxonModel, hint: torch.Tensor, steps: int, start: float, seed: int) -> torch.Tensor:
    """One FineDiff sample from the hint noised to `start` of the schedule."""
    return walk_fine(model, Hint(hint), gaussian.times(steps, start), SeededNoise([seed])).clamp(-1, 1)


@torch.inference_mode()
def evaluate(model: AxonModel, train: list[Case], test: list[Case], seeds: int, steps: int) -> Table:
    """Every row of the table."""
    table = Table()
    training = [Subject(case, model).truth for case in train]
    mean_volume = torch.stack(training).mean(0)
    constant = torch.full_like(mean_volume, float(mean_volume.mean()))

    def up(volume: torch.Tensor) -> torch.Tensor:
        return F.interpolate(volume, scale_factor=2.0, mode="trilinear", align_corners=False)

    for case in test:
        subject = Subject(case, model)
        table.add("constant", subject.score(constant))
        table.add("mean volume of the training CTs", subject.score(mean_volume))
        for views in (1, 2):
            tag = f"{views} view{'s' * (views > 1)}"
            y = model.endpoint(subject.films[:, :views]).float()
            table.add(f"F(x), {tag}", subject.score(y))
            best = y
            if model.has("coarse"):
                table.add(f"X̂ one step, {tag}", subject.score(bridge_sample(model, y, 1, 0)))
                samples = [bridge_sample(model, y, steps, seed) for seed in range(seeds)]
                table.add(f"X̂ sampled ({steps} steps), {tag}", subject.score(samples[0]))
                best = torch.stack(samples).mean(0)
                table.add(f"X̂ mean of {seeds} seeds, {tag}", subject.score(best))
            if model.has("fine"):
                for start in (0.4, 1.0):
                    fine = [fine_sample(model, y, 12, start, seed) for seed in range(seeds)]
                    label = f"Ŷ (12 steps from {start:g})"
                    table.add(f"{label}, {tag}", subject.score(fine[0]))
                    table.add(f"{label} mean of {seeds} seeds, {tag}", subject.score(torch.stack(fine).mean(0)))
            table.add(f"trilinear x2 of F(x), {tag}", subject.score(up(y)))
            if model.has("super-resolution"):
                table.add(f"SR of F(x), {tag}", subject.score(model.super_resolve(y).float()))
                if model.has("coarse"):
                    table.add(f"SR of X̂ mean, {tag}", subject.score(model.super_resolve(best).float()))
        table.add("trilinear x2 of the pooled truth", subject.score(up(subject.truth)))
        if model.has("super-resolution"):
            table.add("SR of the pooled truth", subject.score(model.super_resolve(subject.truth).float()))
    return table


@torch.inference_mode()
def picture(model: AxonModel, test: list[Case]) -> Image.Image:
    """Coronal, sagittal and axial middle slices of every test CT, and of what one film and two films gave."""
    rows = []
    for case in test:
        subject = Subject(case, model)
        volumes = {"CT": subject.fine_truth}
        for views in (1, 2):
            made = model.endpoint(subject.films[:, :views]).float()
            if model.has("super-resolution"):
                made = model.super_resolve(made).float()
            volumes[f"{views} film{'s' * (views > 1)}"] = made
        for title, volume in volumes.items():
            hu = model.config.hu_window.decode(volume.clamp(-1, 1))[0, 0].numpy()
            cuts = [to_bytes(plane.cut(hu), *WINDOWS["Lung"]) for plane in PLANES]
            cuts.append(to_bytes(PLANES[1].cut(hu, hu.shape[1] * 5 // 8), *WINDOWS["Bone"]))
            rows.append((f"{case.name}, {title}", [Image.fromarray(np.ascontiguousarray(cut)) for cut in cuts]))
    edge, caption = 240, 22
    sheet = Image.new("L", (4 * edge, len(rows) * (edge + caption)), 30)
    draw = ImageDraw.Draw(sheet)
    for row, (title, cuts) in enumerate(rows):
        draw.text((6, row * (edge + caption) + 4), title, 220, ImageFont.load_default(14))
        for column, cut in enumerate(cuts):
            sheet.paste(cut.resize((edge, edge)), (column * edge, row * (edge + caption) + caption))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="axon-small", help="name or folder")
    parser.add_argument("--train", nargs="+", required=True, help="CTs of training, for the mean volume")
    parser.add_argument("--test", nargs="+", required=True, help="CTs that training never saw")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="of the bridge")
    parser.add_argument("--json", type=Path, help="also write the scores of every case here")
    parser.add_argument("--picture", type=Path, help="also draw the test CTs beside their reconstructions")
    args = parser.parse_args()
    model = AxonModel.from_pretrained(args.model)
    test = [load_case(path) for path in args.test]
    table = evaluate(model, [load_case(path) for path in args.train], test, args.seeds, args.steps)
    print(
        f"Model {args.model} ({model.sha256[:12]}), window {model.config.window}, {model.config.size}³ and x2, eta 1,"
    )
    print(f"test CTs (n = {len(test)}, mean ± sd): {', '.join(case.name for case in test)}.")
    print(f"SSIM: {SSIM_NAMES['valid']}.\n")
    print(table.markdown())
    if args.json:
        args.json.write_text(json.dumps(table.rows, indent=1), encoding="utf-8")
    if args.picture:
        picture(model, test).save(args.picture)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()

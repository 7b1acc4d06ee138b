"""Who is best under the same budget? Every method trained with equal arithmetic on the same chests.

    alias comparison='python benchmarks/comparison.py'
    comparison pool  --ct CT... -o work [--count 2000] [--device cuda]
    comparison train trivial regression repeat-concat x2ct-gan xray2ctpa coarsediff axon
                     --ct CT... --test CT... -o work [--tflop 150] [--seed 0] [--device cuda]
    comparison table -o work

`pool` draws the chests to learn from, once; `train` trains methods and judges them on CTs that they never saw; `table`
prints Markdown. The budget counts the floating-point operations of training, forward and backward: 150 TFLOP are about
half an hour of one CPU core. Methods of several stages divide it: X-ray2CTPA a quarter for its autoencoder and the rest
for its diffusion; CoarseDiff in halves for F(x) and the bridge; AXON in quarters for F(x), bridge, prior and
ControlNet. Films are simulated from the CTs at rest by X-ray physics; errors are on [0, 1] of the window over the
slices that the CT covers. Random methods give the mean over --draws seeds, and a row of their first draw alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.baselines.models import new_baseline
from axon_core.baselines.predict import predict_mean
from axon_core.baselines.run import (
    begin_baseline,
    estimate_baseline,
    new_stage,
    open_baseline_run,
    stage_settings,
    train_baseline,
)
from axon_core.config import ModelConfig, load_preset
from axon_core.data.cases import Case, load_case
from axon_core.data.phantom import thorax
from axon_core.data.pool import PairPool
from axon_core.drr.film import clinic_film
from axon_core.evaluation.metrics import edge_sharpness, mae, mse, psnr, ssim3d
from axon_core.evaluation.spectrum import spectrum_ratio
from axon_core.evaluation.statistics import table
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView
from axon_core.model import AxonModel, ModelCard
from axon_core.training.distill import EVERY
from axon_core.training.estimate import estimate
from axon_core.training.run import residual_sd
from axon_core.training.settings import StageSettings, changed
from axon_core.training.stages import STAGES, Stage
from axon_core.training.trainer import make_fabric, train

PRESET, BATCH, RENDER = "small", 8, 128
METRICS: dict[str, Callable[..., float]] = {
    "MAE": mae,
    "MSE": mse,
    "PSNR": psnr,
    "SSIM": ssim3d,
    "edges": edge_sharpness,
    "spectrum": spectrum_ratio,
}
SHARES = {  # of the budget, for each stage
    "regression": {"endpoint": 1.0},
    "coarsediff": {"endpoint": 0.5, "coarse": 0.5},
    "axon": {"endpoint": 0.25, "coarse": 0.25, "prior": 0.25, "control": 0.25},
    "repeat-concat": {"repeat-concat": 1.0},
    "x2ct-gan": {"x2ct-gan": 1.0},
    "xray2ctpa": {"xray2ctpa-autoencoder": 0.25, "xray2ctpa-latent": 0.75},
}
SAMPLED = {"coarsediff": ("coarse",), "axon": ("coarse", "fine")}  # stages that run after F(x)


def draw_pool(args: argparse.Namespace) -> None:
    """Draw the chests that every method learns from."""
    config, grid = load_preset(PRESET), CanonicalGrid(RENDER)
    phantoms = [Case(f"phantom-{n}", thorax(n, grid), np.ones(RENDER, bool), grid) for n in range(28)]
    cases = [load_case(path, RENDER) for path in args.ct]
    pool = PairPool(
        cases, args.count, config.size, config.film_size, config.hu_window, args.device,
        phantoms=phantoms, phantom_share=0.2, seed=8_000_000,
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    pool.save(args.out / "pool.safetensors")


class Subject:
    """A test chest: its simulated films and its truth."""

    def __init__(self, path: str) -> None:
        config, case = load_preset(PRESET), load_case(path, RENDER)
        self.name, hu = case.name, torch.from_numpy(case.hu)
        views = (XrayGeometry(view, config.film_size) for view in (XrayView.PA, XrayView.LAT))
        self.films = torch.stack([clinic_film(hu, CanonicalGrid(RENDER).affine, view) for view in views])[None]
        factor = RENDER // config.size
        self.truth = F.avg_pool3d(config.hu_window.encode(hu)[None], factor)[0]
        self.known = torch.from_numpy(case.known).view(-1, factor).all(1)

    def scores(self, mean: torch.Tensor, spread: torch.Tensor | None) -> dict[str, float]:
        """Metrics of (1, 1, n, n, n) in [-1, 1], and how its spread goes with its error."""
        a, b = (((v.float().cpu() + 1) / 2).clamp(0, 1)[self.known] for v in (mean[0, 0], self.truth))
        found = {name: float(metric(a, b)) for name, metric in METRICS.items()}
        if spread is not None:
            sd, error = spread.float().cpu()[0, 0][self.known] / 2, (a - b).abs()
            found["spread_error_r"] = float(np.corrcoef(sd.flatten(), error.flatten())[0, 1])
            found["within_2sd"] = float((error <= 2 * sd).float().mean())
        return found


def train_method(method: str, pool: PairPool, args: argparse.Namespace) -> AxonModel:
    """A model of the method, trained within the budget."""
    torch.manual_seed(1000 + args.seed)
    model = AxonModel.from_preset(PRESET) if method in ("regression", *SAMPLED) else new_baseline(method, PRESET)
    presets = (
        {} if isinstance(model, AxonModel) and method in ("regression", *SAMPLED) else stage_settings(method, PRESET)
    )
    for name, share in SHARES[method].items():
        plain = presets.get(name, StageSettings(steps=1, lr=8e-4, ema=0.99))
        settings = within(args.tflop * share, method, name, plain)
        if name == "coarse":
            span_bridge(model.to(args.device), pool)
        model.card = ModelCard(stages=("endpoint", "coarse") if name == "control" else ())
        stage: Stage = new_stage(model, name, settings, args.seed) if presets else STAGES[name](model, settings)  # type: ignore[arg-type]
        fabric = make_fabric("auto", args.device)
        train(stage, pool, args.out / f"{method}-{args.seed}-{args.tflop:g}" / name, fabric, seed=args.seed, tell=told)
    if method in SAMPLED:
        model.card = ModelCard(stages=("endpoint", *SAMPLED[method]))
    return model.to(args.device)


def within(
    tflop: float, method: str, stage: str, settings: StageSettings, config: ModelConfig | None = None
) -> StageSettings:
    """As many steps as the budget pays for; `config` is the preset's by default."""
    steps = max(2, round(tflop / tflop_of_step(method, stage, settings, config or load_preset(PRESET))))
    return changed(settings, steps=steps, batch=BATCH, warmup=max(1, min(settings.warmup, steps // 10)))


def span_bridge(model: AxonModel, pool: PairPool) -> None:
    """Build the bridge on the measured spread of Y - F(x)."""
    sigma = round(residual_sd(model, pool), 4)
    bridge = dataclasses.replace(model.config.bridge, sigma=sigma, s=round(2 * sigma**2, 5))
    model.config = dataclasses.replace(model.config, bridge=bridge)


def tflop_of_step(method: str, stage: str, settings: StageSettings, config: ModelConfig) -> float:
    """Of a batch of BATCH, the mean over steps with one film and with two."""
    settings = changed(settings, batch=BATCH)

    def tflop(views: int) -> float:
        if stage in EVERY:
            return estimate(stage, config, settings, 1000, 1e12, views=views).flop / 1e12
        return estimate_baseline(method, PRESET, stage, config, settings, 1000, 1e12, views=views).flop / 1e12

    single = 0.5 if method == "x2ct-gan" else 0.65  # how often the lateral film is left out
    return single * tflop(1) + (1 - single) * tflop(2)


def told(event: dict[str, object]) -> None:
    """Print every hundredth step."""
    if event["type"] == "progress" and int(str(event["step"])) % 100 == 0:
        print(f"{event['stage']} {event['step']}/{event['steps']}: loss {event['loss']}", flush=True)


@torch.inference_mode()
def judge(label: str, predict: Callable[..., tuple], subjects: list[Subject], facts: dict[str, object]) -> list[dict]:
    """One row for each case and number of views."""
    rows = []
    for subject in subjects:
        for views in (1, 2):
            found = subject.scores(*predict(subject.films[:, :views]))
            rows.append({"name": label, "case": subject.name, "views": views, **found, **facts})
    return rows


def train_all(args: argparse.Namespace) -> None:
    """Train and judge methods; each one's rows are written when it is done, and not computed again."""
    pool = PairPool.load(args.out / "pool.safetensors", load_preset(PRESET).hu_window, args.device)
    subjects = [Subject(path) for path in args.test]
    for method in args.methods:
        path = args.out / f"{method}-{args.seed}-{args.tflop:g}.json"
        if path.exists():
            continue
        begun, facts = time.monotonic(), {"seed": args.seed, "budget_tflop": args.tflop}
        if method == "trivial":
            rows = judge_trivial(pool, subjects, args, facts)
        else:
            rows = judge_trained(method, train_method(method, pool, args), subjects, args, facts)
        write_rows(path, rows, begun)


def write_rows(path: Path, rows: list[dict], begun: float) -> None:
    """Write the rows of a method, with the seconds since it was begun."""
    for row in rows:
        row["wall_s"] = round(time.monotonic() - begun, 1)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def judge_trained(
    method: str, model: AxonModel, subjects: list[Subject], args: argparse.Namespace, facts: dict
) -> list[dict]:
    """Rows of a trained method, and of one draw where it is random."""
    stages = SAMPLED.get(method, ())
    label = {"regression": "F(x)", "coarsediff": "CoarseDiff", "axon": "AXON"}.get(method, method)

    def predict(films: torch.Tensor, draws: int) -> tuple:
        return predict_mean(model, films.to(args.device), range(draws), stages=stages)

    if not stages and method != "xray2ctpa":
        return judge(label, lambda films: predict(films, 1), subjects, facts)
    return [
        *judge(f"{label}, mean of {args.draws}", lambda films: predict(films, args.draws), subjects, facts),
        *judge(f"{label}, one draw", lambda films: predict(films, 1), subjects, facts),
    ]


def judge_trivial(pool: PairPool, subjects: list[Subject], args: argparse.Namespace, facts: dict) -> list[dict]:
    """Constant, mean volume of the training CTs at rest, nearest neighbour among the pool's chests."""
    mean = torch.stack([Subject(path).truth for path in args.ct]).mean(0)[None]
    run = args.out / "nearest"
    begin_baseline(run, "nearest", PRESET, [{"kind": "pool", "count": len(pool)}], args.seed)
    train_baseline("nearest", PRESET, run, pool, {}, make_fabric("32", "cpu"), seed=args.seed)
    nearest = open_baseline_run("nearest", PRESET, run)
    return [
        *judge("constant", lambda films: (torch.full_like(mean, float(mean.mean())), None), subjects, facts),
        *judge("mean volume", lambda films: (mean, None), subjects, facts),
        *judge("nearest neighbour", lambda films: predict_mean(nearest, films, [0]), subjects, facts),
    ]


def print_table(args: argparse.Namespace) -> None:
    """Mean and 95 % interval over the cases, and the paired difference from the first method's PSNR."""
    rows = [row for path in sorted(args.out.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))]
    for views in (1, 2):
        print(f"\n{views} view{'s' * (views > 1)}\n")
        print("| method | seed | TFLOP | MAE | PSNR [95 %] | SSIM | edges | spectrum | PSNR - F(x) [95 %], p |")
        print("|---|---|---|---|---|---|---|---|---|")
        scores: dict[str, dict[str, dict[str, float]]] = {}
        for row in rows:
            if row["views"] == views:
                key = f"{row['name']} | {row['seed']} | {row['budget_tflop']:g}"
                scores.setdefault(key, {})[row["case"]] = {name: row[name] for name in METRICS}
        reference = next((key for key in scores if key.startswith("F(x) |")), next(iter(scores)))
        found = table(scores, reference=reference)
        for key in sorted(scores, key=lambda key: -found[key]["PSNR"]["mean"]):
            of, best = found[key], found[key]["PSNR"]
            gap = best.get("difference")
            versus = f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}], {gap['p']:.3f}" if gap else ""
            print(
                f"| {key} | {of['MAE']['mean']:.4f} | {best['mean']:.2f} [{best['low']:.2f}, {best['high']:.2f}] | "
                f"{of['SSIM']['mean']:.3f} | {of['edges']['mean']:.2f} | {of['spectrum']['mean']:.2f} | {versus} |"
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("pool", draw_pool), ("train", train_all), ("table", print_table)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--out", "-o", type=Path, required=True)
        if name == "table":
            continue
        command.add_argument("--ct", nargs="+", required=True, help="CTs to learn from")
        command.add_argument("--device", default="cpu")
        if name == "pool":
            command.add_argument("--count", type=int, default=2000)
            continue
        command.add_argument("methods", nargs="+", choices=["trivial", *SHARES])
        command.add_argument("--test", nargs="+", required=True, help="CTs to judge by")
        command.add_argument("--tflop", type=float, default=150.0)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--draws", type=int, default=8)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

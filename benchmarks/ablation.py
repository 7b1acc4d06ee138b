"""What do the choices of the paper's table 4 change, and ours? Rows that differ in one stage, trained alike.

    alias ablation='python benchmarks/ablation.py'
    ablation train --test CT... -o work [--rows coarse-l2 ...] [--model axon-small] [--tflop 60] [--edge 1] [--seed 0]
    ablation table -o work

The chests are those of `comparison.py pool`, in work/pool.safetensors. F(x), the prior and, for rows of both stages,
the bridge are those of --model; each row trains its own network for --tflop, counted as in `comparison.py`, from first
weights on the same samples in the same order. --test names CTs that neither the pool nor the model has seen.
`fine-clamping` has the weights of `fine-rc-encoder`. FineDiff is run from noise in every row, so that only the hint
differs; `bbdm-fine` walks its second bridge in as many steps. The paper does not say how its edge loss is weighted:
--edge is our choice. Each row's model is kept in work/models, for `axon evaluate --suite table4`. What is done is not
done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from comparison import Subject, judge, told, within, write_rows

from axon_core.baselines.predict import predict_mean
from axon_core.data.pool import PairPool
from axon_core.model import AxonModel, ModelCard
from axon_core.pipeline import PRESETS
from axon_core.training.distill import EVERY
from axon_core.training.settings import StageSettings, changed
from axon_core.training.trainer import make_fabric, train
from axon_core.walks import Quality

SETTINGS = StageSettings(steps=1, lr=8e-4, ema=0.99)
QUALITY = dataclasses.replace(PRESETS["fast"], fine_start=1.0)


class Row(NamedTuple):
    """A row of the table: the stage of training that is its own, the name of its weights, what runs after F(x).

    `diffusion`, `bridge` and `quality` are fields of `DiffusionConfig`, `BridgeConfig` and `Quality`; `edge` weighs the
    edge loss by --edge, `min_snr` is the gamma of the min-SNR weights.
    """

    stage: str
    weights: str
    stages: tuple[str, ...]
    diffusion: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    bridge: dict[str, Any] = {}  # noqa: RUF012
    quality: dict[str, Any] = {}  # noqa: RUF012
    edge: bool = False
    min_snr: float = 0.0


ROWS = {
    "coarse-l2": Row("coarse", "coarse-l2", ("coarse",)),
    "coarse-l2-edge": Row("coarse", "coarse-l2-edge", ("coarse",), edge=True),
    "fine-image-encoder": Row("control", "fine-image-encoder", ("fine",)),
    "fine-rc-encoder": Row("control", "fine-rc-encoder", ("fine",), {"hint": "films"}),
    "fine-clamping": Row("control", "fine-rc-encoder", ("fine",), {"hint": "films", "clamp": True}),
    "bbdm-fine": Row("fine-bridge", "bbdm-fine", ("coarse", "fine"), {"process": "bridge"}),
    "global-encoder": Row("control", "global-encoder", ("coarse", "fine"), {"global_encoder": True}),
    "with-drrs": Row("control", "with-drrs", ("coarse", "fine")),
    # not of the paper: what lets a bridge or FineDiff learn sooner; "coarse-l2" and "fine-image-encoder" are the others
    "coarse-plain": Row("coarse", "coarse-plain", ("coarse",), bridge={"sigma": 0.0}),
    "coarse-s1-plain": Row("coarse", "coarse-s1-plain", ("coarse",), bridge={"s": 1.0, "sigma": 0.0}),
    "coarse-s1": Row("coarse", "coarse-s1", ("coarse",), bridge={"s": 1.0}),
    "coarse-even-times": Row("coarse", "coarse-l2", ("coarse",), quality={"rho": 1.0}),
    "fine-min-snr": Row("control", "fine-min-snr", ("fine",), min_snr=5.0),
}


class Bench:
    """The chests to learn from, those to judge by, and where states are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.shared = AxonModel.from_pretrained(args.model)
        self.pool = PairPool.load(args.out / "pool.safetensors", self.shared.config.hu_window, args.device)
        self.subjects = [Subject(path) for path in args.test]

    def model(self, row: Row) -> AxonModel:
        """The row's model: its own network trained, the others shared."""
        args, shared = self.args, self.shared
        diffusion = dataclasses.replace(shared.config.diffusion, **row.diffusion)
        before = ("endpoint", *row.stages[:-1])
        bridge = dataclasses.replace(shared.config.bridge, **row.bridge)
        config = dataclasses.replace(shared.config, diffusion=diffusion, bridge=bridge)
        model = AxonModel(config, ModelCard(stages=before))
        kept = ("film_to_volume", "prior", *(("coarse",) if "coarse" in before else ()))
        vars(model).update({name: getattr(shared, name) for name in kept})
        torch.manual_seed(1000 * (args.seed + 1) + list(EVERY).index(row.stage))
        settings = within(args.tflop, "axon", row.stage, SETTINGS, model.config)
        settings = changed(settings, edge=args.edge if row.edge else 0.0, min_snr=row.min_snr)
        folder = args.out / f"{row.weights}-{args.seed}-{args.tflop:g}"
        fabric = make_fabric("auto", args.device)
        train(EVERY[row.stage](model, settings), self.pool, folder, fabric, seed=args.seed, tell=told)
        stages, notes = (
            ("endpoint", *row.stages),
            f"Its {row.stage} learned for {args.tflop:g} TFLOP; else {args.model}.",
        )
        model.card = dataclasses.replace(
            shared.card, title="of an ablation", stages=stages, default_stages=stages, notes=notes
        )
        return model.to(args.device)

    def judge(
        self, label: str, model: AxonModel, stages: tuple[str, ...], begun: float, quality: Quality = QUALITY
    ) -> None:
        """Write the scores of the mean over --draws seeds and, where something is random, of the first draw alone."""
        args, rows = self.args, []
        facts = {"seed": args.seed, "budget_tflop": args.tflop}
        for name, draws in ((f"{label}, mean of {args.draws}", args.draws), (f"{label}, one draw", 1)):

            def predict(films: torch.Tensor, draws: int = draws) -> tuple:
                return predict_mean(model, films.to(args.device), range(draws), stages=stages, quality=quality)

            rows += judge(name if stages else label, predict, self.subjects, facts)
            if not stages:
                break
        write_rows(args.out / f"{label}-{args.seed}-{args.tflop:g}.json", rows, begun)


def train_rows(args: argparse.Namespace) -> None:
    """Train and judge F(x) and the rows."""
    begun, bench = time.monotonic(), Bench(args)
    if not (args.out / f"F(x)-{args.seed}-{args.tflop:g}.json").exists():
        bench.judge("F(x)", bench.shared, (), begun)
    for name in args.rows:
        begun, row, of_row = time.monotonic(), ROWS[name], f"{name}-{args.seed}-{args.tflop:g}"
        judged, kept = (args.out / f"{of_row}.json").exists(), args.out / "models" / of_row
        if judged and kept.exists():
            continue
        model = bench.model(row)
        model.save_pretrained(kept, model.card)
        if not judged:
            bench.judge(name, model, row.stages, begun, dataclasses.replace(QUALITY, **row.quality))


def print_rows(args: argparse.Namespace) -> None:
    """Of each row with one film and with two: the mean over draws, and after it one draw."""
    print("| row | films | MAE | PSNR (each CT) | SSIM | edges | one draw: PSNR | SSIM | edges |")
    print("|---|---|---|---|---|---|---|---|---|")
    everything = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(args.out.glob("*.json"))]
    named = [(_name(found), found) for found in everything]
    for name, found in sorted(named, key=lambda one: ("F(x)", *ROWS).index(one[0])):
        for views in (1, 2):
            mean = [row for row in found if row["views"] == views and not row["name"].endswith("one draw")]
            draw = [row for row in found if row["views"] == views and row["name"].endswith("one draw")]
            each = ", ".join(f"{row['PSNR']:.2f}" for row in mean)
            cells = [f"{_mean(mean, 'MAE'):.4f}", f"{_mean(mean, 'PSNR'):.2f} ({each})", *_sharpness(mean)]
            cells += [f"{_mean(draw, 'PSNR'):.2f}", *_sharpness(draw)] if draw else ["", "", ""]
            print(f"| {name} | {views} | " + " | ".join(cells) + " |")


def _name(rows: list[dict[str, Any]]) -> str:
    return str(rows[0]["name"]).split(",")[0]


def _sharpness(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{_mean(rows, 'SSIM'):.3f}", f"{_mean(rows, 'edges'):.2f}"]


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("train", train_rows), ("table", print_rows)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--out", "-o", type=Path, required=True)
    command = commands.choices["train"]
    command.add_argument("--test", nargs="+", required=True, help="CTs to judge by")
    command.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    command.add_argument("--model", default="axon-small", help="name or folder, whose other stages the rows have")
    command.add_argument("--tflop", type=float, default=60.0)
    command.add_argument("--edge", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--draws", type=int, default=8)
    command.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

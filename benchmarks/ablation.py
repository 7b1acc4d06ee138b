"""What do the choices of the paper's table 4 change? Rows that differ in one stage, trained alike on the same chests.

    alias ablation='python benchmarks/ablation.py'
    ablation train --test CT... -o work [--rows coarse-l2 ...] [--tflop 40] [--edge 1] [--seed 0] [--device cuda]
    ablation table -o work

The chests are those of `comparison.py pool`, in work/pool.safetensors. F(x) and the prior are trained once, for all
rows; then each row trains its own stage, the bridge or the ControlNet, from the same first weights on the same samples.
--tflop is the budget of every stage, counted as in `comparison.py`; the rows of a pair take the same number of steps.
`fine-clamping` has the weights of `fine-rc-encoder`. FineDiff is run from noise in every row, so that only the hint
differs. The paper does not say how its edge loss is weighted: --edge is our choice. What is done is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from comparison import PRESET, Subject, judge, print_table, span_bridge, told, within, write_rows

from axon_core.baselines.predict import predict_mean
from axon_core.config import load_preset
from axon_core.data.pool import PairPool
from axon_core.model import AxonModel, ModelCard
from axon_core.pipeline import PRESETS
from axon_core.training.settings import StageSettings, changed
from axon_core.training.stages import STAGES
from axon_core.training.trainer import make_fabric, train

SETTINGS = StageSettings(steps=1, lr=8e-4, ema=0.99)
QUALITY = dataclasses.replace(PRESETS["fast"], fine_start=1.0)


class Row(NamedTuple):
    """A row of the table: the stage that is its own, the name of its weights, and what is chosen otherwise.

    `stages` run after F(x); `diffusion` are fields of `DiffusionConfig`, `edge` weighs the edge loss by --edge.
    """

    stage: str
    weights: str
    stages: tuple[str, ...]
    diffusion: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    edge: bool = False


ROWS = {
    "coarse-l2": Row("coarse", "coarse-l2", ("coarse",)),
    "coarse-l2-edge": Row("coarse", "coarse-l2-edge", ("coarse",), edge=True),
    "fine-image-encoder": Row("control", "fine-image-encoder", ("fine",)),
    "fine-rc-encoder": Row("control", "fine-rc-encoder", ("fine",), {"hint": "films"}),
    "fine-clamping": Row("control", "fine-rc-encoder", ("fine",), {"hint": "films", "clamp": True}),
}


class Bench:
    """The chests to learn from, those to judge by, and where states are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.pool = PairPool.load(args.out / "pool.safetensors", load_preset(PRESET).hu_window, args.device)
        self.subjects = [Subject(path) for path in args.test]
        self.shared = AxonModel.from_preset(PRESET)
        for stage in ("endpoint", "prior"):
            self.learn(self.shared, stage, f"shared-{stage}")
        span_bridge(self.shared.to(args.device), self.pool)

    def learn(self, model: AxonModel, stage: str, weights: str, edge: float = 0.0) -> None:
        """Train a stage within the budget, from first weights that follow from stage and seed."""
        args = self.args
        torch.manual_seed(1000 * (args.seed + 1) + list(STAGES).index(stage))
        settings = changed(within(args.tflop, "axon", stage, SETTINGS), edge=edge)
        folder = args.out / f"{weights}-{args.seed}-{args.tflop:g}"
        fabric = make_fabric("auto", args.device)
        train(STAGES[stage](model, settings), self.pool, folder, fabric, seed=args.seed, tell=told)

    def model(self, row: Row) -> AxonModel:
        """The row's model: shared F(x) and prior, and its own stage trained."""
        diffusion = dataclasses.replace(self.shared.config.diffusion, **row.diffusion)
        model = AxonModel(dataclasses.replace(self.shared.config, diffusion=diffusion), ModelCard(stages=("endpoint",)))
        vars(model).update(film_to_volume=self.shared.film_to_volume, prior=self.shared.prior)
        self.learn(model, row.stage, row.weights, self.args.edge if row.edge else 0.0)
        model.card = ModelCard(stages=("endpoint", *row.stages))
        return model.to(self.args.device)

    def judge(self, label: str, model: AxonModel, stages: tuple[str, ...], begun: float) -> None:
        """Write the scores of the mean over --draws seeds and, where something is random, of the first draw alone."""
        args, rows = self.args, []
        facts = {"seed": args.seed, "budget_tflop": args.tflop}
        for name, draws in ((f"{label}, mean of {args.draws}", args.draws), (f"{label}, one draw", 1)):

            def predict(films: torch.Tensor, draws: int = draws) -> tuple:
                return predict_mean(model, films.to(args.device), range(draws), stages=stages, quality=QUALITY)

            rows += judge(name if stages else label, predict, self.subjects, facts)
            if not stages:
                break
        write_rows(args.out / f"{label}-{args.seed}-{args.tflop:g}.json", rows, begun)


def train_rows(args: argparse.Namespace) -> None:
    """Train and judge F(x) and the rows."""
    begun, bench = time.monotonic(), Bench(args)
    bench.judge("F(x)", bench.shared, (), begun)
    for name in args.rows:
        if not (args.out / f"{name}-{args.seed}-{args.tflop:g}.json").exists():
            begun = time.monotonic()
            bench.judge(name, bench.model(ROWS[name]), ROWS[name].stages, begun)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("train", train_rows), ("table", print_table)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--out", "-o", type=Path, required=True)
    command = commands.choices["train"]
    command.add_argument("--test", nargs="+", required=True, help="CTs to judge by")
    command.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    command.add_argument("--tflop", type=float, default=40.0)
    command.add_argument("--edge", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--draws", type=int, default=8)
    command.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

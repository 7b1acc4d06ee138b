"""How the bundled weights were made, as commands that make their like again, on one GPU in half an hour.

    alias recipe='python -m axon_core.training.recipe'
    axon prepare CTs -o cache --preset small --split 100,0,0
    axon data anatomy cache -o shapes.safetensors
    data='--cache cache --anatomy shapes.safetensors --run run --device cuda'
    recipe train endpoint $data --kept 8000 --phantoms 0.12 --steps 4000 --batch 32 --lr 1.2e-3 --ema 0.998
    recipe train coarse   $data --kept 4000 --phantoms 0.1  --steps 3200 --batch 32 --lr 1e-3   --ema 0.998
    recipe train prior    $data --kept 5000 --phantoms 0.05 --steps 3800 --batch 32 --lr 1e-3   --ema 0.998
    recipe train control  $data --kept 1500 --phantoms 0.1  --steps 600  --batch 32 --lr 8e-4   --ema 0.995
    recipe train super-resolution --pairs pairs128 --run run --steps 450 --lr 5e-4 --ema 0.99
    recipe ship --run run --out Resources/Models/axon-small --default endpoint super-resolution ...

`recipe pairs` makes the pairs for super-resolution: --size 128 --count 250 --seed 1000000 --phantoms 0.15. Every
command resumes where it was stopped. Each stage starts from the finished stages before it in `--run`. The model card
tells where the bundled weights' own way was another. ``axon train`` trains the same runs, with the preset's settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from axon_core.config import load_preset
from axon_core.data.cases import load_case
from axon_core.data.pairs import make_pair, save_pair
from axon_core.devices import resolve_device
from axon_core.errors import AxonError
from axon_core.model import ModelCard
from axon_core.training.plot import plot_curves
from axon_core.training.run import begin_run, export_run, train_stage
from axon_core.training.settings import StageSettings
from axon_core.training.sources import open_source
from axon_core.training.stages import STAGES
from axon_core.training.trainer import make_fabric


def make_pairs(args: argparse.Namespace) -> None:
    """Write `count` pairs; existing files are kept."""
    args.out.mkdir(parents=True, exist_ok=True)
    config = load_preset(args.preset)
    cases = [load_case(path) for path in args.ct]
    for seed in range(args.seed, args.seed + args.count):
        path = args.out / f"{seed:08d}.npz"
        if not path.exists():
            save_pair(make_pair(cases, seed, args.size or config.size, config.film_size, args.phantoms), path)


def train_one(args: argparse.Namespace) -> None:
    """Train one stage; see the module's text."""
    torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    source = open_source(
        args.data,
        load_preset(args.preset),
        STAGES[args.stage].enlarges,
        args.seed,
        args.kept,
        phantoms=args.phantoms,
        anatomy=args.anatomy,
        device=device,
    )
    settings = StageSettings(steps=args.steps, batch=args.batch, lr=args.lr, ema=args.ema)
    begin_run(args.run, args.preset, [source.facts], args.seed)
    fabric = make_fabric("auto", device)
    train_stage(args.stage, args.preset, args.run, source.dataset, settings, fabric, seed=args.seed)


def ship(args: argparse.Namespace) -> None:
    """Write the averaged weights of every trained stage as a model, with its card and the curves of training."""
    card = ModelCard(args.title, args.licence, args.data, (), tuple(args.default), args.notes)
    info = export_run(args.run, args.out, card, args.preset)
    plot_curves(args.run, args.out / "curves.png")
    print(f"{info.folder}: {info.size_bytes / 1e6:.1f} MB, sha256 {info.sha256}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pairs = commands.add_parser("pairs", help="make training pairs from CTs and phantoms")
    pairs.add_argument("--ct", nargs="*", default=[], help="CT files or DICOM folders")
    pairs.add_argument("--out", type=Path, required=True)
    pairs.add_argument("--count", type=int, required=True)
    pairs.add_argument("--size", type=int, default=0, help="edge of the volumes; the preset's by default")
    pairs.add_argument("--seed", type=int, default=0)
    pairs.add_argument("--phantoms", type=float, default=0.3, help="share of phantoms")
    pairs.add_argument("--preset", default="small")
    pairs.set_defaults(run_command=make_pairs)
    trainer = commands.add_parser("train", help="train one stage")
    trainer.add_argument("stage", choices=list(STAGES))
    trainer.add_argument("--cache", "--pairs", dest="data", type=Path, required=True, help="of axon prepare; or pairs")
    trainer.add_argument("--anatomy", type=Path, help="of axon data anatomy")
    trainer.add_argument("--kept", type=int, default=0, help="chests of a cache")
    trainer.add_argument("--phantoms", type=float, default=0.0, help="share of phantoms among them")
    trainer.add_argument("--device", default="auto")
    trainer.add_argument("--run", type=Path, required=True)
    trainer.add_argument("--steps", type=int, required=True)
    trainer.add_argument("--batch", type=int, default=4)
    trainer.add_argument("--lr", type=float, default=5e-4)
    trainer.add_argument("--ema", type=float, default=0.995)
    trainer.add_argument("--seed", type=int, default=0)
    trainer.add_argument("--threads", type=int, default=torch.get_num_threads())
    trainer.add_argument("--preset", default="small")
    trainer.set_defaults(run_command=train_one)
    shipping = commands.add_parser("ship", help="write the run as a model")
    shipping.add_argument("--run", type=Path, required=True)
    shipping.add_argument("--out", type=Path, required=True)
    shipping.add_argument(
        "--default", nargs="+", required=True, help="stages that beat the stage before on held-out CTs"
    )
    shipping.add_argument("--preset", default="small")
    for text in ("title", "licence", "data", "notes"):
        shipping.add_argument(f"--{text}", default="", help="of the model card")
    shipping.set_defaults(run_command=ship)
    args = parser.parse_args(argv)
    try:
        args.run_command(args)
    except AxonError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()

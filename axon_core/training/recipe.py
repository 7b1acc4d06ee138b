"""How the bundled weights were made, as commands that make them again.

    alias recipe='python -m axon_core.training.recipe'
    recipe pairs --ct CT... --out pairs --count 3000 --seed 2000000 --phantoms 0.2
    recipe pairs --ct CT... --out pairs128 --count 250 --size 128 --seed 1000000 --phantoms 0.15
    recipe train endpoint --pairs pairs --run run --steps 8000 --lr 6e-4 --ema 0.998
    recipe train coarse   --pairs pairs --run run --steps 600 --lr 8e-4 --ema 0.99
    recipe train prior    --pairs pairs --run run --steps 600 --lr 8e-4 --ema 0.99
    recipe train control  --pairs pairs --run run --steps 300 --lr 6e-4 --ema 0.99
    recipe train super-resolution --pairs pairs128 --run run --steps 450 --lr 5e-4 --ema 0.99
    recipe ship --run run --out Resources/Models/axon-small --default endpoint super-resolution ...

Every command resumes where it was stopped. Each stage starts from the finished stages before it in `--run`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from axon_core.config import load_preset
from axon_core.data.cases import load_case
from axon_core.data.pairs import PairDataset, make_pair, save_pair
from axon_core.errors import AxonError
from axon_core.model import AxonModel, ModelCard
from axon_core.training import stages
from axon_core.training.trainer import TrainOptions, read_state, train

STAGES = {
    "endpoint": stages.EndpointStage,
    "coarse": stages.BridgeStage,
    "prior": stages.PriorStage,
    "control": stages.ControlStage,
    "super-resolution": stages.SuperResolutionStage,
}
TRAINED = {  # training stage -> attribute of AxonModel
    "endpoint": "film_to_volume",
    "coarse": "coarse",
    "prior": "prior",
    "control": "control",
    "super-resolution": "sr",
}


def make_pairs(args: argparse.Namespace) -> None:
    """Write `count` pairs; existing files are kept."""
    args.out.mkdir(parents=True, exist_ok=True)
    config = load_preset(args.preset)
    cases = [load_case(path) for path in args.ct]
    for seed in range(args.seed, args.seed + args.count):
        path = args.out / f"{seed:08d}.npz"
        if not path.exists():
            save_pair(make_pair(cases, seed, args.size or config.size, config.film_size, args.phantoms), path)


def open_run(preset: str, run: Path) -> AxonModel:
    """A model of `preset` with the averaged weights of every stage that the run has begun, and the bridge's sigma."""
    config = load_preset(preset)
    sigma_file = run / "sigma.txt"
    if sigma_file.is_file():
        sigma = float(sigma_file.read_text())
        config = dataclasses.replace(config, bridge=dataclasses.replace(config.bridge, sigma=sigma, s=2 * sigma**2))
    done = []
    model = AxonModel(config)
    for stage, attribute in TRAINED.items():
        state_file = run / stage / "state.pt"
        if state_file.is_file():
            network = getattr(model, attribute)
            network.load_state_dict(read_state(state_file, network)["ema"]["average"])
            network.eval().requires_grad_(False)
            done.append({"prior": "", "control": "fine"}.get(stage, stage))
    model.card = ModelCard(stages=tuple(stage for stage in done if stage))
    return model


@torch.inference_mode()
def residual_sd(model: AxonModel, data: PairDataset, count: int = 64) -> float:
    """Standard deviation of Y - F(x) over known voxels, one and two views in turn."""
    total, weight_sum = 0.0, 0.0
    for index in range(count):
        films, target, weight = data[index]
        error = model.endpoint(films[None, : 1 + index % 2])[0] - target
        known = (weight == 1).float()
        total += float((error**2 * known).sum())
        weight_sum += float(known.sum())
    return (total / weight_sum) ** 0.5


def train_stage(args: argparse.Namespace) -> None:
    """Train one stage; see the module's text."""
    torch.set_num_threads(args.threads)
    model = open_run(args.preset, args.run)
    data = PairDataset(args.pairs, model.config.hu_window, seed=args.seed)
    if args.stage == "coarse" and model.config.bridge.sigma and not (args.run / "sigma.txt").is_file():
        (args.run / "sigma.txt").write_text(f"{residual_sd(model, data):.4f}\n")
        model = open_run(args.preset, args.run)
    options = TrainOptions(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed, ema=args.ema)
    train(STAGES[args.stage](model), data, options, args.run / args.stage)


def ship(args: argparse.Namespace) -> None:
    """Write the averaged weights of every trained stage as a model, with its card and the curves of training."""
    model = open_run(args.preset, args.run)
    card = dataclasses.replace(
        model.card,
        title=args.title,
        licence=args.licence,
        data=args.data,
        notes=args.notes,
        default_stages=tuple(args.default),
    )
    info = model.save_pretrained(args.out, card)
    plot_curves(args.run, args.out / "curves.png")
    print(f"{info.folder}: {info.size_bytes / 1e6:.1f} MB, sha256 {info.sha256}")


def plot_curves(run: Path, picture: Path) -> None:
    """Loss against step of every stage, from the run's logs."""
    from matplotlib.figure import Figure

    logs = [(stage, run / stage / "log.jsonl") for stage in STAGES if (run / stage / "log.jsonl").is_file()]
    figure = Figure(figsize=(3.2 * len(logs), 2.6), layout="constrained")
    for axes, (stage, path) in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], lw=0.8)
        axes.set(title=stage, xlabel="step", yscale="log")
    figure.savefig(picture, dpi=100)


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
    trainer.add_argument("--pairs", type=Path, required=True)
    trainer.add_argument("--run", type=Path, required=True)
    trainer.add_argument("--steps", type=int, required=True)
    trainer.add_argument("--batch", type=int, default=4)
    trainer.add_argument("--lr", type=float, default=5e-4)
    trainer.add_argument("--ema", type=float, default=0.995)
    trainer.add_argument("--seed", type=int, default=0)
    trainer.add_argument("--threads", type=int, default=torch.get_num_threads())
    trainer.add_argument("--preset", default="small")
    trainer.set_defaults(run_command=train_stage)
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

"""`axon train`: the stages of a model, from a cache or pairs to a model folder. Heavy libraries are imported inside."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from axon_core.cli_progress import JsonLines, Screen, Silent, Stop, duration, errors_as_lines, line
from axon_core.cli_shared import Debug, Force, Json, console, examples, told
from axon_core.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from axon_core.training.chain import RunData
    from axon_core.training.settings import StageSettings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train a model from a cache of `axon prepare` or a folder of pairs. Stop any time; the same command goes on.",
    epilog=examples(
        "axon train all cache -o run --preset small --dry-run",
        "axon train all cache -o run --preset small",
        "axon train begin axon-small -o run    # then train it further, or distil it",
        "axon train watch run -o curves.png",
        "axon train export run -o my-model && axon reconstruct chest.dcm -o out --model my-model",
    ),
)

Data = Annotated[Path, typer.Argument(help="Cache of `axon prepare`, or folder of pairs (.npz).")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: states, logs, pictures.")]
Lines = Annotated[bool, typer.Option("--json", help="Print events as JSON lines (also the error) and nothing else.")]

# what the commands that train have in common
HeldOut = Annotated[Path | None, typer.Option(help="Pairs for validation; a cache has its own.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each stage.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples of a step, over all processes.")]
Micro = Annotated[int | None, typer.Option(min=0, help="Samples that a process computes at a time.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate.")]
Average = Annotated[float | None, typer.Option(help="Decay of the weight average.")]
Precision = Annotated[str | None, typer.Option(help="32, bf16, 16 or auto.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU, for each process.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Board = Annotated[bool, typer.Option("--tensorboard", help="Write curves and pictures for it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell size, memory and time.")]
Kept = Annotated[
    int, typer.Option(min=0, help="Of a cache: draw so many chests once and keep them; 0 draws one per sample.")
]
Preset = Annotated[str, typer.Option("--preset", "-p", help="tiny, small, base, paper, or a TOML file.")]

WHAT = {
    "coarse": "Train F(x), then the bridge of CoarseDiff from F(x) to the CT.",
    "prior": "Train the unconditional diffusion over CT volumes.",
    "fine": "Train FineDiff: a ControlNet that steers the frozen prior by the coarse volume.",
    "sr": "Train super-resolution: volumes of twice the preset's voxels along each edge.",
    "all": "Train every stage in order: coarse, prior, fine, sr.",
    "fine-bridge": "Train a second bridge in FineDiff's place, for a preset that says so (an ablation of the paper).",
}


def _command(name: str, text: str) -> None:
    small, large = ("small", "base") if name != "fine-bridge" else ("bridge.toml", "bridge.toml")

    @app.command(
        name,
        help=text,
        epilog=examples(
            f"axon train {name} cache -o run --preset {small} --dry-run",
            f"axon train {name} cache -o run --preset {small} --kept 3000",
            f"axon train {name} pairs -o run --preset {small} --held-out pairs-val --tensorboard",
            f"torchrun --nproc-per-node 2 -m axon_core train {name} cache -o run --preset {large}",
        ),
    )
    @told
    def command(
        data: Data,
        output: Run,
        preset: Preset = "small",
        sr_data: Annotated[Path | None, typer.Option(help="Pairs for super-resolution, twice as fine.")] = None,
        held_out: HeldOut = None,
        kept: Kept = 0,
        phantoms: Annotated[
            float, typer.Option(min=0, max=1, help="Of a cache: share of drawn phantoms among the chests.")
        ] = 0.0,
        anatomy: Annotated[
            Path | None, typer.Option(help="Of a cache: other shapes of its CTs, made by `axon data anatomy`.")
        ] = None,
        findings: Annotated[
            bool, typer.Option("--findings", help="Of a cache: paint nodules, effusions and the like into its CTs.")
        ] = False,
        steps: Steps = None,
        batch: Batch = None,
        micro: Micro = None,
        lr: Rate = None,
        ema: Average = None,
        precision: Precision = None,
        recompute: Annotated[
            bool | None, typer.Option("--recompute/--keep", help="Trade time for memory: compute activations twice.")
        ] = None,
        min_snr: Annotated[float | None, typer.Option(help="Gamma of the min-SNR weights; 0: none.")] = None,
        synthetic: Annotated[float | None, typer.Option(help="Share of coarse volumes in super-resolution.")] = None,
        seed: Seed = 0,
        threads: Threads = None,
        device: Device = "auto",
        tensorboard: Board = False,
        dry_run: DryRun = False,
        json_: Lines = False,
        debug: Debug = False,
    ) -> None:
        changes = {
            "steps": steps,
            "batch": batch,
            "micro": micro,
            "lr": lr,
            "ema": ema,
            "precision": precision,
            "recompute": recompute,
            "min_snr": min_snr,
            "synthetic": synthetic,
        }
        with errors_as_lines(json_):
            import torch

            from axon_core.config import load_preset
            from axon_core.devices import resolve_device
            from axon_core.training.chain import RunData
            from axon_core.training.run import COMMANDS
            from axon_core.training.settings import changed, load_settings

            if threads:
                torch.set_num_threads(threads)
            stages = {stage: changed(load_settings(preset, stage), **changes) for stage in COMMANDS[name]}
            on, config = resolve_device(device), load_preset(preset)
            source = RunData(data, config, on, seed, kept, phantoms, anatomy, findings, held_out, sr_data)
            if dry_run:
                tell_estimates(stages, source, preset, json_)
            else:
                train_stages(stages, source, output, preset, tensorboard, json_)


for _name, _text in WHAT.items():
    _command(_name, _text)


# --- training --------------------------------------------------------------------------------------------------------


def train_stages(
    stages: dict[str, StageSettings],
    data: RunData,
    run: Path,
    preset: str,
    tensorboard: bool,
    as_json: bool,
    baseline: str = "",
) -> None:
    """Train the stages of AXON or of a baseline one after the other, for people to watch or for programs to read."""
    from functools import partial

    from axon_core.baselines.run import begin_baseline, train_baseline_stage
    from axon_core.training.chain import begin_chain
    from axon_core.training.events import TensorBoard
    from axon_core.training.run import begin_run, train_stage

    begin = partial(begin_baseline, name=baseline) if baseline else begin_run
    train = partial(train_baseline_stage, baseline) if baseline else train_stage

    links = begin_chain(stages, data, run, preset, begin)
    first = links[0].fabric.is_global_zero
    board = TensorBoard(run) if tensorboard and first else None
    with Stop() as stop, (JsonLines(stop) if as_json else Screen(stages)) if first else Silent() as screen:

        def tell(event: dict[str, Any]) -> None:
            screen(event)
            if board:
                board(event)

        for link in links:
            link.train(run, preset, data.seed, train, tell=tell, stop=stop)
    if board:
        board.close()
    if first and as_json:
        line({"type": "result", "run": str(run), "stages": list(stages)})
    elif first:
        print(f"{run}: {', '.join(stages)} trained. Next: axon train export {run} -o FOLDER")


def tell_estimates(
    stages: dict[str, StageSettings], data: RunData, preset: str, as_json: bool, baseline: str = ""
) -> None:
    """What training the stages of AXON or of a baseline will cost on this machine."""
    import os
    from functools import partial

    from axon_core.baselines.run import estimate_baseline
    from axon_core.training.chain import estimates
    from axon_core.training.estimate import estimate
    from axon_core.training.trainer import make_fabric

    place = make_fabric(next(iter(stages.values())).precision, data.device).device
    count = partial(estimate_baseline, baseline, preset) if baseline else estimate
    rate, found = estimates(stages, data, place, int(os.environ.get("WORLD_SIZE", 1)), count)
    if as_json:
        line({"type": "estimate", "device": str(place), "rate": rate, "stages": [vars(each) for each in found]})
        return
    from rich.table import Table

    table = Table("stage", "parameters", "steps", "FLOP/step", "memory", "time", box=None, header_style="bold")
    for each in found:
        memory = f"{each.memory / 2**30:.1f} GiB" if each.memory > 2**30 else f"{each.memory / 2**20:.0f} MiB"
        time_ = duration(each.seconds)
        table.add_row(each.stage, f"{each.parameters:,}", str(each.steps), f"{each.flop:.3g}", memory, time_)
    console().print(table)
    total = duration(sum(each.seconds for each in found))
    print(
        f"Preset {preset!r} on {place} ({rate / 1e9:.3g} GFLOP/s on a block like its own): about {total} of computing, "
        "data and validation not counted. Memory is that of the networks, for each process."
    )


# --- beginning with a model, looking and handing on ------------------------------------------------------------------


@app.command(
    epilog=examples(
        "axon train begin axon-small -o run && axon train coarse cache -o run --steps 500 --lr 2e-4",
        "axon train begin axon-small -o fast && axon train distill cache -o fast --of coarse --steps-student 2",
    )
)
@told
def begin(
    model: Annotated[str, typer.Argument(help="Name (see `axon models`) or folder of a model.")],
    output: Run,
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="That of the model, if it has a file.")] = None,
    seed: Seed = 0,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Begin a run with a model's weights: its stages count as trained, and those that you train go on from there."""
    from axon_core.training.run import begin_run_from

    info = begin_run_from(model, output, preset, seed)
    facts = {"run": str(output), "model": info.name, "sha256": info.sha256, "stages": list(info.card.stages)}
    print(json.dumps(facts) if json_ else f"{output}: starts with {info.name} ({', '.join(info.card.stages)}).")


@app.command(epilog=examples("axon train watch run -o curves.png", "axon train watch run -o curves.png --every 10"))
@told
def watch(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file; drawn again each time.")] = Path(
        "curves.png"
    ),
    every: Annotated[float, typer.Option(min=0, help="Seconds until it is drawn again, until Ctrl-C; 0: once.")] = 0,
    debug: Debug = False,
) -> None:
    """Draw the curves of a run, also while it trains."""
    from axon_core.training.plot import plot_curves

    if output.suffix.lower() != ".png":
        raise OutputError("output.format", f"{output.name} is no .png file.", "Let its name end in .png.")
    plot_curves(run, output)
    print(output)
    while every:
        time.sleep(every)
        plot_curves(run, output)


@app.command(
    epilog=examples(
        "axon train export run -o my-model",
        "axon train export run -o my-model --title 'Our chests' --licence CC-BY-4.0 --default endpoint --default fine",
    )
)
@told
def export(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")],
    title: Annotated[str, typer.Option(help="One line for the model's card.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
    data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    notes: Annotated[str, typer.Option(help="Its limits.")] = "",
    default: Annotated[
        list[str], typer.Option(help="Stages to run by default: those better than the stage before on held-out cases.")
    ] = ["endpoint", "super-resolution"],  # noqa: B006  (Typer copies it)
    distilled: Annotated[
        bool, typer.Option("--distilled", help="Put the run's distilled students in their teachers' places.")
    ] = False,
    force: Force = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run's averaged weights as a model folder, which `axon reconstruct --model` runs, with card and curves."""
    from axon_core.baselines.run import export_baseline, run_baseline
    from axon_core.model import PARTS, WEIGHTS, ModelCard
    from axon_core.training.events import LOG
    from axon_core.training.plot import plot_curves
    from axon_core.training.run import export_run

    if unknown := set(default) - set(PARTS):
        raise ConfigError("training.stage", f"There is no stage {min(unknown)!r}.", f"Use {', '.join(PARTS)}.")
    if (output / WEIGHTS).exists() and not force:
        raise OutputError(
            "output.exists", f"{output.name} holds a model already.", "Choose another folder, or --force."
        )
    card = ModelCard(title or run.name, licence, data, (), tuple(default), notes)
    if run_baseline(run):
        info = export_baseline(run, output, card)
    else:
        info = export_run(run, output, card, distilled=distilled)
    if any(run.glob(f"*/{LOG}")):  # fitted baselines have none
        plot_curves(run, output / "curves.png")
    facts = {"folder": str(info.folder), "stages": list(info.card.stages), "size_bytes": info.size_bytes}
    told_facts = f"{info.folder}: {', '.join(info.card.stages)}; {info.size_bytes / 1e6:.1f} MB"
    print(json.dumps({**facts, "sha256": info.sha256}) if json_ else told_facts)

"""`axon train baseline`: other methods on the same data and loop. Heavy libraries are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from axon_core.cli_progress import errors_as_lines, line
from axon_core.cli_shared import Debug, examples, told
from axon_core.cli_train import (
    Average,
    Batch,
    Board,
    Data,
    Device,
    DryRun,
    HeldOut,
    Kept,
    Lines,
    Micro,
    Precision,
    Preset,
    Rate,
    Run,
    Seed,
    Steps,
    Threads,
    tell_estimates,
    train_stages,
)

if TYPE_CHECKING:
    from axon_core.training.chain import RunData


def register(app: typer.Typer) -> None:
    """Add this command to `axon train`."""
    app.command(
        epilog=examples(
            "axon train baseline x2ct-gan cache -o run-x2ct --preset small --dry-run",
            "axon train baseline x2ct-gan cache -o run-x2ct --preset small --kept 3000",
            "axon train export run-x2ct -o x2ct && axon reconstruct chest.dcm -o out --model x2ct",
        )
    )(baseline)


@told
def baseline(
    name: Annotated[
        str,
        typer.Argument(help="constant, mean, nearest, regression, repeat-concat, x2ct-gan or xray2ctpa."),
    ],
    data: Data,
    output: Run,
    preset: Preset = "small",
    held_out: HeldOut = None,
    kept: Kept = 0,
    steps: Steps = None,
    batch: Batch = None,
    micro: Micro = None,
    lr: Rate = None,
    ema: Average = None,
    precision: Precision = None,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "auto",
    tensorboard: Board = False,
    dry_run: DryRun = False,
    json_: Lines = False,
    debug: Debug = False,
) -> None:
    """Train another method on the same data: trivial ones, Repeat & Concatenate, X2CT-GAN, X-ray2CTPA."""
    changes = {
        "steps": steps,
        "batch": batch,
        "micro": micro,
        "lr": lr,
        "ema": ema,
        "precision": precision,
    }
    with errors_as_lines(json_):
        import torch

        from axon_core.baselines.run import stage_settings
        from axon_core.config import load_preset
        from axon_core.devices import resolve_device
        from axon_core.training.chain import RunData
        from axon_core.training.settings import changed

        if threads:
            torch.set_num_threads(threads)
        stages = {stage: changed(own, **changes) for stage, own in stage_settings(name, preset).items()}
        on = resolve_device(device) if stages else "cpu"
        source = RunData(data, load_preset(preset), on, seed, kept, held_out=held_out)
        if not stages:
            _fit(name, source, output, preset, dry_run, json_)
        elif dry_run:
            tell_estimates(stages, source, preset, json_, baseline=name)
        else:
            train_stages(stages, source, output, preset, tensorboard, json_, baseline=name)


def _fit(name: str, data: RunData, run: Path, preset: str, dry_run: bool, as_json: bool) -> None:
    """A baseline without steps: one pass over some items."""
    from axon_core.baselines.registry import load_sizes
    from axon_core.baselines.run import FIT, begin_baseline, fit_baseline

    source = data.open([FIT])[FIT]
    facts: dict[str, Any] = {"parameters": 0, "flop": 0, "items": load_sizes(name, preset).items}
    if dry_run:
        told_facts = f"{name}: no parameters, no training FLOP; one pass over {facts['items']} items"
        line({"type": "estimate", **facts}) if as_json else print(told_facts)
        return
    begin_baseline(run, name, preset, [source.facts], data.seed)
    fit_baseline(name, preset, run, source.dataset)
    next_ = f"{run}: {name} fitted. Next: axon train export {run} -o FOLDER"
    line({"type": "result", "run": str(run), "stages": [FIT]}) if as_json else print(next_)

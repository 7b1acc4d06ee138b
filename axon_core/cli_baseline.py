"""`axon train baseline`: other methods on the same data and loop. Heavy libraries are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from axon_core.cli_shared import Debug, examples, told
from axon_core.cli_train import Data, Lines, Run, Sources, line, tell_estimates, train_stages
from axon_core.errors import AxonError


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
    preset: Annotated[str, typer.Option("--preset", "-p", help="tiny, small, base, paper, or a TOML file.")] = "small",
    held_out: Annotated[Path | None, typer.Option(help="Pairs for validation; a cache has its own.")] = None,
    kept: Annotated[
        int, typer.Option(min=0, help="Of a cache: draw so many chests once and keep them; 0 draws one per sample.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each stage.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples of a step, over all processes.")] = None,
    micro: Annotated[int | None, typer.Option(min=0, help="Samples that a process computes at a time.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the weight average.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16, 16 or auto.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU, for each process.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves and pictures for it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell size, memory and time.")] = False,
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
    try:
        import torch

        from axon_core.baselines.run import stage_settings
        from axon_core.training.settings import changed

        if threads:
            torch.set_num_threads(threads)
        stages = {stage: changed(own, **changes) for stage, own in stage_settings(name, preset).items()}
        sources = Sources(data, None, held_out, preset, kept, seed)
        if not stages:
            _fit(name, sources, output, preset, seed, dry_run, json_)
        elif dry_run:
            tell_estimates(stages, sources, preset, device, json_, baseline=name)
        else:
            train_stages(stages, sources, output, preset, seed, device, tensorboard, json_, baseline=name)
    except AxonError as error:
        if not json_:
            raise
        line({"type": "error", **error.to_dict()})
        raise typer.Exit(error.exit_code) from error


def _fit(name: str, sources: Sources, run: Path, preset: str, seed: int, dry_run: bool, as_json: bool) -> None:
    """A baseline without steps: one pass over some items."""
    from axon_core.baselines.registry import load_sizes
    from axon_core.baselines.run import FIT, begin_baseline, fit_baseline

    source = sources.of(FIT)
    facts: dict[str, Any] = {"parameters": 0, "flop": 0, "items": load_sizes(name, preset).items}
    if dry_run:
        told_facts = f"{name}: no parameters, no training FLOP; one pass over {facts['items']} items"
        line({"type": "estimate", **facts}) if as_json else print(told_facts)
        return
    begin_baseline(run, name, preset, [source.facts], seed)
    fit_baseline(name, preset, run, source.dataset)
    next_ = f"{run}: {name} fitted. Next: axon train export {run} -o FOLDER"
    line({"type": "result", "run": str(run), "stages": [FIT]}) if as_json else print(next_)

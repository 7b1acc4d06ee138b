"""`axon train distill`: few-step students of a run's networks. Heavy libraries are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from axon_core.cli_shared import Debug, examples, told
from axon_core.cli_train import Data, Lines, Run, Sources, line, tell_estimates, train_stages
from axon_core.errors import AxonError, ConfigError

STUDENT_OF = {"coarse": "distill-coarse", "fine": "distill-fine"}


def register(app: typer.Typer) -> None:
    """Add this command to `axon train`."""
    app.command(
        epilog=examples(
            "axon train distill cache -o run --of coarse --steps-student 1",
            "axon train distill cache -o run --of fine --steps-student 2 --kept 3000",
            "axon train export run -o my-fast-model --distilled",
        )
    )(distill)


@told
def distill(
    data: Data,
    output: Run,
    of: Annotated[str, typer.Option(help="The teacher: coarse (the bridge) or fine (FineDiff).")] = "coarse",
    steps_student: Annotated[
        int | None, typer.Option(min=1, max=16, help="Evaluations of the student, for all its way.")
    ] = None,
    steps_teacher: Annotated[
        int | None, typer.Option(min=1, help="Of the teacher's walk that it learns, at least the student's.")
    ] = None,
    held_out: Annotated[Path | None, typer.Option(help="Pairs for validation; a cache has its own.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples of a step, over all processes.")] = None,
    micro: Annotated[int | None, typer.Option(min=0, help="Samples that a process computes at a time.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16, 16 or auto.")] = None,
    kept: Annotated[int, typer.Option(min=0, help="Of a cache: draw so many chests once and keep them.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU, for each process.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves and pictures for it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell size, memory and time.")] = False,
    json_: Lines = False,
    debug: Debug = False,
) -> None:
    """Distil a student of a few steps from a run's trained bridge or FineDiff, into the same run."""
    try:
        import torch

        from axon_core.training.run import run_preset
        from axon_core.training.settings import changed, load_settings

        if of not in STUDENT_OF:
            raise ConfigError("distill.of", f"There is no teacher {of!r}.", f"Use {' or '.join(STUDENT_OF)}.")
        if threads:
            torch.set_num_threads(threads)
        preset = run_preset(output)
        changes = {"steps": steps, "batch": batch, "micro": micro, "lr": lr, "precision": precision}
        ways = {"student_steps": steps_student, "teacher_steps": steps_teacher}
        name = STUDENT_OF[of]
        stages = {name: changed(load_settings(preset, name), **changes, **ways)}
        sources = Sources(data, None, held_out, preset, kept, seed)
        if dry_run:
            tell_estimates(stages, sources, preset, device, json_)
        else:
            train_stages(stages, sources, output, preset, seed, device, tensorboard, json_)
    except AxonError as error:
        if not json_:
            raise
        line({"type": "error", **error.to_dict()})
        raise typer.Exit(error.exit_code) from error

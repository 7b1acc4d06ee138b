"""`axon train distill`: few-step students of a run's networks. Heavy libraries are imported inside."""

from __future__ import annotations

from typing import Annotated

import typer

from axon_core.cli_progress import errors_as_lines
from axon_core.cli_shared import Debug, examples, told
from axon_core.cli_train import (
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
    Rate,
    Run,
    Seed,
    Steps,
    Threads,
    tell_estimates,
    train_stages,
)
from axon_core.errors import ConfigError

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
    held_out: HeldOut = None,
    steps: Steps = None,
    batch: Batch = None,
    micro: Micro = None,
    lr: Rate = None,
    precision: Precision = None,
    kept: Kept = 0,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "auto",
    tensorboard: Board = False,
    dry_run: DryRun = False,
    json_: Lines = False,
    debug: Debug = False,
) -> None:
    """Distil a student of a few steps from a run's trained bridge or FineDiff, into the same run."""
    with errors_as_lines(json_):
        import torch

        from axon_core.config import load_preset
        from axon_core.devices import resolve_device
        from axon_core.training.chain import RunData
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
        source = RunData(data, load_preset(preset), resolve_device(device), seed, kept, held_out=held_out)
        if dry_run:
            tell_estimates(stages, source, preset, json_)
        else:
            train_stages(stages, source, output, preset, tensorboard, json_)

"""The door for people: `axon`. Its commands import everything heavy inside, so that ``axon --help`` is instant."""

from __future__ import annotations

import signal
from typing import Annotated, NoReturn

import typer

from axon_core import (
    SYNTHETIC_NOTICE,
    __version__,
    cli_baseline,
    cli_data,
    cli_distill,
    cli_drr,
    cli_evaluate,
    cli_info,
    cli_reconstruct,
    cli_register,
    cli_reproduce,
    cli_selfcheck,
    cli_train,
)
from axon_core.cli_shared import examples

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"AXON: chest CT volumes from one or two plain X-rays. [bold red]{SYNTHETIC_NOTICE}.[/]",
    epilog=examples("axon demo", "axon reconstruct chest.dcm -o result", "axon reconstruct --help"),
)


def _version(asked: bool) -> None:
    if asked:
        print(f"axon {__version__}")
        raise typer.Exit


@app.callback()
def axon(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass  # the function carries the option; the commands do the work


# the help shows them in this order, groups last
cli_reconstruct.register(app)
cli_info.register(app)
cli_drr.register(app)
cli_register.register(app)
cli_selfcheck.register(app)
cli_data.register(app)
cli_baseline.register(cli_train.app)
cli_distill.register(cli_train.app)
app.add_typer(cli_train.app, name="train")
cli_evaluate.register(app)
cli_reproduce.register(app)


def main() -> None:
    """Entry point of the `axon` command."""
    signal.signal(signal.SIGTERM, _interrupt)  # a polite kill cleans up like Ctrl-C
    app(prog_name="axon")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt

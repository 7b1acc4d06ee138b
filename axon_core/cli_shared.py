"""What all commands of `axon` share: options, examples with exit codes, errors told in one line, notes, the console."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from axon_core.errors import AxonError, Cancelled

if TYPE_CHECKING:
    from rich.console import Console

_EXIT_CODES = (
    "Exit status: 0 well, 1 internal error or failed selfcheck, 2 wrong option, 3 unusable film, 4 unusable CT, "
    "5 unusable model, 6 result cannot be written, 7 device missing or out of memory, 130 cancelled."
)


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{line}[/]" for line in lines), _EXIT_CODES])


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object (also for errors) and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an earlier result. Other files are never touched.")]


def told(command: Callable[..., None]) -> Callable[..., None]:
    """Turn whatever escapes from a command into one line with advice, and the exit status."""
    command.__annotations__ = inspect.get_annotations(command, eval_str=True)  # once: Typer alone does it four times

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            _fail(Cancelled(), options)
        except AxonError as error:
            _fail(error, options)
        except Exception as error:
            name = type(error).__name__
            _fail(AxonError("internal", f"Internal error: {name}.", "Run again with --debug to see where."), options)

    return wrapped


def _fail(error: AxonError, options: dict[str, Any]) -> NoReturn:
    if options.get("debug"):
        import traceback

        traceback.print_exc()
    if options.get("json_"):
        print(json.dumps({"error": error.to_dict()}))
    else:
        from rich.markup import escape

        console(stderr=True).print(f"[bold red]{escape(error.title)}[/] {escape(error.advice)}", soft_wrap=True)
    raise typer.Exit(error.exit_code)


def console(stderr: bool = False) -> Console:
    """Rich's console, which colours nothing by itself."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def tell_notes(notes: Iterable[str]) -> None:
    """Tell people what they had better know of a result."""
    from rich.markup import escape

    for text in notes:
        console().print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)

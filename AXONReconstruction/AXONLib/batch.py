"""What the scripts without a window have in common: options, lines for people, being asked to stop, the end.

No Qt and no MRML, except that a Slicer around a script is asked to leave.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

POLL_SECONDS = 0.05  # between two looks at a worker


class Interrupted:
    """True once the user or the system asked to stop."""

    def __init__(self) -> None:
        self._asked = False
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._ask)

    def __bool__(self) -> bool:
        return self._asked

    def _ask(self, *_: object) -> None:
        self._asked = True


class Parser(argparse.ArgumentParser):
    """Options of a script; its help keeps the lines of the examples."""

    def __init__(self, program: str, description: str | None, examples: str) -> None:
        super().__init__(
            program, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """Slicer leaves the "--" before a script's own arguments."""
        return super().parse_args(arguments[1:] if arguments[:1] == ["--"] else arguments)


def tell(text: str) -> None:
    """A line for people, at once also through a pipe."""
    print(text, flush=True)


def run(main: Callable[[list[str]], int]) -> None:
    """Run a script's `main` on its arguments and end this process, or the Slicer around it, with the exit status."""
    status = main(sys.argv[1:])
    if getattr(sys.modules.get("slicer"), "app", None) is None:
        sys.exit(status)
    import slicer

    slicer.util.exit(status)

"""The errors a user sees: what went wrong, where, and what to do about it.

Every failure that a person can cause or cure is an `AxonError` with three texts: a stable `code` for programs, a
one-line `title`, and `advice` that says what to do next. Anything else that escapes from the library is a bug.
"""

from __future__ import annotations


class AxonError(Exception):
    """An expected failure, told in one line.

    Args:
        code: stable identifier for programs, for example ``film.all-black``.
        title: one line: what is wrong, and with which file or value. Never holds a patient's name or id.
        advice: what the user can do about it.
    """

    exit_code = 1  # process exit status of the command line

    def __init__(self, code: str, title: str, advice: str = "") -> None:
        super().__init__(title)
        self.code = code
        self.title = title
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.title} {self.advice}".strip()

    def to_dict(self) -> dict[str, str]:
        """The three texts, for JSON."""
        return {"code": self.code, "title": self.title, "advice": self.advice}


class FilmError(AxonError):
    """A radiograph cannot be read or is not a usable chest film."""

    exit_code = 3


class VolumeError(AxonError):
    """A CT volume cannot be read, or its geometry is unusable."""

    exit_code = 4


class ModelError(AxonError):
    """Weights are missing, damaged, or do not fit the request."""

    exit_code = 5


class OutputError(AxonError):
    """A result cannot be written."""

    exit_code = 6


class ConfigError(AxonError):
    """A preset, option or job description is wrong."""

    exit_code = 2


class DeviceError(AxonError):
    """The compute device is missing or out of memory."""

    exit_code = 7


class Cancelled(AxonError):
    """The user asked to stop."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("cancelled", "Cancelled.", "Nothing was written.")

"""Writing without ruins: a result appears whole or not at all.

Everything is written under a temporary name beside its target and then renamed, so a crash, a full disk or a killed
process leaves the old file or none. A leftover temporary file starts with ``.partial-``.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axon_core.errors import AxonError, OutputError


@contextmanager
def atomic_file(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to `path` when the block ends well.

    The temporary name keeps the target's ending, because writers choose their format by it. Missing parent folders are
    made.

    Raises:
        OutputError: the target exists and `overwrite` is False, is a folder, or cannot be written.
    """
    target = Path(path)
    temporary = _temporary(target)
    with _told_in_one_line(target):
        if target.is_dir():
            raise OutputError("output.is-folder", f"{target.name} is a folder.", "Give the name of a file.")
        _refuse_existing(target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], overwrite: bool = False, ending: str = ".dcm") -> Iterator[Path]:
    """Give an empty temporary folder to fill; rename it to `path` when the block ends well.

    With `overwrite`, an existing folder is replaced only if it holds nothing but files with this `ending`: a mistyped
    path must not cost anybody their documents.

    Raises:
        OutputError: the target exists and may not be replaced, or cannot be written.
    """
    target = Path(path)
    temporary, old = _temporary(target), _temporary(target, "old")
    with _told_in_one_line(target):
        if target.is_dir() and not any(target.iterdir()):
            overwrite = True
        _refuse_existing(target, overwrite)
        if target.exists() and not _holds_only(target, ending):
            raise OutputError(
                "output.foreign-folder",
                f"{target.name} holds other things than *{ending} files and is left alone.",
                "Choose a new or empty folder.",
            )
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and not target.exists():
                os.replace(old, target)
            shutil.rmtree(old, ignore_errors=True)


def _temporary(target: Path, kind: str = "new") -> Path:
    """A name that no other process or thread uses: several may be writing the same target."""
    return target.parent / f".partial-{kind}-{os.getpid()}-{threading.get_ident()}-{target.name[-120:]}"


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise OutputError(
            "output.exists", f"{target.name} exists already.", "Choose another name or allow overwriting."
        )


def _holds_only(folder: Path, ending: str) -> bool:
    return folder.is_dir() and all(f.is_file() and f.name.lower().endswith(ending) for f in folder.iterdir())


def _flush(file: Path) -> None:
    """Ask the disk to keep the content before the name appears."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _told_in_one_line(target: Path) -> Iterator[None]:
    try:
        yield
    except AxonError:
        raise
    except OSError as error:
        raise OutputError(
            "output.cannot-write",
            f"{target.name or target} cannot be written: {error.strerror or 'the disk refused'}.",
            "Check the folder's permissions and the free space on the disk.",
        ) from error

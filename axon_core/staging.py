"""Work in progress lies out of sight, and appears when it is whole.

A job writes into a hidden folder beside its output. What it made is moved into place at the end, so that a failed,
cancelled or killed job leaves what was there before (of an earlier result that is to be overwritten, only the previews
go at once). A killed one may leave its hidden folder, whose name starts with ``.partial-``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from axon_core import SYNTHETIC_NOTICE
from axon_core.errors import Cancelled, OutputError

if TYPE_CHECKING:
    from typing import Self

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class Staging:
    """A hidden folder beside `output`, gone when the block ends; derived classes move its content into place first.

    To cancel from another thread: `claim`, and if that is granted, `remove` and end the process.
    """

    def __init__(self, output: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.output = Path(os.path.abspath(output))
        self.overwrite = overwrite
        self.folder = self.output.parent / f".partial-new-{os.getpid()}-{self.output.name[-120:]}"
        self.state = "open"  # then "moving" or "cancelled"
        self.lock = threading.RLock()  # a signal may interrupt a signal

    def check(self) -> None:
        """OutputError if what is at `output` forbids to write there."""

    def move(self) -> None:
        """Move what was made into place."""

    def __enter__(self) -> Self:
        self.check()
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise self._refused(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.remove()
            if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
                raise self._refused(error) from error
            return
        self.enter_state("moving")
        try:
            self.move()
        except OSError as failure:
            raise self._refused(failure) from failure
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def claim(self) -> bool:
        """Stop the result from being moved into place; False when that has already begun."""
        with self.lock:
            if self.state == "open":
                self.state = "cancelled"
            return self.state == "cancelled"

    def remove(self) -> None:
        """Remove everything this job has written."""
        _remove(self.folder)

    def enter_state(self, state: str) -> None:
        """Cancelled if the job was cancelled before."""
        with self.lock:
            if self.state == "cancelled":
                raise Cancelled
            self.state = state

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(
            "output.cannot-write",
            f"{self.output.name} cannot be written: {error.strerror or 'the disk refused'}.",
            "Check the folder's permissions and the free space on the disk.",
        )


class StagedFile(Staging):
    """One file of the output's own name."""

    @property
    def file(self) -> Path:
        """Where to write it."""
        return self.folder / self.output.name

    def check(self) -> None:
        if self.output.is_dir():
            raise OutputError("output.is-folder", f"{self.output.name} is a folder.", "Give the name of a file.")
        if self.output.exists() and not self.overwrite:
            raise OutputError(
                "output.exists", f"{self.output.name} exists already.", "Choose another name or allow overwriting."
            )

    def move(self) -> None:
        os.replace(self.file, self.output)


@dataclass(frozen=True)
class Product:
    """What a folder of results may hold.

    Attributes:
        record: the JSON file whose notice tells that the folder is ours.
        files: names of all files, the record among them.
        folders: names of subfolders, and the only kind of file that lies in each.
    """

    record: str
    files: tuple[str, ...]
    folders: Mapping[str, str] = field(default_factory=dict)


class StagedFolder(Staging):
    """A folder of results; an earlier result is replaced when `overwrite`, other files there are never touched."""

    def __init__(self, output: str | os.PathLike[str], product: Product, overwrite: bool = False) -> None:
        super().__init__(output, overwrite)
        self.product = product
        self.made_output = self.made_previews = False

    def check(self) -> None:
        check_output(self.output, self.product, self.overwrite)

    def remove(self) -> None:
        super().remove()
        if self.made_previews:
            _remove(self.output / "previews")
        if self.made_output:
            _remove(self.output)

    def previews(self) -> Path:
        """The folder ``output/previews``, made on the first call; its files are seen while the job runs."""
        self.enter_state("open")
        folder = self.output / "previews"
        if not self.made_previews:
            self.made_output = not self.output.exists()
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            self.made_previews = True
        return folder

    def move(self) -> None:
        """Each file replaces its predecessor in one step; what an earlier result has left over goes last."""
        self.output.mkdir(parents=True, exist_ok=True)
        made = {entry.name for entry in self.folder.iterdir()} | ({"previews"} if self.made_previews else set())
        for entry in self.folder.iterdir():
            target = self.output / entry.name
            if entry.is_dir() and target.exists():
                shutil.rmtree(target)
            os.replace(entry, target)
        for name in self.product.files:
            if name not in made:
                (self.output / name).unlink(missing_ok=True)
        for name in self.product.folders:
            if name not in made and (self.output / name).is_dir():
                shutil.rmtree(self.output / name)


def _remove(folder: Path) -> None:
    """Remove a folder into which another thread may still be writing."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def check_output(output: Path, product: Product, overwrite: bool) -> None:
    """OutputError if results cannot go to `output` without harming what is there."""
    if os.path.exists(output) and not output.is_dir():
        raise OutputError("output.is-file", f"{output.name} is a file.", "Give the name of a folder.")
    earlier = [name for name in (*product.files, *product.folders) if os.path.exists(output / name)]
    if earlier and not overwrite:
        raise OutputError(
            "output.exists",
            f"{output.name} holds an earlier result ({earlier[0]}).",
            "Choose another folder, or allow overwriting (--force).",
        )
    for name, ending in product.folders.items():
        folder = output / name
        if os.path.exists(folder) and not (
            folder.is_dir() and all(entry.name.endswith(ending) for entry in folder.iterdir())
        ):
            raise OutputError(
                "output.foreign-folder",
                f"{output.name}/{name} holds other things than *{ending} files and is left alone.",
                "Choose another folder.",
            )
    if earlier and not _is_ours(output / product.record, earlier):
        raise OutputError(
            "output.foreign",
            f"{output.name}/{earlier[0]} does not come from AXON and is left alone.",
            "Choose another folder.",
        )


def _is_ours(record: Path, found: list[str]) -> bool:
    """Whether what was found in a folder is ours: its record says so, or a killed job has left only previews."""
    if found == ["previews"]:
        return True
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("notice") == SYNTHETIC_NOTICE

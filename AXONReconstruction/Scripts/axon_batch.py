"""Reconstruct chest CT volumes from films without a window, in Slicer or in plain Python."""

# Slicer reads this file in the encoding of the system, so that only ASCII may stand here.

import argparse
import csv
import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # AXONLib, in a checkout and in an installed extension

import axon_core
from axon_core.errors import AxonError
from axon_core.files import atomic_file
from axon_core.job import FORMATS, volume_of
from AXONLib import batch, process
from AXONLib.batch import Interrupted, tell
from AXONLib.request import reconstructionRequest

CANCELLED, SOME_FAILED, USAGE = 130, 1, 2
COLUMNS = ("frontal", "lateral", "output")
MARK = "request.json"  # beside a result: what it was made from and how

EXAMPLES = """\
examples:
  Slicer --no-main-window --python-script axon_batch.py -- --frontal pa.dcm --lateral lat.dcm --output result
  Slicer --no-main-window --python-script axon_batch.py -- --manifest cases.csv --preset quality --seeds 0 1 2
  PythonSlicer axon_batch.py --frontal pa.png --output result --device cpu

cases.csv has a line of titles and a line for each case; paths are relative to its folder, a lateral film is optional:
  frontal,lateral,output
  a/pa.dcm,a/lat.dcm,results/a
  b/pa.dcm,,results/b

A case whose output holds the finished result of the same request is skipped, so that a batch that was interrupted is
continued by the same command. Ctrl-C or SIGTERM cancels; the case at work leaves nothing behind.

exit status: 0 all well; of a single case that failed: 1 internal error, 2 wrong option, 3 unusable film, 5 unusable
model, 6 result cannot be written, 7 device missing or out of memory; of several cases: 1 some failed; 130 cancelled.

SYNTHETIC: not for diagnosis. Research only.
"""


@dataclass(frozen=True)
class Case:
    """The films of one patient, and the folder for the result."""

    frontal: Path
    lateral: Path | None
    output: Path


class UsageError(Exception):
    """The command line or the manifest is wrong."""


def parser() -> batch.Parser:
    made = batch.Parser("axon_batch.py", __doc__, EXAMPLES)
    made.add_argument("--frontal", type=Path, help="frontal film: DICOM, PNG, JPEG, TIFF, NIfTI, NRRD, MHA")
    made.add_argument("--lateral", type=Path, help="lateral film of the same patient")
    made.add_argument("--output", type=Path, help="folder for volume, report and provenance")
    made.add_argument("--manifest", type=Path, metavar="CSV", help="many cases, in place of the three options above")
    made.add_argument("--model", default="axon-small", help="name of an installed model, or a folder")
    made.add_argument("--preset", default="fast", choices=("preview", "fast", "quality", "paper"))
    made.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one volume is drawn for each")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    made.add_argument("--format", default="nrrd", choices=FORMATS, help="of the volume")
    made.add_argument("--force", action="store_true", help="replace earlier results; other files are never touched")
    return made


def readCases(options: argparse.Namespace) -> list[Case]:
    """The cases of a command line; UsageError if they are not clear."""
    if options.manifest is not None:
        if options.frontal or options.lateral or options.output:
            raise UsageError("--manifest takes the place of --frontal, --lateral and --output.")
        return readManifest(options.manifest)
    if options.frontal is None or options.output is None:
        raise UsageError("Give --frontal and --output, or --manifest.")
    return [Case(options.frontal, options.lateral, options.output)]


def readManifest(path: Path) -> list[Case]:
    """The cases of a CSV file; UsageError if it is not one."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            titles = [title.strip() for title in reader.fieldnames or []]
            reader.fieldnames = titles
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    if not {"frontal", "output"} <= set(titles) <= set(COLUMNS):
        raise UsageError(f"{path}: the columns must be {', '.join(COLUMNS)}; found {', '.join(titles) or 'none'}.")
    cases = []
    for line, row in rows:
        values = {title: (row.get(title) or "").strip() for title in COLUMNS}
        if None in row or not values["frontal"] or not values["output"]:
            raise UsageError(f"{path}, line {line}: give frontal, lateral (or nothing) and output.")
        frontal, lateral, output = (path.parent / values[title] if values[title] else None for title in COLUMNS)
        cases.append(Case(frontal, lateral, output))
    if not cases:
        raise UsageError(f"{path} holds no case.")
    if len({os.path.abspath(case.output) for case in cases}) < len(cases):
        raise UsageError(f"{path}: two cases have the same output.")
    return cases


def identity(case: Case, choices: dict) -> dict | None:
    """What a result depends on; None when a film cannot be read."""
    try:
        films = {
            name: film and hashlib.sha256(film.read_bytes()).hexdigest()
            for name, film in (("frontal", case.frontal), ("lateral", case.lateral))
        }
    except OSError:
        return None
    return {"axon_core": axon_core.__version__, **films, **choices}


def made(output: Path) -> str | None:
    """When the result in a folder was made, as its provenance says; None if there is no whole one."""
    try:
        created = json.loads((output / "provenance.json").read_text(encoding="utf-8"))["created"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return created if volume_of(output) != output else None


def isDone(output: Path, wanted: dict | None) -> bool:
    """Whether a folder holds the result of this very request, and nothing else has written there since."""
    try:
        mark = json.loads((output / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    created = made(output)
    return wanted is not None and created is not None and mark == {"created": created, **wanted}


def reconstruct(case: Case, choices: dict, force: bool, label: str, interrupted: Interrupted) -> int:
    """Do one case and tell about it; returns its exit status."""
    wanted = identity(case, choices)
    if not force and isDone(case.output, wanted):
        tell(f"{label}: skipped, done before")
        return 0
    request = reconstructionRequest(
        os.path.abspath(case.frontal),
        case.lateral and os.path.abspath(case.lateral),
        os.path.abspath(case.output),
        overwrite=force,
        **choices,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="axon-") as folder:
            python, environment = process.pythonExecutable(), process.workerEnvironment()
            worker = process.startWorker(request, folder, python, environment)
            last = follow(worker, label, interrupted)
        if last["type"] == "result":
            with atomic_file(case.output / MARK, overwrite=True) as temporary:
                temporary.write_text(json.dumps({"created": made(case.output), **(wanted or {})}, indent=2) + "\n")
            tell(f"{label}: done, {last['files']['volume']}")
            return 0
    except AxonError as error:
        tell(f"{label}: FAILED. {error}")
        return error.exit_code
    tell(f"{label}: FAILED. {last['title']} {last['advice']}")
    if last["code"] == "cancelled":
        return CANCELLED
    if worker.log:
        print(worker.log, file=sys.stderr, flush=True)
    return max(worker.returnCode or 0, 1)


def follow(worker: process.WorkerProcess, label: str, interrupted: Interrupted) -> dict:
    """Tell what a worker does until its last line, which is returned."""
    told = None
    while True:
        for event in worker.events():
            if event["type"] in process.LAST:
                return event
            if event["type"] == "warning":
                tell(f"{label}: note: {event['text']}")
            elif event["type"] == "progress":
                tenths = int(10 * event["fraction"])
                if told != (event["stage"], tenths):
                    told = (event["stage"], tenths)
                    tell(f"{label}: {event['stage']} {10 * tenths} %{remaining(event['eta_s'])}")
        if interrupted:
            worker.cancel()
        time.sleep(batch.POLL_SECONDS)


def remaining(seconds: float | None) -> str:
    return "" if seconds is None else f", about {seconds:.0f} s left"


def main(arguments: list[str]) -> int:
    """Do all cases; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
        cases = readCases(options)
    except SystemExit as end:  # of argparse, after --help or a wrong option
        return int(end.code or 0)
    except UsageError as error:
        print(f"axon_batch.py: {error}", file=sys.stderr, flush=True)
        return USAGE
    choices = {name: getattr(options, name) for name in ("model", "preset", "seeds", "device", "format")}
    interrupted = Interrupted()
    codes: list[int] = []
    for number, case in enumerate(cases, 1):
        codes.append(reconstruct(case, choices, options.force, f"[{number}/{len(cases)}] {case.output}", interrupted))
        if codes[-1] == CANCELLED or (interrupted and number < len(cases)):
            tell(f"Cancelled. {codes.count(0)} of {len(cases)} cases are done.")
            return CANCELLED
    if len(cases) == 1:
        return codes[0]
    failed = [str(case.output) for case, code in zip(cases, codes, strict=True) if code]
    tell(f"{len(cases)} cases: {len(cases) - len(failed)} done, {len(failed)} failed")
    for output in failed:
        tell(f"  {output}")
    return SOME_FAILED if failed else 0


if __name__ == "__main__":
    batch.run(main)

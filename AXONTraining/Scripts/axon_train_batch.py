"""Prepare data, train and export a model without a window, in Slicer or in plain Python."""

# Slicer reads this file in the encoding of the system, so that only ASCII may stand here.

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AXONReconstruction"))  # AXONLib, in a checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the same, in an installed extension

from axon_core.errors import AxonError
from AXONLib import batch, process
from AXONLib.batch import Interrupted, tell

STOP_SECONDS = 600.0  # for a step to end and its state to be saved
STOPPED, USAGE = 130, 2
NETWORKS, STUDENTS = ("coarse", "prior", "fine", "sr"), ("distill-coarse", "distill-fine")
TOLD_SECONDS = 30.0  # between two lines of a stage

EXAMPLES = """\
examples:
  Slicer --no-main-window --python-script axon_train_batch.py -- --source cts --cache cache --run run --model my-model
  Slicer --no-main-window --python-script axon_train_batch.py -- --cache cache --run run --minutes 600 --parts coarse sr
  PythonSlicer axon_train_batch.py --cache cache --run run --dry-run
  PythonSlicer axon_train_batch.py --cache cache --run run --parts distill-coarse --model fast-model --distilled

--source is a folder with chest CTs, or a table (CSV: patient, ct, frontal, lateral). Each of the three parts of the
work runs where it is asked for: --source prepares, --run trains, --model exports. Ctrl-C or SIGTERM saves the state and
stops; the same command goes on from there, as if nothing had happened.

exit status: 0 all well, 1 internal error or diverged, 2 wrong option or unusable data, 4 no usable CT, 5 unusable
state, 6 result cannot be written, 7 device missing or out of memory, 130 stopped.

SYNTHETIC: what such a model makes is not for diagnosis. Research only.
"""


def parser() -> batch.Parser:
    made = batch.Parser("axon_train_batch.py", __doc__, EXAMPLES)
    made.add_argument("--source", type=Path, help="folder with CTs and films, or table: is prepared")
    made.add_argument("--cache", type=Path, required=True, help="folder of the prepared data")
    made.add_argument("--run", type=Path, help="folder of the training: is begun, or goes on")
    made.add_argument("--model", type=Path, help="folder for the model")
    made.add_argument("--preset", default="small", help="tiny, small, base, paper, or a TOML file (default: small)")
    made.add_argument("--split", type=float, nargs=3, metavar="PERCENT", help="to learn, held out, test")
    made.add_argument("--workers", type=int, default=0, help="processes that prepare (default: one per core)")
    made.add_argument(
        "--parts", nargs="+", choices=(*NETWORKS, *STUDENTS), default=list(NETWORKS),
        help="what to train (default: all but the students of few steps, which learn from a trained coarse or fine)",
    )  # fmt: skip
    length = made.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="of each stage")
    length.add_argument("--minutes", type=float, help="of all stages together")
    made.add_argument("--kept", type=int, default=3000, help="drawn chests; 0: one for each sample (default: 3000)")
    made.add_argument("--phantoms", type=float, default=0.0, help="share of drawn phantoms among the chests, 0 to 1")
    made.add_argument("--anatomy", type=Path, help="other shapes of the CTs: file of `axon data anatomy`")
    made.add_argument("--findings", action="store_true", help="paint nodules, effusions and the like into the CTs")
    made.add_argument("--start", help="name or folder of a model with whose weights a new run starts")
    made.add_argument("--steps-student", type=int, help="evaluations of a student, 1 to 16")
    made.add_argument("--steps-teacher", type=int, help="of the walk of its teacher that a student learns")
    made.add_argument("--lr", type=float, help="learning rate")
    made.add_argument("--less-memory", action="store_true", help="one sample at a time, activations computed twice")
    made.add_argument("--precision", help="32, bf16, 16 or auto")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    made.add_argument("--seed", type=int, default=0, help="of everything random")
    made.add_argument("--title", default="", help="one line for the model's card")
    made.add_argument("--licence", default="", help="of the weights")
    made.add_argument("--data", default="", help="what the model was trained on, for its card")
    made.add_argument("--distilled", action="store_true", help="the model's students in their teachers' places")
    made.add_argument("--dry-run", action="store_true", help="only tell what the training will cost")
    made.add_argument("--force", action="store_true", help="replace an earlier model")
    return made


def requests(o: argparse.Namespace, stop_file: str) -> list[dict]:
    """The jobs that the options ask for, in order."""
    jobs: list[dict] = []
    if o.source is not None:
        split = {"split": o.split} if o.split else {}
        source, output = os.path.abspath(o.source), os.path.abspath(o.cache)
        jobs.append(
            {"task": "prepare", "source": source, "output": output, "preset": o.preset, "workers": o.workers, **split}
        )
    if o.run is not None:
        jobs.append(
            {
                "task": "train",
                "data": os.path.abspath(o.cache),
                "output": os.path.abspath(o.run),
                "parts": o.parts,
                "preset": o.preset,
                "start": o.start,
                "steps": o.steps,
                "minutes": o.minutes,
                "kept": o.kept,
                "phantoms": o.phantoms,
                "anatomy": o.anatomy and os.path.abspath(o.anatomy),
                "findings": o.findings,
                "student_steps": o.steps_student,
                "teacher_steps": o.steps_teacher,
                "lr": o.lr,
                "micro": 1 if o.less_memory else None,
                "recompute": True if o.less_memory else None,
                "precision": o.precision,
                "device": o.device,
                "seed": o.seed,
                "stop_file": stop_file,
                "dry_run": o.dry_run,
            }
        )
    if o.model is not None and not o.dry_run:
        card = {"title": o.title, "licence": o.licence, "data": o.data, "distilled": o.distilled, "overwrite": o.force}
        jobs.append({"task": "export", "source": os.path.abspath(o.run), "output": os.path.abspath(o.model), **card})
    return jobs


class Teller:
    """Lines for people out of a worker's events."""

    def __init__(self) -> None:
        self.last = ("", 0.0)

    def __call__(self, event: dict) -> None:
        kind = event["type"]
        if kind == "case":
            remarks = f"skipped: {event['skipped']}" if event["skipped"] else "; ".join(["done", *event["warnings"]])
            tell(f"{event['name']}: {remarks}")
        elif kind == "validation":
            psnr = f", PSNR {event['psnr']:.2f} dB" if "psnr" in event else ""
            tell(f"{event['stage']}: step {event['step']}, loss on held-out cases {event['loss']:.4g}{psnr}")
        elif kind == "progress" and "step" in event and self._worthALine(event):
            left = f"about {event['eta_s']:.0f} s left of this stage"
            tell(f"{event['stage']}: step {event['step']} of {event['steps']}, loss {event['loss']:.4g}, {left}")
        elif kind == "warning":
            tell(f"note: {event['text']}")

    def _worthALine(self, event: dict) -> bool:
        stage, at = self.last
        due = stage != event["stage"] or time.monotonic() - at > TOLD_SECONDS or event["step"] == event["steps"]
        if due:
            self.last = (event["stage"], time.monotonic())
        return due


def follow(worker: process.WorkerProcess, teller: Teller, stop_file: Path, interrupted: Interrupted) -> dict:
    """Tell what a worker does until its last line, which is returned."""
    while True:
        for event in worker.events():
            if event["type"] in process.LAST:
                return event
            teller(event)
        if interrupted and not stop_file.exists():
            stop_file.touch()
            worker.cancel(STOP_SECONDS)
        time.sleep(batch.POLL_SECONDS)


def done(task: str, event: dict) -> str:
    """The result of a job in a line."""
    if task == "prepare":
        counts = ", ".join(f"{count} {part}" for part, count in event["counts"].items())
        return f"prepared: {counts}; {len(event['skipped'])} skipped; {event['sheet']}"
    if task == "export":
        return f"exported: {event['output']} ({', '.join(event['stages'])})"
    if "run" in event:
        return f"trained: {', '.join(event['stages'])} in {event['run']}"
    lines = [
        f"{stage['stage']}: {stage['parameters']} weights, {stage['steps']} steps, "
        f"{stage['memory'] / 2**20:.0f} MiB, about {stage['seconds']:.0f} s"
        for stage in event["stages"]
    ]
    return "\n".join([*lines, f"on {event['device']}, {event['cases']} cases; data and validation come on top"])


def main(arguments: list[str]) -> int:
    """Do all jobs; returns the exit status."""
    made = parser()
    try:
        options = made.parse_args(arguments)
        if options.source is None and options.run is None:
            made.error("--source or --run is needed: there is nothing to do")
        if options.model is not None and options.run is None:
            made.error("--model needs --run")
    except SystemExit as end:  # of argparse, after --help or a wrong option
        return int(end.code or 0)
    interrupted, teller = Interrupted(), Teller()
    with tempfile.TemporaryDirectory(prefix="axon-") as folder:
        stop_file = Path(folder) / "stop"
        for job in requests(options, str(stop_file)):
            try:
                python, environment = process.pythonExecutable(), process.workerEnvironment()
                worker = process.startWorker(job, folder, python, environment)
                last = follow(worker, teller, stop_file, interrupted)
            except AxonError as error:
                tell(f"FAILED. {error}")
                return error.exit_code
            if last["type"] == "result":
                tell(done(job["task"], last))
                continue
            if interrupted:
                tell(f"Stopped. {last['title']} The same command goes on from there.")
                return STOPPED
            tell(f"FAILED. {last['title']} {last['advice']}")
            if worker.log:
                print(worker.log, file=sys.stderr, flush=True)
            return max(worker.returnCode or 0, 1)
    return 0


if __name__ == "__main__":
    batch.run(main)

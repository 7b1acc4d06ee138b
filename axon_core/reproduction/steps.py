"""The steps from CTs to tables, and what each does. All of them go on where they were stopped."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.baselines.run import begin_baseline, export_baseline, train_baseline
from axon_core.data import lidc
from axon_core.data.plan import PAPER_PRESET, read_plan
from axon_core.data.prepare import PrepareOptions, prepare, sheet
from axon_core.errors import ConfigError
from axon_core.evaluation.suite_run import SuiteJob, run_suite
from axon_core.files import atomic_file
from axon_core.model import PARTS, ModelCard
from axon_core.reproduction.cost import training_flop
from axon_core.reproduction.job import AXON, FEW, PLAIN, STUDENTS, Job
from axon_core.reproduction.record import Finished, Record, Step, Watch, walk
from axon_core.training.distill import EVERY
from axon_core.training.events import read_log
from axon_core.training.plot import plot_curves
from axon_core.training.run import SIGMA, begin_run, export_run, train_stage
from axon_core.training.sources import open_source
from axon_core.training.stages import STAGES
from axon_core.training.trainer import make_fabric

REPORT = "REPORT.md"
SHARP = "super-resolution"


def reproduce(job: Job, finished: Finished = lambda *_: None, watch: Watch | None = None) -> Path:
    """Go all the way; see `record.walk`. Returns the report."""
    walk(steps(job), Record.of(job.output), finished, watch or Watch())
    return job.output / REPORT


def steps(job: Job) -> list[Step]:
    """All steps, in order."""
    data: dict[str, Any] = {"data": str(job.data or ""), "patients": list(job.patients)}
    divided = {"preset": job.preset, "percent": list(job.percent), "seed": job.seed}
    plan: list[Step] = []

    def add(name: str, asked: dict[str, Any], after: Sequence[str], work: Callable[[Watch], str]) -> None:
        plan.append(Step(name, asked, tuple(after), work))

    def settings(*stages: str) -> dict[str, Any]:
        return {"kept": job.kept, **{stage: dataclasses.asdict(job.settings(stage)) for stage in stages}}

    if job.data is None:
        add("download", data, (), partial(_download, job))
    add("prepare", data | divided, ["download"], partial(_prepare, job))
    before = ["prepare"]
    for stage in (*STAGES, *(STUDENTS if job.distill else ())):
        add(f"train {stage}", settings(stage), before, partial(_train, job, stage))
        before = [*before, f"train {stage}"]
    name = f"train {SHARP} without synthetic inputs"
    add(name, settings(SHARP), ["prepare", *(f"train {stage}" for stage in STAGES)], partial(_train_plain, job))
    for name in job.baselines:
        add(f"baseline {name}", settings(*job.stages_of(name)), ["prepare"], partial(_baseline, job, name))
    trained = [step.name for step in plan if step.name.startswith(("train", "baseline"))]
    add("export", {"models": list(job.models)}, trained, partial(_export, job))
    for table in job.tables:
        asked = {
            "seeds": list(job.seeds),
            "quality": job.quality,
            "pictures": job.pictures,
            "models": job.compared(table),
        }
        add(f"evaluate {table}", asked, ["export"], partial(_evaluate, job, table))
    add("report", {}, [step.name for step in plan], partial(_report, job, tuple(plan)))
    return plan


def _download(job: Job, watch: Watch) -> str:
    client = lidc.open_index()
    patients = lidc.chosen(lidc.paired(lidc.read_series(client)), job.patients)
    lidc.download(client, patients, job.lidc, True, lambda done, of, _: watch.count(done, of))
    return f"{len(patients)} patients of LIDC-IDRI, {sum(one.megabytes for one in patients) / 1e3:.2f} GB"


def _prepare(job: Job, watch: Watch) -> str:
    options = PrepareOptions(job.preset, job.percent, job.seed, workers=job.workers)
    plan = prepare(job.data or job.lidc, job.cache, options, lambda done, of, _: watch.count(done, of))
    counts = {part: len(plan.split(part)) for part in ("train", "val", "test")}
    for part in ("train", "test"):
        if not counts[part]:
            raise ConfigError(
                "reproduce.no-case",
                f"No case fell to the part {part!r}.",
                "Add patients, name their parts in the manifest's column split, or divide otherwise (--split).",
            )
    parts = ", ".join(f"{count} {part}" for part, count in counts.items())
    return f"{parts}, {len(plan.skipped)} skipped; look at cache/{sheet(job.cache).name}"


def _train(job: Job, stage: str, watch: Watch, model: str = AXON, **changes: Any) -> str:
    settings = dataclasses.replace(job.settings(stage), **changes)
    source = open_source(job.cache, job.config, EVERY[stage].enlarges, job.seed, job.kept)
    _write_paper_preset(job)
    begin_run(job.run(model), job.training, [source.facts], job.seed)
    fabric = make_fabric(settings.precision, job.device)
    train_stage(
        stage,
        job.training,
        job.run(model),
        source.dataset,
        settings,
        fabric,
        seed=job.seed,
        cases=source.cases,
        tell=watch.event,
        stop=watch.stop,
    )
    return _outcome(job.run(model) / stage)


def _train_plain(job: Job, watch: Watch) -> str:
    """Super-resolution that never sees a synthetic volume, beside the same other stages."""
    for stage in STAGES:
        if stage != SHARP:
            shutil.rmtree(job.run(PLAIN) / stage, ignore_errors=True)
            shutil.copytree(job.run() / stage, job.run(PLAIN) / stage, copy_function=_linked)
    if (job.run() / SIGMA).is_file():
        shutil.copyfile(job.run() / SIGMA, job.run(PLAIN) / SIGMA)
    return _train(job, SHARP, watch, PLAIN, synthetic=0.0)


def _linked(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk knows none: states are replaced, never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _baseline(job: Job, name: str, watch: Watch) -> str:
    settings = {stage: job.settings(stage) for stage in job.stages_of(name)}
    source = open_source(job.cache, job.config, 1, job.seed, job.kept)
    _write_paper_preset(job)
    begin_baseline(job.run(name), name, job.training, [source.facts], job.seed)
    fabric = make_fabric(next((one.precision for one in settings.values()), "auto"), job.device)
    train_baseline(
        name,
        job.training,
        job.run(name),
        source.dataset,
        settings,
        fabric,
        seed=job.seed,
        cases=source.cases,
        tell=watch.event,
        stop=watch.stop,
    )
    return "; ".join(_outcome(job.run(name) / stage) for stage in settings) or "fitted"


def _export(job: Job, watch: Watch) -> str:
    plan = read_plan(job.cache)
    cases = len(plan.split("train"))
    origin = f"{cases} CTs of {job.data.name if job.data else 'LIDC-IDRI'}, plan {plan.sha256[:12]}"
    size = 0
    for number, name in enumerate(job.models):
        watch.count(number, len(job.models))
        notes = f"Training FLOP {training_flop(job, name, cases):.2e}."
        licence = "" if job.data else "CC BY 3.0"
        card = ModelCard(f"{name}, preset {job.preset}", licence, origin, (), tuple(PARTS), notes)
        if name in job.baselines:
            info = export_baseline(job.run(name), job.model(name), card)
        else:
            info = export_run(job.run(name), job.model(name), card, distilled=name == FEW)
        size += info.size_bytes
        if job.stages_of(name):
            plot_curves(job.run(name), job.model(name) / "curves.png")
    return f"{len(job.models)} models, {size / 1e6:.1f} MB"


def _evaluate(job: Job, table: str, watch: Watch) -> str:
    suite = SuiteJob(
        table,
        tuple(job.compared(table)),
        str(job.table(table)),
        data=str(job.cache),
        seeds=job.seeds,
        preset=job.quality,
        pictures=job.pictures,
        device=job.device,
    )
    result = run_suite(suite, lambda done, of, _: watch.count(done, of))
    failures = result.comparison.failures
    if not result.report.rows:
        raise ConfigError("reproduce.nothing", f"Nothing could be measured: {failures[0].reason}", "See its report.")
    failed = len(failures)
    return f"{len(result.report.rows)} rows" + (f", {failed} left out: see the table" if failed else "")


def _report(job: Job, plan: Sequence[Step], watch: Watch) -> str:
    done = Record.of(job.output).steps
    rows = [f"| {s.name} | {done[s.name]['told']} | {done[s.name]['seconds']:.0f} |" for s in plan if s.name in done]
    links = [f"- [{table}](tables/{table}/report.md), [as a page](tables/{table}/report.html)" for table in job.tables]
    links += [f"- [curves of {name}](models/{name}/curves.png)" for name in job.models if job.stages_of(name)]
    text = [
        f"# Reproduction, preset {job.preset}",
        f"**{SYNTHETIC_NOTICE}.** axon-core {__version__}.",
        "\n".join(links),
        "Table 4 is left out: its rows are models trained otherwise (`axon evaluate --suite table4`).",
        "\n".join(["| step | result | seconds |", "|---|---|---|", *rows]),
    ]
    with atomic_file(job.output / REPORT, overwrite=True) as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return REPORT


def _outcome(folder: Path) -> str:
    """The last words of a stage's log."""
    last: dict[str, dict[str, Any]] = {event["type"]: event for event in read_log(folder)}
    parts = [f"{last['progress']['steps']} steps, loss {last['progress']['loss']:.4g}"]
    if "validation" in last:
        parts.append(f"held out {last['validation']['loss']:.4g}")
    if "psnr" in last.get("validation", {}):
        parts.append(f"PSNR {last['validation']['psnr']:.2f} dB")
    return ", ".join(parts)


def _write_paper_preset(job: Job) -> None:
    """The preset "paper" in the paper's HU window, as a file."""
    path = Path(job.training)
    if job.preset != PAPER_PRESET or path.is_file():
        return
    paper = (Path(__file__).parents[1] / "presets" / "paper.toml").read_text(encoding="utf-8")
    with atomic_file(path) as temporary:
        named = paper.replace('name = "paper"', f'name = "{PAPER_PRESET}"\nwindow = "{PAPER_PRESET}"', 1)
        temporary.write_text(named, encoding="utf-8")

"""Few steps: quality against the number of network evaluations, of teachers and of their distilled students.

    python benchmarks/distill.py --teacher MODEL --students MODEL... (--ct CT... | --cache CACHE [--split test])
                                 [--views 1 2] [--seeds 4] [--device cuda] [--json curve.json] [--picture curve.png]

Models are folders of `axon train export`, students with `--distilled`. The bridge is walked from F(x), FineDiff from
the noised F(x) (0.4 of the schedule), so that each is judged alone. Films are simulated from the CTs in the plain pose,
or are those of the cache. Metrics are on [0, 1] (data range 1) over the slices that the CT covers; "spread" is the
standard deviation over seeds (root mean square over voxels), "ms" a volume's time on the device without that of F(x).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from quality import Subject

from axon_core.baselines.predict import predict
from axon_core.data.cache import validation_cases
from axon_core.data.cases import load_case
from axon_core.devices import resolve_device
from axon_core.evaluation.metrics import SSIM_NAMES, edge_sharpness, psnr, ssim3d, summarise
from axon_core.model import AxonModel
from axon_core.walks import Quality

STEPS = (1, 2, 4, 8, 16)
STAGES = {"coarse": "bridge", "fine": "FineDiff"}
COLUMNS = {"PSNR": 2, "SSIM": 3, "edges": 2, "mean PSNR": 2, "mean SSIM": 3, "mean edges": 2, "spread": 4, "ms": 0}


class Chest(NamedTuple):
    """A test case: films (1, 2, p, p) and target (n, n, n) in [-1, 1], and which slices (n,) the CT covers."""

    films: torch.Tensor
    target: torch.Tensor
    known: torch.Tensor


class Method(NamedTuple):
    """A row of the table: the network evaluations of one stage of a model."""

    stage: str
    kind: str
    steps: int
    model: AxonModel

    @property
    def quality(self) -> Quality:
        return Quality(bridge_steps=self.steps, fine_steps=self.steps)


def chests(args: argparse.Namespace, model: AxonModel) -> list[Chest]:
    """The test cases of a cache, or CTs with simulated films."""
    if args.cache:
        cases = validation_cases(args.cache, args.split, model.config.size)
        return [Chest(c.films[None], c.target[0], (c.weight[0] > 0).flatten(1).all(1)) for c in cases]
    found = []
    for path in args.ct:
        subject = Subject(load_case(path), model)
        known = subject.known.view(model.config.size, -1).all(1)
        found.append(Chest(subject.films, subject.truth[0, 0], known))
    return found


def methods(teacher: AxonModel, students: list[AxonModel]) -> Iterator[Method]:
    """The teacher at every number of steps, each student at its own."""
    for stage in STAGES:
        if teacher.has(stage):
            yield from (Method(stage, "teacher", steps, teacher) for steps in STEPS)
        for student in students:
            times = student.config.bridge.times if stage == "coarse" else student.config.diffusion.times
            if times:
                yield Method(stage, "student", len(times), student)


def scores(volume: torch.Tensor, chest: Chest, before: str = "") -> dict[str, float]:
    """PSNR, SSIM and edge sharpness of (n, n, n) in [-1, 1]."""
    a, b = (((v + 1) / 2)[chest.known] for v in (volume.cpu(), chest.target))
    return {f"{before}PSNR": psnr(a, b), f"{before}SSIM": ssim3d(a, b), f"{before}edges": edge_sharpness(a, b)}


def judged(method: Method, chest: Chest, views: int, seeds: int) -> dict[str, float]:
    """All columns of one case."""
    films, samples, seconds = chest.films[:, :views], [], []
    for seed in range(seeds):
        walk = _seconds(lambda s=seed: samples.append(_predicted(method, films, s)), method.model.device)
        seconds.append(walk - _seconds(lambda: predict(method.model, films, stages=()), method.model.device))
    volumes = torch.stack(samples)
    found = {**scores(volumes[0], chest), **scores(volumes.mean(0), chest, "mean ")}
    spread = float(volumes.var(0).mean().sqrt()) / 2 if seeds > 1 else float("nan")
    return {**found, "spread": spread, "ms": 1e3 * sorted(seconds)[seeds // 2]}


def _predicted(method: Method, films: torch.Tensor, seed: int) -> torch.Tensor:
    return predict(method.model, films, seed, stages=(method.stage,), quality=method.quality)[0, 0].cpu()


def _seconds(work: Any, device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR of a sample, PSNR of the mean and edges against steps, a column for each stage."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(row["stage"] for row in rows))
    figure = Figure(figsize=(4.2 * len(stages), 8.0), layout="constrained")
    grid = figure.subplots(3, len(stages), squeeze=False)
    for column, stage in enumerate(stages):
        for axes, name in zip(grid[:, column], ("PSNR", "mean PSNR", "edges"), strict=True):
            for kind, style in (("teacher", "C0o-"), ("student", "C1s--")):
                for views, filled in ((1, "none"), (2, None)):
                    some = [r for r in rows if (r["stage"], r["kind"], r["views"]) == (stage, kind, views)]
                    points = sorted((r["steps"], r[name][0]) for r in some)
                    if points:
                        label = f"{kind}, {views} view{'s' * (views > 1)}"
                        axes.plot(*zip(*points, strict=True), style, mfc=filled, label=label)
            axes.set(xscale="log", xlabel="network evaluations", ylabel=name, title=STAGES[stage])
            axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
            axes.minorticks_off()
        grid[0, column].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="name or folder of a model")
    parser.add_argument("--students", nargs="*", default=[], help="folders of distilled models")
    parser.add_argument("--ct", nargs="*", default=[], help="CTs that training never saw")
    parser.add_argument("--cache", type=Path, help="in place of CTs")
    parser.add_argument("--split", default="test", help="of the cache")
    parser.add_argument("--views", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write the table here")
    parser.add_argument("--picture", type=Path, help="also draw the curves here")
    args = parser.parse_args()
    device = torch.device(resolve_device(args.device))
    teacher, *students = (AxonModel.from_pretrained(name).to(device) for name in (args.teacher, *args.students))
    cases = chests(args, teacher)
    print(f"n = {len(cases)} cases, {args.seeds} seeds, {device}, mean ± sd. SSIM: {SSIM_NAMES['valid']}.\n")
    print("| stage | network | steps | views | " + " | ".join(COLUMNS) + " |\n" + "|---" * (4 + len(COLUMNS)) + "|")
    rows: list[dict[str, Any]] = []
    for views in args.views:
        plain = [scores(predict(teacher, case.films[:, :views], stages=())[0, 0], case) for case in cases]
        cells = [f"{summarise([one[name] for one in plain]).mean:.{COLUMNS[name]}f}" for name in plain[0]]
        print(f"| F(x) | | 1 | {views} | " + " | ".join(cells) + " |" * (1 + len(COLUMNS) - len(cells)))
    for method in methods(teacher, students):
        predict(method.model, cases[0].films, stages=(method.stage,), quality=method.quality)  # warms up
        for views in args.views:
            found = [judged(method, case, views, args.seeds) for case in cases]
            row = {name: summarise([one[name] for one in found])[:2] for name in COLUMNS}
            cells = [f"{mean:.{COLUMNS[name]}f} ± {sd:.{COLUMNS[name]}f}" for name, (mean, sd) in row.items()]
            start = f"| {STAGES[method.stage]} | {method.kind} | {method.steps} | {views} | "
            print(start + " | ".join(cells) + " |", flush=True)
            rows.append({"stage": method.stage, "kind": method.kind, "steps": method.steps, "views": views, **row})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if args.picture:
        picture(rows, args.picture)


if __name__ == "__main__":
    main()

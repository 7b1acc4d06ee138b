"""How long does a reconstruction take, how much memory does it hold, and where does the time go?

    python benchmarks/reconstruct.py [--presets small base paper] [--forward paper] [--runs 3] [--threads N]
                                     [--sections stages monai profile factors start] [--json FILE]

Sections:

- stages: wall time, CPU time and peak memory of each stage, each in a process of its own, so that its peak is its own;
- monai: the samplers beside MONAI's stock inferers, with the same networks and as many steps, turn by turn;
- profile: the operators in which a network's time goes;
- factors: number format, memory layout, threads and number of steps;
- start: from a command to the first preview and to the files, as `axon demo` runs it.

Of the presets under ``--forward`` only F(x) and one evaluation of the bridge's network are measured. Networks are
freshly initialised: their speed does not depend on what they have learned. Everything runs on the CPU. CPU time is what
the computation cost; wall time is also what else the machine was doing (see the load).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

SECTIONS = ("stages", "monai", "profile", "factors", "start")
MEMORY_LIMIT_GIB = 24.0
SHORT_S = 5.0  # a first call that takes longer than this counts; a shorter one only warms up
GROUPS = {  # of operators, by a part of their name; the first that fits
    "convolution": ("conv",),
    "normalisation": ("norm",),
    "attention and linear": ("attention", "softmax", "bmm", "addmm", "aten::mm", "aten::linear"),
    "copy and resize": ("copy", "cat", "clone", "upsample", "shuffle", "pad", "fill", "zero", "pool", "contiguous"),
}


# --- one measurement, in a child process -----------------------------------------------------------------------------


class Workload:
    """A preset's networks with random inputs, and every stage as a function without arguments."""

    def __init__(self, preset: str) -> None:
        import torch

        from axon_core.diffusion import bridge, gaussian
        from axon_core.model import AxonModel
        from axon_core.pipeline import PRESETS

        self.model = AxonModel.from_preset(preset)
        config, quality = self.model.config, PRESETS["fast"]
        generator = torch.Generator().manual_seed(0)
        n, p = config.size, config.film_size
        self.films = torch.rand(1, 2, p, p, generator=generator) * 2 - 1
        self.x, self.y = torch.randn(2, 1, 1, n, n, n, generator=generator).clamp(-1, 1)
        self.m = torch.full((1, 1, 1, 1, 1), 0.5)
        self.bridge_times = bridge.times(quality.bridge_steps, quality.rho)
        self.fine_times = gaussian.times(quality.fine_steps, quality.fine_start)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Name -> work; networks are built when their stage is first called."""
        import torch

        from axon_core.model import Hint

        b, f = len(self.bridge_times), len(self.fine_times)
        return {
            "F(x), two films": lambda: self.model.endpoint(self.films),
            "bridge, 1 step": lambda: self.model.bridge_x0(self.x, self.m, self.y),
            f"bridge, {b} steps": self.bridge,
            "FineDiff, 1 step": lambda: self.model.fine_x0(self.x, torch.tensor([500]), Hint(self.y)),
            f"FineDiff, {f} steps": self.fine,
            "super-resolution": lambda: self.model.super_resolve(self.y),
            "whole, preset fast": self.whole,
        }

    def bridge(self, steps: int | None = None) -> Any:
        """A bridge sample."""
        from axon_core.diffusion import bridge
        from axon_core.diffusion.sampling import SeededNoise
        from axon_core.walks import walk_coarse

        times = self.bridge_times if steps is None else bridge.times(steps)
        return walk_coarse(self.model, self.y, times, SeededNoise([0]))

    def fine(self) -> Any:
        """A FineDiff sample."""
        from axon_core.diffusion.sampling import SeededNoise
        from axon_core.model import Hint
        from axon_core.walks import walk_fine

        return walk_fine(self.model, Hint(self.y), self.fine_times, SeededNoise([0]))

    def whole(self) -> Any:
        """Two films to a volume with every stage, as a user runs it."""
        from axon_core.geometry import XrayView
        from axon_core.pipeline import reconstruct
        from axon_core.radiograph import Radiograph

        frontal, lateral = (film.numpy() for film in self.films[0])
        return reconstruct(
            Radiograph(frontal, view=XrayView.PA),
            Radiograph(lateral, view=XrayView.LAT),
            model=self.model,
            device="cpu",
        )

    def monai_bridge(self) -> Any:
        """The bridge's network in MONAI's stock loop: DDIM with F(x) as a second channel."""
        from monai.inferers.inferer import DiffusionInferer

        scheduler = self._scheduler(len(self.bridge_times))
        return DiffusionInferer(scheduler).sample(
            self.x, self._as_monai(self.model.coarse), scheduler, conditioning=self.y, mode="concat", verbose=False
        )

    def monai_fine(self) -> Any:
        """FineDiff's networks in MONAI's stock loop for ControlNets."""
        from monai.inferers.inferer import ControlNetDiffusionInferer

        scheduler = self._scheduler(len(self.fine_times))

        def controlnet(x: Any, timesteps: Any, controlnet_cond: Any, context: None) -> Any:
            return self.model.control(x, timesteps, controlnet_cond)

        return ControlNetDiffusionInferer(scheduler).sample(
            input_noise=self.x,
            diffusion_model=self._as_monai(self.model.prior),
            controlnet=controlnet,  # type: ignore[arg-type]
            cn_cond=self.y,
            scheduler=scheduler,
            verbose=False,
        )

    def _scheduler(self, steps: int) -> Any:
        from monai.networks.schedulers.ddim import DDIMScheduler

        prediction = {"v": "v_prediction", "epsilon": "epsilon"}[self.model.config.diffusion.prediction]
        scheduler = DDIMScheduler(1000, prediction_type=prediction)
        scheduler.set_timesteps(steps)
        return scheduler

    @staticmethod
    def _as_monai(unet: Any) -> Any:
        """One of our U-Nets with the arguments that MONAI's inferers use."""

        def call(
            x: Any,
            timesteps: Any,
            context: None = None,
            down_block_additional_residuals: Any = None,
            mid_block_additional_residual: Any = None,
        ) -> Any:
            given = down_block_additional_residuals is not None
            control = (down_block_additional_residuals, mid_block_additional_residual) if given else None
            return unet(x, timesteps, control)

        return call


def shipped_precision() -> str:
    """The number format that the pipeline takes on this CPU."""
    import torch

    from axon_core.model import bfloat16_pays

    return "bfloat16" if bfloat16_pays(torch.device("cpu")) else "float32"


def in_precision(name: str) -> AbstractContextManager[Any]:
    """Autocast as the pipeline does it, or not at all."""
    import torch

    return torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext()


def once(work: Callable[[], Any], precision: str) -> tuple[float, float]:
    """(wall, CPU) seconds of one call."""
    import torch

    with torch.no_grad(), in_precision(precision):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu


def timed(work: Callable[[], Any], runs: int, precision: str) -> dict[str, float]:
    """Medians over the runs; a short first call only warms up."""
    first = once(work, precision)
    samples = [first] if first[1] > SHORT_S else []
    samples += [once(work, precision) for _ in range(runs - len(samples))]
    return medians(samples)


def medians(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = (statistics.median(column) for column in zip(*samples, strict=True))
    return {"wall_s": wall, "cpu_s": cpu}


def peak_gib() -> float:
    """The most memory that this process has held.

    On Linux from its own record, because the one that `getrusage` reads starts with that of the parent process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def measure_stages(preset: str, runs: int) -> list[str]:
    """Names of the stages of a preset."""
    return list(Workload(preset).stages())


def measure_stage(preset: str, runs: int, stage: str) -> dict[str, float]:
    """One stage: times and peak."""
    work = Workload(preset).stages()[stage]
    return {**timed(work, runs, shipped_precision()), "peak_gib": peak_gib()}


def measure_monai(preset: str, runs: int) -> dict[str, dict[str, dict[str, float]]]:
    """Sampler -> variant -> times, the variants turn by turn."""
    load, shipped = Workload(preset), shipped_precision()
    ours, stock, same = "axon", "MONAI as it comes (float32)", f"MONAI in {shipped}"
    table: dict[str, dict[str, dict[str, float]]] = {}
    for sampler, mine, theirs in (
        (f"bridge, {len(load.bridge_times)} steps", load.bridge, load.monai_bridge),
        (f"ControlNet, {len(load.fine_times)} steps", load.fine, load.monai_fine),
    ):
        variants = {ours: (mine, shipped), stock: (theirs, "float32"), same: (theirs, shipped)}
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        once(mine, shipped)
        for _ in range(runs):
            for name, (work, precision) in variants.items():
                samples[name].append(once(work, precision))
        table[sampler] = {name: medians(values) for name, values in samples.items()}
    return table


def measure_profile(preset: str, runs: int) -> dict[str, dict[str, float]]:
    """Stage -> operator group -> share of the time."""
    from torch.profiler import ProfilerActivity, profile

    shares = {}
    for name, work in Workload(preset).stages().items():
        if not name.startswith(("F(x)", "bridge, 1 ", "FineDiff, 1 ", "super")):
            continue
        once(work, shipped_precision())
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            once(work, shipped_precision())
        spent = dict.fromkeys([*GROUPS, "other"], 0.0)
        for operator in recorded.key_averages():
            fitting = (group for group, parts in GROUPS.items() if any(part in operator.key for part in parts))
            spent[next(fitting, "other")] += operator.self_cpu_time_total
        shares[name] = {group: value / sum(spent.values()) for group, value in spent.items()}
    return shares


def measure_factors(preset: str, runs: int) -> dict[str, dict[str, float]]:
    """Variant -> times of one bridge step, then of whole bridges."""
    import torch

    load, shipped, threads = Workload(preset), shipped_precision(), torch.get_num_threads()
    step = load.stages()["bridge, 1 step"]
    table = {f"1 step, {shipped} (as shipped), {threads} thread(s)": timed(step, runs, shipped)}
    other = "float32" if shipped == "bfloat16" else "bfloat16"
    table[f"1 step, {other}"] = timed(step, runs, other)
    for count in sorted({1, os.cpu_count() or 1} - {threads}):
        torch.set_num_threads(count)
        table[f"1 step, {count} thread(s)"] = timed(step, runs, shipped)
    torch.set_num_threads(threads)
    for steps in (2, 4, 8):
        table[f"{steps} steps"] = timed(partial(load.bridge, steps), runs, shipped)
    load.model.coarse.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    table["1 step, weights in channels_last_3d"] = timed(step, runs, shipped)
    return table


def measure_machine(preset: str, runs: int) -> dict[str, Any]:
    """Where the numbers were taken."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "precision": shipped_precision(),
        "load": [round(value, 1) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def measure_prepare(preset: str, runs: int, folder: str) -> None:
    """Write an untrained model and the film of a phantom, for a checkout without bundled ones."""
    import torch
    from PIL import Image

    from axon_core.data.pairs import expose_pair
    from axon_core.data.phantom import thorax
    from axon_core.drr.appearance import clinic_look
    from axon_core.geometry import CanonicalGrid
    from axon_core.model import AxonModel

    model = AxonModel.from_preset(preset)
    model.save_pretrained(Path(folder) / "model", model.card)
    grid = CanonicalGrid(128)
    film = clinic_look(expose_pair(torch.from_numpy(thorax(0, grid)), grid, 1024)[0])
    Image.fromarray(((film.numpy() + 1) * 127.5).round().astype("uint8")).save(Path(folder) / "film.png")


# --- the parent: no torch here, so that children start from a small process ------------------------------------------


def child(what: str, preset: str, options: argparse.Namespace, **more: str) -> Any:
    """Run ``measure_<what>`` in a fresh process."""
    environment = dict(os.environ)
    if options.threads:
        environment["OMP_NUM_THREADS"] = str(options.threads)
    request = json.dumps({"what": what, "preset": preset, "runs": options.runs, **more})
    print(f"  {what} {preset} {' '.join(more.values())}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, __file__, "--child", request], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def serve(request: str) -> None:
    """Be the child: measure and print one line of JSON."""
    import torch

    arguments = json.loads(request)
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(json.dumps(globals()[f"measure_{arguments.pop('what')}"](**arguments)))


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the start of a worker process to its milestones, on the job of `axon demo` (two seeds)."""
    from axon_core import resources
    from axon_core.errors import AxonError

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            film = str(resources.demo_film())
            model = "axon-small"
            bundled = (resources.folder() / "Models" / model / "model.safetensors").is_file()
        except AxonError:
            bundled = False
        if not bundled:
            child("prepare", "small", options, folder=name)
            film, model = str(folder / "film.png"), str(folder / "model")
        runs = [_demo(folder, film, model, options) for _ in range(options.runs)]
    table = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {"model": "axon-small" if bundled else "small, untrained, every stage", "seconds": table}


def _demo(folder: Path, film: str, model: str, options: argparse.Namespace) -> dict[str, float]:
    job = {"frontal": film, "output": str(folder / "result"), "model": model, "seeds": [0, 1]}
    (folder / "job.json").write_text(json.dumps({**job, "device": "cpu", "previews": True, "overwrite": True}))
    environment = dict(os.environ)
    if options.threads:
        environment["OMP_NUM_THREADS"] = str(options.threads)
    began = time.perf_counter()
    command = [sys.executable, "-m", "axon_core.worker", str(folder / "job.json")]
    at: dict[str, float] = {}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said, now = json.loads(line), time.perf_counter() - began
            kind = said["type"]
            if kind == "error":
                raise SystemExit(f"the worker failed: {said['title']}")
            if kind == "progress" and said["stage"] == "model":
                at.setdefault("film read", now)
            elif kind == "preview":
                at.setdefault("first preview, F(x)", now)
            elif kind == "result":
                at["volume and report on disk"] = now
                at.update({f"of this, {stage}": seconds for stage, seconds in said["timings"].items()})
    return at


def markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A section with a table."""
    lines = [f"\n### {title}\n", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows)])


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else str(value)


def run_stages(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for preset in options.presets:
        names = child("stages", preset, options)
        if preset in options.forward:
            names = names[:2]
        found[preset] = {name: child("stage", preset, options, stage=name) for name in names}
        rows = [(name, *(row[key] for key in ("wall_s", "cpu_s", "peak_gib"))) for name, row in found[preset].items()]
        print(markdown(f"Stages of `{preset}`", ("stage", "wall s", "CPU s", "peak GiB"), rows))
        peak = max(row["peak_gib"] for row in found[preset].values())
        print(f"\nPeak of `{preset}`: {peak:.2f} GiB, {'below' if peak < MEMORY_LIMIT_GIB else 'ABOVE'} 24 GiB.")
    return found


def run_monai(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for preset in (preset for preset in options.presets if preset not in options.forward):
        found[preset] = child("monai", preset, options)
        rows = [
            (sampler, name, row["wall_s"], row["cpu_s"], f"{row['cpu_s'] / variants['axon']['cpu_s']:.2f}x")
            for sampler, variants in found[preset].items()
            for name, row in variants.items()
        ]
        head = ("sampler", "by", "wall s", "CPU s", "CPU time against axon")
        print(markdown(f"Beside MONAI, `{preset}`", head, rows))
    return found


def run_profile(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for preset in (preset for preset in options.presets if preset not in options.forward):
        found[preset] = child("profile", preset, options)
        rows = [(name, *(f"{share:.0%}" for share in shares.values())) for name, shares in found[preset].items()]
        print(markdown(f"Where the time goes, `{preset}`", ("stage", *GROUPS, "other"), rows))
    return found


def run_factors(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for preset in (preset for preset in options.presets if preset not in options.forward):
        found[preset] = child("factors", preset, options)
        first = next(iter(found[preset].values()))
        rows = [
            (
                name,
                row["wall_s"],
                row["cpu_s"],
                f"{row['wall_s'] / first['wall_s']:.2f}x",
                f"{row['cpu_s'] / first['cpu_s']:.2f}x",
            )
            for name, row in found[preset].items()
        ]
        head = ("bridge", "wall s", "CPU s", "wall against first row", "CPU against first row")
        print(markdown(f"Factors, `{preset}`", head, rows))
    return found


def run_start(options: argparse.Namespace) -> dict[str, Any]:
    found = start(options)
    rows = list(found["seconds"].items())
    print(markdown(f"`axon demo` from a fresh process ({found['model']})", ("milestone", "wall s"), rows))
    return found


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small", "base", "paper"])
    parser.add_argument("--forward", nargs="*", default=["paper"], help="presets of which one evaluation is enough")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch's choice by default")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.child)
        return
    machine = child("machine", "small", options)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    found: dict[str, Any] = {"machine": machine}
    for section in options.sections:
        found[section] = globals()[f"run_{section}"](options)
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

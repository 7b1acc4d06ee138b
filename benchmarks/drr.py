"""How fast and how right are X-ray projectors on the CPU? Ours beside nanodrr, RTK and plastimatch, in one run.

    python benchmarks/drr.py CT [--ct-size 512] [--sizes 256 1024] [--threads 1 2] [--rounds 5] [--engines NAME...]
                                [--rtk-python PYTHON] [--json FILE]

One PA film per measurement, of the CT, at the standard distances. Columns:

- CPU ms, wall ms: minimum over the rounds; the engines take turns, each in a process of its own. An engine that needs
  seconds is timed once. plastimatch is a program: what it needs for a film of 2 x 2 pixels (start, reading the CT) is
  subtracted.
- extra MB: peak memory while projecting, above what the process held before, in a fresh process.
- ball, box: mean absolute error in percent of the analytic integrals, over rays with an integral above 0.4, at 256²:
  a ball (R = 100 mm) and a box of 0.02 / mm, voxelised at 1 mm by area.
- CT: mean absolute difference to nanodrr in percent, same rays.

The roofline says what ours could cost at best: bytes over the bandwidth of a plain copy. "Least" counts the volume's
slabs, each read once, and the film; "moved" adds the sheared slabs, written, turned and read, as if no cache held them.

nanodrr, plastimatch and RTK are used where they are installed (see `Testing/core/oracles.py`); RTK may live in another
interpreter, which needs only itk-rtk.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "core")]

OURS: dict[str, dict[str, Any]] = {  # slab and number format of Projector
    "axon exact": {"slab": 1, "dtype": "float32"},
    "axon fine": {"slab": 2, "dtype": "float32"},
    "axon interactive": {"slab": 4, "dtype": "float16"},
}
REFERENCE = "nanodrr"
RTK = "RTK Joseph"
PLASTIMATCH = {"plastimatch exact": "exact", "plastimatch uniform": "uniform"}
ENGINES = (*OURS, REFERENCE, RTK, *PLASTIMATCH)

SLOW_MS = 2000.0  # CPU time of a film after which an engine is not timed again
TINY_PIXELS = 2
TRUTH_PIXELS = 256  # films of ball and box
EQUAL_PERCENT = 0.1  # engines whose ball and box are this good count as equally accurate
DENSE = 0.4  # line integral above which a ray counts
SLICES = 133  # of a clinical chest CT of 512 x 512
MU = 0.02  # of ball and box [1/mm]
BALL_MM = 100.0  # radius
BOX_MM = (80.0, 60.0, 90.0)  # half edges: faces lie between voxels
COPY_BYTES = 2**28


# --- phantoms and their truth (numpy only) ---------------------------------------------------------------------------


def voxel_ball(size: int = 256) -> Any:
    """(size,) * 3 float32 of MU inside the ball: 1 mm voxels, those at the surface by 4 x 4 x 4 samples."""
    import numpy as np

    axis = np.arange(size) - 0.5 * (size - 1)
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mu = np.where(distance < BALL_MM, MU, 0.0).astype(np.float32)
    surface = np.abs(distance - BALL_MM) < 0.87  # half a voxel's diagonal
    centers = axis[np.stack(np.nonzero(surface), axis=-1)]
    step = (np.arange(4) - 1.5) / 4
    inside = np.zeros(len(centers), dtype=np.int64)
    for z in step:
        for y in step:
            for x in step:
                inside += ((centers + np.array([z, y, x])) ** 2).sum(-1) < BALL_MM**2
    mu[surface] = MU * inside / len(step) ** 3
    return mu


def voxel_box(size: int = 256) -> Any:
    """(size,) * 3 float32 of MU inside the box: 1 mm voxels, none of them cut."""
    import numpy as np

    axis = np.abs(np.arange(size) - 0.5 * (size - 1))
    x, y, z = (axis < half for half in BOX_MM)
    return (MU * (z[:, None, None] & y[:, None] & x)).astype(np.float32)


def true_ball(geometry: Any) -> Any:
    """(pixels, pixels) exact integrals through the ball."""
    import numpy as np

    rays = unit_rays(geometry)
    nearest2 = geometry.source @ geometry.source - (rays @ geometry.source) ** 2
    return MU * 2 * np.sqrt(np.clip(BALL_MM**2 - nearest2, 0, None))


def true_box(geometry: Any) -> Any:
    """(pixels, pixels) exact integrals through the box."""
    import numpy as np

    rays, half = unit_rays(geometry), np.array(BOX_MM)
    with np.errstate(divide="ignore"):
        faces = np.stack([(-half - geometry.source) / rays, (half - geometry.source) / rays])
    length = faces.max(0).min(-1) - faces.min(0).max(-1)
    return MU * np.clip(length, 0, None)


def unit_rays(geometry: Any) -> Any:
    """(pixels, pixels, 3) directions from the source."""
    import numpy as np

    rays = geometry.detector() - geometry.source
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def percent_off(film: Any, truth: Any) -> float:
    """Mean absolute error in percent of the mean, over the rays that cross something."""
    import numpy as np

    dense = truth > DENSE
    return float(100 * np.abs(film - truth)[dense].mean() / truth[dense].mean())


TRUTHS = {"ball": true_ball, "box": true_box}


@dataclass(frozen=True)
class Volume:
    """A volume on disk: `path` of mu (z, y, x) [1/mm] float32, `affine` voxel (x, y, z, 1) -> LPS, centred at 0."""

    path: str
    shape: tuple[int, int, int]
    affine: list[list[float]]

    @classmethod
    def save(cls, folder: Path, name: str, mu: Any, affine: Any) -> Volume:
        import numpy as np

        path = folder / f"{name}.npy"
        np.save(path, np.ascontiguousarray(mu, dtype=np.float32))
        return cls(str(path), mu.shape, affine.tolist())

    def load(self) -> tuple[Any, Any]:
        """(mu, affine) as arrays."""
        import numpy as np

        return np.load(self.path), np.array(self.affine)


def centred(shape: Sequence[int], axes: Any) -> Any:
    """(4, 4) affine with the given (3, 3) steps per voxel whose volume (z, y, x) has its middle at the LPS origin."""
    import numpy as np

    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ (0.5 * (np.array(shape[::-1]) - 1))
    return affine


# --- the child: one engine, one number of threads --------------------------------------------------------------------


class InProcess:
    """An engine that projects inside this process."""

    def __init__(self, project: Callable[[Any], Any]) -> None:
        self.project = project

    def film(self, geometry: Any) -> Any:
        return self.project(geometry)

    def timed(self, geometry: Any) -> dict[str, float]:
        """CPU and wall milliseconds of one film."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.project(geometry)
        return {"cpu_ms": 1e3 * (time.process_time() - cpu), "wall_ms": 1e3 * (time.perf_counter() - wall)}

    def surveyed(self, geometry: Any) -> tuple[Any, float | None]:
        """A film, and the peak of memory above what the process held before."""
        forget = Path("/proc/self/clear_refs")
        if forget.exists():
            forget.write_text("5")  # the peak starts anew at what is held now
        before = peak_mb("self")
        film = self.project(geometry)
        return film, more(peak_mb("self"), before)


class Program:
    """plastimatch: every film is a process, from which start and reading are subtracted."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def film(self, geometry: Any) -> Any:
        return self.engine(geometry)

    def timed(self, geometry: Any) -> dict[str, float]:
        """CPU and wall milliseconds of one film, without start and reading."""
        whole = self._run(geometry)
        return {key: max(0.0, whole[key] - value) for key, value in self._overhead.items()}

    def surveyed(self, geometry: Any) -> tuple[Any, float | None]:
        """A film, and the peak of memory above that of a tiny film."""
        tiny, whole = (self._peak(self.engine.command(film)) for film in (pa_film(TINY_PIXELS), geometry))
        return self.engine.film(geometry), more(whole, tiny)

    @cached_property
    def _overhead(self) -> dict[str, float]:
        runs = [self._run(pa_film(TINY_PIXELS)) for _ in range(4)]
        return {key: min(run[key] for run in runs) for key in runs[0]}

    def _run(self, geometry: Any) -> dict[str, float]:
        import resource  # not on Windows

        def spent() -> float:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime

        wall, cpu = time.perf_counter(), spent()
        subprocess.run(self.engine.command(geometry), stdout=subprocess.DEVNULL, check=True)
        return {"cpu_ms": 1e3 * (spent() - cpu), "wall_ms": 1e3 * (time.perf_counter() - wall)}

    @staticmethod
    def _peak(command: list[str]) -> float | None:
        # getrusage cannot tell: its peak of a child starts with that of the parent
        peak = None
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peak = peak_mb(str(process.pid)) or peak
                time.sleep(0.001)
        return peak


def peak_mb(process: str) -> float | None:
    """The most memory that a living process has held; None where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return found[0] * 1024 / 1e6 if found else None


def more(peak: float | None, before: float | None) -> float | None:
    return None if peak is None or before is None else peak - before


def build(name: str, volume: Volume, threads: int) -> InProcess | Program:
    """The engine, ready to project the volume."""
    import oracles

    mu, affine = volume.load()
    if name in OURS:
        return InProcess(ours(OURS[name], mu, affine))
    if name in PLASTIMATCH:
        return Program(oracles.Plastimatch(mu, affine, PLASTIMATCH[name]))
    return InProcess(oracles.Rtk(mu, affine, threads) if name == RTK else oracles.Nanodrr(mu, affine))


def ours(setting: dict[str, Any], mu: Any, affine: Any) -> Callable[[Any], Any]:
    """Our projector for the beam of a PA film."""
    import torch

    from axon_core.drr.projector import Projector

    dtype = getattr(torch, setting["dtype"])
    beam = pa_film(TINY_PIXELS).view.beam
    projector = Projector(torch.from_numpy(mu), affine, beam, setting["slab"], dtype)

    def project(geometry: Any) -> Any:
        with torch.no_grad():
            return projector(geometry)[0].numpy()

    return project


def pa_film(pixels: int) -> Any:
    """The geometry of every measurement."""
    from axon_core.geometry import XrayGeometry, XrayView

    return XrayGeometry(XrayView.PA, pixels)


class Child:
    """Answers requests about one engine; the volume is loaded when it is first needed."""

    def __init__(self, engine: str, threads: int) -> None:
        self.name, self.threads = engine, threads
        self.loaded: tuple[Volume, InProcess | Program] | None = None

    def engine(self, volume: Volume) -> InProcess | Program:
        if self.loaded is None or self.loaded[0] != volume:
            self.loaded = None  # before the next one comes
            self.loaded = volume, build(self.name, volume, self.threads)
            self.loaded[1].film(pa_film(TINY_PIXELS))  # lazy imports and buffers
        return self.loaded[1]

    def time(self, volume: Volume, pixels: int) -> dict[str, float]:
        return self.engine(volume).timed(pa_film(pixels))

    def survey(self, volume: Volume, pixels: int, film: str) -> float | None:
        """Peak memory; writes the film as .npy."""
        import numpy as np

        cast, extra = self.engine(volume).surveyed(pa_film(pixels))
        np.save(film, cast)
        return extra

    def error(self, volume: Volume, phantom: str) -> float:
        """Percent by which the film of a phantom is off."""
        geometry = pa_film(TRUTH_PIXELS)
        return percent_off(self.engine(volume).film(geometry), TRUTHS[phantom](geometry))


class Tasks:
    """Answers requests that no engine is needed for."""

    def volumes(self, ct: str, ct_size: int, folder: str) -> dict[str, Any]:
        """Write CT, ball and box."""
        import numpy as np

        from axon_core.ctvolume import CTVolume
        from axon_core.intensity import hu_to_mu

        chest = CTVolume.load(ct)
        if ct_size:
            shape = (SLICES, ct_size, ct_size)
            factor = np.array(chest.hu.shape[::-1]) / shape[::-1]  # new voxel edge in old ones
            affine = np.array(chest.affine)
            affine[:3, 3] += affine[:3, :3] @ (0.5 * (factor - 1))  # same faces
            affine[:3, :3] *= factor
            chest = chest.resampled(affine, shape)
        arrays = {
            "ct": (hu_to_mu(chest.hu), chest.affine[:3, :3]),
            "ball": (voxel_ball(), np.eye(3)),
            "box": (voxel_box(), np.eye(3)),
        }
        saved = {n: Volume.save(Path(folder), n, mu, centred(mu.shape, axes)) for n, (mu, axes) in arrays.items()}
        return {name: vars(volume) for name, volume in saved.items()}

    def difference(self, film: str, reference: str) -> float:
        """Percent by which one film is off another."""
        import numpy as np

        return percent_off(np.load(film), np.load(reference))

    def bandwidth(self) -> float:
        """Bytes per second, read and written, of a plain copy."""
        import torch

        source = torch.ones(COPY_BYTES // 4)
        target = torch.empty_like(source)
        best = math.inf
        for _ in range(6):
            began = time.perf_counter()
            target.copy_(source)
            best = min(best, time.perf_counter() - began)
        return 2 * COPY_BYTES / best

    def machine(self) -> dict[str, Any]:
        """Where the numbers were taken."""
        import torch

        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return {
            "date": datetime.date.today().isoformat(),
            "processor": named[0] if named else platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "load": [round(value, 1) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        }


def serve(start: str) -> None:
    """Be the child: one line of JSON in, one line out, until the input ends."""
    setting = json.loads(start)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(setting["threads"])
    target = Child(**setting) if setting["engine"] else Tasks()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print what they like
    for line in sys.stdin:
        request = json.loads(line)
        if "volume" in request:
            given = request["volume"]
            request["volume"] = Volume(given["path"], tuple(given["shape"]), given["affine"])
        print(json.dumps(getattr(target, request.pop("do"))(**request)), file=answers, flush=True)


# --- the parent: neither torch nor volumes here ----------------------------------------------------------------------


class Worker:
    """A child process; ends with the `with` block."""

    def __init__(self, python: str, engine: str | None = None, threads: int = 1) -> None:
        self.name, count = engine or "", str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": count}
        start = json.dumps({"engine": engine, "threads": threads})
        self.process = subprocess.Popen(
            [python, __file__, "--child", start],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def ask(self, do: str, **more: Any) -> Any:
        """One request, one answer."""
        print(f"  {self.name} {do} {more.get('pixels', '')}", file=sys.stderr)
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a child process failed; its message is above")
        return json.loads(answer)


class Bench:
    """All measurements of one run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.engines = [name for name in options.engines if self.python(name)]
        with Worker(sys.executable) as tasks:
            self.machine = tasks.ask("machine")
            self.volumes = tasks.ask("volumes", ct=str(options.ct), ct_size=options.ct_size, folder=str(folder))

    def python(self, engine: str) -> str | None:
        """The interpreter in which an engine runs; None if it is not installed."""
        if engine in OURS:
            return sys.executable
        if engine == RTK and self.options.rtk_python:
            return str(self.options.rtk_python)
        package = {REFERENCE: "nanodrr", RTK: "itk"}.get(engine, "plastimatch")
        return sys.executable if importlib.util.find_spec(package) else None

    def worker(self, engine: str, threads: int) -> Worker:
        python = self.python(engine)
        assert python is not None
        return Worker(python, engine, threads)

    def times(self, pixels: int, threads: int) -> dict[str, dict[str, float]]:
        """Engine -> least CPU and wall milliseconds; the engines take turns."""
        workers = {name: self.worker(name, threads) for name in self.engines}
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for _ in range(self.options.rounds):
            for name, worker in workers.items():
                if samples[name] and samples[name][-1]["cpu_ms"] > SLOW_MS:
                    continue
                samples[name].append(worker.ask("time", volume=self.volumes["ct"], pixels=pixels))
        for worker in workers.values():
            worker.process.communicate()
        return {name: {key: min(run[key] for run in runs) for key in runs[0]} for name, runs in samples.items()}

    def surveys(self, pixels: int) -> dict[str, dict[str, float | None]]:
        """Engine -> extra memory, and difference of its film of the CT to the reference."""
        films = {name: self.folder / f"{index}-{pixels}.npy" for index, name in enumerate(self.engines)}
        found: dict[str, dict[str, float | None]] = {}
        for name, film in films.items():
            with self.worker(name, 1) as worker:
                extra = worker.ask("survey", volume=self.volumes["ct"], pixels=pixels, film=str(film))
            found[name] = {"extra_mb": extra, "ct_percent": None}
        with Worker(sys.executable) as tasks:
            for name, film in films.items():
                if REFERENCE in films and name != REFERENCE:
                    other = str(films[REFERENCE])
                    found[name]["ct_percent"] = tasks.ask("difference", film=str(film), reference=other)
        return found

    def errors(self) -> dict[str, dict[str, float]]:
        """Engine -> phantom -> percent off the truth."""
        found: dict[str, dict[str, float]] = {}
        for name in self.engines:
            with self.worker(name, 1) as worker:
                found[name] = {key: worker.ask("error", volume=self.volumes[key], phantom=key) for key in TRUTHS}
        return found

    def bandwidth(self, threads: int) -> float:
        with Worker(sys.executable, threads=threads) as tasks:
            return float(tasks.ask("bandwidth"))


def traffic(volume: dict[str, Any], pixels: int, setting: dict[str, Any]) -> dict[str, float]:
    """Megabytes that our projector moves for one film: at least, and with the sheared slabs.

    With K slabs of n_u x n_v voxels and c film columns in the volume's shadow:

    - least: K n_u n_v elements of the volume and pixels² float32 of film;
    - moved: also K c n_v elements of sheared slabs, written, read to be turned, written turned and read.
    """
    import numpy as np

    geometry, affine = pa_film(pixels), np.array(volume["affine"])
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    depth = int(np.argmax(np.abs(geometry.view.beam @ (affine[:3, :3] / edges))))
    u, v = (axis for axis in range(3) if axis != depth)
    count = volume["shape"][::-1]  # along x, y, z
    slabs = math.ceil(count[depth] / setting["slab"])
    nearest_mm = geometry.sdd_mm - geometry.isocentre_to_detector_mm - 0.5 * count[depth] * edges[depth]
    shadow = count[u] * edges[u] * geometry.sdd_mm / nearest_mm / geometry.pitch_mm
    columns = min(pixels, math.ceil(shadow))
    element = np.dtype(setting["dtype"]).itemsize
    least = slabs * count[u] * count[v] * element + pixels**2 * 4
    return {"least_mb": least / 1e6, "moved_mb": (least + 4 * slabs * columns * count[v] * element) / 1e6}


def markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A section with a table."""
    lines = [f"\n### {title}\n", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def equally_accurate(error: dict[str, float]) -> bool:
    return max(error.values()) <= EQUAL_PERCENT


def ratios(times: dict[str, dict[str, float]], errors: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Ours against the fastest other engine of equal accuracy, in CPU time."""
    others = [name for name in times if name not in OURS and equally_accurate(errors[name])]
    if not others:
        return []
    best = min(others, key=lambda name: times[name]["cpu_ms"])
    return [
        {
            "engine": name,
            "other": best,
            "faster": times[best]["cpu_ms"] / times[name]["cpu_ms"],
            "equal": equally_accurate(errors[name]),
        }
        for name in times
        if name in OURS
    ]


def report(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure, print and return everything."""
    bench = Bench(options, folder)
    print(", ".join(f"{key} {value}" for key, value in bench.machine.items()))
    print(f"CT of {' x '.join(str(n) for n in bench.volumes['ct']['shape'])} voxels (z, y, x)")
    errors, found = bench.errors(), []
    bandwidths = {threads: bench.bandwidth(threads) for threads in options.threads}
    for pixels in options.sizes:
        surveys = bench.surveys(pixels)
        for threads in options.threads:
            times = bench.times(pixels, threads)
            rows = {name: {**times[name], **surveys[name], **errors[name]} for name in times}
            found.append({"pixels": pixels, "threads": threads, "engines": rows, "ratios": ratios(times, errors)})
            head = ("engine", "CPU ms", "wall ms", "extra MB", "CT %", "ball %", "box %")
            print(
                markdown(f"{pixels}², {threads} thread(s)", head, [(name, *row.values()) for name, row in rows.items()])
            )
            print_roofline(bench, times, pixels, threads, bandwidths[threads])
            sys.stdout.flush()
    print_ratios(found)
    return {"machine": bench.machine, "ct_shape": bench.volumes["ct"]["shape"], "copy": bandwidths, "tables": found}


def print_roofline(
    bench: Bench, times: dict[str, dict[str, float]], pixels: int, threads: int, bandwidth: float
) -> None:
    """What ours moves, against a plain copy."""
    rows = []
    for name in (name for name in times if name in OURS):
        moved = traffic(bench.volumes["ct"], pixels, OURS[name])
        shares = [megabytes * 1e9 / bandwidth / times[name]["wall_ms"] for megabytes in moved.values()]
        rows.append((name, *moved.values(), *(f"{share:.0%}" for share in shares)))
    if rows:
        title = f"Roofline at {pixels}², {threads} thread(s): a copy moves {bandwidth / 1e9:.1f} GB/s"
        print(markdown(title, ("engine", "least MB", "moved MB", "least of wall", "moved of wall"), rows))


def print_ratios(found: Sequence[dict[str, Any]]) -> None:
    """Ours against the fastest other engine."""
    print(f"\nCPU time of the fastest other engine with ball and box within {EQUAL_PERCENT} %, over ours:\n")
    for table in found:
        for row in table["ratios"]:
            note = "" if row["equal"] else f" (ours is less accurate than {EQUAL_PERCENT} %)"
            where = f"{table['pixels']}², {table['threads']} thread(s)"
            print(f"- {where}: {row['engine']} {row['faster']:.1f}x faster than {row['other']}{note}")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path, nargs="?", help="a CT that axon can read")
    parser.add_argument("--ct-size", type=int, default=0, help=f"resample the CT to N x N x {SLICES} voxels")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 1024], help="film pixels along an edge")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rtk-python", type=Path, help="interpreter that has itk-rtk, if not this one")
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.child)
        return
    if options.ct is None:
        parser.error("which CT?")
    with tempfile.TemporaryDirectory() as folder:
        found = report(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How long a reconstruction will take on this machine, for each preset, from short trials.

A drawn film goes the whole road of the preset "preview"; then each further network is evaluated a few times, and a
volume of the size that super-resolution makes is projected and written. A network is tried on small cubes first; when
the next larger one would take too long, its time is scaled up by the number of voxels.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axon_core.errors import DeviceError
from axon_core.film_choice import FilmChoice
from axon_core.job import check, job_from_dict, write_results
from axon_core.staging import Staging

if TYPE_CHECKING:
    import torch

    from axon_core.model import AxonModel
    from axon_core.pipeline import Progress, Reconstruction

PYTHON_S = 0.3  # until the first line of a job: the interpreter and numpy
FILM_PIXELS = 2000
PATIENCE_S = 3.0  # nothing is tried that will probably take longer
REPEATS = 3
HALVINGS = 3  # of the cube's edge, at most


@dataclass(frozen=True)
class PlanJob:
    """What is to be reconstructed, without the films.

    Attributes:
        model: name of an installed model, or a model's folder.
        device: "auto", "cpu", "cuda" or "mps".
        seeds: how many volumes are to be drawn.
        views: 1, or 2 with a lateral film.
    """

    model: str = "axon-small"
    device: str = "auto"
    seeds: int = 1
    views: int = 1

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PlanJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, values)

    def __post_init__(self) -> None:
        check("seeds", self.seeds >= 1, "a whole number from 1")
        check("views", self.views in (1, 2), "1 or 2")

    def staging(self) -> Staging:
        """For `run`; nothing of it stays."""
        return Staging(Path(tempfile.gettempdir()) / "axon-plan")

    def run(self, staging: Staging, callback: Callable[[Progress], None]) -> Plan:
        """Do the job.

        Raises:
            AxonError: whatever a user can cause.
        """
        with staging:
            film = _drawn_film(staging.folder / "film.tif")
            started = time.perf_counter()

            from axon_core.baselines.models import open_model
            from axon_core.devices import devices, resolve_device
            from axon_core.pipeline import ENDPOINT, PRESETS, SUPER, Progress, evaluations, reconstruct

            callback(Progress("loading", 0.0))
            device = resolve_device(self.device)
            model = open_model(self.model)
            counts = {name: evaluations(model, quality, self.seeds) for name, quality in PRESETS.items()}
            frontal, lateral = film.load(), replace(film, view="LAT").load() if self.views == 2 else None
            try:
                made = reconstruct(frontal, lateral, model=model, preset="preview", device=device)
                _written(made, staging.folder / "preview")
                preview = PYTHON_S + time.perf_counter() - started
                costs = {ENDPOINT: Cost(0.0, 0.0)}  # in the preview
                for stage in (stage for stage in counts["paper"] if stage not in costs):
                    callback(Progress(stage, 0.3 + 0.2 * len(costs)))
                    costs[stage] = _cost(model, stage) if counts["paper"][stage] else Cost(0.0, 0.0)
                if counts["paper"][SUPER]:
                    more = _larger(made, staging.folder)
                    costs[SUPER] = replace(costs[SUPER], once=costs[SUPER].once + more)
            except (MemoryError, RuntimeError) as error:
                from axon_core.pipeline import is_out_of_memory

                if not is_out_of_memory(error):
                    raise
                raise DeviceError(
                    "device.memory", f"The memory of {device!r} does not suffice.", "Use a smaller model."
                ) from error
            callback(Progress("done", 1.0))
        seconds = {
            name: round(preview + sum(costs[stage].of(count) for stage, count in counted.items()), 1)
            for name, counted in counts.items()
        }
        text = next(one.text for one in devices() if one.name == device)
        choice = "the best device here" if self.device == "auto" else "as asked for"
        measured = all(cost.measured for cost in costs.values())
        return Plan(device, f"{choice}: {text}", "measured" if measured else "estimated", seconds)


@dataclass(frozen=True)
class Plan:
    """What to expect.

    Attributes:
        device: where the networks would run.
        reason: what it is, and why it was chosen.
        basis: "measured", or "estimated" where a network was too slow to be tried on the whole cube.
        seconds: preset -> from the start of the child process to its end.
    """

    device: str
    reason: str
    basis: str
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "warnings": []}


@dataclass(frozen=True)
class Cost:
    """Seconds that a stage takes once and for each evaluation of its networks."""

    once: float
    each: float
    measured: bool = True

    def of(self, evaluations: int) -> float:
        """Seconds of a stage with so many evaluations; none at all without any."""
        return self.once + evaluations * self.each if evaluations else 0.0


def _drawn_film(path: Path) -> FilmChoice:
    """A film of the usual size: two dark lungs in a bright body."""
    from PIL import Image

    row, column = np.mgrid[-1 : 1 : FILM_PIXELS * 1j, -1 : 1 : FILM_PIXELS * 1j]
    body = 150.0 * ((column / 0.9) ** 2 + (row / 1.1) ** 2 < 1)
    for side in (-0.42, 0.42):
        body -= 90.0 * (((column - side) / 0.3) ** 2 + (row / 0.65) ** 2 < 1)
    Image.fromarray((body + 20.0 + 20.0 * np.cos(9.0 * row)).clip(0, 255).astype(np.uint8)).save(path)
    return FilmChoice(str(path), view="PA")


def _written(made: Reconstruction, folder: Path) -> None:
    folder.mkdir()
    write_results(made, folder, "nrrd")


def _larger(made: Reconstruction, folder: Path) -> float:
    """Seconds by which projecting and writing take longer for the volumes of super-resolution."""
    from axon_core.geometry import CanonicalGrid
    from axon_core.nets.srnet import SRNet
    from axon_core.pipeline import reproject

    edge, factor = made.final.hu.shape[0], SRNet.factor
    fine = CanonicalGrid(edge * factor, edge * made.final.spacing_mm[0])
    times = []
    for name, volume in (("small", made.final), ("large", made.final.onto(fine))):
        started = time.perf_counter()
        for film in made.films.values():
            reproject(volume, film.view, film.image.shape[0])
        _written(replace(made, final=volume), folder / name)
        times.append(time.perf_counter() - started)
    return max(0.0, times[1] - times[0])


def _cost(model: AxonModel, stage: str) -> Cost:
    """Of the stage's networks: loading them, and one evaluation."""
    started = time.perf_counter()
    for name in model.parts(stage):
        getattr(model, name)
    loaded = time.perf_counter() - started
    full = model.config.size
    tried: list[tuple[int, float]] = []  # voxels and seconds of each cube, which grows
    for k in (k for k in range(HALVINGS, -1, -1) if k == 0 or full % (_unit(model, stage) << k) == 0):
        edge = full >> k
        if len(tried) > 1 and _scaled(tried, edge**3) > PATIENCE_S:
            return Cost(loaded, _scaled(tried, full**3), measured=False)
        times = _timed(_evaluation(model, stage, edge), model.device)
        tried.append((edge**3, min(times)))
    each = statistics.median(times[1:] or times)
    return Cost(loaded + times[0] - each, each)


def _scaled(tried: list[tuple[int, float]], voxels: int) -> float:
    """Seconds for so many voxels, on the line through the last two trials: what each call costs is not scaled."""
    (v0, t0), (v1, t1) = tried[-2:]
    return t1 + max(0.0, t1 - t0) / (v1 - v0) * (voxels - v1)


def _unit(model: AxonModel, stage: str) -> int:
    """The smallest edge of a cube that leaves two voxels at the networks' deepest level; others are multiples of it."""
    if stage not in ("coarse", "fine"):
        return 1
    unet = model.config.coarse if stage == "coarse" else model.config.fine
    return unet.patch << len(unet.channels)


def _evaluation(model: AxonModel, stage: str, edge: int) -> Callable[[], object]:
    """One evaluation of the stage's networks on a cube, as `pipeline` does it."""
    import torch

    from axon_core.model import Hint

    x = torch.rand(1, 1, edge, edge, edge, device=model.device)
    hint = Hint(x, torch.zeros(1, 1, *2 * (model.config.film_size,), device=x.device))
    return {
        "coarse": lambda: model.bridge_x0(x, torch.ones(1, 1, 1, 1, 1, device=x.device), x),
        "fine": lambda: model.fine_x0(x, torch.zeros(1), hint),
        "super-resolution": lambda: model.super_resolve(x),
    }[stage]


def _timed(evaluate: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each evaluation; the first, which prepares the others, and as many more as patience allows."""
    import torch

    from axon_core.pipeline import autocast

    times: list[float] = []
    with torch.no_grad(), autocast(device):
        while len(times) <= REPEATS and sum(times) < PATIENCE_S / 2:
            started = time.perf_counter()
            evaluate()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            times.append(time.perf_counter() - started)
    return times

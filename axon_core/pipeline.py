"""The one road: films -> standardised films -> F(x) -> bridge -> FineDiff -> SR -> HU, with checks and provenance."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from axon_core import SYNTHETIC_NOTICE, __version__
from axon_core.ctvolume import CTVolume
from axon_core.devices import resolve_device
from axon_core.diffusion.sampling import SeededNoise, Step
from axon_core.drr.appearance import clinic_look
from axon_core.drr.projector import Projector
from axon_core.errors import ConfigError, DeviceError, FilmError
from axon_core.geometry import CanonicalGrid, XrayGeometry, XrayView, usual_sdd_mm
from axon_core.intensity import hu_to_mu
from axon_core.model import AxonModel, Hint, bfloat16_pays
from axon_core.radiograph import Radiograph, StandardFilm, standardise
from axon_core.registration.placement import aligned
from axon_core.walks import Quality, coarse_eta, coarse_times, fine_eta, fine_times, walk_coarse, walk_fine

ENDPOINT, COARSE, FINE, SUPER = "F(x)", "coarse", "fine", "super-resolution"


DISTANCE_TOLERANCE = 0.1  # off from the distance that the networks learned: then a body comes out 8 % too deep or flat

PRESETS = {
    "preview": Quality(first_only=True),
    "fast": Quality(),
    "quality": Quality(bridge_steps=16, fine_steps=25),
    "paper": Quality(bridge_steps=200, rho=1.0, fine_steps=50, fine_start=1.0, everything=True),
}


@dataclass(frozen=True)
class Progress:
    """What is happening.

    Attributes:
        stage: name of the stage at work.
        fraction: of the whole work, in [0, 1].
        eta_s: seconds to go, None while unknown.
        preview: (z, y, x) HU of the best volume so far, None between volumes.
        grid: where the preview lies.
    """

    stage: str
    fraction: float
    eta_s: float | None = None
    preview: np.ndarray | None = None
    grid: CanonicalGrid | None = None


Callback = Callable[[Progress], None]


@dataclass(frozen=True)
class Reconstruction:
    """A synthetic CT and everything needed to judge it and to make it again.

    Attributes:
        final: the volume after the last stage; super-resolution is of the mean over the seeds.
        stages: the volume after each stage that ran, in order (means over the seeds).
        std: HU standard deviation over the seeds of the last stochastic stage; None with one seed or none such.
        films: "frontal" and perhaps "lateral" as the networks saw them.
        reprojections: the film that `final` would cast, in the same range.
        ncc: normalised cross-correlation of film and re-projection inside the film's area.
        provenance: plain values for JSON.
        timings: seconds of each stage.
        warnings: one line each.
    """

    final: CTVolume
    stages: dict[str, CTVolume]
    std: CTVolume | None
    films: dict[str, StandardFilm]
    reprojections: dict[str, np.ndarray]
    ncc: dict[str, float]
    provenance: dict[str, Any]
    timings: dict[str, float]
    warnings: tuple[str, ...]


def reconstruct(
    frontal: Radiograph,
    lateral: Radiograph | None = None,
    *,
    model: AxonModel,
    preset: str = "fast",
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    align: bool = False,
    callback: Callback | None = None,
) -> Reconstruction:
    """Reconstruct a chest CT from one or two films.

    Args:
        frontal: PA or AP film.
        lateral: left lateral film of the same patient, if there is one.
        model: see `AxonModel.from_pretrained`; or a baseline, whose volume takes the part of F(x).
        preset: "preview" (F(x) only), "fast", "quality" or "paper" (every stage, many steps).
        seeds: one sample for each; the result is their mean and, with several, their spread.
        device: "auto", "cpu", "cuda" or "mps".
        align: turn, scale and shift a single frontal film to where the networks saw chests, if it lies far off.
        callback: called with `Progress`; may raise `Cancelled` to stop.

    Errors:
        FilmError: a film in the wrong place. ConfigError: unknown preset. DeviceError: no such device.
    """
    if preset not in PRESETS:
        raise ConfigError("pipeline.preset", f"Unknown quality preset {preset!r}.", f"Use one of {', '.join(PRESETS)}.")
    if not seeds:
        raise ConfigError("pipeline.seeds", "No seed was given.", "Give at least one whole number.")
    films = _standard_films(frontal, lateral, model, align)
    warnings = [f"{name} film: {warning}" for name, film in films.items() for warning in film.warnings]
    for chosen in dict.fromkeys([resolve_device(device), "cpu"]):
        try:
            run = _Run(model.to(chosen), PRESETS[preset], seeds, callback)
            stages, std = run.stages(films)
            break
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if chosen == "cpu":
                raise DeviceError(
                    "device.memory", "The memory does not suffice.", "Close other programs, or use a smaller model."
                ) from error
            warnings.append(f"The {chosen} device ran out of memory; the CPU was used instead.")
    if len(seeds) > 1 and not run.stochastic:
        warnings.append("The stages that ran draw nothing at random: one volume answers all seeds, without a spread.")
    warnings += [
        f"The stage {stage!r} was no better than the stage before it on held-out CTs: see the model's card."
        for stage in model.card.stages
        if stage in stages and stage not in model.card.default_stages
    ]
    final = list(stages.values())[-1]
    started = time.perf_counter()
    reprojections = {name: reproject(final, film.view, model.config.film_size) for name, film in films.items()}
    ncc = {name: _ncc(films[name].image, image, films[name].mask) for name, image in reprojections.items()}
    run.timings["re-projection"] = time.perf_counter() - started
    run.report("done", None)
    provenance = {
        "notice": SYNTHETIC_NOTICE,
        "version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": model.path.parent.name if model.path else model.config.name,
        "weights_sha256": model.sha256,
        "method": model.method,
        **model.described(),
        "preset": preset,
        "seeds": [int(seed) for seed in seeds] if run.stochastic else [],
        "stages": list(stages),
        "steps": _of({COARSE: len(run.times), FINE: len(run.fine_times)}, stages),
        "eta": _of({COARSE: coarse_eta(model), FINE: fine_eta(model)}, stages),
        "hint": _of({FINE: model.config.diffusion.hint}, stages),
        "process": _of({FINE: model.config.diffusion.process}, stages),
        "window": {
            "name": model.config.hu_window.name,
            "low": model.config.hu_window.low,
            "high": model.config.hu_window.high,
        },
        "grid": {"size": final.hu.shape[0], "extent_mm": model.config.extent_mm},
        "device": chosen,
        "precision": run.precision,
        "torch": torch.__version__,
        "platform": platform.platform(terse=True),
        "films": {
            name: {
                "source": {key: value for key, value in film.source.items() if key != "name"},  # may name the patient
                "view": film.view.value,
                "scale_known": film.scale_known,
                "steps": list(film.steps),
            }
            for name, film in films.items()
        },
        "ncc": {name: round(value, 4) for name, value in ncc.items()},
    }
    source = {"name": "axon", "notice": SYNTHETIC_NOTICE, "synthetic": True, "provenance": provenance}
    marked = {stage: replace(volume, source=source) for stage, volume in stages.items()}
    std = None if std is None else replace(std, source=source)
    return Reconstruction(
        replace(final, source=source), marked, std, films, reprojections, ncc, provenance, run.timings, tuple(warnings)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was the trouble: every device has its own way to say so, some only by the text."""
    told = ("out of memory", "can't allocate memory", "alloc_failed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error).lower() for text in told)


def _of(values: dict[str, Any], stages: dict[str, CTVolume]) -> dict[str, Any]:
    """Those of the stages that ran."""
    return {stage: value for stage, value in values.items() if stage in stages}


def reproject(volume: CTVolume, view: XrayView, pixels: int) -> np.ndarray:
    """The film that a volume around the isocentre would cast, in the plain look; (pixels, pixels) in [-1, 1]."""
    slab = max(1, volume.hu.shape[0] // 64)
    projector = Projector(hu_to_mu(torch.from_numpy(np.array(volume.hu))), volume.affine, view.beam, slab)
    return clinic_look(projector(XrayGeometry(view, pixels))[0]).numpy()


def _standard_films(
    frontal: Radiograph, lateral: Radiograph | None, model: AxonModel, align: bool
) -> dict[str, StandardFilm]:
    """Standardise, and refuse a lateral film in the frontal place or the other way round."""
    size = model.config.film_size
    if align and lateral is not None:
        raise ConfigError(
            "pipeline.align",
            "Two films are not aligned: each fixes the height of the other.",
            "Align a single frontal film, or leave the alignment out.",
        )
    if frontal.view is XrayView.LAT:
        raise FilmError(
            "film.view", "The frontal film is tagged as a lateral view.", "Exchange the films or set its view."
        )
    standard = standardise(frontal, size)
    films = {"frontal": aligned(frontal, standard)[0] if align else standard}
    if lateral is None:
        films["frontal"] = _with_distance_told(films["frontal"], frontal.sdd_mm)
    else:
        if lateral.view is not None and lateral.view.is_frontal:
            raise FilmError(
                "film.view", "The lateral film is tagged as a frontal view.", "Exchange the films or set its view."
            )
        films["lateral"] = standardise(replace(lateral, view=XrayView.LAT), size)
    return films


def _with_distance_told(film: StandardFilm, sdd_mm: float | None) -> StandardFilm:
    """Warn of a distance other than the networks': they read depth from perspective (`benchmarks/depth.py`)."""
    learned = XrayGeometry(film.view).sdd_mm
    taken = sdd_mm or usual_sdd_mm(film.view)
    if abs(taken / learned - 1) <= DISTANCE_TOLERANCE:
        return film
    how = "It was" if sdd_mm else "An AP film is usually"
    what = "deep" if taken < learned else "flat"
    distances = f"{taken / 1000:.2f} m, the model learned from {learned / 1000:.2f} m"
    return replace(film, warnings=(*film.warnings, f"{how} taken from {distances}: the body may be too {what}."))


def _ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Pearson correlation of two images inside a mask; 0 where one is constant."""
    x, y = a[mask].astype(np.float64), b[mask].astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 0 else 0.0


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where the hardware multiplies it fast."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16_pays(device) else nullcontext()


def evaluations(model: AxonModel, quality: Quality, seeds: int) -> dict[str, int]:
    """How often each stage's networks will be evaluated, 0 for a stage that will not run."""
    wanted = model.card.stages if quality.everything else model.card.default_stages
    allowed = set() if quality.first_only else {stage for stage in wanted if model.has(stage)}
    steps = {COARSE: len(coarse_times(model, quality)), FINE: len(fine_times(model, quality))}
    if FINE not in allowed and steps[COARSE] == 1 and not model.random_endpoint:
        seeds = 1  # the bridge draws nothing before its first evaluation
    return {
        ENDPOINT: seeds if model.random_endpoint else 1,
        **{stage: seeds * count if stage in allowed else 0 for stage, count in steps.items()},
        SUPER: int(SUPER in allowed),
    }


class _Run:
    """One reconstruction at work: which stages, how far, how long."""

    COSTS = MappingProxyType({ENDPOINT: 1.0, COARSE: 2.0, FINE: 4.0, SUPER: 8.0})  # of one network evaluation, roughly

    def __init__(self, model: AxonModel, quality: Quality, seeds: Sequence[int], callback: Callback | None) -> None:
        self.model, self.quality, self.callback = model, quality, callback
        counts = evaluations(model, quality, len(seeds))
        self.use_coarse, self.use_fine, self.use_sr = (counts[stage] > 0 for stage in (COARSE, FINE, SUPER))
        self.times, self.fine_times = coarse_times(model, quality), fine_times(model, quality)
        draws = self.use_coarse and len(self.times) > 1
        self.stochastic = draws or self.use_fine or model.random_endpoint
        self.seeds = list(seeds) if self.stochastic else [0]
        self.total = sum(count * self.COSTS[stage] for stage, count in counts.items())
        self.spent = 0.0
        self.started = time.perf_counter()
        self.timings: dict[str, float] = {}
        self.precision = "bfloat16" if bfloat16_pays(model.device) else "float32"

    def report(self, stage: str, volume: torch.Tensor | None) -> None:
        """Tell the callback, with `volume` (1, 1, n, n, n) in [-1, 1] as preview."""
        if self.callback is None:
            return
        fraction = min(1.0, self.spent / self.total)
        elapsed = time.perf_counter() - self.started
        eta = elapsed * (1 - fraction) / fraction if fraction > 0 else None
        preview, grid = None, None
        if volume is not None:
            preview = self.to_hu(volume)
            grid = CanonicalGrid(preview.shape[0], self.model.config.extent_mm)
        self.callback(Progress(stage, fraction, eta, preview, grid))

    def to_hu(self, volume: torch.Tensor) -> np.ndarray:
        """(1, 1, n, n, n) in [-1, 1] -> (n, n, n) float32 HU, clipped to the window."""
        return self.model.config.hu_window.decode(volume[0, 0].float().cpu()).numpy()

    def volume(self, u: torch.Tensor) -> CTVolume:
        """The same as a CTVolume around the isocentre."""
        return CTVolume.from_grid(self.to_hu(u), CanonicalGrid(u.shape[-1], self.model.config.extent_mm))

    def stages(self, films: dict[str, StandardFilm]) -> tuple[dict[str, CTVolume], CTVolume | None]:
        """Run every stage: the volume after each, and the spread over the seeds."""
        # not inference_mode: networks first used here can still be trained
        with torch.no_grad(), autocast(self.model.device):
            self.report("films", None)
            shown = torch.from_numpy(np.stack([film.image for film in films.values()])[None]).to(self.model.device)
            ends = self.endpoint(shown)
            y = ends.mean
            volumes = {ENDPOINT: y}
            std = ends.std if ends.count > 1 else None
            if self.use_coarse or self.use_fine:
                coarse, fine = Moments(), Moments()
                for index, seed in enumerate(self.seeds):
                    noise = SeededNoise([seed])
                    sample = self.coarse(y, noise, coarse, index) if self.use_coarse else y
                    if self.use_fine:
                        self.fine(self.model.fine_hint(shown, sample), noise, fine, index)
                for stage, moments in ((COARSE, coarse), (FINE, fine)):
                    if moments.count:
                        volumes[stage] = moments.mean
                if len(self.seeds) > 1:
                    std = (fine if self.use_fine else coarse).std
            if self.use_sr:
                volumes[SUPER] = self.super_resolution(list(volumes.values())[-1])
        window = self.model.config.hu_window
        spread = None
        if std is not None:
            hu = (std[0, 0].float().cpu() * 0.5 * (window.high - window.low)).numpy()
            spread = CTVolume.from_grid(hu, self.model.config.grid)
        return {stage: self.volume(volume) for stage, volume in volumes.items()}, spread

    def endpoint(self, films: torch.Tensor) -> Moments:
        """F(x) of (1, V, p, p), once or, where it is drawn at random, of each seed."""
        started = time.perf_counter()
        moments = Moments()
        for seed in self.seeds if self.model.random_endpoint else self.seeds[:1]:
            moments.add(self.model.endpoint(films, SeededNoise([seed])).float())
            self.done(ENDPOINT, started, moments.mean)
        return moments

    def coarse(self, y: torch.Tensor, noise: SeededNoise, moments: Moments, index: int) -> torch.Tensor:
        """One bridge sample, folded into the moments."""
        started = time.perf_counter()

        def step(state: Step) -> None:
            self.spent += self.COSTS[COARSE]
            self.report(COARSE, state.x0 if index == 0 else None)

        sample = walk_coarse(self.model, y, self.times, noise, step).clamp(-1, 1)
        moments.add(sample)
        self.timings[COARSE] = self.timings.get(COARSE, 0.0) + self.since(started)
        if index:
            self.report(COARSE, moments.mean)
        return sample

    def fine(self, hint: Hint, noise: SeededNoise, moments: Moments, index: int) -> None:
        """One FineDiff sample, folded into the moments."""
        started = time.perf_counter()

        def step(state: Step) -> None:
            self.spent += self.COSTS[FINE]
            self.report(FINE, state.x0 if index == 0 else None)

        moments.add(walk_fine(self.model, hint, self.fine_times, noise, step).clamp(-1, 1))
        self.timings[FINE] = self.timings.get(FINE, 0.0) + self.since(started)

    def super_resolution(self, volume: torch.Tensor) -> torch.Tensor:
        """x2, clipped to the window's range."""
        started = time.perf_counter()
        fine = self.model.super_resolve(volume).float().clamp(-1, 1)
        self.done(SUPER, started, fine)
        return fine

    def since(self, started: float) -> float:
        """Seconds of work; a GPU's is waited for, since it runs behind our back."""
        if self.model.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    def done(self, stage: str, started: float, volume: torch.Tensor) -> None:
        self.timings[stage] = self.since(started)
        self.spent += self.COSTS[stage]
        self.report(stage, volume)


class Moments:
    """Running mean and standard deviation of volumes (Welford), so that memory does not grow with the seeds."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, volume: torch.Tensor) -> None:
        """Fold one volume in."""
        self.count += 1
        if self.count == 1:
            self.mean, self.squares = volume.clone(), torch.zeros_like(volume)
            return
        change = volume - self.mean
        self.mean = self.mean + change / self.count
        self.squares = self.squares + change * (volume - self.mean)

    @property
    def std(self) -> torch.Tensor:
        """Sample standard deviation; needs two volumes."""
        return (self.squares / (self.count - 1)).sqrt()

"""Methods on the same cases, one case at a time: scores of every sample, resumed after a kill.

The unit of work is one method on one case with one or two films. Its record is a small JSON file whose name is a hash
of everything that it follows from, written when it is whole: running again does only what is missing. A case or a
method that fails becomes one line of the result, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon_core.errors import AxonError, ConfigError, OutputError
from axon_core.evaluation.cases import Chest, EvalCase
from axon_core.evaluation.methods import Method
from axon_core.evaluation.metrics import mae, mse, psnr, ssim3d
from axon_core.evaluation.scores import projection_ncc, scores
from axon_core.evaluation.tissue import Tissues, tissues
from axon_core.evaluation.uncertainty import calibration
from axon_core.files import atomic_file
from axon_core.intensity import WIDE, WINDOWS, HuWindow
from axon_core.pipeline import Moments, is_out_of_memory

FORMAT = "axon-scores-1"
FILM_NAMES = ("frontal", "lateral")
KEPT_SAMPLES = 4  # whose volumes are kept for pictures

Record = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """What could not be done, and why, in one line each."""

    case: str
    method: str
    views: int
    reason: str


@dataclass(frozen=True)
class Settings:
    """How methods are compared.

    Attributes:
        views: 1 (frontal film), 2 (frontal and lateral), or both one after the other.
        seeds: of the samples of methods that draw any.
        window: name of the HU window in which errors are taken; "" for the widest that every method covers.
        pictures: names of the cases whose volumes are kept for pictures.
    """

    views: tuple[int, ...] = (1,)
    seeds: tuple[int, ...] = (0,)
    window: str = ""
    pictures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.views or not set(self.views) <= {1, 2}:
            raise ConfigError("evaluate.views", f"Views {self.views}.", "Compare with 1 film, with 2, or with both.")
        if not self.seeds:
            raise ConfigError("evaluate.seeds", "No seed was given.", "Give at least one whole number.")
        if self.window and self.window not in WINDOWS:
            raise ConfigError(
                "evaluate.window", f"There is no HU window {self.window!r}.", f"Use one of {', '.join(WINDOWS)}."
            )


@dataclass
class Comparison:
    """The records of a comparison and what failed.

    Attributes:
        records: one for each method, case and number of films: "case", "patient", "method" (its label), "views",
            "window", "size", "seeds", "samples" (scores of each seed's volume), "mean" (scores of their mean, None with
            one seed), "calibration" (of `uncertainty.calibration`, None with one seed), "facts" (of the method),
            "random" (whether seeds matter to it), "films" (which are real; none where it looks at none), "ct"
            (re-projection NCC of the CT itself: the most that a method need reach), "seconds", "key".
        failures: see `Failure`.
    """

    records: list[Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Record | Failure) -> None:
        """Take one outcome in."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.records.append(outcome)

    def scores(self, views: int) -> dict[str, dict[str, dict[str, float]]]:
        """Row -> case -> metric -> value, for `statistics.table`.

        A method with several samples has two rows: the mean of its samples' scores, and, with ", mean of N seeds"
        added to its label, the scores of the samples' mean.
        """
        found: dict[str, dict[str, dict[str, float]]] = {}
        for record in self.records:
            if record["views"] != views:
                continue
            samples, label = record["samples"], record["method"]
            means = {name: float(np.mean([s[name] for s in samples if name in s])) for name in samples[0]}
            found.setdefault(label, {})[record["case"]] = means
            if record["mean"] is not None:
                found.setdefault(mean_label(label, len(samples)), {})[record["case"]] = record["mean"]
        return found

    def patients(self) -> dict[str, str]:
        """Case -> patient."""
        return {record["case"]: record["patient"] for record in self.records}


def mean_label(label: str, seeds: int) -> str:
    """Row of the mean of a method's samples."""
    return f"{label}, mean of {seeds} seeds"


Told = Callable[[Record | Failure], None]


def evaluate_cases(
    methods: Sequence[Method],
    cases: Sequence[EvalCase],
    folder: str | Path,
    settings: Settings = Settings(),
    told: Told = lambda outcome: None,
) -> Comparison:
    """Compare methods in this process, on whatever devices their models are.

    Args:
        methods: with different labels.
        cases: opened one at a time.
        folder: of the records; units that have one there are not computed again.
        settings: see `Settings`.
        told: called after each unit; whatever it raises ends the run, and the next one goes on from there.

    Errors:
        ConfigError: two methods of one label, or a window that a method does not cover. OutputError: the disk refuses.
    """
    window = common_window(methods, settings.window)
    comparison = Comparison()
    for case in cases:
        for outcome in evaluate_case(methods, case, Path(folder), settings, window):
            comparison.add(outcome)
            told(outcome)
    return comparison


def common_window(methods: Sequence[Method], name: str = "") -> HuWindow:
    """The window in which all methods are judged.

    Args:
        methods: with different labels.
        name: of the window; "" for the widest that every method covers.

    Errors:
        ConfigError: see `evaluate_cases`.
    """
    labels = [method.label for method in methods]
    if len(set(labels)) < len(labels):
        raise ConfigError("evaluate.labels", "Two methods have the same name.", "Name them apart: NAME=FOLDER.")
    by_width = sorted(WINDOWS.values(), key=lambda window: window.low - window.high)
    fitting = [window for window in by_width if all(_covers(method.window, window) for method in methods)]
    chosen = [window for window in fitting if name in ("", window.name)]
    if not chosen:
        raise ConfigError(
            "evaluate.window",
            f"Not every method makes volumes of the whole window {name!r}.",
            f"Compare in {' or '.join(window.name for window in fitting) or 'groups of the same window'}.",
        )
    return chosen[0]


def evaluate_case(
    methods: Sequence[Method], case: EvalCase, folder: Path, settings: Settings, window: HuWindow
) -> Iterator[Record | Failure]:
    """All methods on one case, which is opened only if something is missing."""
    try:
        key, reason = case.key(), ""
    except Exception as error:
        key, reason = "", _reason(error)
    units = [
        _Unit(case, key, method, views, settings, window, folder) for method in methods for views in settings.views
    ]
    records = [unit.found() if key else None for unit in units]
    judge = None
    if key and None in records:
        try:
            judge = _Judge(case.open(), window)
        except Exception as error:  # one odd case or model must not cost the others their night
            reason = _reason(error)
    for unit, record in zip(units, records, strict=True):
        if record is not None:
            yield record
        elif judge is None:
            yield unit.failure(reason)
        else:
            try:
                yield unit.computed(judge)
            except OutputError:
                raise
            except Exception as error:
                yield unit.failure(_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, AxonError):
        return error.title
    return "It does not fit into memory." if is_out_of_memory(error) else f"Internal error: {type(error).__name__}."


def _covers(outer: HuWindow, inner: HuWindow) -> bool:
    return outer.low <= inner.low and outer.high >= inner.high


# --- one unit --------------------------------------------------------------------------------------------------------


class _Judge:
    """An opened case with what all methods are judged by; films and masks are made once."""

    def __init__(self, chest: Chest, window: HuWindow) -> None:
        self.chest, self.window = chest, window
        self.made: dict[Any, Any] = {}

    def films(self, pixels: int) -> torch.Tensor:
        return self._once(("films", pixels), lambda: self.chest.films(pixels))

    def truth(self, size: int) -> np.ndarray:
        return self._once(("truth", size), lambda: self.chest.truth(size).numpy())

    def tissue(self, size: int) -> Tissues:
        return self._once(("tissue", size), lambda: tissues(self.truth(size), self.spacing_mm(size)))

    def spacing_mm(self, size: int) -> float:
        """Edge of a voxel; of a stretched case the edge of a cube of its volume, so that millilitres are right."""
        return float(np.prod(self.chest.extent_mm)) ** (1 / 3) / size

    def of_the_ct(self, pixels: int, views: int) -> dict[str, float]:
        """Re-projection NCC of the CT itself."""
        size = len(self.chest.hu)
        return self._once(("ct", pixels, views), lambda: self._ncc(self.truth(size), pixels, views))

    def scores(self, hu: np.ndarray, pixels: int, views: int, covered: HuWindow) -> dict[str, float]:
        """All scores of a volume (n, n, n) HU whose method saw the first `views` films of so many pixels."""
        size = len(hu)
        truth, known = self.truth(size), self.chest.known(size)
        found = scores(hu, truth, self.spacing_mm(size), self.window, known, self.tissue(size))
        for window in WINDOWS.values():
            if window != self.window and _covers(covered, window):
                a, b = (0.5 * (window.encode(v[known].astype(np.float64)) + 1) for v in (hu, truth))
                values = {"MAE": mae(a, b), "MSE": mse(a, b), "PSNR": psnr(a, b), "SSIM": ssim3d(a, b)}
                found |= {f"{name} [{window.name}]": value for name, value in values.items()}
        if pixels and _covers(covered, WIDE):
            found |= self._ncc(hu, pixels, views)
        return found

    def _ncc(self, hu: np.ndarray, pixels: int, views: int) -> dict[str, float]:
        if not self.chest.cube:
            return {}
        films = dict(zip(FILM_NAMES[:views], self.films(pixels), strict=False))
        return projection_ncc(hu, films, self.chest.extent_mm[0])

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


@dataclass(frozen=True)
class _Unit:
    """One method on one case with so many films."""

    case: EvalCase
    case_key: str
    method: Method
    views: int
    settings: Settings
    window: HuWindow
    folder: Path

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.settings.seeds if self.method.random else self.settings.seeds[:1]

    @property
    def keeps(self) -> bool:
        return self.case.name in self.settings.pictures

    @property
    def key(self) -> str:
        """Hash of everything that the record follows from."""
        told = [FORMAT, self.case_key, self.method.key, self.views, self.seeds, self.window.name]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.key}.json"

    def found(self) -> Record | None:
        """The record of an earlier run, if it is whole; labels and facts are those of now."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT or (self.keeps and not volumes_of(self.folder, record).is_file()):
                return None
            return {**record, **self._told()}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _told(self) -> Record:
        return {
            "case": self.case.name,
            "patient": self.case.patient,
            "method": self.method.label,
            "facts": self.method.facts,
            "random": self.method.random,
            "key": self.key,
        }

    def failure(self, reason: str) -> Failure:
        return Failure(self.case.name, self.method.label, self.views, reason)

    def computed(self, judge: _Judge) -> Record:
        """Draw, judge, write."""
        started = time.perf_counter()
        pixels, size, covered = self.method.film_size, self.method.size, self.method.window
        judge.truth(size)  # a size that cannot be judged is refused before the work
        films = judge.films(pixels)[: self.views] if pixels else torch.empty(0)
        moments = Moments()
        samples: list[dict[str, float]] = []
        kept: list[torch.Tensor] = []
        for seed in self.seeds:
            volume = self.method.volume(films, seed)
            if not torch.isfinite(volume).all():
                raise ConfigError("evaluate.not-finite", "The volume holds values that are no numbers.", "")
            moments.add(volume)
            samples.append(judge.scores(volume.numpy(), pixels, self.views, covered))
            if self.keeps and len(kept) < KEPT_SAMPLES:
                kept.append(volume)
        mean = spread = None
        if len(samples) > 1:
            mean = judge.scores(moments.mean.numpy(), pixels, self.views, covered)
            inside = judge.tissue(size).body & judge.chest.known(size)[:, None, None]
            spread = calibration(moments.mean, moments.std, judge.truth(size), len(samples), inside)._asdict()
        record: Record = {
            "format": FORMAT,
            **self._told(),
            "views": self.views,
            "window": self.window.name,
            "size": size,
            "seeds": list(self.seeds),
            "samples": samples,
            "mean": mean,
            "calibration": spread,
            "films": {name: judge.chest.origin[name] for name in FILM_NAMES[: self.views * bool(pixels)]},
            "ct": judge.of_the_ct(pixels, self.views) if pixels and _covers(covered, WIDE) else {},
            "seconds": round(time.perf_counter() - started, 3),
        }
        if self.keeps:
            self._keep(kept, moments, judge)
        with atomic_file(self.path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(_plain(record)) + "\n", encoding="utf-8")
        return _plain(record)

    def _keep(self, kept: list[torch.Tensor], moments: Moments, judge: _Judge) -> None:
        size = self.method.size
        arrays = {
            "samples": torch.stack(kept).numpy(),
            "mean": moments.mean.numpy(),
            "truth": judge.truth(size),
        }
        shorts = {name: np.rint(array).clip(-32768, 32767).astype(np.int16) for name, array in arrays.items()}
        films = judge.films(self.method.film_size or 128).numpy()[: self.views].astype(np.float16)
        with atomic_file(self.folder / f"{self.key}.npz", overwrite=True) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file, **shorts, films=films, known=judge.chest.known(size), extent_mm=np.array(judge.chest.extent_mm)
            )


def volumes_of(folder: Path, record: Record) -> Path:
    """Where the volumes of a case that is pictured lie (.npz): "samples" (k, n, n, n), "mean" and "truth" (n, n, n)
    int16 HU, "films" (V, p, p), "known" (n,), "extent_mm" (x, y, z)."""
    return folder / f"{record['key']}.npz"


def _plain(value: Any) -> Any:
    """For JSON, which has no infinity and no nan: those values are left out of scores."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not isinstance(item, float) or math.isfinite(item)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

"""The plan of a cache: which cases, in which form, for which part of the work. Training and inference both read it.

``plan.json`` lies in the cache folder. It holds the model's configuration, so that nobody trains on one form of the
data and infers on another, and for each case the name of the folder with its arrays. Patients, never series, are
divided: a patient's part follows from a hash of its label alone and stays the same when the cohort grows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from axon_core.config import ModelConfig, from_dict, load_preset
from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid

PLAN_FILE = "plan.json"
FORMAT = "axon-cache-3"
PAPER_PRESET = "axon-paper"
SPLITS = ("train", "val", "test")
EXTENT_MM = CanonicalGrid.extent_mm  # of the cube on which `cases.place_case` lays CTs
SMALLEST_RENDER = 128  # voxels along the cached cube: films of fewer would show them

# The paper's split: 232 patients with films, of whom 173 have both views, into 197 / 10 / 25 and 149 / 8 / 16.
PAPER_PAIRED, PAPER_BIPLANAR = (197, 10, 25), (149, 8, 16)


@dataclass(frozen=True)
class Layout:
    """In which form a cache holds its cases.

    Attributes:
        model: the preset's configuration; of the axon-paper preset, the paper's sizes with its HU window.
        render: voxels along the cached volume, a multiple of twice the model's size, for the super-resolution stage.
        stretched: the whole CT, at 1 mm, is rescaled to the cube axis by axis, as the paper does; films are those of
            the CT at rest, drawn once. False: a cube of `model.extent_mm` around the body; films are drawn in training.
    """

    model: ModelConfig
    render: int
    stretched: bool = False

    @property
    def form(self) -> tuple[int, float, int, bool]:
        """What the arrays of a case depend on: networks of other widths read the same."""
        return self.model.film_size, self.model.extent_mm, self.render, self.stretched

    @classmethod
    def of(cls, preset: str) -> Layout:
        """The layout that a preset asks for: of `config.load_preset`, or "axon-paper"; ConfigError if impossible."""
        if preset == PAPER_PRESET:
            model = dataclasses.replace(load_preset("paper"), name=PAPER_PRESET, window="axon-paper")
            return cls(model, 2 * model.size, stretched=True)
        model = load_preset(preset)
        if model.extent_mm != EXTENT_MM:
            raise ConfigError(
                "plan.extent",
                f"Preset {model.name} asks for a cube of {model.extent_mm:g} mm; data lie on {EXTENT_MM:g} mm.",
                f"Set extent_mm = {EXTENT_MM:g}.",
            )
        return cls(model, 2 * model.size * max(1, math.ceil(SMALLEST_RENDER / (2 * model.size))))


@dataclass(frozen=True)
class CaseEntry:
    """One case of a cache.

    Attributes:
        name: unique in the plan; the patient's label, numbered where a patient has several CTs.
        patient: the label by which patients are told apart.
        key: name of the folder under ``cases`` that holds the arrays: a hash of the inputs and the layout.
        split: "train", "val" or "test"; "films" for a case without CT.
        known: first and end slice of the cached volume that the CT covers.
        films: "frontal" and "lateral" -> "real" or "drr", of the views that ``films.npy`` holds.
        film_frame: rows of a (3, 4) matrix: from the cube in which the films see the patient to the cached cube, both
            in [-1, 1], order x, y, z; empty when they are the same.
        spacing_mm: (x, y, z) of the cached volume.
        warnings: what a person should look at, one sentence each.
        notes: what the CT's reader has repaired.
    """

    name: str
    patient: str
    key: str
    split: str = ""
    known: tuple[int, ...] = (0, 0)
    films: dict[str, str] = field(default_factory=dict)
    film_frame: tuple[tuple[float, ...], ...] = ()
    spacing_mm: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def real(self) -> bool:
        """Whether it has a real film."""
        return "real" in self.films.values()


@dataclass(frozen=True)
class Skipped:
    """A case that could not be prepared, and why, in one line."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """See the module's text.

    Attributes:
        layout: the form of the data.
        cases: in the manifest's order.
        skipped: what was left out.
        sha256: of the file; "" before it is written.
    """

    layout: Layout
    cases: tuple[CaseEntry, ...]
    skipped: tuple[Skipped, ...] = ()
    format: str = FORMAT
    sha256: str = ""

    @property
    def preset(self) -> str:
        """Name of the preset for which the data were prepared."""
        return self.layout.model.name

    def split(self, name: str) -> tuple[CaseEntry, ...]:
        """The cases of one part."""
        return tuple(case for case in self.cases if case.split == name)

    def check(self, config: ModelConfig) -> None:
        """ConfigError unless a model of `config` can be trained on these data."""
        mine = self.layout.model
        for key in ("size", "film_size", "window", "extent_mm"):
            ours, asked = getattr(mine, key), getattr(config, key)
            if ours != asked:
                raise ConfigError(
                    "plan.other-preset",
                    f"The cache was prepared for preset {mine.name} ({key} {ours}), not for {config.name} ({asked}).",
                    f"Prepare a cache of its own with --preset {config.name}, or use preset {mine.name}.",
                )

    def write(self, folder: Path) -> Plan:
        """Write ``plan.json``, replacing an earlier one; returns the plan with its hash."""
        values = dataclasses.asdict(dataclasses.replace(self, sha256=""))
        text = json.dumps(values, indent=1) + "\n"
        with atomic_file(folder / PLAN_FILE, overwrite=True) as part:
            part.write_text(text, encoding="utf-8")
        return dataclasses.replace(self, sha256=hashlib.sha256(text.encode()).hexdigest())


def read_plan(where: str | Path) -> Plan:
    """The plan of a cache.

    Args:
        where: the cache folder, or its ``plan.json``.

    Errors:
        ConfigError: there is none, or it is damaged.
    """
    path = Path(where)
    path = path / PLAN_FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            "plan.missing", f"{path.parent.name} is no prepared cache.", "Make one: axon prepare MANIFEST -o CACHE."
        )
    try:
        data = path.read_bytes()
        plan = from_dict(Plan, json.loads(data), path.name)
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(
            "plan.damaged", f"{path.parent.name}/{path.name} cannot be read.", "Run `axon prepare` again into it."
        ) from error
    if plan.format != FORMAT:
        raise ConfigError(
            "plan.format", f"{path.name} is of another version ({plan.format}).", "Prepare the data again."
        )
    return dataclasses.replace(plan, sha256=hashlib.sha256(data).hexdigest())


def fraction(patient: str, seed: int = 0) -> float:
    """A number in [0, 1) that follows from the patient's label alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8], "big") / 2**64


def part_of(patient: str, percent: Sequence[float], seed: int = 0) -> str:
    """ "train", "val" or "test", in shares of `percent`."""
    place = 100 * fraction(patient, seed)
    if place < percent[2]:
        return "test"
    return "val" if place < percent[2] + percent[1] else "train"


def paper_parts(cases: Sequence[CaseEntry], seed: int = 0) -> dict[str, str]:
    """Patient -> part, in the paper's numbers.

    Patients with a real film are ordered by `fraction`, those with both views and the others each for themselves; with
    173 and 59 of them, 149 / 8 / 16 and 197 / 10 / 25 come out, with any other number the same shares. Patients without
    a film train.
    """
    views: dict[str, set[str]] = {}
    for case in cases:
        views.setdefault(case.patient, set()).update(view for view, kind in case.films.items() if kind == "real")
    parts = dict.fromkeys(views, "train")
    one_view = tuple(all_ - both for all_, both in zip(PAPER_PAIRED, PAPER_BIPLANAR, strict=True))
    for count, counts in ((2, PAPER_BIPLANAR), (1, one_view)):
        ranked = sorted((p for p, seen in views.items() if len(seen) == count), key=lambda p: fraction(p, seed))
        share = len(ranked) / sum(counts)
        test, val = round(share * counts[2]), round(share * counts[1])
        parts |= dict.fromkeys(ranked[:test], "test") | dict.fromkeys(ranked[test : test + val], "val")
    return parts

"""Export of a run as a job: trained stages -> a model's folder, with card and curves."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon_core.errors import OutputError
from axon_core.job import check, job_from_dict
from axon_core.staging import Staging

if TYPE_CHECKING:
    from axon_core.model import ModelInfo

WEIGHTS = "model.safetensors"


class ModelFolder(Staging):
    """A model's folder; its files replace those of an earlier model, others there are never touched."""

    def check(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise OutputError("output.is-file", f"{self.output.name} is a file.", "Give the name of a folder.")
        if (self.output / WEIGHTS).exists() and not self.overwrite:
            raise OutputError(
                "output.exists", f"{self.output.name} holds a model already.", "Choose another folder, or --force."
            )

    def move(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.folder.iterdir()):
            os.replace(file, self.output / file.name)


@dataclass(frozen=True)
class ExportJob:
    """What to export, and what to say about it.

    Attributes:
        source: folder of the run.
        output: folder of the model.
        title: one line for the card; "" for the run's name.
        licence: of the weights.
        data: what it was trained on.
        notes: its limits.
        distilled: put the run's students in their teachers' places.
        overwrite: replace an earlier model in `output`.
    """

    source: str
    output: str
    title: str = ""
    licence: str = ""
    data: str = ""
    notes: str = ""
    distilled: bool = False
    overwrite: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExportJob:
        """See `job_from_dict`."""
        return job_from_dict(cls, values)

    def __post_init__(self) -> None:
        check("source", self.source != "", "the folder of a run")
        check("output", self.output != "", "a folder for the model")
        check("distilled", isinstance(self.distilled, bool), "true or false")

    def staging(self) -> ModelFolder:
        """For `run`."""
        return ModelFolder(self.output, self.overwrite)

    def run(self, staging: ModelFolder, callback: Callable[[Any], object]) -> Exported:
        """Do the job; the model appears in ``output`` when it returns.

        Raises:
            AxonError: whatever a user can cause; nothing is written then.
        """
        with staging:
            from axon_core.model import ModelCard, inspect
            from axon_core.pipeline import Progress
            from axon_core.training.plot import plot_curves
            from axon_core.training.run import export_run

            callback(Progress("exporting", 0.0))
            run = Path(self.source)
            title = self.title or run.name
            default = better_stages(run, self.distilled)
            card = ModelCard(title, self.licence, self.data, (), default, self.notes)
            export_run(run, staging.folder, card, distilled=self.distilled)
            plot_curves(run, staging.folder / "curves.png")
        return Exported(inspect(staging.output))


@dataclass(frozen=True)
class Exported:
    """A model on disk."""

    info: ModelInfo

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        card = self.info.card
        return {
            "output": str(self.info.folder),
            "title": card.title,
            "stages": list(card.stages),
            "default_stages": list(card.default_stages),
            "size_bytes": self.info.size_bytes,
            "sha256": self.info.sha256,
            "warnings": [],
        }


def better_stages(run: Path, distilled: bool = False) -> tuple[str, ...]:
    """The stages that shall run by default: F(x), those after it whose PSNR on the held-out cases is higher than that
    of what they start from, and super-resolution, whose finer volumes nothing before it can be compared with.

    With `distilled`, a stage that has a student is judged by its student.
    """
    from axon_core.training.checkpoint import has_state
    from axon_core.training.events import read_log

    def psnr(stage: str) -> float | None:
        found = [event["psnr"] for event in read_log(run / stage) if "psnr" in event]
        return found[-1] if found else None

    best, chosen = psnr("endpoint"), ["endpoint"]
    for name, stage, student in (("coarse", "coarse", "distill-coarse"), ("fine", "control", "distill-fine")):
        value = psnr(student if distilled and has_state(run / student) else stage)
        if value is not None and (best is None or value > best):
            best, chosen = value, [*chosen, name]
    return (*chosen, "super-resolution")

"""The panel's choices as jobs of the worker; no Qt, no MRML."""

from axon_core.data.plan import PLAN_FILE
from axon_core.errors import ConfigError

PARTS = {  # member of the parameters -> part of `axon_core.job_train`
    "trainCoarse": "coarse",
    "trainPrior": "prior",
    "trainFine": "fine",
    "trainSuperResolution": "sr",
    "distilCoarse": "distill-coarse",
    "distilFine": "distill-fine",
}
STAGES = {  # part -> the folders of its stages in a run
    "coarse": ("endpoint", "coarse"),
    "prior": ("prior",),
    "fine": ("control",),
    "sr": ("super-resolution",),
    "distill-coarse": ("distill-coarse",),
    "distill-fine": ("distill-fine",),
}
TEACHERS = {  # student -> the stages that it learns from
    "distill-coarse": ("endpoint", "coarse"),
    "distill-fine": ("endpoint", "prior", "control"),
}


def splitOf(text):
    """ "85,5,10" -> [85.0, 5.0, 10.0]; ConfigError if it is no division of 100 %."""
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts) < 0 or abs(sum(parts) - 100) > 0.01:
        raise ConfigError(
            "prepare.split",
            f"{text!r} does not divide the patients.",
            "Give three percentages that add up to 100, such as 85,5,10.",
        )
    return parts


def isData(folder):
    """Whether a folder holds prepared data: a cache, or pairs."""
    return (folder / PLAN_FILE).is_file() or any(folder.glob("[!.]*.npz"))


def parts(p):
    """What the parameters choose to train, in order."""
    return [part for name, part in PARTS.items() if getattr(p, name)]


def withoutTeachers(p, trained):
    """The chosen students that have nobody to learn from, `trained` being the stages of the run."""
    chosen = parts(p)
    known = {*trained, *(stage for part in chosen for stage in STAGES[part])}
    return [part for part in chosen if not known.issuperset(TEACHERS.get(part, ()))]


def preparation(p):
    """The job that prepares the data of the parameters."""
    return {
        "task": "prepare",
        "source": p.source,
        "output": p.cache,
        "preset": p.preset.value,
        "split": splitOf(p.split),
    }


def training(p, stopFile=None, dryRun=False):
    """The job that trains what the parameters choose, or that tells what it will cost.

    Args:
        p: AXONTrainingParameters.
        stopFile: once it exists, the training saves its state and ends.
        dryRun: start nothing.
    """
    budget = {"steps": p.budgetSteps, "minutes": p.budgetMinutes}.get(p.budget.value)
    request = {
        "task": "train",
        "data": p.cache,
        "output": p.run,
        "parts": parts(p),
        "preset": p.preset.value,
        "start": p.startModel.strip() or None,
        "kept": p.keptChests,
        "phantoms": p.phantomPercent / 100,
        "anatomy": p.anatomy.strip() or None,
        "findings": p.findings,
        "student_steps": p.studentSteps,
        "teacher_steps": p.teacherSteps,
        "device": p.device.value,
        "lr": p.learningRate or None,
        "micro": 1 if p.lessMemory else None,
        "recompute": True if p.lessMemory else None,
        "precision": "32" if p.fullPrecision else None,
        "stop_file": stopFile,
        "dry_run": dryRun,
    }
    return {**request, **({} if budget is None else {p.budget.value: budget})}


def exporting(p, output, overwrite=False, distilled=False):
    """The job that writes the run of the parameters as a model's folder, perhaps with students for their teachers."""
    return {
        "task": "export",
        "source": p.run,
        "output": str(output),
        "title": p.modelTitle,
        "licence": p.modelLicence,
        "data": p.modelData,
        "distilled": distilled,
        "overwrite": overwrite,
    }

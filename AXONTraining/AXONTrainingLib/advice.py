"""Advice in the words of the panel, where the library speaks of options of the command line."""

from slicer.i18n import tr as _


def adviceOf(error):
    """What to do about an error of the worker, a dict with code, title and advice."""
    again = _("Then press Resume: it goes on from the last save.")
    other = _("Choose the preset that belongs to it under 'Data', or another folder.")
    advice = {
        "manifest.missing": _("Choose a folder with CTs, or a manifest, under 'Source'."),
        "manifest.empty": _(
            "Choose a folder with CTs (DICOM, NIfTI, NRRD, MHA), or a table with the columns patient, ct, frontal, "
            "lateral."
        ),
        "prepare.one-patient": _("Add patients, or write 100,0,0 under 'Division' to train on this one alone."),
        "prepare.other-preset": other,
        "prepare.killed": _("Close other programs and press Prepare again: finished cases are kept."),
        "prepare.space": _("Choose another disk under 'Prepared data', or fewer cases."),
        "plan.missing": _("Press 'Prepare' first, or choose a folder that was prepared."),
        "plan.damaged": _("Press 'Prepare' again."),
        "plan.format": _("Press 'Prepare' again."),
        "plan.other-preset": other,
        "cache.empty-split": _("Add patients, or change 'Division', and press 'Prepare' again."),
        "cache.damaged": _("Press 'Prepare' again: it makes what is missing."),
        "training.no-data": _("Choose the folder of prepared data, or press 'Prepare'."),
        "training.one-case": _("Add patients and press 'Prepare' again: networks learn a single chest by heart."),
        "training.data": _("Press 'Prepare' again.") + " " + again,
        "training.other-size": other,
        "training.other-preset": other,
        "training.other-network": other,
        "training.memory": _("Tick 'less memory', or choose a smaller preset.") + " " + again,
        "training.diverged": _("Lower the learning rate, or tick 'full precision'.") + " " + again,
        "training.process": _("Choose a preset whose FineDiff is a ControlNet, as those that are offered."),
        "training.needs": _("Tick the earlier stages as well: each builds on those before it."),
        "training.other-student": _(
            "Set 'Steps of a student' to the number with which it was begun, or remove its folder from the run."
        ),
        "training.no-student": _("Train a student first, under 'Advanced'."),
        "anatomy.missing": _("Choose the file again under 'Advanced', or leave 'Other shapes' empty."),
        "anatomy.format": _("Choose another file under 'Advanced', or leave 'Other shapes' empty."),
        "anatomy.unknown-case": _(
            "These shapes were made from other data: choose the file of these CTs, or leave 'Other shapes' empty."
        ),
        "training.nothing": _("Train the first stages, F(x) and bridge."),
        "training.no-log": _("Wait for its first steps."),
        "output.exists": _("Choose an empty folder."),
        "output.cannot-write": _("Make room on the disk, or choose a folder in which you may write, and try again."),
        "package.missing": _("Press 'Install what is missing'."),
    }.get(error["code"], error.get("advice", ""))
    return advice.replace("axon prepare", _("Prepare")).strip()

"""The curves of a run as a picture, for those without TensorBoard."""

from __future__ import annotations

from pathlib import Path

from axon_core.errors import ConfigError
from axon_core.files import atomic_file
from axon_core.training.distill import EVERY
from axon_core.training.events import LOG, read_log


def plot_curves(run: Path, picture: Path) -> None:
    """Draw loss against step of every stage, by times where there are any, and the averaged weights' validation below.

    Errors:
        ConfigError: the run has no log yet.
    """
    from matplotlib.figure import Figure

    others = sorted({log.parent.name for log in run.glob(f"*/{LOG}")} - set(EVERY))
    logs = {name: events for name in (*EVERY, *others) if (events := [e for e in read_log(run / name) if "loss" in e])}
    if not logs:
        raise ConfigError("training.no-log", f"{run.name} has nothing to draw yet.", "Wait for its first steps.")
    rows = 1 + any(event.get("type") == "validation" for events in logs.values() for event in events)
    figure = Figure(figsize=(3.4 * len(logs), 2.3 * rows), layout="constrained")
    for column, (stage, events) in zip(figure.subplots(rows, len(logs), squeeze=False).T, logs.items(), strict=True):
        progress = [event for event in events if event.get("type") != "validation"]
        checks = [event for event in events if event.get("type") == "validation"]
        above, below = column[0], column[-1]
        for number in range(4) if len(progress[-1].get("bins", [])) > 1 else ():
            bins = [(e["step"], e["bins"][number]) for e in progress if e["bins"][number] is not None]
            above.plot(
                *zip(*bins, strict=True), lw=0.6, alpha=0.6, label=f"t in [{number / 4:g}, {(number + 1) / 4:g})"
            )
        above.plot([e["step"] for e in progress], [e["loss"] for e in progress], "k", lw=1.0, label="all")
        above.set(title=stage, xlabel="step", ylabel="training loss", yscale="log")
        if len(above.lines) > 1:
            above.legend(fontsize=6, ncols=2, framealpha=0.6)
        if rows == 1:
            continue
        steps = [event["step"] for event in checks]
        below.plot(steps, [event["loss"] for event in checks], "C3.-", lw=1.0)
        below.set(xlabel="step", ylabel="loss on held-out cases")
        if not checks:
            below.set_axis_off()
        elif "psnr" in checks[0]:
            right = below.twinx()
            right.plot(steps, [event["psnr"] for event in checks], "C0.--", lw=1.0)
            right.set_ylabel("PSNR [dB]", color="C0")
    with atomic_file(picture, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=100, format="png")

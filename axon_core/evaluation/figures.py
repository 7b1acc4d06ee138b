"""Pictures for a report or a paper: methods beside the CT, seeds side by side, error maps, calibration.

Needs matplotlib. Slices are shown as radiologists read them (`report.PLANES`) in one HU window, with a scale bar. All
files are PNG at 200 dpi.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE
from axon_core.evaluation.render import render
from axon_core.evaluation.report import PLANES, Plane
from axon_core.files import atomic_file
from axon_core.geometry import CanonicalGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from axon_core.evaluation.uncertainty import Calibration

DPI = 200
WINDOW = (-1000.0, 400.0)  # HU, black to white: lung and soft tissue at once
ERROR_HU = 400.0  # ends of the colours of an error map
BAR_MM = 100.0
TILE = 1.55  # inches
LABEL = 24  # letters in a line above a column

Extent = tuple[float, float, float]
CUBE: Extent = (CanonicalGrid.extent_mm,) * 3


def compare(
    volumes: Mapping[str, Any],
    path: str | Path,
    *,
    films: Sequence[Any] = (),
    title: str = "",
    window: tuple[float, float] = WINDOW,
    extent_mm: Extent = CUBE,
    solid: bool = True,
) -> None:
    """Every volume in a column of its own: axial, coronal and sagittal middle slice, and a 3D rendering (paper Fig. 4).

    Args:
        volumes: label -> (n, n, n) HU, ``[z, y, x]``, all on the same cube with any numbers of voxels; the CT last.
        path: PNG file, replaced if there.
        films: (p, p) in [-1, 1], one or two, shown in the first column.
        title: one line above.
        window: HU, black to white.
        extent_mm: edges of the cube, (x, y, z).
        solid: whether to draw the renderings.
    """
    rows = [*(_slices(plane, window, extent_mm) for plane in PLANES), *([_solid(extent_mm)] if solid else [])]
    figure, axes = _sheet(len(rows), len(volumes) + bool(len(films)), title, f"{window[0]:g} to {window[1]:g} HU")
    if len(films):
        for row, axis in enumerate(axes[:, 0]):
            axis.set_axis_off()
            if row < len(films):
                axis.imshow(np.asarray(films[row]), cmap="gray", vmin=-1, vmax=1)
                axis.set_title(("film, frontal", "film, lateral")[row], fontsize=7)
        axes = axes[:, 1:]
    for column, (label, volume) in zip(axes.T, volumes.items(), strict=True):
        column[0].set_title(fill(label, LABEL), fontsize=7)
        for axis, draw in zip(column, rows, strict=True):
            draw(axis, np.asarray(volume, np.float32))
    _name_rows(axes, solid)
    _save(figure, path)


def errors(
    volumes: Mapping[str, Any],
    truth: Any,
    path: str | Path,
    *,
    known: Any = None,
    title: str = "",
    extent_mm: Extent = CUBE,
) -> None:
    """Volume minus CT in HU: middle slices of every volume, red too dense, blue too thin.

    Args:
        volumes: label -> (n, n, n) HU.
        truth: (n, n, n) HU, as fine as the finest volume; averaged down for coarser ones.
        path: PNG file, replaced if there.
        known: (n,) bool over the truth's slices: what the CT does not cover is left grey.
        title: one line above.
        extent_mm: edges of the cube, (x, y, z).
    """
    figure, axes = _sheet(len(PLANES), len(volumes), title, "volume - CT")
    target = np.asarray(truth, np.float32)
    slices = np.ones(len(target), bool) if known is None else np.asarray(known, bool)
    for column, (label, volume) in zip(axes.T, volumes.items(), strict=True):
        column[0].set_title(fill(label, LABEL), fontsize=7)
        array = np.asarray(volume, np.float32)
        factor = len(target) // len(array)
        off = array - _coarser(target, factor)
        off[~slices.reshape(-1, factor).all(1)] = np.nan
        for axis, plane in zip(column, PLANES, strict=True):
            width, height = _size(plane, extent_mm)
            image = axis.imshow(
                plane.cut(off), cmap="RdBu_r", vmin=-ERROR_HU, vmax=ERROR_HU, extent=(0, width, height, 0)
            )
            axis.set_facecolor("0.75")
            _scale_bar(axis, width, height, "k")
            _letters(axis, plane, "k")
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.5, pad=0.01, extend="both")
    bar.set_label("HU", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    _name_rows(axes, False)
    _save(figure, path)


def calibration_curve(curves: Mapping[str, Calibration], path: str | Path, unit: str = "HU") -> None:
    """Error found against error predicted by the spread over seeds, and coverage beside that of a calibrated method.

    Args:
        curves: label -> of `uncertainty.calibration`.
        path: PNG file, replaced if there.
        unit: of mean, spread and truth.
    """
    from matplotlib.figure import Figure

    from axon_core.evaluation.uncertainty import KS

    figure = Figure(figsize=(6.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    top = max(max(curve.predicted + curve.found) for curve in curves.values())
    left.plot([0, top], [0, top], "0.6", lw=0.8, label="calibrated")
    width = 0.8 / len(curves)
    for number, (label, curve) in enumerate(curves.items()):
        left.plot(curve.predicted, curve.found, "o-", ms=3, lw=1, color=f"C{number}", label=label)
        places = np.arange(len(KS)) + (number - (len(curves) - 1) / 2) * width
        right.bar(places, curve.coverage, 0.9 * width, color=f"C{number}", label=label)
        right.plot(
            places, curve.expected, "k_", ms=40 * width, label="calibrated, as many seeds" if not number else None
        )
    left.set(xlabel=f"error predicted from the spread [{unit}]", ylabel=f"error found [{unit}]")
    right.set(ylabel="share of voxels within mean ± k spread", ylim=(0, 1.02))
    right.set_xticks(range(len(KS)), [f"k = {k:g}" for k in KS])
    for axis in (left, right):
        axis.legend(fontsize=6)
        axis.tick_params(labelsize=7)
        for text in (axis.xaxis.label, axis.yaxis.label):
            text.set_fontsize(8)
    _save(figure, path)


# --- parts -----------------------------------------------------------------------------------------------------------


def _sheet(rows: int, columns: int, title: str, note: str) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    close = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(TILE * columns + 0.3, (TILE + 0.03) * rows + 0.62), layout=close)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle(title, fontsize=8)
    figure.supxlabel(f"{note}; bar {BAR_MM:g} mm. {SYNTHETIC_NOTICE}", fontsize=6)
    return figure, axes


Draw = Callable[["Axes", np.ndarray], None]


def _slices(plane: Plane, window: tuple[float, float], extent_mm: Extent) -> Draw:
    width, height = _size(plane, extent_mm)

    def draw(axis: Axes, hu: np.ndarray) -> None:
        axis.imshow(plane.cut(hu), cmap="gray", vmin=window[0], vmax=window[1], extent=(0, width, height, 0))
        _scale_bar(axis, width, height, "w")
        _letters(axis, plane, "#ffd75e")

    return draw


def _solid(extent_mm: Extent) -> Draw:
    width, _, height = extent_mm

    def draw(axis: Axes, hu: np.ndarray) -> None:
        axis.imshow(render(hu, float(np.mean(extent_mm)) / len(hu)), extent=(0, width, height, 0))
        _scale_bar(axis, width, height, "w")

    return draw


def _size(plane: Plane, extent_mm: Extent) -> tuple[float, float]:
    """Width and height of a slice in millimetres."""
    x, y, z = extent_mm
    return ((x, y), (x, z), (y, z))[plane.axis]


def _scale_bar(axis: Axes, width: float, height: float, colour: str) -> None:
    left, low = 0.05 * width, 0.95 * height
    axis.plot([left, left + BAR_MM], [low, low], color=colour, lw=1.5, solid_capstyle="butt")
    axis.set(xlim=(0, width), ylim=(height, 0))


def _letters(axis: Axes, plane: Plane, colour: str) -> None:
    left, right, top = plane.edges[0], plane.edges[1], plane.edges[2]
    for letter, x, y in ((left, 0.02, 0.5), (right, 0.98, 0.5), (top, 0.5, 0.98)):
        axis.text(
            x,
            y,
            letter,
            transform=axis.transAxes,
            color=colour,
            fontsize=5,
            ha="left" if x < 0.1 else "right" if x > 0.9 else "center",
            va="top" if y > 0.9 else "center",
        )


def _name_rows(axes: np.ndarray, solid: bool) -> None:
    names = [*(plane.name.lower() for plane in PLANES), *(["3D, bone and lung"] if solid else [])]
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=7)


def _coarser(volume: np.ndarray, factor: int) -> np.ndarray:
    """Averaged over blocks of factor^3 voxels."""
    n = len(volume) // factor
    return volume.reshape(n, factor, n, factor, n, factor).mean((1, 3, 5))


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")

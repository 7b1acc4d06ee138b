"""What a person looks at after a reconstruction: one self-contained HTML page and one PNG.

Slices are shown as radiologists read them: the patient's right on the image's left, head or front at the top, and in
sagittal slices the front on the left. Films are shown as `StandardFilm` holds them, bone bright.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axon_core import SYNTHETIC_NOTICE
from axon_core.files import atomic_file

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from axon_core.ctvolume import CTVolume
    from axon_core.geometry import XrayView
    from axon_core.pipeline import Reconstruction

HU_RANGE = (-1000.0, 1000.0)  # what the page's bytes 0 and 255 stand for
WINDOWS = {"Lung": (-1050.0, 250.0), "Soft tissue": (-160.0, 240.0), "Bone": (-500.0, 1300.0)}
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # colours of uncertainty, low to high
MAX_EDGE = 128  # voxels along an edge in the page: larger volumes are averaged, so that it stays a few megabytes


@dataclass(frozen=True)
class Plane:
    """One radiological slicing direction of an LPS volume ``[z, y, x]``.

    Attributes:
        name: what people call it.
        axis: array axis that is cut.
        edges: letters at the image's left, right, top, bottom.
    """

    name: str
    axis: int
    edges: str

    def cut(self, volume: np.ndarray, index: int | None = None) -> np.ndarray:
        """The displayed 2D slice (rows, columns), the middle one unless `index` is given."""
        index = volume.shape[self.axis] // 2 if index is None else index
        image = np.take(volume, index, axis=self.axis)
        return image if self.axis == 0 else image[::-1]  # z grows to the head: flip it to the top

    def aspect(self, spacing_mm: tuple[float, float, float]) -> float:
        """Height of a displayed pixel over its width; `spacing_mm` is (x, y, z)."""
        x, y, z = spacing_mm
        return (y / x, z / x, z / y)[self.axis]


PLANES = (Plane("Axial", 0, "RLAP"), Plane("Coronal", 1, "RLHF"), Plane("Sagittal", 2, "APHF"))


def film_edges(view: XrayView) -> str:
    """Letters at a film's left, right, top, bottom."""
    return {"PA": "RLHF", "AP": "RLHF", "RL": "APHF"}.get(view.value, "PAHF")


def to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] linearly onto 0..255 and clip."""
    return np.clip(np.rint((values - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)


def shrink(volume: np.ndarray, max_edge: int = MAX_EDGE) -> tuple[np.ndarray, int]:
    """Average blocks of n^3 voxels so that no edge exceeds `max_edge`; returns the array and n."""
    factor = -(-max(volume.shape) // max_edge)
    if factor == 1:
        return volume, 1
    padded = np.pad(volume, [(0, -edge % factor) for edge in volume.shape], mode="edge")
    z, y, x = (edge // factor for edge in padded.shape)
    return padded.reshape(z, factor, y, factor, x, factor).mean(axis=(1, 3, 5)), factor


def heat(values: np.ndarray) -> np.ndarray:
    """Bytes (h, w) -> colours (h, w, 3), dark to bright."""
    stops = np.linspace(0, 255, len(HEAT))
    return np.stack([np.interp(values, stops, channel) for channel in zip(*HEAT, strict=True)], -1).astype(np.uint8)


def write_report(reconstruction: Reconstruction, folder: str | Path) -> dict[str, Path]:
    """Write ``report.html`` (works offline, no other file needed) and two pictures into an existing folder.

    ``report.png`` sums the reconstruction up; ``projections.png`` holds only each film beside its re-projection.

    Args:
        reconstruction: volumes on axes parallel to LPS.
        folder: receives the files; existing ones are replaced.

    Returns:
        "report", "picture" and "projections" -> path.

    Raises:
        OutputError: the folder cannot be written to.
    """
    folder = Path(folder)
    page = folder / "report.html"
    with atomic_file(page, overwrite=True) as temporary:
        temporary.write_text(render_html(reconstruction), encoding="utf-8")
    pictures = {
        "picture": (folder / "report.png", render_picture(reconstruction)),
        "projections": (folder / "projections.png", render_projections(reconstruction)),
    }
    for path, picture in pictures.values():
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(_png(picture))
    return {"report": page, **{kind: path for kind, (path, _) in pictures.items()}}


# -------------------------------------------------------------------------------------- what both tell


def headline(reconstruction: Reconstruction) -> list[str]:
    """The few facts that matter most, one line each."""
    provenance = reconstruction.provenance
    x, y, z = reconstruction.final.spacing_mm
    shape = " x ".join(str(edge) for edge in reversed(reconstruction.final.hu.shape))
    seeds = provenance.get("seeds", ())
    ncc = ", ".join(f"{name} {value:.2f}" for name, value in reconstruction.ncc.items())
    lines = [
        f"model {provenance.get('model', '?')}, preset {provenance.get('preset', '?')}",
        f"{shape} voxels of {x:.2f} x {y:.2f} x {z:.2f} mm",
        f"agreement with the film (NCC): {ncc}",
    ]
    if seeds:
        lines.append(f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}")
    if reconstruction.std is not None:
        lines.append(f"mean spread {float(reconstruction.std.hu.mean()):.0f} HU")
    return lines


def spread_high(std: CTVolume) -> float:
    """Upper end of the uncertainty scale [HU]: the 99th percentile, rounded up to a multiple of 50."""
    return 50.0 * max(1.0, float(np.ceil(np.percentile(std.hu, 99) / 50.0)))


def difference(film: np.ndarray, reprojection: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """|film - reprojection| inside the mask, on the films' scale of 2; outside it 0."""
    return np.where(mask, np.abs(film - reprojection), 0.0)


# ------------------------------------------------------------------------------------------------ page


def render_html(reconstruction: Reconstruction) -> str:
    """The page as one string. Everything is embedded; its content policy forbids any connection."""
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    warnings = "".join(f"<li>{html.escape(text)}</li>" for text in reconstruction.warnings)
    values = {
        "notice": html.escape(SYNTHETIC_NOTICE),
        "headline": "".join(f"<span>{html.escape(line)}</span>" for line in headline(reconstruction)),
        "warnings": f'<div class="card warnings"><b>Please note</b><ul>{warnings}</ul></div>' if warnings else "",
        "films": "".join(_film_figures(reconstruction)),
        "stages": "".join(_stage_figures(reconstruction)),
        "uncertainty": _uncertainty_note(reconstruction),
        "provenance": "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in _facts(reconstruction)
        ),
        "data": json.dumps(_page_data(reconstruction)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _page_data(reconstruction: Reconstruction) -> dict[str, Any]:
    """What the page's script needs: geometry, windows, and the packed volumes."""
    hu, factor = shrink(reconstruction.final.hu)
    data: dict[str, Any] = {
        "shape": hu.shape,
        "spacing": [float(s) * factor for s in reconstruction.final.spacing_mm],
        "range": HU_RANGE,
        "windows": WINDOWS,
        "heat": HEAT,
        "hu": _pack(to_bytes(hu, *HU_RANGE)),
    }
    if reconstruction.std is not None:
        data["std_high"] = spread_high(reconstruction.std)
        std = _onto(reconstruction.std, reconstruction.final)
        data["std"] = _pack(to_bytes(shrink(std.hu)[0], 0.0, data["std_high"]))
    return data


def _onto(std: CTVolume, final: CTVolume) -> CTVolume:
    """The spread on the final volume's voxels, which super-resolution may have made smaller."""
    same = std.hu.shape == final.hu.shape and np.allclose(std.affine, final.affine)
    return std if same else std.resampled(final.affine, final.hu.shape, fill=0.0)


def _pack(volume: np.ndarray) -> str:
    """Bytes -> base64 of their zlib stream (RFC 1950), which browsers call "deflate"."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(volume).tobytes(), 6)).decode()


def _film_figures(reconstruction: Reconstruction) -> list[str]:
    figures = []
    for name, film in reconstruction.films.items():
        edges, made = film_edges(film.view), reconstruction.reprojections[name]
        off = difference(film.image, made, film.mask)
        ncc = f"NCC {reconstruction.ncc[name]:.3f}"
        view = film.view.value
        figures.append(_figure(f"Film, {name}", view, to_bytes(film.image, -1, 1), edges))
        figures.append(_figure("Re-projection", ncc, to_bytes(made, -1, 1), edges))
        figures.append(
            _figure("Difference", f"mean {off[film.mask].mean() / 2:.1%}", heat(to_bytes(off, 0, 0.5)), edges)
        )
    return figures


def _stage_figures(reconstruction: Reconstruction) -> list[str]:
    coronal = PLANES[1]
    return [
        _figure(
            name,
            _duration(reconstruction.timings.get(name)),
            to_bytes(coronal.cut(volume.hu), *WINDOWS["Lung"]),
            coronal.edges,
            aspect=coronal.aspect(volume.spacing_mm),
        )
        for name, volume in reconstruction.stages.items()
    ]


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _uncertainty_note(reconstruction: Reconstruction) -> str:
    if not reconstruction.provenance.get("seeds"):
        text = (
            "The stages that ran draw nothing at random, so there is no spread to map. "
            "Preset paper runs the random stages too, where the model has them."
        )
    elif reconstruction.std is None:
        text = "One seed was drawn, so nothing is known about the spread. Run with several seeds to map it."
    else:
        text = (
            "The Uncertainty button maps the standard deviation over the seeds. Where it is high the model made up "
            "what the film does not tell; where it is low the model may still be wrong."
        )
    return f'<h2>Uncertainty</h2><div class="card">{html.escape(text)}</div>'


def _figure(title: str, note: str, image: np.ndarray, edges: str, aspect: float = 1.0) -> str:
    rows, columns = image.shape[:2]
    letters = "".join(f'<span class="edge {side}">{letter}</span>' for side, letter in zip("lrtb", edges, strict=True))
    source = base64.b64encode(_png(_picture(image))).decode()
    return (
        f"<figure><figcaption>{html.escape(title)}<span>{html.escape(note)}</span></figcaption>"
        f'<div class="view" style="aspect-ratio: {columns} / {rows * aspect:.4f}">'
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{source}">{letters}</div></figure>'
    )


def _facts(reconstruction: Reconstruction) -> list[tuple[str, str]]:
    """Provenance and timings, flattened to dotted keys."""
    facts: list[tuple[str, str]] = []

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, content in value.items():
                add(f"{key}.{inner}" if key else str(inner), content)
        elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
            for number, item in enumerate(value, 1):
                facts.append((f"{key}.{number}", json.dumps(item, default=str)))
        elif isinstance(value, (list, tuple)):
            facts.append((key, ", ".join(str(item) for item in value)))
        else:
            facts.append((key, f"{value:.6g}" if isinstance(value, float) else str(value)))

    add("", reconstruction.provenance)
    add("seconds", {name: round(seconds, 2) for name, seconds in reconstruction.timings.items()})
    return facts


# --------------------------------------------------------------------------------------------- picture

_BACK, _TEXT, _DIM, _LETTER, _RED = (14, 17, 22), (230, 233, 238), (154, 165, 180), (255, 215, 94), (163, 19, 29)
_TILE, _GAP, _BAR, _CAPTION = 400, 20, 40, 30


def render_picture(reconstruction: Reconstruction) -> Image.Image:
    """Films, re-projections and differences; three middle slices; three of the uncertainty: rows of three tiles."""
    rows = _film_rows(reconstruction) + _volume_rows(reconstruction)
    top = _BAR + 92
    sheet, draw = _sheet(rows, top, 34)
    width, height = sheet.size
    draw.rectangle((0, 0, width, _BAR), fill=_RED)
    draw.text((width / 2, _BAR / 2), SYNTHETIC_NOTICE, (255, 255, 255), _font(20), anchor="mm")
    draw.text((_GAP, _BAR + 12), "AXON", _TEXT, _font(28))
    lines = headline(reconstruction)
    draw.text((_GAP + 100, _BAR + 14), "   ".join(lines[:2]), _DIM, _font(15))
    draw.text((_GAP + 100, _BAR + 40), "   ".join(lines[2:]), _DIM, _font(15))
    provenance = reconstruction.provenance
    weights = str(provenance.get("weights_sha256", "?"))[:16]
    footer = f"axon-core {provenance.get('version', '?')}   {provenance.get('created', '')}   weights {weights}"
    draw.text((_GAP, height - 32), footer, _DIM, _font(13))
    return sheet


Tile = tuple[str, str, np.ndarray, str, float]  # title, note, image, edges, aspect


def render_projections(reconstruction: Reconstruction) -> Image.Image:
    """Films, re-projections and differences: one row of three tiles for each film."""
    return _sheet(_film_rows(reconstruction), _GAP, 0)[0]


def _sheet(rows: list[list[Tile]], top: int, bottom: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Rows of three tiles on a sheet, with free pixels above and below."""
    from PIL import Image, ImageDraw

    height = top + len(rows) * (_TILE + _CAPTION + _GAP) + bottom
    sheet = Image.new("RGB", (3 * _TILE + 4 * _GAP, height), _BACK)
    draw = ImageDraw.Draw(sheet)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            corner = (_GAP + column * (_TILE + _GAP), top + row * (_TILE + _CAPTION + _GAP))
            _paste_tile(sheet, draw, corner, *tile)
    return sheet, draw


def _film_rows(reconstruction: Reconstruction) -> list[list[Tile]]:
    rows: list[list[Tile]] = []
    for name, film in reconstruction.films.items():
        edges, made = film_edges(film.view), reconstruction.reprojections[name]
        off = heat(to_bytes(difference(film.image, made, film.mask), 0, 0.5))
        rows.append(
            [
                (f"Film, {name}", film.view.value, to_bytes(film.image, -1, 1), edges, 1.0),
                ("Re-projection", f"NCC {reconstruction.ncc[name]:.3f}", to_bytes(made, -1, 1), edges, 1.0),
                ("Difference", "0 to a quarter of the range", off, edges, 1.0),
            ]
        )
    return rows


def _volume_rows(reconstruction: Reconstruction) -> list[list[Tile]]:
    final = reconstruction.final
    rows: list[list[Tile]] = []
    rows.append(
        [
            (p.name, "lung window", to_bytes(p.cut(final.hu), *WINDOWS["Lung"]), p.edges, p.aspect(final.spacing_mm))
            for p in PLANES
        ]
    )
    if reconstruction.std is not None:
        std, high = reconstruction.std, spread_high(reconstruction.std)
        rows.append(
            [
                (
                    f"{p.name} spread",
                    f"0 to {high:.0f} HU",
                    heat(to_bytes(p.cut(std.hu), 0, high)),
                    p.edges,
                    p.aspect(std.spacing_mm),
                )
                for p in PLANES
            ]
        )
    return rows


def _paste_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    note: str,
    image: np.ndarray,
    edges: str,
    aspect: float,
) -> None:
    """Draw one captioned, lettered image, fitted into a square of black."""
    from PIL import Image

    left, top = corner
    draw.text((left, top), title, _TEXT, _font(17))
    draw.text((left + _TILE, top + 2), note, _DIM, _font(14), anchor="ra")
    top += _CAPTION
    draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill=(0, 0, 0))
    rows, columns = image.shape[0] * aspect, image.shape[1]
    scale = _TILE / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    picture = _picture(image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    sheet.paste(picture, (left + (_TILE - size[0]) // 2, top + (_TILE - size[1]) // 2))
    places = ((8, _TILE / 2, "lm"), (_TILE - 8, _TILE / 2, "rm"), (_TILE / 2, 6, "ma"), (_TILE / 2, _TILE - 6, "md"))
    for letter, (x, y, anchor) in zip(edges, places, strict=True):
        draw.text((left + x, top + y), letter, _LETTER, _font(17), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _picture(image: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

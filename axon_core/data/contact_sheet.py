"""One page on which a person sees in a minute which cases of a cache are bad.

Each case is one strip: three middle slices of the CT as the films see it, what films would show of it, its real films,
and each of those over the film drawn from the CT (grey where they agree, red and cyan where not).
"""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from axon_core.data.plan import SPLITS, CaseEntry, Plan
from axon_core.files import atomic_file
from axon_core.registration.overlay import Comparison

SHEET_FILE = "contact_sheet.html"
TILE = 144  # pixels
HU_SHOWN = (-1000.0, 400.0)


def strip(hu: np.ndarray | None, drrs: Mapping[str, np.ndarray], films: Mapping[str, np.ndarray]) -> bytes:
    """The JPEG of one case.

    Args:
        hu: (n, n, n) HU on axes parallel to LPS, or None.
        drrs: "frontal", "lateral" -> (q, q) films of it in [-1, 1]; empty without CT.
        films: the same of its real films, (p, p), -1 outside.
    """
    from PIL import Image

    tiles = []
    if hu is not None:
        z, y, x = (n // 2 for n in hu.shape)
        low, high = HU_SHOWN
        for plane in (hu[z], hu[::-1, y], hu[::-1, :, x]):
            tiles.append(_grey((plane - low) / (high - low)))
    tiles += [_grey(0.5 * (film + 1)) for film in drrs.values()]
    for view, film in films.items():
        tiles.append(_grey(0.5 * (film + 1)))
        if drrs:
            small = [np.asarray(Image.fromarray(f).resize((TILE, TILE))) for f in (film, drrs[view])]
            tiles.append(Comparison(small[0], small[0] > -0.99).picture(small[1], "red-cyan"))
    sheet = Image.new("RGB", (TILE * len(tiles), TILE))
    for column, tile in enumerate(tiles):
        picture = Image.fromarray(tile).convert("RGB")
        sheet.paste(picture.resize((TILE, TILE), Image.Resampling.BILINEAR), (column * TILE, 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return file.getvalue()


def _grey(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def write_sheet(folder: Path, plan: Plan, pictures: Mapping[str, Path]) -> Path:
    """Write the page: what was skipped first, then cases with warnings, then the others.

    Args:
        folder: of the cache.
        plan: see `Plan`.
        pictures: name of a case -> JPEG of `strip`.

    Errors:
        OutputError: the page cannot be written.
    """
    parts = Counter(case.split for case in plan.cases)
    real = Counter(view for case in plan.cases for view, kind in case.films.items() if kind == "real")
    facts = [
        f"{len(plan.cases)} cases: " + ", ".join(f"{parts[part]} {part}" for part in (*SPLITS, "films") if parts[part]),
        f"real films: {real['frontal']} frontal, {real['lateral']} lateral",
        f"{sum(bool(case.warnings) for case in plan.cases)} with remarks, {len(plan.skipped)} skipped",
    ]
    skipped = "".join(f"<li><b>{html.escape(case.name)}</b> {html.escape(case.reason)}</li>" for case in plan.skipped)
    ordered = sorted(plan.cases, key=lambda case: not case.warnings)
    page = _PAGE.format(
        preset=html.escape(plan.preset),
        facts=html.escape("; ".join(facts)),
        skipped=f"<h2>Skipped</h2><ul>{skipped}</ul>" if skipped else "",
        cases="\n".join(_case(case, pictures[case.name]) for case in ordered),
    )
    with atomic_file(folder / SHEET_FILE, overwrite=True) as part:
        part.write_text(page, encoding="utf-8")
    return folder / SHEET_FILE


def _case(case: CaseEntry, picture: Path) -> str:
    films = ", ".join(f"{kind} {view}" for view, kind in case.films.items()) or "no film"
    remarks = "".join(f"<li>{html.escape(text)}</li>" for text in case.warnings)
    remarks += "".join(f"<li><small>{html.escape(text)}</small></li>" for text in case.notes)
    data = base64.b64encode(picture.read_bytes()).decode()
    return (
        f'<section class="{"odd" if case.warnings else "well"}"><h3>{html.escape(case.name)} '
        f"<small>{html.escape(case.split)}; {html.escape(films)}</small></h3>"
        f'<img loading="lazy" alt="slices and films" src="data:image/jpeg;base64,{data}"><ul>{remarks}</ul></section>'
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>AXON contact sheet: {preset}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1.5em; background: #17181c; color: #dcdce0 }}
h3 {{ margin: .8em 0 .2em; font-size: 1em }} small {{ color: #9a9aa4; font-weight: normal }}
ul {{ margin: .2em 0; padding-left: 1.2em }} section {{ border-left: 4px solid #3a7d44; padding-left: .8em }}
section.odd {{ border-color: #d99a26 }} img {{ max-width: 100% }}
</style>
<h1>Prepared cases, preset {preset}</h1>
<p>{facts}</p>
<p>From left to right: axial, coronal and sagittal slice of the CT as the films see it (the patient's left is on the
right, the front at the top or on the left); frontal and lateral film drawn from it; each real film, and the real film
in red over the drawn one in cyan.</p>
{skipped}
<h2>Cases</h2>
{cases}
</html>
"""

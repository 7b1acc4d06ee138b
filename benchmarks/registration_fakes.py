"""Chest films of which the pose is known: fakes for `registration.py`, made by another engine than the one under test.

The line integrals are nanodrr's (ray marching; its camera model too, not ours), and whatever a registration might lean
on is unlike our own simulation: another map from HU to attenuation, beam hardening, scatter, quantum noise, tone curve,
12 bits, collimation, a lead letter, no couch. A film shows more of the body than a CT covers, so the ends are
continued, leaning by chance. Everything is drawn from the case's own seed. Films are kept as ``.npz``, because
rendering them is slow; a case that is already there, with the same recipe, is read instead of made.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import types
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from axon_core.ctvolume import CTVolume
from axon_core.dicom_write import as_axial
from axon_core.drr.prepare import body_mask
from axon_core.files import atomic_file
from axon_core.geometry import RigidPose, XrayGeometry, XrayView

RECIPE = 1  # of all that follows; a cached film of another recipe is made again
SETS = {"rigid": (100, ("PA",)), "pair": (30, ("PA", "LAT")), "deformed": (50, ("PA",))}  # cases, films of each
PIXELS = 512
RAYS = 384  # along each edge: 1 mm apart in the patient, where a CT has voxels of 2.5 mm
SAMPLES = 350  # along each ray's way through the volume, about a millimetre apart
RAYS_AT_ONCE = 8192  # which bounds memory
HALF_LENGTH_MM = 260.0  # the body reaches as far from its middle as any ray does
MAX_ANGLE = math.radians(10.0)
MAX_SHIFT_MM = 30.0
LANDMARKS = 300
CORE_LANDMARKS = 100
LANDMARK_BOX_MM = (170.0, 120.0)  # |x|, |y| about the CT's centre: the trunk, not the arms
AIR_HU = -1000.0


@dataclass(frozen=True)
class Look:
    """How one film was exposed and processed.

    Attributes:
        soft, bone: attenuation [1/mm] of water, and its rise per HU above 120.
        hardening: share by which a line integral of 1 is lowered.
        scatter: share of scattered light.
        photons: per pixel of the unattenuated beam.
        gamma, gain: exponent, and slope of the sigmoid, of the tone curve.
        collimation: closed shares of the film (top, bottom, left, right).
        bright_shadow: unexposed borders are left bright, as on a raw film, instead of being blackened.
        marker: the lead letter's distance (down, across) from the open field's corner, in pixels of a 512 film.
    """

    soft: float
    bone: float
    hardening: float
    scatter: float
    photons: float
    gamma: float
    gain: float
    collimation: tuple[float, float, float, float]
    bright_shadow: bool
    marker: tuple[int, int]


@dataclass(frozen=True)
class Recipe:
    """All that a case is made from.

    Attributes:
        group: its set, one of `SETS`.
        index: its number in the set.
        ct: stem of the CT's file.
        pose: rotation [rad] and translation [mm] of `RigidPose`.
        looks: one for each film.
        seed: of the noise, the lean and the deformation.
    """

    group: str
    index: int
    ct: str
    pose: tuple[float, ...]
    looks: tuple[Look, ...]
    seed: tuple[int, ...]

    @property
    def views(self) -> tuple[str, ...]:
        return SETS[self.group][1]

    def text(self) -> str:
        """One line that says whether a cached film is this one."""
        return json.dumps(
            {"recipe": RECIPE, "pixels": PIXELS, "rays": RAYS, "samples": SAMPLES, **asdict(self)}, sort_keys=True
        )


@dataclass(frozen=True)
class Fake:
    """A case ready for registration.

    Attributes:
        recipe: what it was made from.
        films: per view (h, w) float32 in [0, 1], bone bright.
        open_field: per view (h, w) bool, the pixels inside the collimation (the truth; a user does not have it).
        landmarks: (300, 3) LPS mm about the CT's centre, in the CT.
        moved: (300, 3) the same before the pose, after the deformation; equal to `landmarks` in the rigid sets.
        core: (100, 3) points around the spine, which the deformation leaves alone.
    """

    recipe: Recipe
    films: dict[str, np.ndarray]
    open_field: dict[str, np.ndarray]
    landmarks: np.ndarray
    moved: np.ndarray
    core: np.ndarray

    @property
    def pose(self) -> RigidPose:
        return as_pose(self.recipe.pose)


def as_pose(parameters: Any) -> RigidPose:
    """(rotation, translation) as six numbers -> pose."""
    a, b, c, x, y, z = (float(value) for value in parameters)
    return RigidPose((a, b, c), (x, y, z))


def geometry_of(view: str) -> XrayGeometry:
    """The usual chest stand."""
    return XrayGeometry(XrayView(view), PIXELS)


def recipes(group: str, cts: list[str], seed: int) -> list[Recipe]:
    """All cases of a set; they take turns over the CTs."""
    count, views = SETS[group]
    found = []
    for index in range(count):
        own = (seed, list(SETS).index(group), index)
        random = np.random.default_rng(own)
        pose = (*random.uniform(-MAX_ANGLE, MAX_ANGLE, 3), *random.uniform(-MAX_SHIFT_MM, MAX_SHIFT_MM, 3))
        looks = tuple(_look(random) for _ in views)
        found.append(Recipe(group, index, cts[index % len(cts)], tuple(map(float, pose)), looks, own))
    return found


def _look(random: np.random.Generator) -> Look:
    draw = random.uniform
    return Look(
        soft=draw(0.0195, 0.0215),
        bone=draw(2.5e-5, 4.5e-5),
        hardening=draw(0.02, 0.04),
        scatter=draw(0.15, 0.35),
        photons=draw(1e4, 4e4),
        gamma=draw(0.6, 1.6),
        gain=draw(3.5, 6.5),
        collimation=tuple(draw(0.02, 0.14, 4).tolist()),
        bright_shadow=bool(draw() < 0.2),
        marker=(int(random.integers(8, 40)), int(random.integers(8, 40))),
    )


def load_or_make(recipe: Recipe, ct: Path, cache: Path) -> Fake:
    """From the cache if it holds this very recipe, else rendered and put there."""
    path = cache / f"{recipe.group}-{recipe.index:03d}.npz"
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["recipe"]) == recipe.text():
                return _unpacked(recipe, kept)
    fake = make(recipe, ct)
    with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **_packed(fake))
    return fake


def _packed(fake: Fake) -> dict[str, Any]:
    films = {f"film_{view}": (film * 4095).round().astype(np.uint16) for view, film in fake.films.items()}
    fields = {f"open_{view}": field for view, field in fake.open_field.items()}
    points = {name: getattr(fake, name) for name in ("landmarks", "moved", "core")}
    return {"recipe": np.array(fake.recipe.text()), **films, **fields, **points}


def _unpacked(recipe: Recipe, kept: Any) -> Fake:
    films = {view: kept[f"film_{view}"].astype(np.float32) / 4095 for view in recipe.views}
    fields = {view: kept[f"open_{view}"] for view in recipe.views}
    return Fake(recipe, films, fields, kept["landmarks"], kept["moved"], kept["core"])


def make(recipe: Recipe, ct: Path) -> Fake:
    """Render one case."""
    body = chest(ct)
    landmarks = body.landmarks()
    hu, moved = body.hu, landmarks
    if recipe.group == "deformed":
        shift = body.deformation(np.random.default_rng((*recipe.seed, 1)))
        hu, moved = warped(hu, shift, body.spacing), followed(landmarks, shift, body)
    films, fields = {}, {}
    for number, (view, look) in enumerate(zip(recipe.views, recipe.looks, strict=True)):
        random = np.random.default_rng((*recipe.seed, 2, number))
        mu = continued(attenuation(hu, look), body.spacing, np.random.default_rng((*recipe.seed, 3)))
        integrals = line_integrals(mu, body.spacing, view, as_pose(recipe.pose))
        films[view], fields[view] = exposed(integrals, look, random)
    return Fake(recipe, films, fields, landmarks, moved, body.core())


# --- the patient -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def chest(path: Path) -> Chest:
    """Read a CT and take the patient off the couch."""
    volume = CTVolume.load(path)
    hu, affine = as_axial(volume.hu, volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    body = _closed_lengthwise(body_mask(hu, spacing), round(40.0 / spacing[2]))
    return Chest(np.where(body, hu, AIR_HU).astype(np.float32), spacing, body)


def _closed_lengthwise(body: np.ndarray, reach: int) -> np.ndarray:
    """(z, y, x) mask closed along z: where a chest wall is thin, a body mask may lose wall and lung for some slices."""
    padded = np.pad(body, ((reach, reach), (0, 0), (0, 0)), "edge")
    grown = ndimage.maximum_filter1d(padded.astype(np.uint8), 2 * reach + 1, axis=0)
    return ndimage.minimum_filter1d(grown, 2 * reach + 1, axis=0)[reach:-reach].astype(bool)


@dataclass(frozen=True, eq=False)
class Chest:
    """A CT without couch, axes along LPS, its centre at the origin.

    Attributes:
        hu: (z, y, x) float32.
        spacing: (3,) mm along x, y, z.
        body: (z, y, x) bool.
    """

    hu: np.ndarray
    spacing: np.ndarray
    body: np.ndarray

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Millimetres of the voxels' centres along x, y and z, shaped to broadcast over ``[z, y, x]``."""
        nz, ny, nx = self.hu.shape
        x, y, z = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip((nx, ny, nz), self.spacing, strict=True))
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def landmarks(self) -> np.ndarray:
        """(300, 3) mm, points of tissue of the trunk; the same for every case of this CT."""
        x, y, _ = self.axes()
        return self._points((np.abs(x) < LANDMARK_BOX_MM[0]) & (np.abs(y) < LANDMARK_BOX_MM[1]), LANDMARKS)

    def core(self) -> np.ndarray:
        """(100, 3) mm, points of tissue around the spine."""
        x, y, _ = self.axes()
        return self._points(self.from_spine(x, y) < 1.0, CORE_LANDMARKS)

    def _points(self, region: np.ndarray, count: int) -> np.ndarray:
        voxels = np.argwhere((self.hu > -300) & region)
        chosen = np.random.default_rng(0).choice(len(voxels), count, replace=False)
        middle = (np.array(self.hu.shape) - 1) / 2
        return ((voxels[chosen] - middle)[:, ::-1] * self.spacing).astype(np.float64)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel index (x, y, z, 1) -> LPS mm, the volume's centre at the origin."""
        return _centred(self.hu, self.spacing)

    @property
    def spine(self) -> tuple[float, float]:
        """(x, y) mm of the spine: the middle of the bone in the back, near the middle."""
        x, y, _ = self.axes()
        _, ys, xs = np.nonzero(self.body)
        middle, back = float(np.median(x.ravel()[xs])), float(np.median(y.ravel()[ys]))
        bone = (self.hu > 250) & (np.abs(x - middle) < 50) & (y > back)
        _, ys, xs = np.nonzero(bone)
        return float(np.median(x.ravel()[xs])), float(np.median(y.ravel()[ys]))

    def from_spine(self, x: Any, y: Any) -> Any:
        """Distance from the spine, 1 on an ellipse of 40 mm (across) by 45 mm (front to back)."""
        own_x, own_y = self.spine
        return np.sqrt(((x - own_x) / 40.0) ** 2 + ((y - own_y) / 45.0) ** 2)

    def deformation(self, random: np.random.Generator) -> np.ndarray:
        """How another breath and posture move the tissue: (3, z, y, x) float32 mm, (x, y, z) first.

        Diaphragm and organs by 10 to 25 mm along the body (most often down: films are taken standing, in full
        inspiration), the chest wall to the front and sides, the shoulders about the front-back axis, and a small random
        field. Around the spine all of it vanishes, so that the rigid pose stays the truth there.
        """
        x, y, z = self.axes()
        lung = self.body & (self.hu < -500)
        top, base = np.percentile(z.ravel()[np.nonzero(lung.any((1, 2)))[0]], (98, 2))
        _, ys, xs = np.nonzero(self.body[:: max(1, len(self.hu) // 20)])
        front, back = np.percentile(y.ravel()[ys], (2, 98))
        left, right = np.percentile(x.ravel()[xs], (2, 98))
        middle, half = (left + right) / 2, (right - left) / 2
        inspired = 1.0 if random.uniform() < 0.75 else -1.0
        depth = ndimage.distance_transform_edt(np.pad(self.body, ((1, 1), (0, 0), (0, 0)), "edge"), self.spacing[::-1])
        inside = np.clip((depth[1:-1] - 15) / 25, 0, 1)  # the wall does not follow the diaphragm
        down = np.clip((top - z) / (top - base), 0, 1) ** 1.5
        moved = np.zeros((3, *self.hu.shape), np.float32)
        moved[2] -= inspired * random.uniform(10, 25) * down * inside
        moved[1] -= inspired * random.uniform(3, 8) * np.clip((back - y) / (back - front), 0, 1)
        moved[0] += inspired * random.uniform(2, 5) * np.clip((x - middle) / half, -1, 1)
        for side in (-1, 1):
            moved += _shoulder(side * (x - middle), z, side, half, top, random)
        for component in moved:
            noise = ndimage.gaussian_filter(
                random.standard_normal(component.shape, np.float32), 25 / self.spacing[::-1]
            )
            component += 1.5 * noise / noise.std()
        moved *= np.clip((self.from_spine(x, y) - 1.0) / 0.6, 0, 1)
        return moved


def _shoulder(
    out: np.ndarray, z: np.ndarray, side: int, half: float, top: float, random: np.random.Generator
) -> np.ndarray:
    """(3, z, 1, x) mm: a shoulder turns about the front-back axis by 5 to 15 degrees; `out` is x off the middle."""
    angle = math.radians(random.uniform(5, 15)) * random.choice([-1.0, 1.0])
    across, up = out - 0.5 * half, z - (top - 80)
    weight = 1 / (1 + np.exp(-(out - 0.65 * half) / 12)) / (1 + np.exp(-(up + 10) / 12))
    dx = across * (math.cos(angle) - 1) - up * math.sin(angle)
    dz = across * math.sin(angle) + up * (math.cos(angle) - 1)
    return np.stack([side * dx * weight, np.zeros_like(weight), dz * weight]).astype(np.float32)


def _centred(volume: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(volume.shape[::-1]) - 1) / 2 * spacing
    return affine


def warped(hu: np.ndarray, shift: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(z, y, x): the value at q comes from q - shift(q)."""
    where = np.indices(hu.shape, dtype=np.float32)
    for axis in range(3):
        where[axis] -= shift[2 - axis] / spacing[2 - axis]
    return ndimage.map_coordinates(hu, where, order=1, mode="nearest")


def followed(points: np.ndarray, shift: np.ndarray, body: Chest) -> np.ndarray:
    """Where (n, 3) points of the undeformed patient lie afterwards: q with q - shift(q) = p."""
    middle = (np.array(body.hu.shape) - 1) / 2
    there = points.copy()
    for _ in range(20):
        index = ((there / body.spacing)[:, ::-1] + middle).T
        there = points + np.stack([ndimage.map_coordinates(s, index, order=1, mode="nearest") for s in shift], -1)
    return there


# --- the X-ray -------------------------------------------------------------------------------------------------------


def attenuation(hu: np.ndarray, look: Look) -> np.ndarray:
    """(z, y, x) 1/mm: lungs a little denser than their HU say, bone along a line of its own."""
    tissue = look.soft * (hu + 1000) / 1000
    lung = 1.03 * tissue
    bone = 1.12 * look.soft + look.bone * (hu - 120)
    return np.maximum(np.where(hu < -300, lung, np.where(hu < 120, tissue, bone)), 0).astype(np.float32)


def continued(mu: np.ndarray, spacing: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The body beyond the first and last slice: the end slices again, leaning and blurring the farther they lie."""
    more = max(0, math.ceil((HALF_LENGTH_MM - mu.shape[0] * spacing[2] / 2) / spacing[2]))

    def beyond(plane: np.ndarray) -> list[np.ndarray]:
        lean = random.uniform(-0.2, 0.2, 2) * spacing[2] / spacing[1::-1]  # voxels along y, x for each slice
        slices = [ndimage.shift(plane, lean * step, order=1) for step in range(1, more + 1)]
        return [ndimage.gaussian_filter(s, min(step, 12) * 0.15) for step, s in enumerate(slices, 1)]

    return np.stack([*beyond(mu[0])[::-1], *mu, *beyond(mu[-1])])


def nanodrr() -> Any:
    """nanodrr's `render`, `Subject`, `make_k_inv`, `convert` and metrics.

    It imports torchio merely to read files, which we do ourselves; without torchio an empty stand-in lets it start.
    """
    if "torchio" not in sys.modules and importlib.util.find_spec("torchio") is None:
        empty = types.ModuleType("torchio")
        empty.LabelMap = empty.ScalarImage = object  # type: ignore[attr-defined]
        sys.modules["torchio"] = empty
    from nanodrr import metrics
    from nanodrr.camera import make_k_inv
    from nanodrr.data import Subject
    from nanodrr.drr import render
    from nanodrr.geometry import convert

    return types.SimpleNamespace(
        render=render, Subject=Subject, make_k_inv=make_k_inv, convert=convert, metrics=metrics
    )


def subject_of(volume: np.ndarray, spacing: np.ndarray, **options: Any) -> Any:
    """nanodrr's patient from (z, y, x) float32, the volume's centre at the origin of LPS."""
    engine = nanodrr()
    image = torch.from_numpy(volume)[None, None]
    to_world = _centred(volume, spacing)
    matrices = [torch.from_numpy(m).float() for m in (to_world, np.linalg.inv(to_world))]
    to_grid = engine.Subject._make_voxel_to_grid(image.shape)
    empty = torch.zeros(1, 1, 1, 1, 1)
    return engine.Subject(image, empty, *matrices, to_grid, torch.zeros(3), max_label=0, **options)


def camera_of(view: str) -> np.ndarray:
    """(4, 4) nanodrr's camera (x right, y down, z forward, source at 0) -> LPS.

    A film is looked at from the patient's front, the camera looks from the tube: hence this may be a reflection.
    """
    geometry = geometry_of(view)
    camera = np.eye(4)
    camera[:3] = np.stack([geometry.view.column, geometry.view.row, geometry.view.beam, geometry.source], 1)
    return camera


def intrinsics(pixels: int) -> torch.Tensor:
    """(1, 3, 3) pixels of the standard detector -> rays of nanodrr's camera."""
    geometry = XrayGeometry(pixels=pixels)
    pitch = geometry.pitch_mm
    return nanodrr().make_k_inv(geometry.sdd_mm, pitch, pitch, 0.0, 0.0, pixels, pixels, dtype=torch.float32)


@torch.no_grad()
def line_integrals(mu: np.ndarray, spacing: np.ndarray, view: str, pose: RigidPose) -> np.ndarray:
    """(512, 512) by nanodrr; the patient's motion is its camera's, the other way round."""
    engine = nanodrr()
    subject = subject_of(mu, spacing, convert_to_mu=False)
    camera = torch.from_numpy(np.linalg.inv(pose.matrix) @ camera_of(view)).float()[None]
    sdd = torch.tensor([geometry_of(view).sdd_mm])
    row, column = torch.meshgrid(*[torch.arange(RAYS) + 0.5] * 2, indexing="ij")
    pixels = torch.stack([column, row, torch.ones_like(row)], -1).reshape(-1, 3)
    ends = (sdd * pixels @ intrinsics(RAYS)[0].T).split(RAYS_AT_ONCE)
    parts = [
        engine.render(subject, None, camera, sdd, 1, len(part), SAMPLES, src=torch.zeros(1, 1, 3), tgt=part[None])
        for part in ends
    ]
    film = torch.cat([part[0, 0, 0] for part in parts]).view(RAYS, RAYS).numpy()
    return np.maximum(ndimage.zoom(film, PIXELS / RAYS, order=3, mode="nearest", grid_mode=True), 0)


def exposed(integrals: np.ndarray, look: Look, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a detector and its software make of (h, w) line integrals: film in [0, 1], bone bright; open field."""
    pixels = integrals.shape[0]
    light = np.exp(-integrals / (1 + look.hardening * integrals))
    light = (1 - look.scatter) * light + look.scatter * ndimage.gaussian_filter(light, pixels / 12)
    top, bottom, left, right = (np.array(look.collimation) * pixels).astype(int)
    field = np.zeros(integrals.shape, bool)
    field[top : pixels - bottom, left : pixels - right] = True
    light = np.where(field, light, 0.004)  # what leaks and scatters behind the shutters
    counts = random.poisson(light * look.photons) + random.normal(0, 4, light.shape)
    counts = np.maximum(ndimage.gaussian_filter(counts, 0.7), 1)
    film = -np.log(counts / look.photons)
    low, high = np.quantile(film[field], (0.02, 0.98))
    film = np.clip((film - low) / (high - low), 0, 1) ** look.gamma
    film = 1 / (1 + np.exp(-look.gain * (film - 0.5)))
    film = (film - film[field].min()) / (film[field].max() - film[field].min())
    film[_letter(top + look.marker[0], left + look.marker[1], film.shape)] = 1.0
    if not look.bright_shadow:
        film[~field] = 0.0
    return ((np.clip(film, 0, 1) * 4095).round() / 4095).astype(np.float32), field


def _letter(row: int, column: int, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool: an L of lead, 24 by 16 pixels."""
    letter = np.zeros(shape, bool)
    letter[row : row + 24, column : column + 5] = True
    letter[row + 19 : row + 24, column : column + 16] = True
    return letter

"""2D/3D registration: the pose in which a CT casts the given film, or both films of one patient.

Levenberg-Marquardt on the difference of the features (`similarity.features`) of film and DRR, from coarse to fine,
with priors on depth and rotation, which a single film determines poorly. A global search tries a grid of rotations and
finds the shift of each by correlation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from axon_core.ctvolume import CTVolume
from axon_core.drr.prepare import prepare_ct
from axon_core.drr.projector import Projector
from axon_core.errors import ConfigError, FilmError
from axon_core.geometry import RigidPose, XrayGeometry, XrayView
from axon_core.intensity import hu_to_mu
from axon_core.registration.similarity import features, shrunk, valid_mask

LEVELS = (64, 128, 192)  # pixels of film and DRR, coarse to fine
PATIENT_MM = 380.0  # of the patient that a film shows
VOXEL_SHARE = 0.8  # voxels per level are about this share of a pixel
ITERATIONS = (14, 10, 8)
ENOUGH = (1e-3, 1e-3, 5e-4)  # relative gain of a step below which a level is done
POSE_STEPS = np.array([0.005, 0.005, 0.005, 1.0, 10.0, 1.0])  # of the finite differences at level 64 [rad, mm]
POSE_UNITS = np.array([0.017, 0.017, 0.017, 1.0, 5.0, 1.0])  # equally felt by a film, roughly
POSE_NAMES = ("tilt", "lean", "turn", "left-right", "depth", "up-down")  # about and along x, y, z of a frontal film
SEARCH_ANGLES = np.deg2rad((-6.0, 0.0, 6.0))
SEARCH_REACH_MM = 50.0
SEARCH_KEPT = 3
PRIOR_WEIGHT = 0.02  # of the priors against the similarity
INDEPENDENT = 60.0  # differences between a whole film and its DRR that are independent, in a patient who has breathed
SURE_WITHIN = np.array([0.035, 0.035, 0.035, 3.0, 15.0, 3.0])  # standard deviations beyond which we say so [rad, mm]
DOUBTFUL_BELOW, FAILED_BELOW = 0.45, 0.25  # similarity
UNEXPECTED = 1.5  # standard deviations of a prior
RIVAL_GAP, RIVAL_MM = 0.02, 5.0  # how near in similarity and how far in space another pose must be to matter


@dataclass(frozen=True, eq=False)
class Film:
    """A film to be matched, square, on the detector of `geometry`.

    Attributes:
        image: (h, h) float32, bone bright, any scale.
        geometry: view, distances and detector; ``pixels`` is h.
        mask: (h, h) bool, valid pixels; found from collimation, frame and markers when None.
        scale_sd: relative uncertainty of the pixel size; 0 when it is known. Above 0 it is estimated, within this
            prior.
        sdd_sd: the same for the source to detector distance.
    """

    image: np.ndarray
    geometry: XrayGeometry
    mask: np.ndarray | None = None
    scale_sd: float = 0.0
    sdd_sd: float = 0.0

    def __post_init__(self) -> None:
        shape = (self.geometry.pixels,) * 2
        if np.shape(self.image) != shape or (self.mask is not None and np.shape(self.mask) != shape):
            raise FilmError(
                "register.film-shape",
                f"The film has shape {np.shape(self.image)}, its detector {shape}.",
                "Lay the film on its detector first, or correct the geometry.",
            )
        if not np.isfinite(self.image).all() or np.ptp(self.image) == 0:
            raise FilmError("register.film-empty", "The film is blank or not finite.", "Choose another film.")


@dataclass(frozen=True)
class RegisterOptions:
    """How to search.

    Attributes:
        global_search: look beyond the neighbourhood of the start.
        rotation_sd: prior of each rotation about the start [rad].
        depth_sd: prior of the shift along the beam [mm], for a single film.
    """

    global_search: bool = False
    rotation_sd: float = math.radians(10.0)
    depth_sd: float = 30.0


@dataclass(frozen=True)
class Registration:
    """Where the CT lies, and how far that is known.

    Attributes:
        pose: motion of the CT about the isocentre; the centre of the CT's voxel box lies at the isocentre.
        isocentre_lps: that centre in the CT's own LPS frame.
        geometry: of every film, with the pixel size and SDD that were found.
        before, after: similarity of each film at the start and at the end: mean of local and gradient NCC, in [-1, 1].
        names: of the parameters.
        sd: standard deviation of every parameter [rad, mm, relative].
        covariance: (n, n) of all parameters.
        verdict: "good" when nothing speaks against the pose, "doubtful" or "failed". A patient who breathed or held the
            arms otherwise than in the CT still fits "good", some millimetres off: look at the overlay.
        reasons: why not "good".
    """

    pose: RigidPose
    isocentre_lps: np.ndarray
    geometry: tuple[XrayGeometry, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    names: tuple[str, ...]
    sd: np.ndarray
    covariance: np.ndarray
    verdict: str
    reasons: tuple[str, ...] = field(default=())

    @property
    def similarity(self) -> float:
        """Mean over the films, at the end."""
        return float(np.mean(self.after))

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4): the CT's LPS -> LPS of the X-ray room, whose origin is the isocentre."""
        return ct_to_room(self.pose, self.isocentre_lps)


def ct_to_room(pose: RigidPose, isocentre_lps: np.ndarray) -> np.ndarray:
    """(4, 4): LPS of a CT that lies at this pose about `isocentre_lps` -> LPS of the X-ray room."""
    to_isocentre = np.eye(4)
    to_isocentre[:3, 3] = -np.asarray(isocentre_lps)
    return pose.matrix @ to_isocentre


Told = Callable[[float], None]  # fraction done; may raise Cancelled


def register(
    ct: CTVolume,
    films: Sequence[Film],
    start: RigidPose | None = None,
    options: RegisterOptions | None = None,
    told: Told | None = None,
) -> Registration:
    """Find the one pose of the CT that explains all the films.

    Args:
        ct: any orientation and spacing; couch and cut ends are taken care of.
        films: one frontal film, or a frontal and a lateral film of the same posture.
        start: where to begin; the priors are centred there.
        options: see `RegisterOptions`.
        told: called with the fraction done; whatever it raises ends the search.

    Errors:
        ConfigError: no film, or two frontal or two lateral ones. FilmError: unusable film. VolumeError: no body.
    """
    return Registrar(ct).register(films, start or RigidPose(), options or RegisterOptions(), told or (lambda _: None))


class Registrar:
    """A CT prepared once, at every resolution, for any number of registrations."""

    def __init__(self, ct: CTVolume) -> None:
        prepared = prepare_ct(ct)
        self.isocentre_lps = np.asarray(ct.center_lps)
        affine = prepared.affine.copy()
        affine[:3, 3] -= self.isocentre_lps
        mu = hu_to_mu(torch.from_numpy(prepared.hu))
        self.volumes = [_pooled(mu, affine, VOXEL_SHARE * PATIENT_MM / pixels) for pixels in LEVELS]
        self.projectors: dict[tuple[int, bool], Projector] = {}

    def projector(self, level: int, frontal: bool) -> Projector:
        """Made on first use; slabs are about one and a half pixels thick."""
        if (level, frontal) not in self.projectors:
            mu, affine = self.volumes[level]
            beam = (XrayView.PA if frontal else XrayView.LAT).beam
            self.projectors[level, frontal] = Projector(mu, affine, beam, slab=2)
        return self.projectors[level, frontal]

    @torch.inference_mode()
    def register(self, films: Sequence[Film], start: RigidPose, options: RegisterOptions, told: Told) -> Registration:
        """See `register`."""
        if not films:
            raise ConfigError("register.no-film", "There is no film to register to.", "Give a frontal film.")
        directions = [film.geometry.view.is_frontal for film in films]
        if len(set(directions)) < len(directions):
            raise ConfigError(
                "register.same-view",
                "Two films are of one direction.",
                "Give one frontal film, or a frontal and a lateral one.",
            )
        problem = _Problem(self, films, start, options, told)
        starts = [problem.start]
        if options.global_search:
            starts += problem.search()
        found = problem.best(0, starts)
        rivals = found[1:2]
        for level in range(1, len(LEVELS)):
            found = problem.best(level, found[:2] if level == 1 else found[:1])
        told(1.0)
        return problem.report(found[0], rivals)


def _pooled(mu: torch.Tensor, affine: np.ndarray, voxel_mm: float) -> tuple[torch.Tensor, np.ndarray]:
    """Average voxels together until they are about `voxel_mm` wide; the affine follows."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    factor = np.maximum(1, np.floor(voxel_mm / spacing + 0.25)).astype(int)  # of x, y, z
    coarse = affine.copy()
    coarse[:3, 3] += affine[:3, :3] @ (0.5 * (factor - 1))
    coarse[:3, :3] *= factor
    return F.avg_pool3d(mu[None, None], tuple(int(f) for f in factor[::-1]))[0, 0], coarse


@dataclass(frozen=True)
class _Target:
    """One film at one resolution."""

    feature: torch.Tensor
    mask: torch.Tensor
    geometry: XrayGeometry


class _Problem:
    """The cost of a parameter vector: six of the pose, then the unknown scales and distances of the films."""

    def __init__(
        self, ct: Registrar, films: Sequence[Film], start: RigidPose, options: RegisterOptions, told: Told
    ) -> None:
        self.ct, self.films, self.told = ct, films, told
        self.work = sum(ITERATIONS) + (ITERATIONS[0] * SEARCH_KEPT + ITERATIONS[1] if options.global_search else 0)
        self.done = 0
        self.unknown = [
            (index, name, sd)
            for index, film in enumerate(films)
            for name, sd in (("scale", film.scale_sd), ("sdd", film.sdd_sd))
            if sd > 0
        ]
        extra = len(self.unknown)
        self.names = (*POSE_NAMES, *(f"{name} of film {index + 1}" for index, name, _ in self.unknown))
        self.units = np.concatenate([POSE_UNITS, np.full(extra, 0.01)])
        self.steps = np.concatenate([POSE_STEPS, np.full(extra, 0.01)])
        self.start = np.array([*start.rotation, *start.translation, *[0.0] * extra])
        precision = np.array([1 / options.rotation_sd] * 3 + [0.0] * 3)
        if len(films) == 1:  # a second film sees what is depth to the first
            precision[3 + int(np.argmax(np.abs(films[0].geometry.view.beam)))] = 1 / options.depth_sd
        self.precision = np.concatenate([precision, [1 / sd for *_, sd in self.unknown]]) * self.units
        self.targets = [[_target(film, pixels) for film in films] for pixels in LEVELS]

    def pose(self, theta: np.ndarray) -> RigidPose:
        rx, ry, rz, x, y, z = (float(value) for value in theta[:6])
        return RigidPose((rx, ry, rz), (x, y, z))

    def geometry(self, theta: np.ndarray, index: int, base: XrayGeometry) -> XrayGeometry:
        """The film's geometry with its unknowns put in."""
        for (film, name, _), value in zip(self.unknown, theta[6:], strict=True):
            if film == index and name == "scale":
                base = replace(base, detector_mm=base.detector_mm * math.exp(value))
            elif film == index:
                base = replace(base, sdd_mm=base.sdd_mm * math.exp(value))
        return base

    def render(self, level: int, index: int, theta: np.ndarray) -> torch.Tensor:
        """(h, h) line integrals."""
        geometry = self.geometry(theta, index, self.targets[level][index].geometry)
        return self.ct.projector(level, geometry.view.is_frontal)(geometry, self.pose(theta))[0]

    def features(self, level: int, thetas: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, F) features of the DRRs, all films behind one another; each film's part has length 1 / sqrt(films)."""
        parts = [
            features(torch.stack([self.render(level, index, theta) for theta in thetas]), target.mask)
            for index, target in enumerate(self.targets[level])
        ]
        return torch.cat(parts, 1) / len(parts) ** 0.5

    def wanted(self, level: int) -> torch.Tensor:
        """(F,) features of the films."""
        return torch.cat([target.feature for target in self.targets[level]]) / len(self.films) ** 0.5

    def prior(self, theta: np.ndarray) -> float:
        return 0.5 * PRIOR_WEIGHT * float(np.sum((self.precision * (theta - self.start) / self.units) ** 2))

    def jacobian(self, level: int, theta: np.ndarray) -> torch.Tensor:
        """(n, F) float64 by central differences, per unit."""
        steps = np.diag(self.steps * (LEVELS[0] / LEVELS[level]) ** 0.5)
        shifted = self.features(level, [theta + step for step in steps] + [theta - step for step in steps])
        ahead, behind = shifted.chunk(2)
        scale = torch.from_numpy(self.units / (2 * np.diag(steps)))
        return (ahead - behind).double() * scale[:, None]

    def best(self, level: int, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Where the descents from all starts end, the best first."""
        ends = [self.descend(level, theta) for theta in starts]
        return [theta for _, theta in sorted(ends, key=lambda end: end[0])]

    def descend(self, level: int, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Levenberg-Marquardt at one resolution: the cost reached and where."""
        wanted = self.wanted(level)
        here = self.features(level, [theta])[0]
        cost = 1 - float(here @ wanted) + self.prior(theta)
        damping = 1e-2
        penalty = torch.from_numpy(PRIOR_WEIGHT * self.precision**2)
        ahead = self.done + ITERATIONS[level]
        for _ in range(ITERATIONS[level]):
            self.tell(self.done + 1)
            slope = self.jacobian(level, theta)
            curvature = slope @ slope.T + torch.diag(penalty)
            downhill = slope @ (wanted - here).double() - penalty * torch.from_numpy((theta - self.start) / self.units)
            gain = 0.0
            for _ in range(4):
                damped = curvature + torch.diag(damping * curvature.diagonal() + 1e-9)
                move = torch.linalg.solve(damped, downhill).clamp(-4, 4).numpy() * self.units
                there = self.features(level, [theta + move])[0]
                reached = 1 - float(there @ wanted) + self.prior(theta + move)
                if reached < cost:
                    gain, theta, here, cost = cost - reached, theta + move, there, reached
                    damping = max(damping / 4, 1e-4)
                    break
                damping *= 5
            if gain < ENOUGH[level] * cost:
                break
        self.tell(ahead)
        return cost, theta

    def tell(self, done: int) -> None:
        self.done = done
        self.told(min(1.0, done / self.work))

    def search(self) -> list[np.ndarray]:
        """Starts all over the neighbourhood: a grid of rotations, each with the shifts at which it fits best."""
        turns = [np.array(turn) for turn in itertools.product(SEARCH_ANGLES, repeat=3)]
        thetas = [self.start + np.pad(turn, (0, len(self.start) - 3)) for turn in turns]
        shifts = self._shifts(thetas)
        moved = [theta + shift for theta, choices in zip(thetas, shifts, strict=True) for shift in choices]
        fits = self.features(0, moved) @ self.wanted(0)
        return [moved[i] for i in fits.argsort(descending=True)[:SEARCH_KEPT].tolist()]

    def _shifts(self, thetas: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """For each parameter vector the three in-plane shifts of the patient that fit the first film best.

        Normalised correlation of the feature images by FFT: the film's against the DRR's energy under its mask.
        """
        target, n = self.targets[0][0], LEVELS[0]
        everywhere = torch.ones(n, n, dtype=torch.bool)
        drrs = features(torch.stack([self.render(0, 0, theta) for theta in thetas]), everywhere).view(-1, 3, n, n)

        def transformed(images: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft2(images, s=(2 * n, 2 * n))

        def correlated(film: torch.Tensor, drr: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2((transformed(film) * transformed(drr).conj()).sum(1), s=(2 * n, 2 * n))

        energy = correlated(target.mask[None, None].float(), drrs.square().sum(1, keepdim=True))
        fit = correlated(target.feature.view(1, 3, n, n), drrs) / energy.clamp_min(1e-2).sqrt()
        mm = target.geometry.pitch_mm / target.geometry.magnification  # of patient per pixel
        reach = min(max(1, round(SEARCH_REACH_MM / mm)), n - 1)
        fit = torch.roll(fit, (reach, reach), (1, 2))[:, : 2 * reach + 1, : 2 * reach + 1]
        peaks = torch.where(fit == F.max_pool2d(fit[:, None], 5, 1, 2)[:, 0], fit, torch.tensor(-1.0))
        view = target.geometry.view
        found = []
        for places in peaks.flatten(1).topk(3).indices:
            shifts = []
            for place in places.tolist():
                down, across = (place // (2 * reach + 1) - reach) * mm, (place % (2 * reach + 1) - reach) * mm
                shift = np.zeros(len(self.start))
                shift[3:6] = down * view.row + across * view.column
                shifts.append(shift)
            found.append(shifts)
        return found

    def report(self, theta: np.ndarray, rivals: Sequence[np.ndarray]) -> Registration:
        """What was found, how sure it is, and what speaks against it."""
        level = len(LEVELS) - 1
        before, after = self.agreement(level, self.start), self.agreement(level, theta)
        slope = self.jacobian(level, theta)
        left = 2 * (1 - float(np.mean(after)))  # |wanted - found|^2
        independent = INDEPENDENT * sum(float(target.mask.float().mean()) for target in self.targets[level])
        information = independent / max(left, 1e-6) * (slope @ slope.T).numpy()
        covariance = np.linalg.inv(information + np.diag(self.precision**2) + 1e-9 * np.eye(len(theta)))
        covariance = covariance * self.units[:, None] * self.units
        sd = np.sqrt(np.diag(covariance))
        reasons = tuple(self.doubts(theta, sd, after, rivals))
        failed = float(np.mean(after)) < FAILED_BELOW
        return Registration(
            self.pose(theta),
            self.ct.isocentre_lps,
            tuple(self.geometry(theta, index, film.geometry) for index, film in enumerate(self.films)),
            before,
            after,
            self.names,
            sd,
            covariance,
            "failed" if failed else "doubtful" if reasons else "good",
            reasons,
        )

    def agreement(self, level: int, theta: np.ndarray) -> tuple[float, ...]:
        """Similarity of each film."""
        products = (self.features(level, [theta])[0] * self.wanted(level)).view(len(self.films), -1).sum(1)
        return tuple(float(value) * len(self.films) for value in products)

    def doubts(
        self,
        theta: np.ndarray,
        sd: np.ndarray,
        after: Sequence[float],
        rivals: Sequence[np.ndarray],
    ) -> Iterator[str]:
        """Reasons why the result may be wrong; a high similarity alone is no proof."""
        if np.mean(after) < DOUBTFUL_BELOW:
            yield f"film and DRR agree poorly (similarity {np.mean(after):.2f})"
        limits = np.concatenate([SURE_WITHIN, np.full(len(theta) - 6, 0.03)])
        for name, value, limit in zip(self.names, sd, limits, strict=True):
            if value > limit:
                yield f"{name} is poorly determined (standard deviation {_readable(name, value)})"
        pull = np.abs(self.precision * (theta - self.start) / self.units)
        for name, sigmas in zip(self.names, pull, strict=True):
            if sigmas > UNEXPECTED:
                yield f"{name} ends {sigmas:.1f} standard deviations from where it was expected"
        for rival in rivals:
            gap = float(np.mean(after)) - float(np.mean(self.agreement(len(LEVELS) - 1, rival)))
            apart = self.apart(theta, rival)
            if gap < RIVAL_GAP and apart > RIVAL_MM:
                yield f"another pose, {apart:.0f} mm away, agrees nearly as well"

    def apart(self, theta: np.ndarray, other: np.ndarray) -> float:
        """Mean distance [mm] between the corners of a chest-sized box in two poses, without the depth."""
        corners = np.array(list(itertools.product((-120.0, 120.0), (-80.0, 80.0), (-120.0, 120.0), (1.0,))))
        shift = (corners @ (self.pose(theta).matrix - self.pose(other).matrix).T)[:, :3]
        beam = self.films[0].geometry.view.beam
        return float(np.linalg.norm(shift - (shift @ beam)[:, None] * beam, axis=1).mean())


def _target(film: Film, pixels: int) -> _Target:
    """The film's features at `pixels` by `pixels`, from area means; a pixel is valid when all of its area is."""
    image = torch.from_numpy(np.ascontiguousarray(film.image, np.float32))
    mask = valid_mask(image) if film.mask is None else torch.from_numpy(np.ascontiguousarray(film.mask))
    if float(mask.float().mean()) < 0.1:
        raise FilmError("register.mask", "Less than a tenth of the film is valid.", "Widen the mask or collimation.")
    small = shrunk(mask, pixels) > 0.99
    return _Target(features(shrunk(image, pixels)[None], small)[0], small, replace(film.geometry, pixels=pixels))


def _readable(name: str, value: float) -> str:
    if name in POSE_NAMES[:3]:
        return f"{math.degrees(value):.1f}°"
    return f"{value:.1f} mm" if name in POSE_NAMES else f"{100 * value:.0f} %"

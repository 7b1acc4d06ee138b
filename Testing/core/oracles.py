"""Line integrals by other people's projectors, in exactly our geometry: nanodrr, plastimatch and RTK.

Each engine is a class that takes a volume once and is then called with a geometry and a pose, as our `Projector` is.
None shares code with ours. nanodrr gets its camera as its own intrinsic and extrinsic matrices; plastimatch and RTK
know only volumes whose axes are parallel to the world's, so they see the scene from the volume (`Scene`).
"""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from axon_core.geometry import RigidPose, XrayGeometry

NANODRR_SAMPLES = 500  # along each ray: nanodrr's default
NANODRR_RAYS = 8192  # at a time: as fast as all of them, in a hundredth of the memory
MM_PER_CM = 10.0


@dataclass(frozen=True)
class Scene:
    """Source and detector seen from the volume: millimetres along its index axes, from the centre of voxel (0, 0, 0).

    Attributes:
        isocentre, source, detector: (3,) positions; `detector` is the middle of it.
        beam, column, row: (3,) unit vectors: source to detector, and along growing column and row index of the film.
    """

    isocentre: np.ndarray
    source: np.ndarray
    detector: np.ndarray
    beam: np.ndarray
    column: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray, geometry: XrayGeometry, pose: RigidPose | None) -> Scene:
        """The scene for a volume with a (4, 4) `affine` (index -> LPS) whose axes are at right angles."""
        from_lps = np.diag([*spacing_of(affine), 1.0]) @ np.linalg.inv(affine)
        if pose is not None:
            from_lps = from_lps @ np.linalg.inv(pose.matrix)  # the beam moves against the patient
        turn, isocentre = from_lps[:3, :3], from_lps[:3, 3]
        view, ahead = geometry.view, geometry.isocentre_to_detector_mm
        beam = turn @ view.beam
        return cls(
            isocentre=isocentre,
            source=isocentre - beam * (geometry.sdd_mm - ahead),
            detector=isocentre + beam * ahead,
            beam=beam,
            column=turn @ view.column,
            row=turn @ view.row,
        )

    @property
    def as_from_source(self) -> bool:
        """Whether the film shows the patient as seen from the source, and not mirrored (as a PA film does)."""
        return float(np.cross(self.column, self.row) @ self.beam) > 0


class Nanodrr:
    """nanodrr's ray marching: trilinear samples, evenly spaced on the part of each ray inside the volume.

    Args:
        mu: (z, y, x) linear attenuation [1/mm].
        affine: (4, 4) voxel index (x, y, z, 1) -> LPS millimetres; any.
    """

    def __init__(self, mu: np.ndarray, affine: np.ndarray) -> None:
        import torch

        subject = nanodrr_module("data").Subject
        volume = torch.from_numpy(np.ascontiguousarray(mu, dtype=np.float32))[None, None]
        self.subject = subject(
            imagedata=volume,
            labeldata=torch.zeros(1, 1, 1, 1, 1),
            voxel_to_world=_float32(affine),
            world_to_voxel=_float32(np.linalg.inv(affine)),
            voxel_to_grid=subject._make_voxel_to_grid(volume.shape),
            isocenter=torch.zeros(3),
            max_label=0,
            convert_to_mu=False,
        )

    def __call__(self, geometry: XrayGeometry, pose: RigidPose | None = None) -> np.ndarray:
        """(pixels, pixels) float32 line integrals."""
        import torch

        n, pitch, sdd = geometry.pixels, geometry.pitch_mm, geometry.sdd_mm
        renderer = nanodrr_module("drr")
        camera = renderer.DRR.from_carm_intrinsics(sdd, pitch, pitch, 0.0, 0.0, n, n, dtype=torch.float32)
        to_world = _float32(camera_to_world(geometry, pose))[None]
        with torch.no_grad():
            parts = [
                renderer.render(
                    self.subject,
                    camera.k_inv,
                    to_world,
                    camera.sdd,
                    1,
                    rays.shape[1],
                    n_samples=NANODRR_SAMPLES,
                    src=camera.src,
                    tgt=rays,
                ).flatten()
                for rays in camera.tgt.split(NANODRR_RAYS, dim=1)
            ]
        return torch.cat(parts).view(n, n).numpy()


class Plastimatch:
    """plastimatch's program `drr`: the volume lies in a file, every film is a process of its own.

    Args:
        mu: (z, y, x) linear attenuation [1/mm].
        affine: (4, 4) voxel index (x, y, z, 1) -> LPS millimetres; axes at right angles.
        algorithm: "exact" (Siddon: voxels are boxes) or "uniform" (trilinear samples, 0.75 voxels apart).
    """

    def __init__(self, mu: np.ndarray, affine: np.ndarray, algorithm: str = "exact") -> None:
        self.affine, self.algorithm = affine, algorithm
        self.program = plastimatch_program()
        self._folder = tempfile.TemporaryDirectory(prefix="drr-")
        self.folder = Path(self._folder.name)
        write_metaimage(self.folder / "mu.mha", mu, spacing_of(affine))

    def __call__(self, geometry: XrayGeometry, pose: RigidPose | None = None) -> np.ndarray:
        """(pixels, pixels) float32 line integrals."""
        done = subprocess.run(self.command(geometry, pose), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"plastimatch failed: {done.stdout[-500:]} {done.stderr[-500:]}")
        return self.film(geometry, pose)

    def command(self, geometry: XrayGeometry, pose: RigidPose | None = None) -> list[str]:
        """The command that writes one film into the folder."""
        scene = Scene.of(self.affine, geometry, pose)
        middle = 0.5 * (geometry.pixels - 1)
        options = {
            "algorithm": self.algorithm,
            "hu-conversion": "none",
            "threading": "cpu",
            "sad": geometry.sdd_mm - geometry.isocentre_to_detector_mm,
            "sid": geometry.sdd_mm,
            "isocenter": scene.isocentre,
            "nrm": -scene.beam,  # from the isocentre to the source
            "vup": -scene.row,
            "detector-size": (geometry.detector_mm, geometry.detector_mm),
            "dim": (geometry.pixels, geometry.pixels),
            "image-center": (middle, middle),
            "output-format": "pfm",
            "output": self.folder / "film",
        }
        words = [f"--{name}={_as_text(value)}" for name, value in options.items()]
        return [str(self.program), "drr", *words, str(self.folder / "mu.mha")]

    def film(self, geometry: XrayGeometry, pose: RigidPose | None = None) -> np.ndarray:
        """(pixels, pixels) float32 line integrals that the last process wrote."""
        film = read_pfm(self.folder / "film0000.pfm") * MM_PER_CM  # it takes mu per centimetre
        # its columns run as seen from the source, whatever `nrm` and `vup` are
        return film if Scene.of(self.affine, geometry, pose).as_from_source else film[:, ::-1]


class Rtk:
    """RTK's Joseph projector (package itk-rtk).

    Args:
        mu: (z, y, x) linear attenuation [1/mm].
        affine: (4, 4) voxel index (x, y, z, 1) -> LPS millimetres; axes at right angles.
        threads: how many it may use; all of them by default.
    """

    def __init__(self, mu: np.ndarray, affine: np.ndarray, threads: int | None = None) -> None:
        import itk

        self.affine, self.threads = affine, threads
        self.volume = itk.image_from_array(np.ascontiguousarray(mu, dtype=np.float32))
        self.volume.SetSpacing(spacing_of(affine))

    def __call__(self, geometry: XrayGeometry, pose: RigidPose | None = None) -> np.ndarray:
        """(pixels, pixels) float32 line integrals."""
        import itk

        scene = Scene.of(self.affine, geometry, pose)
        # a detector is a rotated one, and rotations do not mirror: its (column, row, -beam) is right-handed
        column = -scene.column if scene.as_from_source else scene.column
        placed = itk.RTK.ThreeDCircularProjectionGeometry.New()
        if not placed.AddProjection(
            scene.source.tolist(), scene.detector.tolist(), column.tolist(), scene.row.tolist()
        ):
            raise RuntimeError("RTK refused the geometry.")
        image_type = itk.Image[itk.F, 3]
        blank = itk.RTK.ConstantImageSource[image_type].New(
            Size=[geometry.pixels, geometry.pixels, 1],
            Spacing=[geometry.pitch_mm, geometry.pitch_mm, 1.0],
            Origin=[-0.5 * (geometry.pixels - 1) * geometry.pitch_mm] * 2 + [0.0],
        )
        joseph = itk.RTK.JosephForwardProjectionImageFilter[image_type, image_type].New(Geometry=placed)
        joseph.SetInput(0, blank.GetOutput())
        joseph.SetInput(1, self.volume)
        if self.threads:
            joseph.SetNumberOfWorkUnits(self.threads)
        joseph.Update()
        film = itk.array_from_image(joseph.GetOutput())[0]
        return film[:, ::-1] if scene.as_from_source else film


def nanodrr_integrals(
    mu: np.ndarray, affine_lps: np.ndarray, geometry: XrayGeometry, pose: RigidPose | None = None
) -> np.ndarray:
    """(pixels, pixels) line integrals of `mu` (z, y, x) [1/mm] by nanodrr."""
    return Nanodrr(mu, affine_lps)(geometry, pose)


def plastimatch_integrals(
    mu: np.ndarray,
    affine_lps: np.ndarray,
    geometry: XrayGeometry,
    pose: RigidPose | None = None,
    algorithm: str = "uniform",
) -> np.ndarray:
    """(pixels, pixels) line integrals of `mu` (z, y, x) [1/mm] by plastimatch."""
    return Plastimatch(mu, affine_lps, algorithm)(geometry, pose)


def rtk_integrals(
    mu: np.ndarray, affine_lps: np.ndarray, geometry: XrayGeometry, pose: RigidPose | None = None
) -> np.ndarray:
    """(pixels, pixels) line integrals of `mu` (z, y, x) [1/mm] by RTK."""
    return Rtk(mu, affine_lps)(geometry, pose)


def nanodrr_module(name: str) -> Any:
    """A part of nanodrr, also where torchio is not installed.

    nanodrr names two of torchio's classes in signatures of functions that read files; we call none of these.
    """
    try:
        return importlib.import_module(f"nanodrr.{name}")
    except ModuleNotFoundError as error:
        if error.name != "torchio":
            raise
    stand_in = types.ModuleType("torchio")
    stand_in.ScalarImage = stand_in.LabelMap = object  # type: ignore[attr-defined]
    sys.modules["torchio"] = stand_in
    try:
        return importlib.import_module(f"nanodrr.{name}")
    finally:
        del sys.modules["torchio"]


def camera_to_world(geometry: XrayGeometry, pose: RigidPose | None = None) -> np.ndarray:
    """(4, 4): nanodrr's camera (at the source; x along columns, y along rows, z along the beam) -> patient's LPS."""
    view = geometry.view
    camera = np.eye(4)
    camera[:3] = np.stack([view.column, view.row, view.beam, geometry.source], axis=1)
    return camera if pose is None else np.linalg.inv(pose.matrix) @ camera


def plastimatch_program() -> Path:
    """The executable inside the package `plastimatch`, without the Python around it."""
    folder = Path(importlib.import_module("plastimatch").__file__ or "").parent / "bin"
    return next(path for path in folder.iterdir() if path.stem == "plastimatch")


def spacing_of(affine: np.ndarray) -> list[float]:
    """Voxel edges along the index axes x, y, z in millimetres."""
    return [float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0)]


def write_metaimage(path: Path, volume: np.ndarray, spacing: list[float]) -> None:
    """A float32 volume (z, y, x) with voxel (0, 0, 0) at the origin and axes along the world's, as .mha."""
    size = volume.shape[::-1]
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = {_as_text(spacing)}\n"
        f"DimSize = {_as_text(size)}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    with open(path, "wb") as file:
        file.write(header.encode())
        np.ascontiguousarray(volume, dtype="<f4").tofile(file)


def read_pfm(path: Path) -> np.ndarray:
    """(height, width) float32 of a grey .pfm whose first row is the top one, as plastimatch writes it."""
    data = path.read_bytes()
    head = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.]+)\s", data)
    if head is None:
        raise ValueError(f"{path.name} is not a grey PFM.")
    width, height, scale = int(head[1]), int(head[2]), float(head[3])
    order = "<f4" if math.copysign(1.0, scale) < 0 else ">f4"
    return np.frombuffer(data, order, width * height, head.end()).reshape(height, width).astype(np.float32)


def _as_text(value: Any) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, tuple | list | np.ndarray) else str(value)


def _float32(matrix: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(matrix.astype(np.float32))

"""DRRs while a hand moves the patient: prepared once, then a film in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from axon_core.ctvolume import CTVolume
from axon_core.drr.prepare import prepare_ct
from axon_core.drr.projector import Projector
from axon_core.geometry import RigidPose, XrayGeometry, XrayView
from axon_core.intensity import hu_to_mu

QUICK_PIXELS = 512  # up to this size films are made from thick slabs
QUICK_MM, FINE_MM = 6.0, 3.0  # thickness of the slabs along the beam


class LiveDRR:
    """Films of one CT at any pose, fast enough for a slider.

    The couch is removed and the scan's ends are continued. The centre of the CT's voxel box is the isocentre. The
    grey scale is fixed when a view is first shown, so that it does not flicker as the patient moves.

    Args:
        ct: any orientation and spacing.
        device: of the computation.

    Errors:
        VolumeError: no body in it.
    """

    def __init__(self, ct: CTVolume, device: torch.device | str = "cpu") -> None:
        prepared = prepare_ct(ct)
        self.isocentre_lps = ct.center_lps
        self.affine = prepared.affine.copy()
        self.affine[:3, 3] -= self.isocentre_lps
        mu = torch.empty(prepared.hu.shape, dtype=torch.float16)
        for plane, hu in zip(mu, torch.from_numpy(prepared.hu), strict=True):  # slice by slice: no large temporaries
            plane.copy_(hu_to_mu(hu))
        self.mu = mu.to(device)
        self.projectors: dict[tuple[bool, bool], Projector] = {}
        self.window: dict[bool, tuple[float, float]] = {}
        self.render()

    def render(
        self, pose: RigidPose | None = None, size: int = 256, geometry: XrayGeometry | None = None
    ) -> np.ndarray:
        """(size, size) float32 film, 0 for an open beam and 1 for the densest part of the body at rest; bone bright.

        Args:
            pose: motion of the patient about the isocentre.
            size: pixels along each edge, in place of the geometry's.
            geometry: view, distances and detector; a PA film of the canonical geometry when None.

        Errors:
            ConfigError: impossible geometry, or the pose turns the patient out of the view.
        """
        geometry = replace(geometry or XrayGeometry(), pixels=size)
        frontal = geometry.view.is_frontal
        with torch.inference_mode():
            if frontal not in self.window:
                rest = self.projector(frontal, True)(replace(geometry, pixels=128))
                self.window[frontal] = (0.0, float(rest.flatten().kthvalue(round(0.998 * rest.numel())).values))
            film = self.projector(frontal, size <= QUICK_PIXELS)(geometry, pose)[0]
            low, high = self.window[frontal]
            return film.sub_(low).div_(high - low).clamp_(0, 1).cpu().numpy()

    def projector(self, frontal: bool, quick: bool) -> Projector:
        """Made on first use: tables are cut across the beam, thick for speed or thin for the final film."""
        if (frontal, quick) not in self.projectors:
            beam = (XrayView.PA if frontal else XrayView.LAT).beam
            slab = max(1, round((QUICK_MM if quick else FINE_MM) / self._spacing(beam)))
            self.projectors[frontal, quick] = Projector(self.mu, self.affine, beam, slab, torch.float16)
        return self.projectors[frontal, quick]

    def _spacing(self, beam: np.ndarray) -> float:
        """Millimetres between voxels along the index axis nearest the beam."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(steps[np.argmax(np.abs(beam @ (self.affine[:3, :3] / steps)))])

"""How fast a live DRR follows the hand: preparation, frames of two sizes, and memory over a thousand frames.

    python benchmarks/live_drr.py CT --threads 1

The CT is resampled to 512 x 512 x 133 voxels of 0.703 x 0.703 x 2.5 mm, the size of a usual chest CT.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from axon_core.ctvolume import CTVolume
from axon_core.drr.live import LiveDRR
from axon_core.geometry import RigidPose

SHAPE, SPACING_MM = (133, 512, 512), (0.703, 0.703, 2.5)


def clinical_size(ct: CTVolume) -> CTVolume:
    """The same chest on the lattice of a usual CT."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = ct.center_lps - 0.5 * np.array(SPACING_MM) * (np.array(SHAPE[::-1]) - 1)
    return ct.resampled(affine, SHAPE)


def random_pose(draw: np.random.Generator) -> RigidPose:
    """Up to 6 degrees and 20 mm about every axis."""
    a, b, c = (float(value) for value in draw.uniform(-0.1, 0.1, 3))
    x, y, z = (float(value) for value in draw.uniform(-20, 20, 3))
    return RigidPose((a, b, c), (x, y, z))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=60, help="of each size")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ct = clinical_size(CTVolume.load(args.ct))
    wall, cpu = time.perf_counter(), time.process_time()
    live = LiveDRR(ct)
    print(f"prepared in {time.perf_counter() - wall:.2f} s (CPU {time.process_time() - cpu:.2f} s)")
    draw = np.random.default_rng(0)
    for size in (256, 512, 1024):
        live.render(size=size)
        walls, cpus = [], []
        for _ in range(args.frames):
            pose = random_pose(draw)
            wall, cpu = time.perf_counter(), time.process_time()
            live.render(pose, size)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        spread = np.percentile(np.array(walls) * 1e3, (50, 95))
        print(
            f"{size:>5}²: wall median {spread[0]:.1f} ms, 95 % {spread[1]:.1f} ms; CPU {np.median(cpus) * 1e3:.1f} ms"
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        live.render(random_pose(draw))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"memory after 1000 more frames: {grown / 1024:+.1f} MiB")


if __name__ == "__main__":
    main()

"""A real film laid onto the CT of the same patient: the scout of acrin-nsclc-fdg-pet-042 onto its CT.

Scout and CT were taken in one session on one table, so the pose is known from their coordinates: no rotation, and a
shift that follows from both centres. Landmarks were placed by looking, in the CT's slices and on the scout; the
registration does not know them. It starts from random poses; the error of a landmark is the distance on the scout, in
millimetres at the isocentre, between where it was seen and where the found pose projects it.

A scout is no chest film: its tube moves along the patient, so rays fan out across but run in parallel along the
patient, who lay 42 mm above the isocentre and breathed in between. So the pixels' two sizes are taken at the patient's
depth, and the rest of the difference to a cone beam stays as an error.

    python benchmarks/real_case.py DATA_FOLDER --picture overlay.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from axon_core.ctvolume import CTVolume
from axon_core.geometry import RigidPose, XrayView
from axon_core.radiograph import Radiograph, standardise
from axon_core.registration.files import FILM_PIXELS, laid_on_detector
from axon_core.registration.landmarks import Landmarks, pose_from_landmarks
from axon_core.registration.overlay import draw_overlay
from axon_core.registration.pose import RegisterOptions, Registrar

CT, SCOUT = "ct/acrin-nsclc-fdg-pet-042.nii.gz", "cxr/acrin-nsclc-fdg-pet-042_scout_ap.png"
PIXEL_MM = 0.6  # of the scout at the isocentre
SCOUT_LEFT_TOP = (-265.0, 60.0)  # LPS x and z of its first pixel
SDD_MM, MAGNIFICATION = 1800.0, 1.125  # of the cone beam that stands in for the scout's
TUBE_MM = 541.0  # from the scanner's tube to its isocentre, which lies at LPS y = 0; usual for the maker
LANDMARKS = {  # voxel (x, y, z) in the CT -> (row, column) on the scout
    "apex of the right lung": ((78, 68, 116), (85, 385)),
    "apex of the left lung": ((115, 68, 113.5), (92, 541)),
    "spinous process, upper": ((97.5, 92, 121.5), (62, 466)),
    "spinous process, lower": ((97, 96, 113), (98, 460)),
    "right costophrenic angle": ((34, 70, 17), (476, 180)),
    "left costophrenic angle": ((146, 70, 12), (538, 692)),
    "dome of the right diaphragm": ((60, 65, 30), (421, 310)),
    "dome of the left diaphragm": ((114, 65, 24.5), (467, 570)),
}


def random_start(seed: int) -> RigidPose:
    """Up to 10 degrees and 30 mm about every axis."""
    draw = np.random.default_rng(seed)
    a, b, c = (float(value) for value in np.deg2rad(draw.uniform(-10, 10, 3)))
    x, y, z = (float(value) for value in draw.uniform(-30, 30, 3))
    return RigidPose((a, b, c), (x, y, z))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with ct/ and cxr/")
    parser.add_argument("--starts", type=int, default=5, help="random starts, seeds 0, 1, ...")
    parser.add_argument("--picture", type=Path, help="overlay of the last start")
    args = parser.parse_args()
    volume = CTVolume.load(args.data / CT)
    fan = TUBE_MM / (TUBE_MM + volume.center_lps[1])  # across, at the depth of the patient's middle
    spacing = (PIXEL_MM * MAGNIFICATION, PIXEL_MM * MAGNIFICATION / fan)
    scout = Radiograph.load(args.data / SCOUT, view=XrayView.AP, spacing_mm=spacing)
    film = standardise(scout, FILM_PIXELS)
    registrar, laid = Registrar(volume), laid_on_detector(film, SDD_MM)
    to_standard = np.linalg.inv(film.to_original)
    voxels, seen = (np.array(values, float) for values in zip(*LANDMARKS.values(), strict=True))
    points = voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3] - volume.center_lps
    pixels = (np.c_[seen, np.ones(len(seen))] @ to_standard.T)[:, :2]
    row, column, _ = film.to_original @ [0.5 * (FILM_PIXELS - 1), 0.5 * (FILM_PIXELS - 1), 1.0]  # detector's centre
    x, z = SCOUT_LEFT_TOP[0] + PIXEL_MM * column, SCOUT_LEFT_TOP[1] - PIXEL_MM * row
    known = volume.center_lps[0] - x / fan, volume.center_lps[2] - z
    print(f"known from the table: rotation 0, left-right {known[0]:.1f} mm, up-down {known[1]:.1f} mm")
    print(
        f"{'start':>6} {'landmarks: start':>17} {'found, mean':>12} {'max':>6}   pose (deg; mm)   similarity, verdict"
    )
    for seed in range(args.starts):
        start = random_start(seed)
        found = registrar.register([laid], start, RegisterOptions(global_search=True), lambda _: None)
        pairs = Landmarks(points, pixels, found.geometry[0])
        before, after = (np.linalg.norm(pairs.residuals(pose), axis=1) for pose in (start, found.pose))
        angles, shift = np.rad2deg(found.pose.rotation).round(1).tolist(), np.round(found.pose.translation, 1).tolist()
        print(
            f"{seed:>6} {before.mean():>17.1f} {after.mean():>12.1f} {after.max():>6.1f}   {angles} {shift}"
            f"   {found.before[0]:.2f} -> {found.after[0]:.2f}  {found.verdict}"
        )
    for name, error in zip(LANDMARKS, after, strict=True):
        print(f"  {error:5.1f} mm  {name}")
    best, left = pose_from_landmarks([pairs])
    print(f"pose from the landmarks alone: mean {left.mean():.1f} mm, {np.round(best.translation, 1).tolist()}")
    if args.picture:
        draw_overlay(found, [laid], registrar, start).save(args.picture)


if __name__ == "__main__":
    main()

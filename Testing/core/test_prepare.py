"""CTs made ready for the beam: no couch, no cut ends, and films of them while a hand moves the patient."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from axon_core.ctvolume import CTVolume
from axon_core.drr.film import simulate
from axon_core.drr.live import LiveDRR
from axon_core.drr.prepare import LENGTH_MM, prepare_ct
from axon_core.errors import AxonError
from axon_core.geometry import RigidPose, XrayGeometry, XrayView

SPACING = np.array([4.0, 4.4, 5.0])


def chest(clipped: bool = False, couch: bool = True) -> CTVolume:
    """A water cylinder with lungs along z, on a curved couch, in a scanner's frame; `clipped` loses its left side."""
    _, y, x = np.meshgrid(np.arange(50), np.arange(70), np.arange(100), indexing="ij")
    body = ((x - 50) / 36) ** 2 + ((y - 32) / 25) ** 2 < 1
    lungs = ((np.abs(x - 50) - 16) / 10) ** 2 + ((y - 30) / 15) ** 2 < 1
    hu = np.where(body, 30.0, -1000.0)
    hu[body & lungs] = -850.0
    hu += np.random.default_rng(0).normal(0, 5, hu.shape)
    if couch:
        hu[(np.abs(x - 50) < 45) & (y >= 60) & (y < 62)] = 100.0
    if clipped:
        hu[:, :, 78:] = hu.min()
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-180.0, -300.0, 1200.0)
    return CTVolume(hu.astype(np.float32), affine)


def column_at(volume: CTVolume, lps: np.ndarray) -> np.ndarray:
    """HU along z through a point."""
    x, y, _, _ = np.rint(np.linalg.inv(volume.affine) @ [*lps, 1.0]).astype(int)
    return volume.hu[:, y, x]


def test_the_patient_stays_where_it_was_and_goes_on_beyond_the_ends():
    ct = chest()
    ready = prepare_ct(ct)
    inside = ct.affine @ [66, 30, 25, 1]
    index = np.rint(np.linalg.inv(ready.affine) @ inside).astype(int)
    assert ready.hu[index[2], index[1], index[0]] == ct.hu[25, 30, 66]
    assert len(ready.hu) * SPACING[2] >= LENGTH_MM > len(ct.hu) * SPACING[2]
    assert (np.abs(column_at(ready, (ct.affine @ [50, 32, 25, 1])[:3]) - 30) < 30).all(), "water all the way"
    x, y, z = np.rint(np.linalg.inv(ready.affine) @ ct.affine @ [50, 50, 0, 1])[:3].astype(int)
    noise = [np.std(ready.hu[k, y - 2 : y + 3, x - 5 : x + 6]) for k in (z - 5, z + 5)]
    assert noise[0] < 0.5 * noise[1], "the continuation is smooth"


def test_the_couch_is_gone():
    ready = prepare_ct(chest())
    assert column_at(ready, (chest().affine @ [50, 61, 25, 1])[:3]).max() < -950
    films = [simulate(ct, XrayGeometry(pixels=96), None, "linear")[0] for ct in (chest(), chest(couch=False))]
    assert np.abs(films[0] - films[1]).max() < 0.05


def test_a_clipped_side_fades_out():
    """No step in the film where the field of view ends."""
    films = [simulate(chest(clipped), XrayGeometry(pixels=192), None, "linear")[0] for clipped in (True, False)]
    steps = [np.abs(np.diff(film[96])).max() for film in films]
    assert steps[0] < 1.5 * steps[1]


def test_a_scan_of_a_few_slices_is_refused():
    ct = chest()
    with pytest.raises(AxonError) as caught:
        prepare_ct(CTVolume(ct.hu[:8], ct.affine))
    assert caught.value.code == "ct.short"


def test_air_is_refused():
    with pytest.raises(AxonError) as caught:
        prepare_ct(CTVolume(np.full((20, 20, 20), -1000, np.float32), np.diag([4.0, 4.0, 4.0, 1.0])))
    assert caught.value.code == "ct.no-body"


# ------------------------------------------------------------------------------------------------------------ LiveDRR


@pytest.fixture(scope="module")
def live() -> LiveDRR:
    return LiveDRR(chest())


@pytest.mark.parametrize("view", list(XrayView))
def test_live_films_are_the_projectors(live: LiveDRR, view: XrayView):
    """Up to one grey scale, and to the thickness of the slabs."""
    pose = RigidPose((0.05, -0.03, 0.04), (5.0, 8.0, -6.0))
    geometry = XrayGeometry(view, 96)
    quick, exact = live.render(pose, 96, geometry), simulate(chest(), geometry, pose, "linear")[0]
    assert quick.dtype == np.float32 and quick.shape == (96, 96)
    scaled = np.clip(exact / live.window[view.is_frontal][1], 0, 1)
    assert np.abs(quick - scaled).mean() < 0.004
    assert np.corrcoef(quick.ravel(), scaled.ravel())[0, 1] > 0.999


def test_grey_scale_stays_while_the_patient_moves(live: LiveDRR):
    """A patient nearly out of the beam is not brightened."""
    rest, away = live.render(size=64), live.render(RigidPose(translation=(280.0, 0.0, 0.0)), 64)
    assert 0 < away.max() < 0.9 * rest.max()


def test_sizes_and_impossible_poses(live: LiveDRR):
    assert live.render(size=600).shape == (600, 600)
    with pytest.raises(AxonError) as caught:
        live.render(RigidPose((0.0, 0.0, 1.5)))
    assert caught.value.code == "drr.beam"


def test_a_thousand_frames_take_no_more_memory_than_one(live: LiveDRR):
    resource = pytest.importorskip("resource")  # not on Windows

    def frames(count: int) -> None:
        for k in range(count):
            live.render(RigidPose((0.0001 * k, 0.0, 0.0)), 48)

    with torch.inference_mode():
        frames(100)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        frames(1000)
        gc.collect()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB

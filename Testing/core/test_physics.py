"""Polychromatic physics against tables, closed forms, and a Monte Carlo of its own."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from axon_core.drr.beam import absorbed_share, beam, half_value_layer, primary, spectrum
from axon_core.drr.blur import blur, mtf_sigma_mm, restored, spot_sigma_mm
from axon_core.drr.exposure import IDEAL, Exposure, random_exposure
from axon_core.drr.materials import CT_KEV, densities, mass_attenuation, volume_fractions
from axon_core.drr.physics import (
    SCATTER_PER_PRIMARY,
    SCATTER_SIGMA_MM,
    attenuation_film,
    counted,
    expose,
    quanta_per_pixel,
    scatter,
)
from axon_core.errors import ConfigError
from axon_core.geometry import XrayGeometry, XrayView

GEOMETRY = XrayGeometry(XrayView.PA, 64)
QUIET = dataclasses.replace(IDEAL, kvp=120.0, csi_mm=0.5)  # a spectrum and nothing else

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def slab(soft: float, bone: float = 0.0, pixels: int = 64) -> torch.Tensor:
    """(2, n, n) areal densities [g/cm2] of a homogeneous slab."""
    return torch.tensor([soft, bone]).view(2, 1, 1).expand(2, pixels, pixels).contiguous()


@pytest.mark.parametrize(
    ("material", "kev", "nist"),  # https://physics.nist.gov/PhysRefData/XrayMassCoef/
    [
        ("water", 20, 0.8096),
        ("water", 60, 0.2059),
        ("water", 100, 0.1707),
        ("soft", 60, 0.2048),
        ("bone", 30, 1.331),
        ("bone", 60, 0.3148),
        ("bone", 100, 0.1855),
        ("iodine", 60, 7.579),
        ("aluminium", 60, 0.2778),
        ("copper", 100, 0.4584),
        ("air_absorption", 60, 0.03041),
    ],
)
def test_mass_attenuation_is_nists(material, kev, nist):
    assert mass_attenuation(material, kev) == pytest.approx(nist, rel=0.01)


@pytest.mark.parametrize(
    ("kvp", "aluminium_mm", "low", "high"),
    [
        (70, 23.5, 6.5, 7.1),  # IEC 61267 RQA5: 21 mm added; 6.8 (2005), 7.1 (1994)
        (120, 42.5, 11.3, 11.8),  # RQA9: 40 mm added; 11.6 (2005), 11.5 (1994)
        (120, 3.0, 4.3, 5.0),  # between the legal minimum (21 CFR 1020.30) and RQR9
    ],
)
def test_half_value_layers_are_the_standards(kvp, aluminium_mm, low, high):
    assert low < half_value_layer(kvp, aluminium_mm) < high


def test_spectrum_ends_at_the_voltage_and_hardens_with_copper():
    kev, photons = spectrum(97.0, 3.0)
    assert photons[kev > 100].sum() == 0 and photons[(kev > 90) & (kev < 95)].min() > 0
    means = [np.average(kev, weights=spectrum(97.0, 3.0, copper)[1]) for copper in (0.0, 0.1, 0.3)]
    assert means[0] < means[1] < means[2]
    lower, between, higher = (spectrum(kvp, 3.0)[1].sum() for kvp in (95.0, 97.0, 100.0))
    assert between == pytest.approx(0.6 * lower + 0.4 * higher)


def test_all_off_is_beer_and_lambert():
    generator = torch.Generator().manual_seed(0)
    areal = torch.rand(2, 64, 64, generator=generator) * torch.tensor([20.0, 4.0]).view(2, 1, 1)
    soft, bone = (float(mass_attenuation(m, IDEAL.kev)) for m in ("soft", "bone"))
    torch.testing.assert_close(expose(areal, GEOMETRY, IDEAL), torch.exp(-(soft * areal[0] + bone * areal[1])))


def test_thin_slab_sees_the_mean_attenuation_and_thick_ones_a_harder_beam():
    rays = beam(QUIET)
    thickness = (1e-3, 1.0, 5.0, 10.0, 20.0, 30.0)
    films = [primary(slab(t, pixels=2).double(), rays)[0, 0] for t in thickness]
    effective = [float(-torch.log(film)) / t for film, t in zip(films, thickness, strict=True)]
    assert effective[0] == pytest.approx(float(rays.weight @ rays.attenuation[0]), rel=1e-3)
    assert effective == sorted(effective, reverse=True) and effective[-1] < 0.93 * effective[0]


@pytest.mark.parametrize("kvp", [80.0, 120.0, 140.0])
def test_few_bins_are_as_good_as_the_whole_spectrum(kvp):
    exposure = dataclasses.replace(QUIET, kvp=kvp)
    kev, photons = spectrum(kvp, exposure.aluminium_mm, exposure.copper_mm)
    signal = photons * kev * absorbed_share(kev, exposure.csi_mm)
    soft, bone = np.meshgrid([1.0, 5, 10, 20, 30, 40], [0.0, 1, 4, 8])
    depth = soft[..., None] * mass_attenuation("soft", kev) + bone[..., None] * mass_attenuation("bone", kev)
    fine = -np.log((signal * np.exp(-depth)).sum(-1) / signal.sum())
    few = -torch.log(primary(torch.from_numpy(np.stack([soft, bone])), beam(exposure))).numpy()
    np.testing.assert_allclose(few, fine, rtol=0.01)


def test_fractions_sum_to_one_and_density_rises_with_hu():
    hu = torch.linspace(-1100, 3000, 4101)
    fractions = torch.stack(list(volume_fractions(hu).values()))
    torch.testing.assert_close(fractions.sum(0), torch.ones_like(hu))
    assert float(fractions.min()) >= 0 and float(fractions.max()) <= 1
    parts = densities(hu)
    density = parts["soft"] + parts["bone"]
    assert float(density.diff().min()) >= 0 and float(density[0]) == 0
    assert float(density[hu == 0]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("extra", [{}, {"iodine": True, "metal_hu": 2500.0}])
def test_densities_give_the_hu_back_at_the_cts_energy(extra):
    hu = torch.linspace(-1000, 3000, 4001, dtype=torch.float64)
    iodine = (hu > 150) & (hu < 500) if extra.get("iodine") else None
    parts = densities(hu, iodine, extra.get("metal_hu"))
    mu = sum(part * float(mass_attenuation(name, CT_KEV)) for name, part in parts.items())
    torch.testing.assert_close(1000 * (mu / float(mass_attenuation("water", CT_KEV)) - 1), hu)
    if extra:
        assert float(parts["iodine"][hu == 300]) == pytest.approx(0.012, rel=0.2)  # 25 HU per mg/ml at 120 kVp
        assert float(parts["iron"][hu == 2600]) > 0 and float(parts["bone"][hu == 2600]) == 0


def spr(thickness: float, grid: float = 1.0) -> float:
    """Scatter over primary in the middle of a homogeneous slab."""
    exposure = dataclasses.replace(QUIET, scatter=1.0, grid=grid)
    with_scatter, without = (expose(slab(thickness), GEOMETRY, e)[32, 32] for e in (exposure, QUIET))
    return float(with_scatter / without - 1)


def test_scatter_grows_with_thickness_and_falls_with_the_grid():
    ratios = [spr(thickness) for thickness in (2.0, 10.0, 20.0, 30.0)]
    assert ratios == sorted(ratios) and ratios[3] > 10 * ratios[0]
    assert spr(20.0, grid=0.2) == pytest.approx(0.2 * spr(20.0), rel=1e-3)


def test_scatter_drowns_the_mediastinum_as_measured():
    """Niklason et al., Med. Phys. 8 (1981) 677: 90 % of its light without a grid, more than half with 12:1."""
    pixels = 128
    geometry = XrayGeometry(XrayView.PA, pixels)
    areal = slab(9.0, pixels=pixels)  # chest wall and lungs
    areal[0, :, 50:78] = 22.0
    share = {}
    for grid in (1.0, 0.2):
        film, direct = (
            expose(areal, geometry, dataclasses.replace(QUIET, scatter=s, grid=grid))[64, 64] for s in (1.0, 0.0)
        )
        share[grid] = float(1 - direct / film)
    assert share[1.0] == pytest.approx(0.9, abs=0.06)
    assert 0.45 < share[0.2] < 0.75


def test_scatter_agrees_with_a_monte_carlo():
    """The constants of the scatter's kernel, within what one number for all thicknesses can hold."""
    ratio, half_radius_cm = compton_scatter(15.0, 60.0, photons=60_000)
    assert ratio == pytest.approx(15.0 * SCATTER_PER_PRIMARY, rel=0.25)
    assert half_radius_cm == pytest.approx(0.1 * SCATTER_SIGMA_MM * math.sqrt(2 * math.log(2)), rel=0.25)


def compton_scatter(slab_cm: float, kev: float, photons: int, gap_cm: float = 2.0) -> tuple[float, float]:
    """Energy scattered over energy transmitted by a wide slab of water, and the radius that holds half the scatter.

    Photons enter a pencil beam at a right angle; Klein and Nishina's angles and energies. Coherent scatter, which goes
    nearly straight on, is taken as no interaction.
    """
    random = np.random.default_rng(0)
    energy = np.full(photons, kev)
    place, course = np.zeros((photons, 3)), np.tile([0.0, 0, 1], (photons, 1))
    straight, scattered, radius = 0.0, [], []
    fresh = True
    while len(energy):
        mu = mass_attenuation("water", energy)
        place = place + course * (random.exponential(size=len(energy)) / mu)[:, None]
        out = place[:, 2] > slab_cm
        if fresh:
            straight = energy[out].sum()
        else:
            seen = out & (course[:, 2] > 0.01)
            at_film = (
                place[seen, :2] + course[seen, :2] * ((slab_cm + gap_cm - place[seen, 2]) / course[seen, 2])[:, None]
            )
            scattered.append(energy[seen])
            radius.append(np.hypot(*at_film.T))
        fresh = False
        # per gram of water Klein and Nishina's total cross section is what is left beside the photoelectric effect
        share = klein_nishina_mass(energy) / mu
        stays = ~out & (place[:, 2] > 0) & (random.random(len(energy)) < share)
        place, course, energy = place[stays], course[stays], energy[stays]
        cosine = klein_nishina_cosine(energy, random)
        energy = energy / (1 + energy / 511 * (1 - cosine))
        course = turned(course, cosine, random.uniform(0, 2 * np.pi, len(energy)))
    scattered, radius = np.concatenate(scattered), np.concatenate(radius)
    order = np.argsort(radius)
    half = np.searchsorted(np.cumsum(scattered[order]), scattered.sum() / 2)
    return scattered.sum() / straight, radius[order][half]


def klein_nishina_mass(kev: np.ndarray) -> np.ndarray:
    """Compton's cross section of water's electrons [cm2/g]: 3.343e23 per gram."""
    k = kev / 511
    log = np.log(1 + 2 * k)
    area = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - log / k) + log / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2
    return 2 * np.pi * 2.818e-13**2 * area * 3.343e23


def klein_nishina_cosine(kev: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Scattering angles by rejection."""
    cosine, open_ = np.zeros(len(kev)), np.arange(len(kev))
    while len(open_):
        c = random.uniform(-1, 1, len(open_))
        ratio = 1 / (1 + kev[open_] / 511 * (1 - c))
        taken = random.random(len(open_)) < 0.5 * ratio**2 * (ratio + 1 / ratio - 1 + c**2)
        cosine[open_[taken]] = c[taken]
        open_ = open_[~taken]
    return cosine


def turned(course: np.ndarray, cosine: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Unit vectors turned by an angle about themselves and away from themselves."""
    helper = np.where(np.abs(course[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]])
    a = np.cross(course, helper)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = np.cross(course, a)
    sine = np.sqrt(1 - cosine**2)
    return course * cosine[:, None] + a * (sine * np.cos(azimuth))[:, None] + b * (sine * np.sin(azimuth))[:, None]


def test_scatter_scatters_no_more_than_its_share():
    """A pencil of light in the middle of a film: nothing of it is lost when it spreads."""
    light, thickness = torch.zeros(256, 256), torch.full((256, 256), 10.0)
    light[128, 128] = 1.0
    assert float(scatter(light, thickness, 1.0, 20.0).sum()) == pytest.approx(10 * SCATTER_PER_PRIMARY, rel=0.01)


def test_counts_are_poisson():
    film = counted(torch.full((400, 400), 0.25), 1000.0, torch.Generator().manual_seed(1)) * 1000.0
    assert float(film.mean()) == pytest.approx(250, rel=0.005)
    assert float(film.var()) == pytest.approx(float(film.mean()), rel=0.02)


def test_noise_falls_with_the_exposure_and_follows_its_seed():
    def noise(mas: float, seed: int = 0) -> torch.Tensor:
        exposure = dataclasses.replace(QUIET, mas=mas, seed=seed)
        return expose(slab(10.0), GEOMETRY, exposure) - expose(slab(10.0), GEOMETRY, QUIET)

    assert float(noise(1.0).std() / noise(4.0).std()) == pytest.approx(2.0, rel=0.05)
    assert torch.equal(noise(1.0), noise(1.0)) and not torch.equal(noise(1.0), noise(1.0, seed=1))


def test_quanta_follow_the_inverse_square_law_and_the_pixels_area():
    rays = beam(QUIET)
    exposure = dataclasses.replace(QUIET, mas=1.0)
    near, far = (quanta_per_pixel(exposure, rays, XrayGeometry(XrayView.PA, 64, sdd_mm=d)) for d in (1000.0, 2000.0))
    assert near == pytest.approx(4 * far)
    fine = quanta_per_pixel(exposure, rays, XrayGeometry(XrayView.PA, 128, sdd_mm=1000.0))
    assert near == pytest.approx(4 * fine)
    assert 1e5 < near / XrayGeometry(XrayView.PA, 64).pitch_mm ** 2 < 3e6  # quanta per mm2 at 1 m and 1 mAs


@pytest.mark.parametrize("sigma", [0.35, 1.5, 4.0, 20.0, 50.0])
def test_blur_keeps_energy_and_spreads_by_sigma(sigma):
    film = torch.zeros(500, 500)
    film[250, 250] = 1
    out = blur(film, sigma)
    assert float(out.sum()) == pytest.approx(1, rel=0.01)
    offset = (torch.arange(500) - 250.0) ** 2
    assert float((out.sum(0) * offset).sum()) ** 0.5 == pytest.approx(sigma, rel=0.05)


def test_blur_of_an_even_film_changes_nothing():
    torch.testing.assert_close(blur(torch.full((101, 67), 3.0), 9.0), torch.full((101, 67), 3.0))


def test_detector_passes_half_of_its_mtf50():
    geometry = XrayGeometry(XrayView.PA, 512, detector_mm=25.6)  # pixels of 0.05 mm
    frequency = 1.25
    wave = torch.cos(2 * math.pi * frequency * 0.05 * torch.arange(512.0))
    areal = slab(0.0, pixels=512)
    areal[0] = 1.0 + 0.001 * wave
    film = expose(areal, geometry, dataclasses.replace(IDEAL, mtf50_per_mm=frequency))
    sharp = expose(areal, geometry, IDEAL)
    middle = slice(64, 448)
    assert float(film[256, middle].std() / sharp[256, middle].std()) == pytest.approx(0.5, abs=0.01)
    assert mtf_sigma_mm(0) == 0


def test_focal_spot_blurs_by_its_size_and_the_magnification():
    assert spot_sigma_mm(1.2, 1.125) == pytest.approx(1.2 * 0.125 / 2.3548, rel=1e-3)
    assert spot_sigma_mm(1.2, 1.0) == 0


def test_restoring_undoes_a_blur_and_amplifies_no_more_than_asked():
    wave = torch.cos(2 * math.pi * 0.08 * torch.arange(256.0)).expand(1, 256, 256) + 2
    blurred = blur(wave[0], 2.0)[None]
    middle = slice(64, 192)
    back = restored(blurred, 2.0, gain=20.0)
    assert float((back - wave)[0, middle, middle].abs().max()) < 0.03
    impulse = torch.full((1, 256, 256), 10.0)
    impulse[0, 128, 128] += 1.0
    response = torch.fft.rfft2(restored(impulse, 2.0, gain=3.0)[0] - 10.0).abs()
    assert 2.5 < float(response.max()) < 3.2
    assert float((restored(impulse, 2.0) - impulse).mean()) == pytest.approx(0, abs=1e-3)


def test_film_is_differentiable_without_noise():
    """What lies in the beam takes its (mu/rho) of the light, whatever blurs it: d film / d a = -mu film."""
    areal = slab(10.0).requires_grad_()
    film = expose(areal, GEOMETRY, dataclasses.replace(IDEAL, spot_mm=1.0, mtf50_per_mm=1.2))
    film.sum().backward()
    mu = float(mass_attenuation("soft", IDEAL.kev))
    torch.testing.assert_close(areal.grad[0].sum(), -mu * film.detach().sum(), rtol=1e-4, atol=0)
    expose(areal, GEOMETRY, dataclasses.replace(Exposure(), mas=0)).sum().backward()
    assert bool(torch.isfinite(areal.grad).all())


def test_where_nothing_arrives_the_logarithm_still_exists():
    film = expose(slab(150.0), GEOMETRY, dataclasses.replace(QUIET, quanta=100.0, electronic=2.0))
    assert float(film.min()) > 0
    assert bool(torch.isfinite(attenuation_film(film)).all())


def test_exposures_replay_from_their_record():
    for seed in range(10):
        exposure = random_exposure(torch.Generator().manual_seed(seed))
        again = Exposure(**json.loads(json.dumps(exposure.to_dict())))
        assert again == exposure
        film = expose(slab(15.0, 1.0), GEOMETRY, exposure)
        assert torch.equal(film, expose(slab(15.0, 1.0), GEOMETRY, again)) and float(film.min()) > 0


@pytest.mark.parametrize(
    "wrong", [{"kvp": 30.0}, {"kev": 5.0}, {"aluminium_mm": 0.0}, {"bins": 0}, {"grid": -0.1}, {"mas": -1.0}]
)
def test_impossible_exposures_are_refused(wrong):
    with pytest.raises(ConfigError):
        Exposure(**wrong)


def test_unknown_materials_and_missing_channels_are_refused():
    with pytest.raises(ConfigError):
        mass_attenuation("unobtainium", 60.0)
    with pytest.raises(ConfigError):
        expose(slab(1.0), GEOMETRY, IDEAL, ("soft",))


def test_electronic_noise_adds_its_own_variance():
    """Counts of variance n, and of the electronics sd^2, in quanta."""
    many, sd = 400.0, 15.0
    films = [
        expose(slab(0.0), GEOMETRY, dataclasses.replace(QUIET, quanta=many, electronic=electronic))
        for electronic in (0.0, sd)
    ]
    counts = [float((film * many).var()) for film in films]
    assert counts[1] - counts[0] == pytest.approx(sd**2, rel=0.15)

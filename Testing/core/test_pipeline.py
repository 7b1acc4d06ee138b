"""The road from film to volume, with untrained networks: order, seeds, progress, cancel, provenance, geometry."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from axon_core import SYNTHETIC_NOTICE
from axon_core.ctvolume import CTVolume
from axon_core.errors import Cancelled, ConfigError, DeviceError, FilmError
from axon_core.geometry import CanonicalGrid, XrayView
from axon_core.model import AxonModel, Hint
from axon_core.pipeline import COARSE, ENDPOINT, FINE, SUPER, Moments, Progress, reconstruct, reproject
from axon_core.radiograph import Radiograph
from axon_core.registration.atlas import bundled_atlas


def film(view: XrayView | None = XrayView.PA, seed: int = 0) -> Radiograph:
    """A smooth random image, large enough to pass for a film."""
    noise = torch.rand(1, 1, 12, 10, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(noise, size=(360, 300), mode="bicubic")[0, 0].numpy()
    return Radiograph(pixels, view=view)


@pytest.fixture(scope="module")
def model() -> AxonModel:
    torch.manual_seed(0)
    built = AxonModel.from_preset("tiny")
    for net in (built.coarse.net, built.prior.net):  # outputs start at zero; wake them
        for parameter in net.out.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return built


def test_every_stage_leaves_its_volume(model):
    result = reconstruct(film(), model=model, seeds=(0, 1), device="cpu")
    assert list(result.stages) == [ENDPOINT, COARSE, FINE, SUPER]
    assert result.final.hu.shape == (32, 32, 32)
    assert result.std is not None and result.std.hu.shape == (16, 16, 16) and float(result.std.hu.max()) > 0
    assert result.final.hu.min() >= -1000 and result.final.hu.max() <= 1000
    np.testing.assert_allclose(result.final.affine, CanonicalGrid(32).affine)
    assert set(result.timings) >= {ENDPOINT, COARSE, FINE, SUPER}


def test_preview_stops_at_the_first_volume(model):
    result = reconstruct(film(), model=model, preset="preview", device="cpu")
    assert list(result.stages) == [ENDPOINT]
    assert result.std is None and result.provenance["seeds"] == []


def test_only_stages_that_proved_themselves_run_by_default(model):
    cautious = dataclasses.replace(
        model, card=dataclasses.replace(model.card, default_stages=("endpoint", "super-resolution"))
    )
    result = reconstruct(film(), model=cautious, device="cpu")
    assert list(result.stages) == [ENDPOINT, SUPER]
    assert not any("no better" in warning for warning in result.warnings)
    everything = reconstruct(film(), model=cautious, preset="paper", device="cpu")
    assert list(everything.stages) == [ENDPOINT, COARSE, FINE, SUPER]
    assert sum("no better" in warning for warning in everything.warnings) == 2


def test_seeds_without_a_random_stage_are_told_to_be_idle(model):
    for seeds, told in (((0,), 0), ((0, 1), 1)):
        result = reconstruct(film(), model=model, preset="preview", seeds=seeds, device="cpu")
        assert sum("nothing at random" in warning for warning in result.warnings) == told
    result = reconstruct(film(), model=model, seeds=(0, 1), device="cpu")
    assert not any("nothing at random" in warning for warning in result.warnings)


def test_a_seed_gives_the_same_volume_alone_or_among_others(model):
    alone = [reconstruct(film(), model=model, seeds=(s,), device="cpu").stages[FINE].hu for s in (3, 4)]
    together = reconstruct(film(), model=model, seeds=(3, 4), device="cpu").stages[FINE].hu
    np.testing.assert_allclose(together, (alone[0] + alone[1]) / 2, atol=0.5)
    assert np.abs(alone[0] - alone[1]).max() > 1


def test_progress_rises_to_one_and_shows_volumes(model):
    seen: list[Progress] = []
    reconstruct(film(), model=model, seeds=(0, 1), device="cpu", callback=seen.append)
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert list(dict.fromkeys(p.stage for p in seen)) == ["films", ENDPOINT, COARSE, FINE, SUPER, "done"]
    previews = [p for p in seen if p.preview is not None]
    assert {p.stage for p in previews} == {ENDPOINT, COARSE, FINE, SUPER}
    assert all(p.grid.size == p.preview.shape[0] for p in previews)


def test_cancel_stops_the_work(model):
    calls = []

    def stop(progress: Progress) -> None:
        calls.append(progress.stage)
        if progress.stage == COARSE:
            raise Cancelled

    with pytest.raises(Cancelled):
        reconstruct(film(), model=model, device="cpu", callback=stop)
    assert calls.count(COARSE) == 1


def test_provenance_is_complete_and_plain(model):
    result = reconstruct(film(), film(XrayView.LAT, 1), model=model, seeds=(7,), device="cpu")
    told = json.loads(json.dumps(result.provenance))
    assert told["notice"] == SYNTHETIC_NOTICE
    assert told["seeds"] == [7] and told["window"] == {"name": "wide", "low": -1000.0, "high": 1000.0}
    assert set(told["films"]) == {"frontal", "lateral"} == set(result.ncc)
    assert {"version", "weights_sha256", "preset", "steps", "eta", "grid", "device", "created"} <= set(told)
    assert set(told["steps"]) == {COARSE, FINE} == set(told["eta"])
    preview = reconstruct(film(), model=model, preset="preview", device="cpu").provenance
    assert preview["steps"] == {} == preview["eta"]


def test_every_volume_stays_marked_in_its_file(model, tmp_path):
    """Also those that are not the final one, and without being told again what they are."""
    result = reconstruct(film(), model=model, seeds=(0, 1), device="cpu")
    for number, volume in enumerate([result.final, result.std, *result.stages.values()]):
        for ending in ("nrrd", "mha", "nii.gz"):
            again = CTVolume.load(volume.save(tmp_path / f"{number}.{ending}"))
            assert again.source["synthetic"]


def test_no_file_name_leaves_with_the_result(model):
    """A file is often called like its patient."""
    named = dataclasses.replace(film(), source={"name": "DOE_JOHN.dcm", "sha256": "0" * 64})
    result = reconstruct(named, model=model, preset="preview", device="cpu")
    assert "DOE" not in json.dumps(result.provenance) and "0" * 64 in json.dumps(result.provenance)


def test_an_unknown_view_is_told(model):
    result = reconstruct(dataclasses.replace(film(), view=None), model=model, preset="preview", device="cpu")
    assert any("PA" in warning for warning in result.warnings)


def test_a_film_from_another_distance_is_told(model):
    """Depth is read from perspective; a lateral film tells it better."""

    def told(sdd_mm: float | None, lateral: Radiograph | None = None, view: XrayView = XrayView.PA) -> list[str]:
        frontal = dataclasses.replace(film(view), sdd_mm=sdd_mm)
        result = reconstruct(frontal, lateral, model=model, preset="preview", device="cpu")
        return [warning for warning in result.warnings if "the model learned from 1.80 m" in warning]

    assert [warning.endswith("too deep.") for warning in told(1200.0)] == [True]
    assert [warning.endswith("too flat.") for warning in told(2500.0)] == [True]
    assert [warning.endswith("too deep.") for warning in told(None, view=XrayView.AP)] == [True]
    assert not told(1800.0, view=XrayView.AP)
    assert not told(None) and not told(1750.0) and not told(1200.0, film(XrayView.LAT))


def test_a_model_that_has_reconstructed_can_be_trained(model):
    model = AxonModel.from_preset("tiny")
    reconstruct(film(), model=model, device="cpu")
    x = torch.zeros(1, 1, 16, 16, 16)
    model.fine_x0(x, torch.tensor([5]), Hint(x)).sum().backward()
    model.endpoint(torch.zeros(1, 1, 32, 32)).sum().backward()


def test_a_film_far_off_is_aligned_when_asked(model):
    turned = ndimage.rotate(bundled_atlas().film.astype(np.float32), 9.0, reshape=False, mode="nearest")
    turned += 1e-3 * np.random.default_rng(0).normal(size=turned.shape).astype(np.float32)
    askew = Radiograph(turned, (4.0, 4.0), XrayView.PA)
    made = [reconstruct(askew, model=model, preset="preview", device="cpu", align=align) for align in (False, True)]
    steps = [[step["op"] for step in result.provenance["films"]["frontal"]["steps"]] for result in made]
    assert steps[1] == [*steps[0], "turn"]
    with pytest.raises(ConfigError) as caught:
        reconstruct(askew, film(XrayView.LAT), model=model, device="cpu", align=True)
    assert caught.value.code == "pipeline.align"


def test_films_in_the_wrong_place_are_refused(model):
    with pytest.raises(FilmError):
        reconstruct(film(XrayView.LAT), model=model, device="cpu")
    with pytest.raises(FilmError):
        reconstruct(film(), film(XrayView.AP), model=model, device="cpu")


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"preset": "best"}, ConfigError), ({"seeds": ()}, ConfigError), ({"device": "tpu"}, DeviceError)],
)
def test_bad_requests_are_named(model, change, kind):
    with pytest.raises(kind) as caught:
        reconstruct(film(), model=model, **{"device": "cpu", **change})
    assert caught.value.advice


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        MemoryError(),
    ],
)
def test_out_of_memory_falls_back_to_the_cpu_with_a_note(model, monkeypatch, error):
    import axon_core.pipeline as pipeline

    real = pipeline._Run.stages
    failing = [True, False]

    def stages(self, films):
        if failing.pop(0):
            raise error
        return real(self, films)

    monkeypatch.setattr(pipeline._Run, "stages", stages)
    monkeypatch.setattr(pipeline, "resolve_device", lambda _: "cpu:0")  # a device that is not called "cpu"
    result = reconstruct(film(), model=model, preset="preview")
    assert any("out of memory" in warning for warning in result.warnings)
    assert result.provenance["device"] == "cpu"
    failing[:] = [True, True]
    with pytest.raises(DeviceError) as caught:
        reconstruct(film(), model=model, preset="preview")
    assert caught.value.code == "device.memory"


def test_other_failures_are_no_lack_of_memory(model, monkeypatch):
    import axon_core.pipeline as pipeline

    def stages(self, films):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(pipeline._Run, "stages", stages)
    with pytest.raises(RuntimeError, match="shapes"):
        reconstruct(film(), model=model, preset="preview", device="cpu")


def test_reprojection_shows_the_body_where_it_is():
    """A dense block to the patient's left is bright on the right of the frontal film."""
    hu = np.full((32, 32, 32), -1000.0, np.float32)
    hu[12:20, 12:20, 22:28] = 300
    image = reproject(CTVolume.from_grid(hu, CanonicalGrid(32)), XrayView.PA, 64)
    assert image[:, 40:].mean() > image[:, :24].mean() + 0.1


def test_moments_are_mean_and_sample_deviation():
    draws = torch.randn(5, 1, 1, 4, 4, 4, dtype=torch.float64)
    moments = Moments()
    for draw in draws:
        moments.add(draw)
    torch.testing.assert_close(moments.mean, draws.mean(0))
    torch.testing.assert_close(moments.std, draws.std(0))

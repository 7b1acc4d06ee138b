"""From choices to jobs and back, without widgets: what the worker is asked, and what becomes of its answers."""

from __future__ import annotations

import json

import driving
import numpy as np
import pytest

from axon_core.errors import AxonError, ConfigError
from axon_core.geometry import RigidPose


@pytest.fixture
def logic(hosted):
    from AXONLib import logic

    return logic


@pytest.fixture
def parameters(hosted):
    """Of an empty panel, but for a frontal film."""
    import slicer

    from AXONLib import films
    from AXONLib.parameters import AXONParameters

    made = AXONParameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    made.frontal = films.loadFilm(driving.FILM)
    return made


@pytest.fixture
def registered(parameters):
    """With a CT under a pose."""
    import slicer

    from AXONLib import volumes
    from AXONLib.pose import PoseController

    parameters.groundTruth = volumes.loadCt(driving.CT)
    parameters.pose = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
    controller = PoseController(parameters.pose, volumes.ctVolumeOf(parameters.groundTruth).center_lps)
    controller.attach(parameters.groundTruth)
    parameters.pose.SetNodeReferenceID(volumes.ROLES["groundTruth"], parameters.groundTruth.GetID())
    controller.setRigidPose(RigidPose((0.1, 0.0, -0.05), (10.0, -20.0, 30.0)))
    controller.close()
    return parameters


# ---- what the worker is asked


@pytest.mark.parametrize(("text", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("0,7,42", (0, 7, 42)), (" 5, 5 ", (5,))])
def test_seeds_are_a_count_or_a_list(logic, text, seeds):
    assert tuple(dict.fromkeys(logic.seedsOf(text))) == seeds


@pytest.mark.parametrize("text", ["", "zero", "0", "-1", "1.5", "1,x"])
def test_other_texts_are_no_seeds(logic, text):
    with pytest.raises(ConfigError):
        logic.seedsOf(text)


def test_the_choices_of_the_run_reach_the_job(logic, parameters, tmp_path):
    from AXONLib.parameters import Device, Quality

    parameters.model, parameters.quality, parameters.device = "other", Quality.PAPER, Device.CUDA
    parameters.seeds = "3,4"
    job = logic.reconstruction(parameters, tmp_path, tmp_path / "Ä b")
    assert job["task"] == "reconstruct" and job["lateral"] is None and job["output"] == str(tmp_path / "Ä b")
    assert (job["model"], job["preset"], job["device"], job["seeds"]) == ("other", "paper", "cuda", [3, 4])
    assert job["overwrite"] and job["previews"]
    json.dumps(job)


def test_a_job_needs_a_frontal_film(logic, parameters, tmp_path):
    parameters.frontal = None
    with pytest.raises(ConfigError, match="no frontal film"):
        logic.reconstruction(parameters, tmp_path, tmp_path)


def test_a_registration_is_asked_for_in_degrees_with_its_masks(logic, registered, tmp_path):
    from axon_core.job_register import RegisterJob

    mask = np.zeros((512, 512), bool)
    mask[100:200] = True
    start = RigidPose((np.pi / 18, 0.0, 0.0), (1.0, 2.0, 3.0))
    job = logic.registration(registered, tmp_path, tmp_path / "pose.json", start, [mask, mask], True, 1800.0)
    assert job["start"]["rotation_deg"] == pytest.approx([10, 0, 0]) and job["start"]["translation_mm"] == [1, 2, 3]
    assert job["global_search"] and job["sdd_mm"] == 1800 and job["lateral"] is None and job["lateral_mask"] is None
    assert np.array_equal(np.load(job["frontal_mask"]), mask)
    task = json.loads(json.dumps(job))
    assert task.pop("task") == "register"
    RegisterJob.from_dict(task)  # the worker understands it


def test_the_ct_of_a_registration_is_written_where_it_was_scanned(logic, registered, tmp_path):
    from axon_core.ctvolume import CTVolume
    from AXONLib import volumes

    job = logic.registration(registered, tmp_path, "p.json", RigidPose(), [None, None], False)
    assert np.allclose(CTVolume.load(job["ct"]).center_lps, volumes.ctVolumeOf(registered.groundTruth).center_lps)


# ---- where the result will lie


def test_a_result_lies_in_the_frame_of_the_registered_ct(logic, registered):
    from AXONLib import volumes
    from AXONLib.pose import poseOf

    centre = np.array(volumes.ctVolumeOf(registered.groundTruth).center_lps)
    pose = poseOf(registered.pose, centre)
    point = centre + np.array([30.0, 40.0, 50.0])
    inRoom = (pose.matrix @ [*(point - centre), 1])[:3]
    assert np.allclose((logic.placementOf(registered) @ [*inRoom, 1])[:3], point)


@pytest.mark.parametrize("missing", ["groundTruth", "pose"])
def test_a_result_lies_in_the_room_where_no_ct_is_registered(logic, registered, missing):
    setattr(registered, missing, None)
    assert np.array_equal(logic.placementOf(registered), np.eye(4))


# ---- what becomes of the worker's answers


@pytest.fixture
def answer(tmp_path):
    """The last line of a reconstruction with two seeds."""
    from axon_core.ctvolume import CTVolume
    from axon_core.geometry import CanonicalGrid

    ramp = np.arange(4096, dtype=np.float32).reshape(16, 16, 16)
    volume = CTVolume.from_grid(ramp - 1000, CanonicalGrid(16)).save(tmp_path / "volume.nrrd")
    uncertainty = CTVolume.from_grid(ramp / 8, CanonicalGrid(16)).save(tmp_path / "uncertainty.nrrd")
    (tmp_path / "provenance.json").write_text(json.dumps({"model": "m"}))
    files = {"volume": volume, "uncertainty": uncertainty, "provenance": tmp_path / "provenance.json"}
    return {"type": "result", "files": {kind: str(path) for kind, path in files.items()}}


def test_result_and_uncertainty_come_into_the_scene_with_their_sources(logic, registered, answer):
    from AXONLib import volumes

    result = logic.importResult(answer, registered, logic.placementOf(registered))
    assert result.GetName() == "hannover_fff13f3a_pa synthetic CT"
    assert registered.result is result and registered.uncertainty.GetName() == result.GetName() + " uncertainty"
    for node in (result, registered.uncertainty):
        assert node.GetNodeReference(volumes.ROLES["frontal"]) is registered.frontal
        assert node.GetNodeReference(volumes.ROLES["groundTruth"]) is registered.groundTruth
        assert node.GetNodeReference(volumes.ROLES["pose"]) is registered.pose
        assert node.GetParentTransformNode() is registered.pose
        assert volumes.provenanceOf(node) == {"model": "m"}


def test_a_second_result_gets_a_name_of_its_own(logic, parameters, answer):
    first = logic.importResult(answer, parameters, np.eye(4))
    second = logic.importResult(answer, parameters, np.eye(4))
    assert first.GetName() != second.GetName() and parameters.result is second


def test_a_film_that_went_meanwhile_is_no_hindrance(logic, parameters, answer):
    parameters.frontal = None
    assert logic.importResult(answer, parameters, np.eye(4)).GetName() == logic.resultName(logic.NO_PATIENT)


@pytest.mark.parametrize("broken", ["provenance", "volume", "uncertainty"])
def test_an_answer_that_cannot_be_read_leaves_the_scene_alone(logic, parameters, answer, broken):
    with open(answer["files"][broken], "w") as file:
        file.write("cut off")
    before = driving.content()
    with pytest.raises(AxonError, match="could not be read back"):
        logic.importResult(answer, parameters, np.eye(4))
    assert driving.content() == before and parameters.result is None


def test_a_result_is_compared_with_the_ct_in_whose_frame_it_lies(logic, registered, answer, tmp_path):
    from axon_core.ctvolume import CTVolume
    from AXONLib import volumes

    result = logic.importResult(answer, registered, logic.placementOf(registered))
    job = logic.comparison(result, registered.groundTruth, tmp_path, tmp_path / "out")
    assert np.array_equal(job["truth_to_result"], np.eye(4))
    for path, node in ((job["result"], result), (job["truth"], registered.groundTruth)):
        assert np.allclose(CTVolume.load(path).center_lps, volumes.ctVolumeOf(node).center_lps)


@pytest.mark.parametrize("what", ["another CT", "never matched"])
def test_a_ct_that_was_not_matched_gives_no_metrics(logic, registered, answer, tmp_path, what):
    from AXONLib import volumes

    truth = registered.groundTruth
    if what == "another CT":
        truth = volumes.loadCt(driving.CT)
    else:
        registered.pose = None
    result = logic.importResult(answer, registered, logic.placementOf(registered))
    with pytest.raises(AxonError, match="was not matched"):
        logic.comparison(result, truth, tmp_path, tmp_path / "out")


def test_a_difference_comes_beside_its_result(logic, registered, answer):
    from AXONLib import volumes

    result = logic.importResult(answer, registered, np.eye(4))
    node = logic.importDifference({"files": {"difference": answer["files"]["uncertainty"]}}, result)
    assert node.GetName() == f"{result.GetName()} minus CT" and node.GetAttribute(volumes.SYNTHETIC) == "1"
    assert node.GetParentTransformNode() is registered.pose
    assert node.GetNodeReference(volumes.ROLES["groundTruth"]) is registered.groundTruth


def test_the_pose_and_the_geometry_of_a_record(logic):
    from axon_core.geometry import XrayGeometry, XrayView

    geometry = XrayGeometry(view=XrayView.AP, sdd_mm=1500.0)
    film = {**geometry.__dict__, "view": "AP"}
    record = {"rotation_deg": [180, 0, 0], "translation_mm": [1, 2, 3], "films": [film]}
    assert logic.poseOfRecord(record) == RigidPose((np.pi, 0.0, 0.0), (1, 2, 3))
    assert logic.geometriesOf(record) == [geometry]


def test_metrics_are_a_table_that_nobody_can_break(logic):
    metrics = [
        {"name": "MAE", "value": 123.456, "unit": "HU", "definition": "mean of |a < b|"},
        {"name": "PSNR", "value": None, "unit": "dB", "definition": ""},
    ]
    table = logic.metricsTable(metrics)
    assert "123 HU" in table and "a &lt; b" in table and "none dB" in table and table.count("<tr>") == 2


# ---- scripts: the whole way, with the worker


@pytest.fixture
def module(hosted):
    """The module, for its logic."""
    import sys

    from host import module_host

    module_host.load(driving.MODULE)
    yield sys.modules["AXONReconstruction"]
    module_host.unload("AXONReconstruction")


def test_a_script_makes_a_volume(module, parameters):
    from AXONLib import volumes
    from AXONLib.parameters import Device, Quality

    lines = []
    logic = module.AXONReconstructionLogic()
    result = logic.reconstruct(parameters.frontal, told=lines.append, quality=Quality.PREVIEW, device=Device.CPU)
    assert result.GetAttribute(volumes.SYNTHETIC) == "1" and logic.getParameterNode().result is result
    assert {line["type"] for line in lines} >= {"progress", "preview"}


def test_a_script_that_asks_for_nonsense_is_told(module, parameters):
    logic = module.AXONReconstructionLogic()
    with pytest.raises(ValueError, match="no choice 'qualty'"):
        logic.reconstruct(parameters.frontal, qualty="fast")
    before = driving.content()
    with pytest.raises(AxonError) as told:
        logic.reconstruct(parameters.frontal, model="nothing")
    assert "nothing" in str(told.value) and told.value.advice
    made = {name for id, name in driving.content().items() if id not in before}
    assert made <= {"AXONReconstruction"}  # its choices

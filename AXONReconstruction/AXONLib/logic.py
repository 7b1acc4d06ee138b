"""From the panel's choices to the worker's jobs, and from its answers back into the scene. No Qt, no views."""

import html
import math
import os

import numpy as np
from slicer.i18n import tr as _

from axon_core.config import parse_seeds
from axon_core.errors import AxonError, ConfigError, OutputError, VolumeError
from axon_core.geometry import RigidPose, XrayGeometry, XrayView
from AXONLib import films, services, volumes
from AXONLib.pose import poseOf
from AXONLib.process import LAST, WorkerProcess, startWorker
from AXONLib.request import reconstructionRequest

NO_PATIENT = "AXON CT"


def seedsOf(text):
    """Whole numbers from a count or a list: "3" -> (0, 1, 2), "0,7,42" -> (0, 7, 42).

    Raises:
        ConfigError: none, or not numbers.
    """
    return parse_seeds(text)


def resultName(filmName):
    """The name of the volume that is made from a film."""
    return _("{film} synthetic CT").format(film=filmName)


def isMatched(parameters):
    """Whether the pose is the one of the chosen CT."""
    pose, truth = parameters.pose, parameters.groundTruth
    return pose is not None and truth is not None and pose.GetNodeReference(volumes.ROLES["groundTruth"]) is truth


def placementOf(parameters):
    """(4, 4) LPS: X-ray room -> frame of the CT; the identity while no CT is matched to the film."""
    if not isMatched(parameters):
        return np.eye(4)
    isocentre = volumes.ctVolumeOf(parameters.groundTruth).center_lps
    return volumes.placement(poseOf(parameters.pose, isocentre), isocentre)


def reconstruction(parameters, folder, output):
    """The job for the films and choices of an AXONParameters.

    Args:
        parameters: AXONParameters.
        folder: for films that have no file of their own.
        output: for the results.

    Raises:
        FilmError, ConfigError: something is missing or wrong.
    """
    if parameters.frontal is None:
        raise ConfigError("job.frontal", _("There is no frontal film."), _("Choose one."))
    lateral = parameters.lateral
    return reconstructionRequest(
        films.choice(parameters.frontal, films.frontalSettings(parameters), folder),
        lateral and films.choice(lateral, films.lateralSettings(parameters), folder),
        output,
        model=parameters.model,
        preset=parameters.quality.value,
        seeds=list(seedsOf(parameters.seeds)),
        device=parameters.device.value,
        overwrite=True,
        previews=True,
    )


def registration(parameters, folder, output, start: RigidPose, masks, globalSearch, distance=None):
    """The job that improves the pose of the CT.

    Args:
        parameters: AXONParameters with a CT and a frontal film.
        folder: for the CT and the films.
        output: a .json file.
        start: where the search begins.
        masks: of the frontal and the lateral film, (512, 512) bool each or None.
        globalSearch: look in a wide neighbourhood.
        distance: from source to detector [mm]; None lets it be estimated.

    Raises:
        FilmError, VolumeError, OutputError: something is missing or wrong.
    """
    lateral = parameters.lateral
    paths = [_savedMask(mask, folder, name) for mask, name in zip(masks, ("frontal", "lateral"), strict=True)]
    return {
        "task": "register",
        "ct": str(volumes.writeCt(parameters.groundTruth, folder)),
        "frontal": films.choice(parameters.frontal, films.frontalSettings(parameters), folder),
        "lateral": lateral and films.choice(lateral, films.lateralSettings(parameters), folder),
        "frontal_mask": paths[0],
        "lateral_mask": paths[1] if lateral else None,
        "sdd_mm": distance,
        "start": {
            "rotation_deg": [math.degrees(angle) for angle in start.rotation],
            "translation_mm": list(start.translation),
        },
        "global_search": globalSearch,
        "output": str(output),
        "overwrite": True,
    }


def _savedMask(mask, folder, name):
    if mask is None:
        return None
    path = os.path.join(folder, f"{name}-mask.npy")
    try:
        np.save(path, mask)
    except OSError as error:
        raise OutputError(
            "mask.cannot-write", _("The mask could not be written."), _("Check the free space on the disk.")
        ) from error
    return path


def poseOfRecord(record):
    """RigidPose of a registration's record."""
    return RigidPose(tuple(math.radians(angle) for angle in record["rotation_deg"]), tuple(record["translation_mm"]))


def geometriesOf(record):
    """XrayGeometry of every film of a registration's record, with the pixel size and distance that were found."""
    return [XrayGeometry(**{**film, "view": XrayView(film["view"])}) for film in record["films"]]


def pixelSizeOf(record, standard):
    """The pixel size [mm] of a frontal film whose file told none, as a registration found it; None otherwise.

    Args:
        record: of the registration.
        standard: StandardFilm of the film, of any size.
    """
    found = next((parameter for parameter in record["parameters"] if parameter["name"] == "scale of film 1"), None)
    if found is None or record["verdict"] == "failed":
        return None
    pixels = standard.image.shape[0]
    ofTheFile = np.linalg.norm(standard.to_original[:2, 0])  # pixels of the file along one of the standard film
    return float(record["films"][0]["detector_mm"] / pixels / ofTheFile)


def comparison(result, truth, folder, output):
    """The job that compares a result with the CT in whose frame it was made.

    Raises:
        VolumeError: not a CT, or not that one. OutputError: the disk refuses.
    """
    madeWith = [result.GetNodeReference(volumes.ROLES[role]) for role in ("groundTruth", "pose")]
    if madeWith[0] is not truth or madeWith[1] is None:
        raise VolumeError(
            "compare.frames",
            _("{name} was not matched with the film when the result was made: no metrics.").format(
                name=truth.GetName()
            ),
            _("Match the CT under 'Ground truth and registration', then reconstruct again."),
        )
    path = os.path.join(folder, f"result-{result.GetID()}.nrrd")
    volumes.ctVolumeOf(result).save(path, overwrite=True)
    return {
        "task": "compare",
        "result": path,
        "truth": str(volumes.writeCt(truth, folder)),
        "truth_to_result": np.eye(4).tolist(),
        "output": str(output),
        "overwrite": True,
    }


def importResult(event, parameters, placement):
    """Bring the volumes of a finished reconstruction into the scene and choose them.

    Args:
        event: the worker's last line.
        parameters: AXONParameters; `result` and `uncertainty` are set.
        placement: (4, 4) LPS, X-ray room -> frame of the result, as it was when the job began.

    Returns:
        vtkMRMLScalarVolumeNode: the result.

    Raises:
        OutputError: it cannot be read back; the scene stays as it was.
    """
    files = event["files"]
    provenance = volumes.readProvenance(files["provenance"])
    name = resultName(parameters.frontal.GetName() if parameters.frontal else NO_PATIENT)
    sources = {"frontal": parameters.frontal, "lateral": parameters.lateral}
    matched = isMatched(parameters)
    if matched:
        sources.update(groundTruth=parameters.groundTruth, pose=parameters.pose)
    nodes = []
    try:
        for kind, title in (("volume", name), ("uncertainty", _("{name} uncertainty").format(name=name))):
            if kind in files:
                nodes.append(volumes.loadResult(files[kind], title, placement, provenance))
        for node in nodes:
            volumes.relate(node, sources)
            volumes.placeBeside(node, parameters.frontal)
            if matched:
                node.SetAndObserveTransformNodeID(parameters.groundTruth.GetTransformNodeID())
    except BaseException:
        for node in nodes:
            volumes.remove(node)
        raise
    result = nodes[0]
    result.SetAttribute(volumes.REPORT, files.get("report", ""))
    result.SetAttribute(volumes.PROJECTIONS, files.get("projections", ""))
    parameters.result = result
    parameters.uncertainty = nodes[1] if len(nodes) > 1 else None
    parameters.difference = None
    return result


def importDifference(event, result):
    """Bring the difference map of a comparison into the scene, beside the result.

    Raises:
        OutputError: it cannot be read back.
    """
    node = volumes.loadResult(
        event["files"]["difference"],
        _("{name} minus CT").format(name=result.GetName()),
        np.eye(4),
        volumes.provenanceOf(result),
    )
    volumes.relate(node, {"groundTruth": result.GetNodeReference(volumes.ROLES["groundTruth"])})
    volumes.placeBeside(node, result)
    node.SetAndObserveTransformNodeID(result.GetTransformNodeID())
    return node


def runToEnd(request, folder, told=None):
    """Run one job of the worker and wait for it; for scripts, which have no event loop.

    Args:
        request: the job.
        folder: for the job's file.
        told: called with every line of the worker.

    Returns:
        dict: the last line, of type "result".

    Raises:
        AxonError: with the texts of the worker's last line, if that was an error.
    """
    import time

    worker: WorkerProcess = startWorker(request, folder, services.pythonSlicer(), services.childEnvironment())
    try:
        while True:
            for event in worker.events():
                if event["type"] == "error":
                    raise AxonError(event["code"], event["title"], event.get("advice", ""))
                if event["type"] in LAST:
                    return event
                if told:
                    told(event)
            time.sleep(0.05)
    except BaseException:
        worker.kill()
        raise


def metricsTable(metrics):
    """Rich text of a comparison's metrics; the definition of each is its tooltip and stands in small print."""
    rows = []
    for metric in metrics:
        value = _("none") if metric["value"] is None else f"{metric['value']:.3g}"
        name, unit, definition = (html.escape(metric[key]) for key in ("name", "unit", "definition"))
        rows.append(
            f"<tr><td><b>{name}</b></td><td align='right'>&nbsp;{value} {unit}&nbsp;</td>"
            f"<td><small>{definition}</small></td></tr>"
        )
    return f"<table cellspacing='3'>{''.join(rows)}</table>"

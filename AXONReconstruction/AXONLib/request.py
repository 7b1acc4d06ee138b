"""What a worker is asked to do, as plain values for its JSON job."""


def reconstructionRequest(frontal, lateral, output, **choices):
    """The job of one reconstruction.

    Args:
        frontal: a file, or a dict with "file" and what its file says wrongly ("view", "invert", "pixel_size_mm",
            "mirrored").
        lateral: the same for a lateral film, or None.
        output: folder for the results.
        choices: "model", "preset", "seeds", "device", "format", "overwrite", "previews", ... as in
            `axon_core.job.ReconstructJob`; one that is None is left to the worker.

    Returns:
        dict: for `process.startWorker`. The worker judges the values.
    """
    request = {"task": "reconstruct", "frontal": _film(frontal), "lateral": _film(lateral), "output": str(output)}
    request.update({key: value for key, value in choices.items() if value is not None})
    return request


def _film(film):
    return film if film is None or isinstance(film, dict) else str(film)

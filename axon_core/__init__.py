"""AXON: chest CT volumes from one or two plain X-rays. The output is synthetic: not for diagnosis.

>>> import axon_core as axon
>>> film = axon.Radiograph.load("film.png")
>>> model = axon.AxonModel.from_pretrained("axon-small")
>>> result = axon.reconstruct(film, model=model)
>>> result.final.save("ct.nrrd", result.provenance)
"""

from typing import Any

__version__ = "0.1.0"

SYNTHETIC_NOTICE = "SYNTHETIC: not for diagnosis"

_HOMES = {  # the names that most programs need, and where they live; imported on first use, since torch takes a second
    "AxonError": "errors",
    "AxonModel": "model",
    "CTVolume": "ctvolume",
    "Radiograph": "radiograph",
    "Reconstruction": "pipeline",
    "available_models": "model",
    "open_model": "baselines.models",
    "reconstruct": "pipeline",
    "standardise": "radiograph",
}
__all__ = ["SYNTHETIC_NOTICE", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

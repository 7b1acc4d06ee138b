"""Which devices the networks can run on here, and why not on the others."""

from __future__ import annotations

from dataclasses import dataclass

from axon_core.errors import DeviceError


@dataclass(frozen=True)
class Device:
    """A device by PyTorch's name, whether it computes here, and a word on what it is or why it does not."""

    name: str
    available: bool
    text: str


def devices() -> tuple[Device, ...]:
    """All that are known, the best first. A GPU counts when it has computed something."""
    return _cuda(), _mps(), _cpu()


def resolve_device(name: str) -> str:
    """ "auto" -> the best device here; DeviceError if the one asked for is missing."""
    known = devices()
    usable = [device.name for device in known if device.available]
    if name == "auto":
        return usable[0]
    if name not in usable:
        why = "".join(f" {device.text}" for device in known if device.name == name)
        raise DeviceError(
            "device.missing", f"There is no device {name!r} here.{why}", f"Use one of {', '.join(usable)}."
        )
    return name


def _cuda() -> Device:
    import torch

    if not torch.backends.cuda.is_built():
        return Device("cuda", False, "This PyTorch was built without CUDA.")
    if not torch.cuda.is_available():
        return Device("cuda", False, "No NVIDIA GPU with a working driver was found.")
    failure = _failure("cuda")
    if failure:
        return Device("cuda", False, f"The GPU does not compute: {failure}")
    facts = torch.cuda.get_device_properties(0)
    return Device("cuda", True, f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB")


def _mps() -> Device:
    import torch

    if not torch.backends.mps.is_built():
        return Device("mps", False, "This PyTorch was built without MPS: it is for Apple computers.")
    if not torch.backends.mps.is_available():
        return Device("mps", False, "No Apple GPU was found, or macOS is too old for it.")
    failure = _failure("mps")
    return Device("mps", not failure, f"The GPU does not compute: {failure}" if failure else "Apple GPU")


def _cpu() -> Device:
    import torch

    return Device("cpu", True, f"{torch.get_num_threads()} threads")


def _failure(name: str) -> str:
    """The first line of what goes wrong in one small computation; "" if nothing does."""
    import torch

    try:
        return "" if float((torch.ones(8, device=name) + 1.0).sum()) == 16.0 else "wrong results."
    except Exception as error:  # drivers and kernels fail in many ways
        return (str(error).splitlines() or [type(error).__name__])[0]

"""The devices that torch finds on this machine, and which of them each detector gets."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec

import torch

from geosod.device import Device, kind_of
from geosod.errors import ConfigError, one_line

#: Packages that add a kind of device to torch.
_PLUGINS = {"npu": "torch_npu", "mlu": "torch_mlu"}
#: Kind of device → what is missing where torch finds none, and what to do.
_MISSING = {
    "cuda": "torch sees no CUDA GPU here; use --device cpu or auto",
    "mps": "torch sees no Apple GPU here; it needs macOS on Apple silicon",
    "xpu": "torch, which means Intel GPUs by it, sees none here; install torch built for XPU and Intel's driver "
    "(Kunlunxin's chips, which PaddleX calls xpu, are not supported)",
    "npu": "torch sees no Ascend NPU here; install Ascend's plug-in torch_npu, of torch's version, and CANN",
    "mlu": "torch sees no Cambricon MLU here; install Cambricon's plug-in torch_mlu, of torch's version",
}


def device_count(kind: str) -> int:
    """How many devices of a kind torch can use on this machine.

    Raises:
        ConfigError: its plug-in is installed, but cannot be imported.
    """
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    plugin = _PLUGINS.get(kind)
    if plugin and find_spec(plugin):
        try:
            import_module(plugin)
        except Exception as error:
            line = one_line(error)[:200]
            raise ConfigError(f"device {kind!r}: {plugin} cannot be imported: {line}; reinstall it") from error
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def check_device(device: Device) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ConfigError: torch finds none of its kind, or not so many.
    """
    if not device.is_accelerator:
        return
    count = device_count(device.kind)
    if not count:
        raise ConfigError(f"device {str(device)!r} asked for, but {_MISSING[device.kind]}")
    if beyond := [i for i in device.indices if i >= count]:
        known = f"{device.kind}:0" if count == 1 else f"{device.kind}:0 to {device.kind}:{count - 1}"
        raise ConfigError(f"device {str(device)!r} asked for, but torch has no {device.kind}:{beyond[0]}, only {known}")


def local_devices(device: Device) -> tuple[str, ...]:
    """torch's names of the devices of this machine that a run uses; all of a kind where no numbers were given."""
    kind = device.kind
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    count = 0 if device.indices else device_count(kind)
    return tuple(f"{kind}:{i}" for i in range(count)) if count > 1 else Device(kind, device.indices).names


def current_device(name: str) -> AbstractContextManager[object]:
    """In the block a CUDA GPU is the current one, for networks whose operators do not look where their tensors are."""
    return torch.cuda.device(name) if kind_of(name) == "cuda" else nullcontext()

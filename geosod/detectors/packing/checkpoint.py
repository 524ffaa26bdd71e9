"""Weights from files of torch and safetensors, without executing anything that is in them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geosod.errors import ModelError, one_line

#: Keys under which training code stores a state dict, in the order in which they are tried.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
_CODE = re.compile(r"GLOBAL (?P<name>[A-Za-z_][\w.]*\w)")


def plain_content(path: Path) -> dict[str, Any] | None:
    """What a file of safetensors or of ``torch.save`` holds, if that is tensors and plain values alone.

    Returns:
        The content; None where the file holds pickled code, which is not executed: see `refuse_code`.

    Raises:
        ModelError: the file is damaged, or something else.
    """
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return None
    except Exception as error:
        if "TorchScript" in str(error):
            return None
        line = one_line(error)[:160] or type(error).__name__
        raise ModelError(
            f"{path}: cannot be read as a file of torch.save: {line}; it is damaged, incomplete or something else: "
            "fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    return content


def refuse_code(path: Path) -> ModelError:
    """The error for a file that holds pickled code."""
    names = _code_in(path)
    what = f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}) " if names else ""
    return ModelError(
        f"{path}: holds pickled Python objects {what}and could execute code when loaded; it was not, and nothing was "
        "executed: where you trust it, save its weights alone, torch.save(model.state_dict(), FILE) or safetensors, or "
        "export it to ONNX, and pack that file"
    )


def state_dict_in(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The tensors of a state dict, wrapped or not, with names that begin with ``backbone.``.

    Prefixes of wrappers, as ``module.`` or ``model.``, are dropped, and so are tensors of other parts.

    Raises:
        ModelError: there is no state dict in it, or none of a detection network of torchvision.
    """
    import torch

    state: Mapping[str, Any] = content
    for name in _WRAPPERS:
        inner = state.get(name)
        if isinstance(inner, Mapping) and inner:
            state = inner
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise ModelError(f"{path}: holds no state dict; found are {keys}; save model.state_dict()")
    prefixes = {name[: name.index("backbone.")] for name in tensors if "backbone." in name}
    prefix = min(prefixes, key=len) if prefixes else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read as safetensors: {error}; it is damaged, incomplete or something else: fetch it "
            "again"
        ) from error


def _code_in(path: Path) -> list[str]:
    """Names of what a file would import; empty where that cannot be found out."""
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (AttributeError, ValueError):  # an older torch, or an older kind of file
        pass
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return sorted(set(_CODE.findall(str(error))))
    return []

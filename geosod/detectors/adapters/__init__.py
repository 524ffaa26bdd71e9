"""Adapters: one file for each kind of network, found by what a card states under ``geosod:adapter``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geosod.errors import ModelError

#: What a card states under ``geosod:adapter`` → "module:function" that loads the network of a bundle. It is called as
#: ``load(bundle, execution, threshold=...)`` and returns a `geosod.detectors.contract.Adapter`. Boxes below the
#: threshold are dropped in any case, so an adapter may leave them out.
ADAPTERS: dict[str, str] = {
    "huggingface": "geosod.detectors.adapters.huggingface:load",
    "onnx": "geosod.detectors.adapters.onnx:load",
    "pt2": "geosod.detectors.adapters.pt2:load",
    "onnx-classifier": "geosod.detectors.adapters.onnx_classifier:load",
    "torchvision": "geosod.detectors.adapters.torchvision_models:load",
    "zoo": "geosod.detectors.adapters.zoo:load",
    "zoo-classifier": "geosod.detectors.adapters.zoo_classifier:load",
    "zoo-onnx": "geosod.detectors.adapters.zoo_onnx:load",
}

#: Packages that run ONNX graphs, which are values of `Execution.backend` → geosod's extra that installs each.
RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}

#: Adapter → the values of `Execution.backend` with which it runs a network; those not named here run it in torch. Some
#: architectures of "zoo" run with fewer, see `geosod.detectors.zoo.backends_of`.
BACKENDS: dict[str, tuple[str, ...]] = {
    "onnx": tuple(RUNTIMES),
    "pt2": ("eager",),
    "zoo": ("eager", "compile", *RUNTIMES),
    "zoo-classifier": ("eager",),
    "zoo-onnx": tuple(RUNTIMES),
}

#: Adapters of `ADAPTERS` that may execute what a weights file holds.
EXECUTING = frozenset({"pt2"})

_DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_dotted(name: str) -> bool:
    """Whether a name is ``module:function``, code to import rather than an entry of the registry."""
    return _DOTTED.fullmatch(name) is not None


def import_function(name: str, *, what: str) -> Callable[..., Any]:
    """What ``module:function`` names. Importing executes the module: only call this for names the user trusts.

    Args:
        name: ``module:function``.
        what: what to call it in an error.

    Raises:
        ModelError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except ImportError as error:
        raise ModelError(
            f"{what} {name!r}: module {module!r} cannot be imported: {error}; is it on PYTHONPATH?"
        ) from error
    except AttributeError:
        raise ModelError(f"{what} {name!r}: module {module!r} has no function {function!r}") from None
    if not callable(found):
        raise ModelError(f"{what} {name!r}: is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def code_digest(name: str) -> str:
    """sha256 of the file of the module that ``module:function`` names; "" where it has none."""
    try:
        spec = find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return ""
    path = None if spec is None or not spec.has_location else spec.origin
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def check_adapter(name: str, *, trust: bool, model: str) -> None:
    """Refuse a name that is not in the registry, or that is or executes code nobody said to trust.

    Raises:
        ModelError: it is either.
    """
    if (name in ADAPTERS and (trust or name not in EXECUTING)) or (trust and is_dotted(name)):
        return
    if name in EXECUTING:
        raise ModelError(
            f"model {model!r}: loading its weights file may execute code that it holds; add --trust (trust=True) if "
            "you trust it"
        )
    if is_dotted(name):
        raise ModelError(
            f"model {model!r}: its card asks to run the code {name}; add --trust (trust=True) if you trust that code"
        )
    raise ModelError(f"model {model!r}: unknown adapter {name!r}; known are: {', '.join(ADAPTERS)}, or module:function")

"""Bundles from the model files that people have: one reader for each kind of file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from geosod.detectors.bundle import CARD, Bundle, open_bundle, sha256_of, write_bundle
from geosod.detectors.cache import cache_folder
from geosod.detectors.packing.found import Found, make_card
from geosod.detectors.packing.huggingface import is_model_folder
from geosod.detectors.packing.options import PackOptions
from geosod.detectors.packing.ultralytics import is_ultralytics
from geosod.errors import ModelError


class Kind(NamedTuple):
    """A kind of model file.

    Attributes:
        what: for a person.
        matches: whether a path is one, by its name, or by what can be read without executing anything.
        reader: "module:function", called as ``read(path, options)``, which returns a `Found`.
    """

    what: str
    matches: Callable[[Path], bool]
    reader: str


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.lower().endswith(suffixes)


def _is_deepforest_folder(path: Path) -> bool:
    """Hugging Face's transformers writes such folders, too, and states a "model_type"."""
    config = path / "config.json"
    if not (config.is_file() and (path / "model.safetensors").is_file()) or config.stat().st_size > 1 << 20:
        return False
    text = config.read_bytes()
    return b'"label_dict"' in text and b'"model_type"' not in text


_TORCHVISION = "geosod.detectors.packing.torchvision_weights:read"
#: The first one that matches reads the file.
KINDS: tuple[Kind, ...] = (
    Kind("an ONNX graph (.onnx)", _ends(".onnx"), "geosod.detectors.packing.onnx:read"),
    Kind("a Hugging Face folder (config.json)", is_model_folder, "geosod.detectors.packing.huggingface:read"),
    Kind("a folder of DeepForest (config.json, model.safetensors)", _is_deepforest_folder, _TORCHVISION),
    Kind("a checkpoint of Ultralytics (.pt)", is_ultralytics, "geosod.detectors.packing.ultralytics:read"),
    Kind(
        "weights of torchvision or DeepForest (.pt, .pth, .ckpt, .pl, .safetensors)",
        _ends(".pt", ".pth", ".ckpt", ".pl", ".safetensors"),
        _TORCHVISION,
    ),
    Kind("a program of torch.export (.pt2)", _ends(".pt2"), "geosod.detectors.packing.pt2:read"),
)


class Packed(NamedTuple):
    """A bundle that was made, and what its maker should know."""

    bundle: Bundle
    notes: tuple[str, ...]


def is_model_file(path: Path) -> bool:
    """Whether a path has the name of a model file that can be packed, and exists."""
    return not (path / CARD).is_file() and path.exists() and any(kind.matches(path) for kind in KINDS)


def pack(source: str | Path, folder: str | Path, options: PackOptions | None = None) -> Packed:
    """Make a bundle from a model file.

    Args:
        source: the file, or the folder of one that consists of several.
        folder: of the bundle; it must not exist, or be empty.
        options: what the file does not say, or says wrong.

    Raises:
        ModelError: the file is no model that can be packed, does not say everything, or the folder is in use.
    """
    options = options or PackOptions()
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists and is not empty; choose another folder, or remove it")
    found = _read(Path(source).expanduser(), options)
    card = make_card(found, options)
    # The bundle appears whole or not at all.
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as staging:
        made = Path(staging) / "bundle"
        write_bundle(made, card, found.weights)
        if target.is_dir():
            target.rmdir()
        try:
            made.rename(target)
        except OSError:
            if not (target / CARD).is_file():
                raise
    return Packed(open_bundle(target, trust=options.trust), tuple(found.notes))


def packed(source: Path, *, trust: bool = False) -> Packed:
    """The bundle of a model file, from the cache or put there.

    Raises:
        ModelError: the file does not say everything that a card needs, or the cache cannot be written.
    """
    folder = cache_folder("models") / f"{source.stem}-{_digest(source)[:20]}"
    if (folder / CARD).is_file():
        return Packed(open_bundle(folder, trust=trust), ())
    try:
        return pack(source, folder, PackOptions(trust=trust))
    except OSError as error:
        raise ModelError(
            f"{source}: its bundle cannot be written to {folder}: {error.strerror}; set GEOSOD_CACHE to a folder that "
            "can be written, or use `geosod model pack`"
        ) from error


def _read(source: Path, options: PackOptions) -> Found:
    if not source.exists():
        raise ModelError(f"{source}: there is no such file")
    for kind in KINDS:
        if kind.matches(source):
            module, _, function = kind.reader.partition(":")
            found = getattr(import_module(module), function)(source, options)
            assert isinstance(found, Found)
            return found
    kinds = ", ".join(kind.what for kind in KINDS)
    raise ModelError(f"{source}: not a model file that geosod knows; known are {kinds}")


def _digest(source: Path) -> str:
    """sha256 of a file, or of all files of a folder, and of this version's readers."""
    from geosod.version import __version__

    digest = hashlib.sha256(__version__.encode())
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if path.is_file():
            digest.update((path.name + sha256_of(path)).encode())
    return digest.hexdigest()

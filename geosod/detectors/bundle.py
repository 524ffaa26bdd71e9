"""Model bundles: a folder with ``model.json`` and a weights file, found by path or by name."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geosod.detectors.adapters import check_adapter, code_digest, is_dotted
from geosod.detectors.card import ModelCard
from geosod.detectors.mlm_item import from_item, to_item
from geosod.detectors.zoo import check_architecture
from geosod.errors import ModelError, did_you_mean, one_line

CARD = "model.json"
MAX_CARD_BYTES = 4 << 20
SHIPPED = Path(__file__).parent / "zoo"
#: A weights file lies in the bundle's folder itself.
_FILE_NAME = re.compile(r"(?!\.|model\.json$)[^/\\\x00]{1,200}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        folder: where it lies.
        card: what it says of itself.
        digest: sha256 over the card and the weights; stands in every output made with it.
        trusted: code that the card names may be run.
    """

    folder: Path
    card: ModelCard
    digest: str
    trusted: bool = False

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.folder / self.card.weights_file

    def read_weights(self) -> bytes:
        """The content of the weights file, which is what the card's digest was computed of.

        Raises:
            ModelError: the file cannot be read, or is not the one that the card describes.
        """
        try:
            content = self.weights.read_bytes()
        except OSError as error:
            raise ModelError(f"model {self.card.name!r}: {self.weights} cannot be read: {error.strerror}") from error
        _check_digest(self.card, self.weights, hashlib.sha256(content).hexdigest())
        return content

    def load_into(self, network: Any) -> None:
        """Give a torch module the weights, a state dict in safetensors; each of its tensors, and no others.

        Raises:
            ModelError: the file is not the one that the card describes, or does not fit the network.
        """
        from safetensors.torch import load

        content = self.read_weights()
        try:
            network.load_state_dict(load(content), strict=True)
        except Exception as error:
            raise ModelError(
                f"model {self.card.name!r}: {self.weights} does not fit the network: {one_line(error)[:300]}"
            ) from error


def shipped_models() -> tuple[str, ...]:
    """Names of the bundles that come with geosod."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}")))


def open_bundle(name_or_path: str | Path, *, trust: bool = False) -> Bundle:
    """Find a bundle, read its card, and verify the weights against the digest the card states.

    Args:
        name_or_path: a shipped model's name or a folder.
        trust: code that the card names may be run.

    Raises:
        ModelError: there is no such bundle, it is malformed or altered, or names code that is not trusted.
    """
    folder = _locate(name_or_path)
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"model {str(name_or_path)!r}: {path} is missing; a bundle holds {CARD} and a weights file")
    if path.stat().st_size > MAX_CARD_BYTES:
        raise ModelError(f"model {str(name_or_path)!r}: {path} is over {MAX_CARD_BYTES >> 20} MiB, not a card")
    try:
        item = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model {str(name_or_path)!r}: {path} cannot be read as JSON: {error}") from error
    card = from_item(item, str(path))
    check_adapter(card.adapter, trust=trust, model=card.name)
    weights = folder / card.weights_file
    if not _FILE_NAME.fullmatch(card.weights_file) or not weights.is_file():
        raise ModelError(
            f"model {str(name_or_path)!r}: {weights} is missing; a bundle holds {CARD} and its weights file"
        )
    found = sha256_of(weights)
    _check_digest(card, weights, found)
    # Code that the card names is part of the model.
    code = code_digest(card.adapter) if is_dotted(card.adapter) else ""
    return Bundle(folder, card, hashlib.sha256(_canonical(item) + (found + code).encode()).hexdigest(), trust)


def write_bundle(folder: str | Path, card: ModelCard, weights: dict[str, Any] | bytes) -> Bundle:
    """Write weights and card to a new bundle.

    Args:
        folder: created if need be; an existing bundle in it is replaced.
        card: it must state a licence; its `weights_digest` is filled in here.
        weights: a torch state dict, written as safetensors, or the content of the weights file.

    Raises:
        ModelError: the card states no licence, names an unknown architecture or adapter, or the bundle cannot be read
            back.
    """
    if not card.license:
        raise ModelError(f"model {card.name!r}: states no license; set it to an SPDX identifier or 'proprietary'")
    check_adapter(card.adapter, trust=True, model=card.name)
    if card.adapter == "zoo":
        check_architecture(card.architecture, model=card.name)
    if not _FILE_NAME.fullmatch(card.weights_file):
        raise ModelError(f"model {card.name!r}: weights_file {card.weights_file!r} must be a plain file name")
    if not isinstance(weights, bytes | dict):
        raise ModelError(
            f"model {card.name!r}: weights are a {type(weights).__name__}; pass a state dict, or the bytes"
        )
    target = Path(folder)
    if target.is_dir() and any(target.iterdir()) and not (target / CARD).is_file():
        raise ModelError(f"model {card.name!r}: {target} is not empty and holds no bundle; choose a new folder")
    content = weights if isinstance(weights, bytes) else _safetensors(weights)
    target.mkdir(parents=True, exist_ok=True)
    (target / card.weights_file).write_bytes(content)
    complete = replace(card, weights_digest=hashlib.sha256(content).hexdigest())
    (target / CARD).write_text(json.dumps(to_item(complete), indent=2, ensure_ascii=False) + "\n")
    return open_bundle(target, trust=True)


def _safetensors(state: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def _locate(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in shipped_models():
        return SHIPPED / text
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.name == CARD and path.is_file():
            raise ModelError(f"model {text!r}: is the card of a bundle; give its folder, {path.parent}")
    except (OSError, RuntimeError, ValueError):
        pass  # too long a name, or a home that is not there
    shipped = ", ".join(shipped_models()) or "none"
    if Path(text).suffix and Path(text).is_file():
        raise ModelError(
            f"model {text!r}: not a bundle's folder; make one of it with `geosod model pack {text} -o FOLDER`"
        )
    raise ModelError(
        f"model {text!r}: no such folder and no shipped model of that name; shipped are: {shipped}"
        f"{did_you_mean(text, [*shipped_models(), *_beside(text)])}"
    )


def _beside(text: str) -> list[str]:
    """Bundles in the folder where one was looked for in vain, as they would have been named."""
    try:
        return [str(path.parent) for path in Path(text).parent.glob(f"*/{CARD}")]
    except (OSError, ValueError):
        return []


def _check_digest(card: ModelCard, path: Path, found: str) -> None:
    if found != card.weights_digest:
        raise ModelError(
            f"model {card.name!r}: {path} has sha256 {found[:12]}…, but its card states {card.weights_digest[:12]}…; "
            "fetch the bundle again, the weights are damaged or from another one"
        )


def _canonical(item: Any) -> bytes:
    return json.dumps(item, sort_keys=True, separators=(",", ":")).encode()


def sha256_of(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Model bundles: a folder with ``model.json`` and ``model.safetensors``, found by path or by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geosod.detectors.card import ModelCard
from geosod.errors import ModelError

CARD, WEIGHTS = "model.json", "model.safetensors"
MAX_CARD_BYTES = 4 << 20
SHIPPED = Path(__file__).parent / "zoo"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        folder: where it lies.
        card: what it says of itself.
        digest: sha256 over the card and the weights; stands in every output made with it.
    """

    folder: Path
    card: ModelCard
    digest: str

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.folder / WEIGHTS


def shipped_models() -> tuple[str, ...]:
    """Names of the bundles that come with geosod."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}")))


def open_bundle(name_or_path: str | Path) -> Bundle:
    """Find a bundle, read its card, and verify the weights against the digest the card states.

    Raises:
        ModelError: there is no such bundle, or it is malformed or altered.
    """
    folder = _locate(name_or_path)
    card_path, weights_path = folder / CARD, folder / WEIGHTS
    for path in (card_path, weights_path):
        if not path.is_file():
            raise ModelError(f"model {str(name_or_path)!r}: {path} is missing; a bundle holds {CARD} and {WEIGHTS}")
    if card_path.stat().st_size > MAX_CARD_BYTES:
        raise ModelError(f"model {str(name_or_path)!r}: {card_path} is over {MAX_CARD_BYTES >> 20} MiB, not a card")
    text = card_path.read_bytes()
    try:
        item = json.loads(text)
    except ValueError as error:
        raise ModelError(f"model {str(name_or_path)!r}: {card_path} is not JSON: {error}") from error
    card = ModelCard.from_item(item, str(card_path))
    weights = _sha256(weights_path)
    if weights != card.weights_digest:
        raise ModelError(
            f"model {card.name!r}: {weights_path} has sha256 {weights[:12]}…, but its card states "
            f"{card.weights_digest[:12]}…; fetch the bundle again, the weights are damaged or from another one"
        )
    digest = hashlib.sha256(_canonical(item) + weights.encode()).hexdigest()
    return Bundle(folder, card, digest)


def write_bundle(folder: str | Path, card: ModelCard, state: dict[str, Any]) -> Bundle:
    """Write weights and card to a new bundle.

    Args:
        folder: created if need be; an existing bundle in it is replaced.
        card: its `weights_digest` is filled in here.
        state: a torch state dict.

    Raises:
        ModelError: the bundle cannot be read back.
    """
    from safetensors.torch import save_file

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, target / WEIGHTS)
    complete = replace(card, weights_digest=_sha256(target / WEIGHTS))
    (target / CARD).write_text(json.dumps(complete.to_item(), indent=2, ensure_ascii=False) + "\n")
    return open_bundle(target)


def _locate(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in shipped_models():
        return SHIPPED / text
    path = Path(text).expanduser()
    if path.is_dir():
        return path.resolve()
    shipped = ", ".join(shipped_models()) or "none"
    raise ModelError(f"model {text!r}: no such folder and no shipped model of that name; shipped are: {shipped}")


def _canonical(item: Any) -> bytes:
    return json.dumps(item, sort_keys=True, separators=(",", ":")).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

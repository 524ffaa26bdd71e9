"""Object detectors of Hugging Face's transformers: DETR and the networks that followed it.

A card's parameters hold the whole `config` of the network, what its `scores` mean ("softmax" with a last class for "no
object", or "sigmoid"), and the size `pad` that images are filled up to, where they are. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geosod.detectors.adapters.layouts import corners
from geosod.detectors.bundle import Bundle
from geosod.detectors.contract import RawBoxes
from geosod.errors import ModelError, one_line
from geosod.results import Execution

SCORES = ("softmax", "sigmoid")
#: Keys of a config that would make transformers import code, look for other files, or change the weights.
_LEFT_OUT = ("_commit_hash", "_name_or_path", "dtype", "torch_dtype", "transformers_weights")
_REFUSED = {
    "auto_map": "runs code of the model's own, which geosod does not",
    "quantization_config": "has quantised weights; save it with plain ones",
}


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> HuggingFaceAdapter:  # noqa: ARG001
    """The network that a card's config describes, with the bundle's weights.

    Raises:
        ModelError: transformers is not installed, the config is not one of an object detector, or the weights do not
            fit it.
    """
    from safetensors.torch import load as load_tensors

    card = bundle.card
    where = f"model {card.name!r}"
    config, scores, pad = (card.parameters.get(name) for name in ("config", "scores", "pad"))
    if not isinstance(config, dict) or scores not in SCORES:
        raise ModelError(f"{where}: its card has no config, or no scores of {', '.join(SCORES)}; pack the model again")
    try:
        state = load_tensors(bundle.read_weights())
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: {bundle.weights} cannot be read as safetensors: {one_line(error)[:300]}") from error
    size = None if pad is None else (int(pad[0]), int(pad[1]))
    network = network_of(config, state, where)
    return HuggingFaceAdapter(network, execution, name=card.name, scores=scores, top_k=card.top_k, pad=size)


def network_of(config: Mapping[str, Any], state: dict[str, Tensor], where: str) -> Any:
    """The torch module of a config with weights, float32, on the CPU.

    Args:
        config: as in config.json.
        state: the weights, by the names of this or an earlier version of transformers.
        where: what to call the model in an error.

    Raises:
        ModelError: the config is not one of an object detector, asks for code or for other files, or the weights are
            not exactly those of its network.
    """
    with _mapped(where) as (kinds, transformers), offline(transformers):
        made = _config(config, kinds, where)
        network, report = kinds[type(made)].from_pretrained(
            None,
            config=made,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_loaded(report, where)
    return network.eval()


def random_network(config: Mapping[str, Any], where: str) -> Any:
    """The torch module of a config with random weights, float32, on the CPU.

    Args:
        config: as in config.json.
        where: what to call the model in an error.

    Raises:
        ModelError: the config is not one of an object detector, or asks for code or for other files.
    """
    with _mapped(where) as (kinds, transformers), offline(transformers):
        made = _config(config, kinds, where)
        return kinds[type(made)](made)


@contextmanager
def _mapped(where: str) -> Iterator[tuple[Any, Any]]:
    """transformers' classes of object detectors by that of their config, and transformers; its errors are ours."""
    transformers = installed(where)
    try:
        yield transformers.MODEL_FOR_OBJECT_DETECTION_MAPPING, transformers
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        advice = "; pip install timm" if "timm" in str(error) else ""
        raise ModelError(f"{where}: transformers cannot make the network: {one_line(error)[:300]}{advice}") from error


def _config(values: Mapping[str, Any], kinds: Any, where: str) -> Any:
    made = config_of(values, where)
    if type(made) not in kinds:
        raise ModelError(f"{where}: transformers has no object detector of model_type {made.model_type!r}")
    return made


def config_of(values: Mapping[str, Any], where: str) -> Any:
    """The configuration object of a config.json's content.

    Raises:
        ModelError: it asks for code or for other files, or its model_type is unknown.
    """
    for key, why in _REFUSED.items():
        if values.get(key):
            raise ModelError(f"{where}: config.json has {key!r}, so the model {why}")
    named = values.get("backbone")
    if named and not values.get("use_timm_backbone", True) and not values.get("backbone_config"):
        raise ModelError(
            f"{where}: config.json has the backbone {named!r} by name only, which geosod does not download; load the "
            "model with transformers once and save it again, which writes its backbone_config"
        )
    transformers = installed(where)
    kind = values.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{where}: model_type {kind!r} is unknown to transformers {transformers.__version__}; use a newer one"
        )
    try:
        return transformers.CONFIG_MAPPING[kind].from_dict(_cleaned(values))
    except Exception as error:
        raise ModelError(f"{where}: transformers cannot read config.json: {one_line(error)[:300]}") from error


def installed(where: str) -> Any:
    """The module transformers.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"{where}: needs transformers, which cannot be imported ({one_line(error)[:300]}); pip install 'geosod[hf]'"
        ) from error


@contextmanager
def offline(transformers: Any) -> Iterator[None]:
    """In the block, transformers reaches no network, and prints neither warnings nor bars."""
    hub: Any = import_module("huggingface_hub.constants")
    logging = transformers.utils.logging
    before, level, bars = hub.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class HuggingFaceAdapter:
    """A network of transformers on a device, in float32.

    Boxes are fractions of the image's sides, which bf16 would round to up to 1.6 of 800 pixels.
    """

    def __init__(
        self,
        network: Any,
        execution: Execution,
        *,
        name: str,
        scores: str,
        top_k: int,
        pad: tuple[int, int] | None,
    ) -> None:
        self._network = network.to(execution.device).requires_grad_(False).eval()
        self._name, self._scores, self._top_k, self._pad = name, scores, top_k, pad

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W) float32, prepared as the card's input states."""
        # On CPUs, how a value is rounded depends on its place in an array, and so on that of a tile in the batch.
        parts = images.chunk(len(images)) if images.device.type == "cpu" else [images]
        found = [self._found(part) for part in parts]
        boxes, scores, labels, broken = (torch.cat(column) for column in zip(*found, strict=True))
        return RawBoxes.padded(boxes, scores, labels, broken=broken)

    def _found(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (B, K, 4), scores and labels (B, K), and (B,) bool, whether an output is not a number."""
        height, width = images.shape[2:]
        found = self._network(**self._inputs(images))
        logits, centred = found.logits.float(), found.pred_boxes.float()
        boxes = corners(centred) * torch.tensor([width, height, width, height], device=images.device)
        broken = torch.isnan(logits).flatten(1).any(dim=1) | torch.isnan(centred).flatten(1).any(dim=1)
        if self._scores == "softmax":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            return boxes, scores, labels, broken
        classes = logits.shape[2]
        pairs = logits.sigmoid().flatten(1)
        best = pairs.topk(min(self._top_k, pairs.shape[1]), dim=1)
        queries = torch.div(best.indices, classes, rounding_mode="floor")
        return boxes.gather(1, queries[..., None].expand(-1, -1, 4)), best.values, best.indices % classes, broken

    def _inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images filled up with zeros at the right and bottom, and the mask that says where they are."""
        height, width = images.shape[2:]
        if self._pad in (None, (width, height)):
            return {"pixel_values": images}
        assert self._pad is not None
        right, bottom = self._pad[0] - width, self._pad[1] - height
        if right < 0 or bottom < 0:
            raise ModelError(
                f"model {self._name!r}: an image of {width} x {height} pixels does not fit into the "
                f"{self._pad[0]} x {self._pad[1]} that its images are filled up to; use its tile size"
            )
        # After normalisation, as in transformers: 0 is then the mean.
        mask = images.new_ones((len(images), height, width), dtype=torch.int64)
        return {"pixel_values": F.pad(images, (0, right, 0, bottom)), "pixel_mask": F.pad(mask, (0, right, 0, bottom))}


def _cleaned(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what names other files; no backbone in it is downloaded."""
    kept = {key: value for key, value in values.items() if key not in _LEFT_OUT}
    if kept.get("backbone_kwargs", 0) is None:
        del kept["backbone_kwargs"]
    if isinstance(kept.get("backbone_config"), Mapping):
        kept["backbone_config"] = _cleaned(kept["backbone_config"])
    if "use_pretrained_backbone" in kept:
        kept["use_pretrained_backbone"] = False
    return kept


def _check_loaded(report: Mapping[str, Any], where: str) -> None:
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "of another shape": sorted(key for key, *_ in report["mismatched_keys"]),
        "not in the network": sorted(report["unexpected_keys"]),
        "not loaded": sorted(map(str, report["error_msgs"])),
    }
    found = [f"{len(names)} {how}, such as {names[0]}" for how, names in wrong.items() if names]
    if found:
        raise ModelError(f"{where}: the weights do not fit config.json: {'; '.join(found)}; are both of one model?")

"""Object detectors in the folders that Hugging Face's `save_pretrained` writes, and its hub holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geosod.detectors.packing.found import Found, nearest_side, safe_name, unique
from geosod.detectors.packing.options import PackOptions
from geosod.errors import ModelError, one_line
from geosod.tile_size import MAX_SIDE, TileSize

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, PROCESSOR, INDEX = "config.json", "preprocessor_config.json", "model.safetensors.index.json"
_MAX_JSON_BYTES = 2 << 20
#: How Pillow numbers what resizes an image.
_BILINEAR = 2
_RESAMPLINGS = {0: "nearest", 1: "Lanczos", 3: "bicubic", 4: "box", 5: "Hamming"}
_LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "agpl-3.0": "AGPL-3.0-only", "cc-by-4.0": "CC-BY-4.0"}


class _Family(NamedTuple):
    """What the image processor of a model type does with the network's outputs.

    Attributes:
        scores: as in `geosod.detectors.adapters.huggingface`.
        top_k: the pairs of query and class that it keeps; None for as many as there are queries.
        processor: transformers' class.
        resampling: as in `NetworkInput`.
    """

    scores: str
    top_k: int | None
    processor: str
    resampling: str = "antialias"


_FAMILIES: dict[str, _Family] = {
    "conditional_detr": _Family("sigmoid", 100, "ConditionalDetrImageProcessor"),
    "d_fine": _Family("sigmoid", None, "RTDetrImageProcessor"),
    "dab-detr": _Family("sigmoid", 100, "ConditionalDetrImageProcessor"),
    "deformable_detr": _Family("sigmoid", 100, "DeformableDetrImageProcessor"),
    "deimv2": _Family("sigmoid", None, "RTDetrImageProcessor"),
    "detr": _Family("softmax", None, "DetrImageProcessor"),
    "lw_detr": _Family("sigmoid", 100, "DeformableDetrImageProcessor"),
    "rf_detr": _Family("sigmoid", None, "RfDetrImageProcessor", "antialias-float"),
    "rt_detr": _Family("sigmoid", None, "RTDetrImageProcessor"),
    "rt_detr_v2": _Family("sigmoid", None, "RTDetrImageProcessor"),
    "table-transformer": _Family("softmax", None, "DetrImageProcessor"),
    "yolos": _Family("softmax", None, "YolosImageProcessor"),
}


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds the config of a network of transformers; other frameworks have such files, too."""
    try:
        values = _json(path / CONFIG) if path.is_dir() and (path / CONFIG).is_file() else {}
    except ModelError:
        return False
    return isinstance(values.get("model_type"), str)


def read(path: Path, options: PackOptions) -> Found:
    """The network of a folder with config.json, safetensors and preprocessor_config.json.

    Raises:
        ModelError: it is no object detector, its weights are no safetensors or do not fit, or it needs code of its own.
    """
    from geosod.detectors.adapters.huggingface import config_of, installed, network_of, offline

    where, values = str(path), _json(path / CONFIG)
    _check_architecture(values, where)
    files = _weight_files(path)
    transformers = installed(where)
    with offline(transformers):
        config = config_of(values, where)
    notes: list[str] = []
    family = _FAMILIES.get(config.model_type)
    processor = _processor(path, transformers, family, notes)
    network = network_of(values, _tensors(files), where)
    whole = json.loads(network.config.to_json_string(use_diff=False))
    size, resize, tile = _sizes(processor, where)
    fixed = getattr(config, "anchor_image_size", None) or getattr(config, "eval_size", None)
    found = Found(
        name=_name(path),
        weights=_state(network),
        adapter="huggingface",
        architecture=config.model_type,
        weights_file="model.safetensors",
        framework="pytorch",
        artifact_type="safetensors",
        parameters={"config": whole, "pad": _pad(processor, where)} | ({"fixed_size": True} if fixed else {}),
        channels=_channels(config),
        count=config.num_labels,
        classes=unique([config.id2label.get(i, "N/A") for i in range(config.num_labels)]),
        card={"nms_iou": 1.0, "tile": tile, **_license(path)},
        input={
            "size": size,
            "resize": resize,
            "resampling": family.resampling if family else "antialias",
            **_values(processor),
        },
        notes=notes,
        provenance={"source": "Hugging Face transformers", "transformers": transformers.__version__},
    )
    _decoding(found, family, config, options)
    _check_resampling(processor, notes)
    return found


def _decoding(found: Found, family: _Family | None, config: Any, options: PackOptions) -> None:
    scores = options.layout or (family.scores if family else None)
    if scores not in ("softmax", "sigmoid"):
        what = "is not known for this model type" if scores is None else f"is not {scores!r}"
        why = f"how logits become scores {what}: softmax with a last class for no object, or sigmoid"
        found.missing["--layout softmax or sigmoid"] = why
        return
    found.parameters["scores"] = scores
    queries = getattr(config, "num_queries", None)
    if scores == "sigmoid" and (kept := (family and family.top_k) or queries):
        found.card["top_k"] = int(kept)


def _check_architecture(values: Mapping[str, Any], where: str) -> None:
    names = values.get("architectures") or []
    if names and not any(str(name).endswith("ForObjectDetection") for name in names):
        raise ModelError(
            f"{where}: config.json names the architecture {', '.join(map(str, names))}, which is no object detector; "
            "geosod takes those whose names end in ForObjectDetection"
        )


def _weight_files(path: Path) -> list[Path]:
    """The safetensors of a folder, all shards."""
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path}: holds an adapter (PEFT) to another model; merge it into the model and save that")
    if (path / INDEX).is_file():
        shards = sorted(set(map(str, (_json(path / INDEX).get("weight_map") or {}).values())))
        for shard in shards:
            if Path(shard).name != shard or not (path / shard).is_file():
                raise ModelError(f"{path}: {INDEX} names {shard!r}, which is not in the folder; fetch it again")
        return [path / shard for shard in shards]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    pickles = sorted(file.name for suffix in ("bin", "pt", "pth") for file in path.glob(f"*.{suffix}"))
    if pickles:
        raise ModelError(
            f"{path}: {pickles[0]} is a pickle, which can run code; load the model with transformers where you trust "
            "it and save it again, which writes model.safetensors"
        )
    raise ModelError(f"{path}: has neither model.safetensors nor {INDEX}")


def _tensors(files: list[Path]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= load_file(file)
        except Exception as error:
            line = one_line(error)[:200]
            raise ModelError(f"{file}: cannot be read as safetensors ({line}); fetch it again") from error
    return state


def _state(network: Any) -> dict[str, Tensor]:
    """The network's weights, those that share memory as copies, as safetensors needs them."""
    seen: set[int] = set()
    state = {}
    for name, tensor in network.state_dict().items():
        state[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return state


def _processor(path: Path, transformers: Any, family: _Family | None, notes: list[str]) -> Mapping[str, Any]:
    """What the image processor does, with its defaults."""
    from geosod.detectors.adapters.huggingface import offline

    if not (path / PROCESSOR).is_file():
        if family is None or not hasattr(transformers, family.processor):
            raise ModelError(
                f"{path}: {PROCESSOR} is missing; add that of the model, which says how images are resized"
            )
        notes.append(
            f"{path}: {PROCESSOR} is missing, so images are prepared as {family.processor} does by default; if the "
            "model was trained otherwise, add the file, or set --size, --mean and --std"
        )
        return _described(getattr(transformers, family.processor)())
    if _json(path / PROCESSOR).get("auto_map"):
        raise ModelError(f"{path}: {PROCESSOR} has 'auto_map', code of the model's own, which geosod does not run")
    try:
        with offline(transformers):
            made = transformers.AutoImageProcessor.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        line = one_line(error)[:300]
        raise ModelError(f"{path}: {PROCESSOR} cannot be read by transformers: {line}") from error
    return _described(made)


def _described(processor: Any) -> dict[str, Any]:
    return dict(json.loads(processor.to_json_string()))


def _sizes(processor: Mapping[str, Any], where: str) -> tuple[tuple[int, int] | None, str, TileSize]:
    """The size and the resizing of `NetworkInput`, and a tile that needs none where its sides allow it."""
    if not processor.get("do_resize", True):
        return None, "stretch", (640, 640)
    sides = {key: int(value) for key, value in (processor.get("size") or {}).items() if value}
    for names, resize in ((("width", "height"), "stretch"), (("max_width", "max_height"), "inside")):
        if all(name in sides for name in names):
            size = (sides[names[0]], sides[names[1]])
            return size, resize, (nearest_side(size[0]), nearest_side(size[1]))
    if "shortest_edge" in sides:
        longest = sides.get("longest_edge", MAX_SIDE)
        shortest = min(sides["shortest_edge"], longest)
        return (shortest, longest), "edges", (nearest_side(shortest),) * 2
    raise ModelError(f"{where}: {PROCESSOR} has the size {sides}, which geosod does not know; set do_resize to false")


def _pad(processor: Mapping[str, Any], where: str) -> list[int] | None:
    """(width, height) that images are filled up to."""
    size = processor.get("pad_size")
    if not processor.get("do_pad") or not size:
        return None
    if not {"width", "height"} <= set(size):
        raise ModelError(f"{where}: {PROCESSOR} has the pad_size {size}; geosod knows width and height")
    return [int(size["width"]), int(size["height"])]


def _values(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Scale, mean and std of `NetworkInput`: pixels are 0 to 1 before, and 0 to 255 in transformers."""
    factor = processor.get("rescale_factor") or 1 / 255
    scale = 255 * float(factor) if processor.get("do_rescale", True) else 255.0
    values: dict[str, Any] = {"scale": 1.0 if abs(scale - 1) < 1e-6 else scale}
    if processor.get("do_normalize"):
        for name in ("mean", "std"):
            numbers = processor[f"image_{name}"]
            values[name] = tuple(map(float, numbers if isinstance(numbers, list) else [numbers]))
    return values


def _check_resampling(processor: Mapping[str, Any], notes: list[str]) -> None:
    kind = int(processor.get("resample") or 0) if processor.get("do_resize", True) else _BILINEAR
    if kind != _BILINEAR:
        notes.append(
            f"the model resizes images by {_RESAMPLINGS.get(kind, 'another')} resampling; geosod's is bilinear, which "
            "makes no difference for tiles of the network's own size"
        )


def _channels(config: Any) -> int:
    backbone = getattr(config, "backbone_config", None)
    return int(getattr(backbone, "num_channels", None) or getattr(config, "num_channels", None) or 3)


def _name(path: Path) -> str:
    """The folder's name; in the hub's cache that of the repository."""
    folder = path.resolve()
    cached = next((part for part in reversed(folder.parts) if part.startswith("models--")), None)
    return safe_name(cached.split("--")[-1] if cached else folder.name)


def _license(path: Path) -> dict[str, str]:
    """The licence that the front matter of the model's README states."""
    try:
        text = (path / "README.md").read_text(encoding="utf-8", errors="replace")[:100_000]
    except OSError:
        return {}
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*([\w.+-]+)\s*$", front.group(1), re.MULTILINE) if front else None
    return {"license": _LICENSES.get(stated.group(1).lower(), stated.group(1))} if stated else {}


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES and path.name != INDEX:
        raise ModelError(f"{path}: is over {_MAX_JSON_BYTES >> 20} MiB, too much for a configuration")
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: holds a {type(values).__name__}, not an object")
    return values

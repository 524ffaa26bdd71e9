"""Names of classes between labels and a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from geosod.datasets.labels import ANY_CLASS, Labels
from geosod.errors import ConfigError, did_you_mean, one_line


def parse_renames(text: str) -> dict[str, str | None]:
    """``CLASS=NAME,…`` as a mapping, where ``CLASS=`` drops a class; or the mapping in a YAML or JSON file.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"rename-classes {text}: cannot be read as YAML: {one_line(error)}") from error
        if not isinstance(found, dict):
            raise ConfigError(f"rename-classes {text}: holds no mapping; write a line `class: name` for each class")
        return {str(key): None if name in (None, "") else str(name) for key, name in found.items()}
    names: dict[str, str | None] = {}
    for pair in text.split(","):
        old, separator, new = (part.strip() for part in pair.partition("="))
        if not separator or not old or old in names:
            raise ConfigError(f"rename-classes {text!r}: give CLASS=NAME,..., each class once, or a YAML file")
        names[old] = new or None
    return names


def rename_classes(labels: Labels, names: Mapping[str, str | None]) -> Labels:
    """Classes under other names. Classes that get one name become one; those that get None go, with their boxes.

    Args:
        labels: any labels.
        names: class → its new name, or None. Classes that are not in it keep their name.

    Raises:
        ConfigError: `names` holds a class that is not in the set.
    """
    if unknown := [name for name in names if name not in labels.classes]:
        raise ConfigError(
            f"rename-classes: no class {unknown[0]!r}; the labels have {', '.join(labels.classes) or 'none'}"
            f"{did_you_mean(unknown[0], labels.classes)}"
        )
    new = [names.get(name, name) for name in labels.classes]
    return _with_classes(labels, list(dict.fromkeys(name for name in new if name is not None)), new)


def order_classes(labels: Labels, classes: Sequence[str], *, where: str = "labels") -> Labels:
    """The same labels with the classes of a model, so that `Labels.labels` are indices into those.

    Args:
        labels: any labels.
        classes: those of the model.
        where: what the labels are called in an error, such as their file.

    Raises:
        ConfigError: a class that has boxes is not in `classes`.
    """
    used = {labels.classes[i] for i in np.unique(labels.labels) if i != ANY_CLASS}
    if missing := sorted(used - set(classes)):
        raise ConfigError(
            f"{where}: the class {missing[0]!r} is none of {', '.join(classes)}; --rename-classes "
            f"'{missing[0]}=NAME' gives it one of these names, '{missing[0]}=' leaves it out"
            f"{did_you_mean(missing[0], classes)}"
        )
    return _with_classes(labels, classes, [name if name in classes else None for name in labels.classes])


def _with_classes(labels: Labels, classes: Sequence[str], new: Sequence[str | None]) -> Labels:
    """With `classes` instead, where `new` is the new name of each class or None."""
    position = {name: i for i, name in enumerate(classes)}
    target = np.array([-1 if name is None else position[name] for name in new], np.int32)
    first = {name: i for i, name in reversed(list(enumerate(new))) if name is not None}
    ids = [labels.class_ids[first[name]] if name in first else 0 for name in classes]
    index = np.append(target, np.int32(ANY_CLASS))[labels.labels]
    kept = (index >= 0) | (labels.labels == ANY_CLASS)
    return labels[kept].with_columns(
        classes=classes,
        supercategories=[labels.supercategories[first[name]] if name in first else "" for name in classes],
        class_ids=ids if 0 not in ids else None,
        labels=index[kept],
    )

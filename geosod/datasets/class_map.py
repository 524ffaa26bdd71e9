"""Names of classes between labels and a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geosod.datasets.labels import ANY_CLASS, Labels
from geosod.errors import ConfigError


def rename_classes(labels: Labels, names: Mapping[str, str | None]) -> Labels:
    """Classes under other names. Classes that get one name become one; those that get None go, with their boxes.

    Args:
        labels: any labels.
        names: class → its new name, or None. Classes that are not in it keep their name.

    Raises:
        ConfigError: `names` holds a class that is not in the set.
    """
    if unknown := [name for name in names if name not in labels.classes]:
        raise ConfigError(f"class map: no class {unknown[0]!r}; the labels have {', '.join(labels.classes) or 'none'}")
    new = [names.get(name, name) for name in labels.classes]
    return _with_classes(labels, list(dict.fromkeys(name for name in new if name is not None)), new)


def order_classes(labels: Labels, classes: Sequence[str]) -> Labels:
    """The same labels with the classes of a model, so that `Labels.labels` are indices into those.

    Raises:
        ConfigError: a class that has boxes is not in `classes`.
    """
    used = {labels.classes[i] for i in np.unique(labels.labels) if i != ANY_CLASS}
    if missing := sorted(used - set(classes)):
        raise ConfigError(
            f"labels have the class {missing[0]!r}, which is none of {', '.join(classes)}; map it to one of these, or "
            "to nothing"
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

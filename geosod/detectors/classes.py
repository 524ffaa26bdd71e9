"""What is reported of each class of a model: from which score, under which name, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from geosod.errors import ConfigError, did_you_mean

#: A minimum score for all classes, or for single ones by name or id; the key "default" stands for all others.
Thresholds = float | Mapping[str, float] | Mapping[int, float] | Mapping[str | int, float]
#: The key of a mapping of thresholds that stands for all classes it does not name.
DEFAULT = "default"
#: Names of classes that an error lists.
_MAX_LISTED = 30


@dataclass(frozen=True, slots=True)
class ClassRules:
    """What is reported of the K classes of a model. Label ids are indices into the model card's classes.

    Attributes:
        model_names: (K,) names of the classes in the model's card.
        names: (K,) the name under which each is reported. Classes of one name become one class, with the label id of
            the first of them.
        reported: (K,) whether boxes of the class are reported.
        thresholds: (K,) minimum score of a box of the class, 0 to 1.
    """

    model_names: tuple[str, ...]
    names: tuple[str, ...]
    reported: tuple[bool, ...]
    thresholds: tuple[float, ...]

    @property
    def min_score(self) -> float:
        """The lowest threshold of a class that is reported."""
        return min(t for t, reported in zip(self.thresholds, self.reported, strict=True) if reported)

    @property
    def labels(self) -> tuple[int, ...]:
        """(K,) the label id that boxes of each class get; -1 where they are not reported."""
        first: dict[str, int] = {}
        ids = [first.setdefault(name, i) for i, name in enumerate(self.names)]
        return tuple(label if reported else -1 for label, reported in zip(ids, self.reported, strict=True))

    @property
    def plain(self) -> bool:
        """Whether every class is reported under its own label id, from one score."""
        return all(self.reported) and len(set(self.thresholds)) == 1 and len(set(self.names)) == len(self.names)

    def changed(
        self,
        *,
        threshold: Thresholds | None = None,
        classes: Iterable[str | int] | None = None,
        rename: Mapping[Any, str] | None = None,
    ) -> ClassRules:
        """These rules with other settings; None leaves one as it is. Classes are given by the model's name or by id.

        Args:
            threshold: one score for all classes; or a mapping, in which "default" stands for the classes that it does
                not name. Without a default those keep their threshold.
            classes: those to report.
            rename: class → the name under which it is reported.

        Raises:
            ConfigError: a class is unknown or given twice, none is left, or a threshold is not in 0 to 1.
        """
        new = self
        if threshold is not None:
            new = replace(new, thresholds=_thresholds(self.model_names, threshold, self.thresholds))
        if classes is not None:
            chosen = set(_indices(self.model_names, classes, "classes"))
            if not chosen:
                raise ConfigError("classes names no class; leave it out for all")
            new = replace(new, reported=tuple(i in chosen for i in range(len(self.names))))
        if rename is not None:
            given = dict(zip(_indices(self.model_names, rename, "rename_classes"), rename.values(), strict=True))
            names = (_new_name(given.get(i, name)) for i, name in enumerate(self.model_names))
            new = replace(new, names=tuple(names))
        return new

    def options(self) -> dict[str, Any]:
        """The settings that lead to these rules, as plain JSON values, the same for every way to write them."""
        reported = [i for i, one in enumerate(self.reported) if one]
        scores = {self.model_names[i]: self.thresholds[i] for i in reported}
        return {
            "threshold": self.min_score if len(set(scores.values())) == 1 else scores,
            "classes": None if all(self.reported) else list(scores),
            "rename_classes": {a: b for a, b in zip(self.model_names, self.names, strict=True) if a != b},
        }


def class_rules(names: Sequence[str], threshold: float, by_class: Mapping[str, float] | None = None) -> ClassRules:
    """The rules that report every class of a model under its own name.

    Args:
        names: of the classes.
        threshold: minimum score.
        by_class: that of single classes.
    """
    all_classes = tuple(names)
    thresholds = tuple(float((by_class or {}).get(name, threshold)) for name in all_classes)
    return ClassRules(all_classes, all_classes, (True,) * len(all_classes), thresholds)


def class_index(names: Sequence[str], key: str | int, setting: str) -> int:
    """The index of a class that is given by its name, or by its id where no class has that name.

    Raises:
        ConfigError: there is no such class.
    """
    if str(key) in names:
        return names.index(str(key))
    if not isinstance(key, bool) and str(key).isdecimal() and int(key) < len(names):
        return int(key)
    listed = ", ".join(names[:_MAX_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _MAX_LISTED else "")
    raise ConfigError(
        f"{setting} names {key}, but the model's classes are {listed}; give a name, or an id from 0 to {len(names) - 1}"
        f"{did_you_mean(key, names)}"
    )


def _indices(names: Sequence[str], keys: Iterable[str | int], setting: str) -> list[int]:
    found = [class_index(names, key, setting) for key in keys]
    if len(set(found)) < len(found):
        twice = next(i for i in found if found.count(i) > 1)
        raise ConfigError(f"{setting} names class {names[twice]} (id {twice}) twice; give it once")
    return found


def _thresholds(names: Sequence[str], given: Thresholds, before: tuple[float, ...]) -> tuple[float, ...]:
    if not isinstance(given, Mapping):
        return (_score(given, "threshold"),) * len(names)
    single = {key: value for key, value in given.items() if key != DEFAULT}
    places = _indices(names, single, "threshold")
    scores = list(before)
    if DEFAULT in given:
        scores = [_score(given[DEFAULT], "threshold")] * len(names)  # type: ignore[index]
    for place, value in zip(places, single.values(), strict=True):
        scores[place] = _score(value, f"threshold of class {names[place]},")
    return tuple(scores)


def _score(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ConfigError(f"{what} {value} must be from 0 to 1, such as 0.5")
    return float(value)


def _new_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"rename_classes gives a class the name {name!r}; give a text that is not empty")
    return name

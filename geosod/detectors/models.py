"""The kinds of model, and how each becomes a detector in the process that runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from geosod.detectors.adapters import ADAPTERS, check_adapter, import_function
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.classes import ClassRules
from geosod.errors import ConfigError, GeosodError, ModelError, one_line

if TYPE_CHECKING:
    from geosod.detectors.detector import Detector
    from geosod.results import Execution


class Model(Protocol):
    """Something a detector can be loaded from, as often as there are processes that detect."""

    @property
    def card(self) -> ModelCard:
        """What the model is made for."""
        ...

    @property
    def digest(self) -> str:
        """Changes when the model does; stands in every output made with it."""
        ...

    @property
    def rules(self) -> ClassRules:
        """What is reported of each class, unless a run asks for something else."""
        ...

    @property
    def any_size(self) -> bool:
        """Whether the network takes images of any size in multiples of 32, so that small scenes are not filled up."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of a model file that has just become a bundle."""
        ...

    def load(self, execution: Execution, *, rules: ClassRules) -> Detector:
        """The detector, ready to run as `execution` and `rules` say."""
        ...


@dataclass(frozen=True, slots=True)
class BundleModel:
    """A model from a folder.

    Attributes:
        bundle: the folder.
        notes: what a user should know of a file that has just become a bundle.
    """

    bundle: Bundle
    notes: tuple[str, ...] = ()

    @property
    def card(self) -> ModelCard:
        """The bundle's card."""
        return self.bundle.card

    @property
    def digest(self) -> str:
        """Of card and weights."""
        return self.bundle.digest

    @property
    def rules(self) -> ClassRules:
        """Those of the card."""
        return self.card.class_rules

    @property
    def any_size(self) -> bool:
        """Networks of the zoo do, unless their input has one size."""
        return self.card.adapter in ("zoo", "zoo-onnx") and self.card.input.size is None

    def load(self, execution: Execution, *, rules: ClassRules) -> Detector:
        """Read the weights, verify them once more, and make the network.

        Raises:
            ModelError: they are not the bundle's, or do not fit.
        """
        from geosod.detectors.detector import Detector

        name = self.card.adapter
        check_adapter(name, trust=self.bundle.trusted, model=self.card.name)
        load = import_function(ADAPTERS.get(name, name), what="adapter")
        adapter = called(name, load, self.bundle, execution, threshold=rules.min_score)
        return Detector(self.card, adapter, execution, rules=rules)


@dataclass(frozen=True, slots=True)
class StagedModel:
    """A detector, and a classifier that names what it finds.

    Attributes:
        detector: the first stage.
        classifier: the bundle of the second.
        notes: of both.
    """

    detector: Model
    classifier: Bundle
    notes: tuple[str, ...] = ()

    @property
    def card(self) -> ModelCard:
        """Where it looks is the detector's, what it says the classifier's."""
        from geosod.detectors.staged import staged_card

        return staged_card(self.detector.card, self.classifier.card)

    @property
    def digest(self) -> str:
        """Of both."""
        return hashlib.sha256(f"{self.detector.digest} {self.classifier.digest}".encode()).hexdigest()

    @property
    def rules(self) -> ClassRules:
        """Those of the classifier's card."""
        return self.card.class_rules

    @property
    def any_size(self) -> bool:
        """That of the detector."""
        return self.detector.any_size

    def load(self, execution: Execution, *, rules: ClassRules) -> Detector:
        """Load both.

        Raises:
            ModelError: one cannot be loaded.
        """
        from geosod.detectors.staged import Classifier, StagedDetector

        first = self.detector.load(execution, rules=self.detector.rules)
        card, bundle = self.classifier.card, self.classifier
        load = import_function(ADAPTERS.get(card.adapter, card.adapter), what="adapter")
        adapter = called(card.adapter, load, bundle, execution, threshold=0.0)
        return StagedDetector(first, Classifier(card, adapter, first.card.bands), rules=rules)


@dataclass(frozen=True, slots=True)
class FactoryModel:
    """A model that a user's function makes: ``module:function``, called once in every process that detects.

    Attributes:
        factory: ``module:function``; the function takes an `Execution` and returns a `Detector`.
        card: what the function's detector states.
        digest: of the card, the name and the module's source.
        rules: those of its detector.
        any_size: that of its detector's adapter.
        notes: none.
    """

    factory: str
    card: ModelCard
    digest: str
    rules: ClassRules
    any_size: bool = False
    notes: tuple[str, ...] = ()

    def load(self, execution: Execution, *, rules: ClassRules) -> Detector:
        """Call the function.

        Raises:
            ModelError: it does not return a detector with the card that it returned before.
        """
        made = made_by(self.factory, execution)
        if made.card != self.card:
            raise ModelError(f"model {self.factory!r}: returns another card in this process; is the code the same?")
        from geosod.detectors.detector import Detector

        return Detector(made.card, made.adapter, execution, rules=rules)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectModel:
    """A detector that a user loaded: it runs in this process alone, and as it was loaded.

    Attributes:
        detector: the detector.
        digest: of the card and the adapter's source; weights are not covered unless the card states their digest.
        notes: none.
    """

    detector: Detector
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def card(self) -> ModelCard:
        """The detector's card."""
        return self.detector.card

    @property
    def rules(self) -> ClassRules:
        """The detector's."""
        return self.detector.rules

    @property
    def any_size(self) -> bool:
        """That of its adapter."""
        return self.detector.any_size

    def load(self, execution: Execution, *, rules: ClassRules) -> Detector:  # noqa: ARG002
        """The detector itself; it runs as it was loaded, whatever `execution`."""
        return self.detector.with_rules(rules)

    def __reduce__(self) -> tuple[object, ...]:
        raise ConfigError(
            "a detector object runs in this process only; for Ray pass model='module:function' with trust=True, a "
            "function that makes the detector where it runs"
        )


def made_by(name: str, execution: Execution) -> Detector:
    """What a user's function ``module:function`` makes.

    Raises:
        ModelError: there is no such function, it raises an error, or it returns no detector.
    """
    from geosod.detectors.detector import Detector

    function = cast("Callable[[Execution], object]", import_function(name, what="model"))
    made = called(name, function, execution)
    if not isinstance(made, Detector):
        raise ModelError(f"model {name!r}: returned a {type(made).__name__}; it must return a geosod.Detector")
    return made


def called(name: str, function: Callable[..., object], *args: object, **options: object) -> Any:
    """What a user's function returns; what it raises, in one line that says where it comes from.

    Raises:
        ModelError: the function raised something else than an error of geosod or a lack of memory.
    """
    try:
        return function(*args, **options)
    except (GeosodError, MemoryError):
        raise
    except Exception as error:
        line = one_line(error)[:300]
        raise ModelError(f"model {name!r}: raised {type(error).__name__}: {line}") from error

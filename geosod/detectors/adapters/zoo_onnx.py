"""Networks of the zoo as ONNX graphs of their raw maps, as `geosod model export` writes them; decoded as the zoo does.

The card's `parameters` are those of the network under "network", and the precision of the graph, "fp32" or "int8",
under "precision".
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from geosod.detectors.adapters.zoo import Network, boxes_of, network
from geosod.detectors.bundle import Bundle
from geosod.detectors.card import ModelCard
from geosod.detectors.contract import RawBoxes
from geosod.detectors.graph_network import GraphNetwork
from geosod.errors import ModelError
from geosod.results import Execution


def load(bundle: Bundle, execution: Execution, *, threshold: float) -> ZooOnnxAdapter:
    """The graph of a bundle, and the decoding of the network that its card names.

    Raises:
        ModelError: the card names no network of the zoo, or the runtime refuses the graph.
        ConfigError: the runtime is not installed.
    """
    graph = GraphNetwork(bundle.read_weights(), execution, name=bundle.card.name)
    return ZooOnnxAdapter(bundle.card, network_of(bundle.card), graph, threshold=threshold)


def network_of(card: ModelCard) -> Network:
    """The network of a card, without weights.

    Raises:
        ModelError: the card names none, or one that refuses its parameters.
    """
    arguments = card.parameters.get("network")
    if not isinstance(arguments, dict):
        raise ModelError(f"model {card.name!r}: geosod:parameters has no network; export it again")
    made: Network = network(replace(card, parameters=arguments))
    return made


class ZooOnnxAdapter:
    """A graph, and the network whose decoding it needs."""

    any_size = True

    def __init__(self, card: ModelCard, decoder: Network, graph: GraphNetwork, *, threshold: float) -> None:
        self._card, self._decoder = card, decoder
        #: Images (B, C, H, W) float32 → the network's raw maps, float32.
        self.compute = graph
        self.takes_bytes = graph.takes_bytes
        #: Boxes below it are not returned.
        self.min_score = threshold

    def predict(self, images: Tensor) -> RawBoxes:
        """The boxes of images (B, C, H, W), float32 from 0 to 1 or bytes; H and W are multiples of 32."""
        size = images.shape[2:]
        return boxes_of(self._decoder, self.compute(images), self._card, size=size, threshold=self.min_score)

"""Builds a network without values for its weights, and measures it."""

from typing import NamedTuple

import keras

from segkit.errors import ConfigError
from segkit.layers.dtype_policy import dtype_policy
from segkit.models import DETECTORS
from segkit.models import build_model
from segkit.models.measure.costs import Costs
from segkit.models.measure.costs import measure_costs
from segkit.models.measure.graph import Graph
from segkit.models.measure.graph import read_graph
from segkit.models.measure.receptive_field import receptive_field


class Measures(NamedTuple):
    """What a network costs and sees.

    Attributes:
        graph: Its `Graph`.
        costs: Its `Costs`.
        field: Sides of its receptive field, see `receptive_field`, or `None`.
        unknown: Names of layers of which it is not known what they read.
    """

    graph: Graph
    costs: Costs
    field: tuple | None
    unknown: list


def measure_network(name, num_classes, input_shape, *, precision="float32", **options):
    """Returns the `Measures` of a network.

    Args:
        name: As for `build_model`.
        num_classes: As for `build_model`.
        input_shape: As for `build_model`, all sides known.
        precision: `float32`, `mixed_float16` or `mixed_bfloat16`.
        **options: As for `build_model`.

    Raises:
        ConfigError: As `build_model`, or the network is one that is not measured.
        ShapeError: As `build_model`.
    """
    if name in DETECTORS:
        raise ConfigError(f"{name} is not one graph from image to logits, and is not measured.")
    with dtype_policy(precision), keras.StatelessScope(initialize_variables=False):
        model = build_model(name, num_classes, input_shape, **options)
        graph = read_graph(model)
        return Measures(graph, measure_costs(model, graph), *receptive_field(graph))

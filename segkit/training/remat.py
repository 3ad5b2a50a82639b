"""Activations that are computed again in the backward pass instead of being kept for it.

Keras' own `RematScope` wraps single layers, so the input of each is kept all the same. With
TensorFlow it fails in graphs for layers that take `training`, fails in mixed precision, and draws
other random numbers the second time.
"""

import itertools
from typing import NamedTuple

import keras
from keras import tree

from segkit.errors import ConfigError
from segkit.layers.step_context import current_step
from segkit.layers.step_context import step_context


def rematerialized(model):
    """Returns a function that computes `model(inputs, training=True)` and keeps less of it.

    For the backward pass it keeps what the stages of the network hand to each other. The rest is
    computed again there, stage by stage, which takes the time of about one more forward pass.
    Random layers draw the same numbers again, and running statistics move once; for both, the
    function must be called in a `step_context`.

    The layers of a stage have names that agree up to the first underscore, such as
    `encoder0_conv1` and `encoder0_relu2`. A layer that is alone goes with the stage after it.

    Args:
        model: A functional `keras.Model` from a tensor, or a dict of them.

    Raises:
        ConfigError: If the network is not functional, calls a layer twice or another network, or
            has no stages.

    Reference:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv:1604.06174.
    """
    segments = _segments(model)

    def run(inputs):
        pairs = zip(tree.flatten(model.input), tree.flatten(inputs), strict=True)
        values = {id(symbol): value for symbol, value in pairs}
        for segment in segments:
            taken = [values[id(t)] for t in segment.taken]
            results = tree.flatten(_recomputed(segment.network)(*taken))
            values.update(zip(map(id, segment.given), results, strict=True))
        return tree.map_structure(lambda t: values[id(t)], model.output)

    return run


class _Segment(NamedTuple):
    """Successive layers of a network, as a network from what they take to what others need."""

    network: object
    taken: list
    given: list


def _recomputed(network):
    step = current_step()

    def call(*inputs):
        # The step's own context has been left when gradients are taken.
        with step_context(step.keys) as context:
            results = network(list(inputs), training=True)
        for path, value in context.updates.items():
            step.updates.setdefault(path, value)
        return results

    return keras.remat(call)


def _segments(model):
    segments, needed = [], {id(t) for t in tree.flatten(model.output)}
    for layers in reversed(_stages(model)):
        made = [t for layer in layers for t in tree.flatten(layer.output)]
        inside = {id(t) for t in made}
        used = {id(t): t for layer in layers for t in tree.flatten(layer.input)}
        taken = [t for key, t in used.items() if key not in inside]
        given = [t for t in made if id(t) in needed]
        segments.append(_Segment(keras.Model(taken, given), taken, given))
        needed.update(id(t) for t in taken)
    return segments[::-1]


def _stages(model):
    """List of stages, each a list of layers, in an order in which they can be computed."""
    stages, layers = [], []
    for _, group in itertools.groupby(_in_order(model), lambda layer: layer.name.partition("_")[0]):
        group = list(group)
        layers += group
        if len(group) > 1:
            stages.append(layers)
            layers = []
    if len(stages) < 2:
        raise ConfigError(
            f"train.remat cuts a network between its stages, got {len(stages)} of them in "
            f"{model.name}. Name the layers of a stage alike up to an underscore, as in "
            "encoder0_conv1, or set train.remat=false."
        )
    return [*stages, layers] if layers else stages


def _in_order(model):
    """Layers after the input, depth first: each behind all it takes, a chain in a row."""
    layers = getattr(model, "operations", [])
    maker = {id(t): layer for layer in layers for t in tree.flatten(layer.output)}

    def makers(tensors):
        found = [maker.get(id(t)) for t in tree.flatten(tensors)]
        if not found or None in found:
            raise ConfigError(
                f"train.remat needs a functional network that calls each layer once and no other "
                f"network, and {model.name} is none. Set train.remat=false."
            )
        return found

    order = dict.fromkeys(makers(model.inputs))
    inputs, waiting = len(order), makers(model.output)
    while waiting:
        missing = [layer for layer in makers(waiting[-1].input) if layer not in order]
        if missing:
            waiting += missing[::-1]
        else:
            order[waiting.pop()] = None
    return list(order)[inputs:]

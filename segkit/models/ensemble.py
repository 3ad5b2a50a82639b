"""One network out of several trained ones: the mean of their probabilities, or a stack of them."""

import keras
from keras import layers

from segkit.errors import ShapeError
from segkit.layers.mean_probabilities import MeanProbabilities


def average(members, weights=None):
    """Builds the network that gives the mean of its members' class probabilities.

    Args:
        members: List of `keras.Model` from `(batch, *spatial, channels)` to logits; they may be
            different networks. Each gets the name `member0`, `member1`, ...
        weights: One number above 0 per member, scaled to a sum of 1; `None`: all equal.

    Returns:
        `keras.Model` with the members as sub-models, from `image` to float32 `logits`, see
        `MeanProbabilities`.

    Raises:
        ShapeError: If the members do not fit each other.
    """
    inputs, logits = _run(members)
    weights = [1.0] * len(members) if weights is None else weights
    return keras.Model(inputs, MeanProbabilities(weights, name="logits")(logits), name="ensemble")


def stack(bases, kernel, bias):
    """Builds the network that joins base models by a logistic model of each voxel.

        logits = concatenation over bases b of log p_b * kernel + bias

    where `p_b` is the mean of the probabilities of the members of base `b`.

    Args:
        bases: List of base models, each a list of members as for `average`; `member0` is the
            first member of the first base, and so on.
        kernel: Shape `(bases * classes, classes)`.
        bias: Shape `(classes,)`.

    Returns:
        `keras.Model` from `image` to float32 `logits`.

    Raises:
        ShapeError: If the members do not fit each other.
    """
    inputs, logits = _run([member for base in bases for member in base])
    features = []
    for number, base in enumerate(bases):
        own, logits = logits[: len(base)], logits[len(base) :]
        features.append(MeanProbabilities([1.0] * len(base), name=f"base{number}")(own))
    x = layers.Concatenate(name="bases", dtype="float32")(features)
    convolution = layers.Conv2D if len(x.shape) == 4 else layers.Conv3D
    combine = convolution(len(bias), 1, dtype="float32", name="logits")
    model = keras.Model(inputs, combine(x), name="ensemble")
    combine.set_weights([kernel.reshape(combine.kernel.shape), bias])
    return model


def _run(members):
    """Returns the common inputs and the logits of each member."""
    shapes = [(_shapes(member.input), _shapes(member.output)) for member in members]
    for number, (taken, given) in enumerate(shapes):
        if (taken, given) != shapes[0]:
            raise ShapeError(
                f"member 0 goes from {shapes[0][0]} to {shapes[0][1]}, member {number} from "
                f"{taken} to {given} (batch, *patch, channels or classes). Train all members with "
                "the same data.patch_size, channels and classes."
            )
    for number, member in enumerate(members):
        member.name = f"member{number}"  # the layers of a model need different names
    taken = shapes[0][0]
    if isinstance(taken, dict):
        inputs = {name: keras.Input(shape[1:], name=name) for name, shape in taken.items()}
    else:
        inputs = keras.Input(taken[1:], name="image")
    outputs = [member(inputs) for member in members]
    return inputs, [out["logits"] if isinstance(out, dict) else out for out in outputs]


def _shapes(tensors):
    """The shape of a tensor, or a dict of those of several."""
    if isinstance(tensors, dict):
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return tuple(tensors.shape)

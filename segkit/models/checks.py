"""Checks on what networks are asked to be built for, and on networks of the user's own."""

import math

from segkit.errors import ConfigError
from segkit.errors import ShapeError

AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}


def check_input(model, num_classes, input_shape, *, rank, multiple):
    """Checks the number of classes, and that the input can be shrunk as often as needed.

    Args:
        model: Name of the network, for the messages.
        num_classes: Number of classes, background included.
        input_shape: `(*spatial, channels)`; sides may be `None`.
        rank: Number of spatial axes that the network works on.
        multiple: Every fixed side must be a multiple of this; one number, or one per axis.

    Raises:
        ConfigError: If there are fewer than two classes.
        ShapeError: If the shape has another rank, no channels, or a side that does not fit.
    """
    check_classes(model, num_classes)
    check_sides(model, input_shape, rank=rank, multiple=multiple)


def check_classes(model, num_classes):
    """Checks that there are two classes or more, as `check_input` does."""
    if num_classes < 2:
        raise ConfigError(
            f"{model} needs at least 2 classes, got {num_classes}. Count the background as one."
        )


def check_sides(model, input_shape, *, rank, multiple, known=False):
    """Checks the shape of an image, as `check_input` does.

    Args:
        model: Name of the network, for the messages.
        input_shape: As in `check_input`.
        rank: As in `check_input`.
        multiple: As in `check_input`.
        known: Whether no side may be `None`.

    Raises:
        ShapeError: As `check_input`, or a side is `None` that must be known.
    """
    if len(input_shape) != rank + 1 or not input_shape[-1]:
        raise ShapeError(
            f"{model} is {rank}-D and needs input_shape ({', '.join(AXES[rank])}, channels), "
            f"got {input_shape}. Use a {rank}-D patch, or a network for {5 - rank}-D."
        )
    if known and None in input_shape:
        raise ShapeError(
            f"{model} is built for one size of image and needs all sides, got {input_shape}. Use a "
            "patch without None."
        )
    factors = (multiple,) * rank if isinstance(multiple, int) else multiple
    for axis, side, factor in zip(AXES[rank], input_shape, factors, strict=False):
        if side is not None and (side < 1 or side % factor):
            padded = max(1, -(-side // factor)) * factor
            raise ShapeError(
                f"{model} needs a {axis} that is a multiple of {factor}, got {side}. "
                f"Pad it to {padded}, or pass None."
            )


def check_range(model, option, value, *, low, high=math.inf):
    """Checks that `low <= value < high`.

    Args:
        model: Name of the network, for the message.
        option: Name of the option, for the message.
        value: Its value.
        low: Smallest value allowed.
        high: Smallest value that is too large.

    Raises:
        ConfigError: If it is outside.
    """
    if not low <= value < high:
        below = "" if high == math.inf else f" and below {high}"
        raise ConfigError(f"{model} needs {option} to be at least {low}{below}, got {value}.")


def check_network(name, model, num_classes, input_shape):
    """Checks that a network of the user's own is one that can be trained and saved.

    Args:
        name: Name of the network, for the messages.
        model: What the user's function returned.
        num_classes: As in `check_input`.
        input_shape: As in `check_input`.

    Raises:
        ConfigError: If it is no `keras.Model` from inputs to outputs, or one that could not be
            read back from a file.
        ShapeError: If its output, of several the first, is not float32 logits of `num_classes`
            channels on the grid of the input.
    """
    if not getattr(model, "outputs", None):
        raise ConfigError(
            f"model {name!r} must return keras.Model(inputs, outputs), got {type(model).__name__}."
        )
    output = model.output
    if isinstance(output, dict):
        output = next(iter(output.values()))
    shape, expected = getattr(output, "shape", None), (None, *input_shape[:-1], num_classes)
    if shape != expected:
        raise ShapeError(
            f"model {name!r} must give logits of shape {expected} (batch, *patch, classes), got "
            f"{shape}."
        )
    if output.dtype != "float32":
        raise ShapeError(
            f"model {name!r} must give float32 logits, got {output.dtype}. Build its last layer "
            'with dtype="float32".'
        )
    _check_loadable(name, model)


def _check_loadable(name, model):
    import keras

    try:
        description = keras.saving.serialize_keras_object(model)
        with keras.StatelessScope(initialize_variables=False):
            keras.saving.deserialize_keras_object(description, safe_mode=True)
    except (TypeError, ValueError, NotImplementedError) as error:
        # Keras raises the last for a layer with arguments but without `get_config`.
        text = " ".join(str(error).rpartition("Exception encountered: ")[2].split())
        raise ConfigError(
            f"model {name!r} could not be read back from a file: {text.split('. ')[0]}. "
            "docs/extending.md says what its layers must have."
        ) from None

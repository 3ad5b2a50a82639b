"""Images from a trained generator."""

from keras import ops

from segkit.layers.per_example import normal
from segkit.layers.step_context import step_context


def make_images(model, given, keys):
    """Returns what a generator makes.

    Args:
        model: `keras.Model` from a dict of inputs to float32 images, see `segkit.models.gan`.
        given: Dict of its inputs but for `noise`, `(batch, ...)` each; what it does not take is
            left out.
        keys: Keys of the random numbers of each example, uint32 `(batch, 2)`: the same ones give
            the same image.

    Returns:
        float32, shape `(batch, *spatial, channels)`.
    """
    taken = {name: value for name, value in given.items() if name in model.input}
    inputs = {name: ops.convert_to_tensor(value) for name, value in taken.items()}
    with step_context(keys):
        if "noise" in model.input:
            size = model.input["noise"].shape[1:]
            inputs["noise"] = normal("noise", None, keys.shape[0], tuple(size))
        return model(inputs, training=False)

"""The mean of the class probabilities of several networks, as logits."""

import keras
from keras import ops

FLOOR = 1e-7


@keras.saving.register_keras_serializable(package="segkit")
class MeanProbabilities(keras.layers.Layer):
    """Gives `log(max(sum_m w_m softmax(logits_m), 1e-7))`, weights scaled to a sum of 1.

    A softmax of the result gives the mean probabilities back, within 1e-7 per class. The floor
    keeps every logit finite, so that averages over tiles and flips stay so too.

    Input is a list of logits, each `(batch, *spatial, classes)`; the output has that shape and is
    float32 whatever the precision of the networks.
    """

    def __init__(self, weights, **kwargs):
        """Makes the layer.

        Args:
            weights: One number above 0 per network.
            **kwargs: As for every layer.
        """
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.weights_of_members = [float(weight) for weight in weights]

    def call(self, inputs):
        """Returns the logits of the mean; `inputs` is a list of logits."""
        total = sum(self.weights_of_members)
        mean = sum(
            weight / total * ops.softmax(logits, axis=-1)
            for weight, logits in zip(self.weights_of_members, inputs, strict=True)
        )
        return ops.log(ops.maximum(mean, FLOOR))

    def compute_output_shape(self, input_shape):
        """Returns the shape of one of the inputs."""
        return input_shape[0]

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "weights": self.weights_of_members}

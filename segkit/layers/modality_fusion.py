"""Features of several modalities made one, by attention over the modalities that are there."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class ModalityFusion(keras.layers.Layer):
    """Gives the mean of the modalities' features, weighted at each voxel by a learned score.

        s_m = <k_m, x_m> + b_m
        w   = softmax of s over the modalities that are there
        y   = sum over m of w_m x_m

    A missing modality has weight 0, exactly: whatever its encoder makes of an image of zeros has
    no part in the result. Where none is there, all weigh the same. The softmax runs in float32.

    Reference:
        The mean over the modalities that are there: Havaei et al., "HeMIS", MICCAI 2016,
        arXiv:1607.05194; there unweighted and joined with the variance.
    """

    def build(self, input_shape):
        """Creates one score per modality: `kernel` `(modalities, channels)` and `bias`."""
        *features, _ = input_shape
        shape = (len(features), features[0][-1])
        self.kernel = self.add_weight(shape, "glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape[:1], "zeros", name="bias")

    def call(self, inputs):
        """Returns the fused features.

        Args:
            inputs: List of the features of each modality, all `(batch, *spatial, channels)`,
                followed by `ModalityPresence` `(batch, modalities)`.
        """
        *features, there = inputs
        features = ops.stack(features, axis=-2)
        scores = ops.cast(ops.sum(features * self.kernel, axis=-1) + self.bias, "float32")
        there = ops.reshape(there, (-1, *(1 for _ in scores.shape[1:-1]), scores.shape[-1]))
        # Not minus infinity: where no modality is there, all weigh the same instead of NaN.
        weights = ops.softmax(ops.where(there > 0, scores, -1e9), axis=-1)
        weights = ops.cast(weights, self.compute_dtype)
        return ops.sum(features * weights[..., None], axis=-2)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the features of one modality."""
        return input_shape[0]

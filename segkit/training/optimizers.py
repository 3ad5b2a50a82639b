"""Optimizers by name, each taking a learning-rate schedule."""

import keras

from segkit.tables import load
from segkit.training import OPTIMIZERS
from segkit.training import SCHEDULES


def build_optimizer(train, *, num_replicas):
    """Builds the optimizer that a `TrainConfig` describes.

    The gradients it is given must already be summed over replicas and divided by
    `num_replicas`: Keras sums them once more when it applies them. Hence the clipping
    threshold is divided too, and what is clipped is the gradient of the global batch.

    Args:
        train: A `segkit.config.TrainConfig`.
        num_replicas: Number of replicas in sync.

    Returns:
        A `keras.Optimizer`, wrapped for loss scaling when `precision` is `mixed_float16`.

    Raises:
        ConfigError: Unknown optimizer or schedule.
    """
    schedule = load(SCHEDULES, train.schedule, "schedule")
    rate = schedule(train.learning_rate, train.epochs * train.steps_per_epoch)
    optimizer = load(OPTIMIZERS, train.optimizer, "optimizer")(
        rate,
        weight_decay=train.weight_decay or None,
        global_clipnorm=train.clip_norm / num_replicas if train.clip_norm else None,
    )
    if train.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def adam(learning_rate, **options):
    """Returns Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980) with epsilon 1e-7."""
    return keras.optimizers.Adam(learning_rate, **options)


def adamw(learning_rate, *, weight_decay, **options):
    """Returns AdamW (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101)."""
    # Keras takes no None here, and decays by 0.004 where nothing is given.
    return keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay or 0.0, **options)


def sgd(learning_rate, **options):
    """Returns SGD with Nesterov momentum 0.99, nnU-Net's choice."""
    return keras.optimizers.SGD(learning_rate, momentum=0.99, nesterov=True, **options)

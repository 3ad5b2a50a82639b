"""Optimizers by name: functions that return a Keras optimizer.

All take `shared`, the keyword arguments that every Keras optimizer understands: learning rate,
weight decay and clipping. Their own options have Keras' names, and Keras' defaults where nothing
else is said.

Weight decay is decoupled for all of them (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101):
`w -= learning_rate * weight_decay * w` before each step, for every weight, biases and scales of
normalizations included. TensorFlow Addons decayed by `weight_decay * w`, not times the learning
rate: at a constant rate its weights are met with its `weight_decay / learning_rate`.
"""

import keras

from segkit.tables import load
from segkit.tables import named_options
from segkit.training import OPTIMIZERS
from segkit.training.checks import check_positive
from segkit.training.checks import check_share

WHAT = "train.optimizer"


def build_optimizer(train):
    """Builds the optimizer that a `TrainConfig` describes.

    Its `learning_rate` is a variable, at `train.learning_rate` until one assigns to it:
    `optimizer.learning_rate = 0.1`.

    It takes gradients that are summed over all replicas already, and clips those of the global
    batch. Keras would sum them itself as it applies them, which cannot tell an overflow of
    float16 on one replica from one on all, and could not be joined with other sums.

    Args:
        train: A `segkit.config.TrainConfig`.

    Returns:
        A `keras.Optimizer`, wrapped for loss scaling when `precision` is `mixed_float16`.

    Raises:
        ConfigError: Unknown optimizer or option, wrong type or value out of range.
    """
    name, options = named_options(train.optimizer, WHAT, OPTIMIZERS)
    shared = {
        "learning_rate": float(train.learning_rate),
        "weight_decay": train.weight_decay or None,
        "global_clipnorm": train.clip_norm or None,
    }
    optimizer = load(OPTIMIZERS, name, WHAT)(shared, **options)
    optimizer._all_reduce_sum_gradients = list  # Keras' own method would sum once more
    if train.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def sgd(shared, *, momentum: float = 0.99, nesterov: bool = True):
    """Returns SGD with momentum; the defaults are nnU-Net's, Keras has 0 and no Nesterov.

    `v = momentum * v - learning_rate * g`, then `w += v`, or with Nesterov's momentum
    `w += momentum * v - learning_rate * g`.

    Reference: Bengio et al., "Advances in optimizing recurrent networks", ICASSP 2013,
    arXiv:1212.0901, section 3.5.
    """
    check_share(WHAT, momentum=momentum)
    return keras.optimizers.SGD(momentum=float(momentum), nesterov=nesterov, **shared)


def adam(
    shared,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
):
    """Returns Adam, which with weight decay is AdamW: both names stand for this function.

    Reference: Kingma and Ba, ICLR 2015, arXiv:1412.6980. Departure: `epsilon` is the paper's
    epsilon hat, of the last paragraph before section 2.1. `amsgrad` divides by the root of the
    largest second moment so far: Reddi et al., ICLR 2018, arXiv:1904.09237, algorithm 2, there
    without bias correction.
    """
    check_share(WHAT, beta_1=beta_1, beta_2=beta_2)
    check_positive(WHAT, epsilon=epsilon)
    return keras.optimizers.Adam(
        beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, amsgrad=amsgrad, **shared
    )


def adagrad(shared, *, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7):
    """Returns Adagrad.

    `w -= learning_rate * g / sqrt(initial_accumulator_value + sum g^2 + epsilon)`, the sum over
    all steps so far.

    Reference: Duchi et al., JMLR 2011, figure 1, which adds one constant outside the root.
    """
    check_positive(WHAT, initial_accumulator_value=initial_accumulator_value, epsilon=epsilon)
    return keras.optimizers.Adagrad(
        initial_accumulator_value=initial_accumulator_value, epsilon=epsilon, **shared
    )


def rmsprop(shared, *, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7):
    """Returns RMSprop, with plain (not Nesterov) momentum.

    `v = rho * v + (1 - rho) * g^2`, `m = momentum * m + learning_rate * g / sqrt(v + epsilon)`,
    `w -= m`.

    Reference: Hinton, "Neural Networks for Machine Learning", Coursera 2012, lecture 6e.
    """
    check_share(WHAT, rho=rho, momentum=momentum)
    check_positive(WHAT, epsilon=epsilon)
    return keras.optimizers.RMSprop(rho=rho, momentum=momentum, epsilon=epsilon, **shared)


def lamb(shared, *, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-6):
    """Returns LAMB: Adam's update of each variable, scaled to the norm of its weights.

    `epsilon` is that of the authors' code and of TensorFlow Addons; Keras has 1e-7.

    Reference: You et al., ICLR 2020, arXiv:1904.00962, algorithm 2, with the identity for phi.
    Departure: the paper adds `weight_decay * w` to the update before it is scaled, so the trust
    ratio scales the decay too; here it is decoupled, as for all optimizers. Without weight decay
    the two agree; on a problem of seven weights in [-1, 1], at learning rate 0.01 and weight
    decay 0.1, they are 0.0036 apart after five steps that moved the weights by 0.033.
    """
    check_share(WHAT, beta_1=beta_1, beta_2=beta_2)
    check_positive(WHAT, epsilon=epsilon)
    return keras.optimizers.Lamb(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **shared)

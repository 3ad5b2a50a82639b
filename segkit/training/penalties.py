"""L1 and L2 penalties on kernels, as a value for the loss and as a gradient.

The gradient is separate because the penalty depends on the weights only: it is the same on every
replica, and must be added once, after the gradients of the loss were summed over replicas.

Kernels are the variables of rank 2 or more; biases and the scales of normalizations are spared.
"""

from keras import ops


def penalty(variables, *, l1, l2):
    """Returns `l1 * sum |w| + l2 * sum w^2` over all weights `w` of all kernels.

    Unlike `train.weight_decay`, a penalty goes through the optimizer: momentum and adaptive
    scaling act on it.

    Args:
        variables: Trainable variables of a model.
        l1: Weight of the absolute values, 0 or more.
        l2: Weight of the squares, 0 or more.

    Returns:
        float32 scalar; 0 when there is no kernel.
    """
    kernels = [ops.cast(v, "float32") for v in variables if _is_kernel(v)]
    terms = (l1 * ops.sum(ops.abs(w)) + l2 * ops.sum(ops.square(w)) for w in kernels)
    return sum(terms, ops.zeros(()))


def penalty_gradients(variables, *, l1, l2):
    """Returns the gradient of `penalty`, `l1 * sign(w) + 2 * l2 * w`, for each variable.

    Args:
        variables: As in `penalty`.
        l1: As in `penalty`; the gradient of `|w|` at 0 is 0.
        l2: As in `penalty`.

    Returns:
        List of tensors, each of the shape and dtype of its variable: zeros unless a kernel.
    """
    return [
        l1 * ops.sign(v) + 2 * l2 * v if _is_kernel(v) else ops.zeros_like(v) for v in variables
    ]


def _is_kernel(variable):
    return len(variable.shape) >= 2

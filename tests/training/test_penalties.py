import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.training.penalties import penalty
from segkit.training.penalties import penalty_gradients


def variables():
    kernel = keras.Variable(np.float32([[1.0, -2.0], [0.0, 0.5]]))
    return [kernel, keras.Variable(np.float32([3.0, -3.0]))]  # a kernel and a bias


@pytest.mark.parametrize(
    ("l1", "l2", "expected"),
    # sum |w| = 3.5 and sum w^2 = 5.25; the bias does not count.
    [(1.0, 0.0, 3.5), (0.0, 1.0, 5.25), (0.1, 0.01, 0.4025), (0.0, 0.0, 0.0)],
)
def test_the_penalty_sums_over_kernels_only(l1, l2, expected):
    np.testing.assert_allclose(penalty(variables(), l1=l1, l2=l2), expected, rtol=1e-6)


def test_without_a_kernel_there_is_no_penalty():
    assert float(penalty(variables()[1:], l1=1.0, l2=1.0)) == 0.0


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.3), (0.2, 0.05)])
def test_the_gradient_is_that_of_the_penalty(task, l1, l2):
    model, _ = task.build()
    weights = model.trainable_variables
    with tf.GradientTape() as tape:
        value = penalty(weights, l1=l1, l2=l2)
    expected = tape.gradient(value, [v.value for v in weights])
    found = penalty_gradients(weights, l1=l1, l2=l2)
    kinds = {True: 0, False: 0}
    for variable, gradient, tapes in zip(weights, found, expected, strict=True):
        kinds[tapes is None] += 1
        # No path leads from the penalty to a bias or to a scale of a normalization.
        tapes = np.zeros(variable.shape) if tapes is None else tapes
        assert gradient.shape == variable.shape
        np.testing.assert_allclose(gradient, tapes, rtol=1e-6)
    assert min(kinds.values()) > 0


def test_each_replica_gets_the_same_gradient(task):
    strategy = task.strategy(2)
    with strategy.scope():
        kernel = keras.Variable(np.float32([[1.0, -2.0]]))
    results = strategy.run(lambda: penalty_gradients([kernel], l1=0.5, l2=0.25)[0])
    # 0.5 * sign(w) + 0.5 * w.
    for gradient in strategy.experimental_local_results(results):
        np.testing.assert_allclose(gradient, [[1.0, -1.5]])

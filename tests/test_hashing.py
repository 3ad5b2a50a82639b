"""The hash against a slow version in Python's unbounded integers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.hashing import pcg4d

WORD = 1 << 32


def slow_pcg4d(x, y, z, w):
    def stir(x, y, z, w):
        x = (x + y * w) % WORD
        y = (y + z * x) % WORD
        z = (z + x * y) % WORD
        w = (w + y * z) % WORD
        return x, y, z, w

    words = stir(*((v * 1664525 + 1013904223) % WORD for v in (x, y, z, w)))
    return stir(*(v ^ (v >> 16) for v in words))


@pytest.mark.parametrize("bits", [tf.bitwise, keras.ops], ids=["tensorflow", "keras"])
@pytest.mark.parametrize("xla", [False, True])
def test_the_hash_agrees_with_the_slow_version(bits, xla):
    rng = np.random.default_rng(0)
    words = np.concatenate(
        [rng.integers(0, WORD, (100, 4)), np.zeros((1, 4), int), np.full((1, 4), WORD - 1)]
    )
    compiled = tf.function(lambda *words: pcg4d(bits, *words), jit_compile=xla)
    found = compiled(*(tf.constant(column, tf.uint32) for column in words.T))
    expected = [slow_pcg4d(*map(int, row)) for row in words]
    np.testing.assert_array_equal(np.stack(found, axis=1), expected)

"""The precision in which layers compute, while they are being built."""

import contextlib

import keras


@contextlib.contextmanager
def dtype_policy(policy):
    """Layers that are built within compute in this precision; what held before holds after.

    Args:
        policy: `float32`, `mixed_float16`, `mixed_bfloat16`, or a `keras.DTypePolicy`.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

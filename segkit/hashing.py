"""A hash of integers as a source of random numbers: the same on every backend and device."""


def pcg4d(bits, *words):
    """Hashes four uint32 tensors that broadcast to one shape; returns four of that shape.

    Args:
        bits: Where `bitwise_xor` and `right_shift` are: `tf.bitwise` or `keras.ops`.
        *words: The four tensors.

    Reference:
        Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020,
        https://jcgt.org/published/0009/03/02/ (pcg4d).
    """
    words = _stir(*(word * 1664525 + 1013904223 for word in words))
    return _stir(*(bits.bitwise_xor(word, bits.right_shift(word, 16)) for word in words))


def _stir(x, y, z, w):
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    return x, y, z, w

"""Stateless random numbers that are the same in eager code, graphs, XLA and `tf.data`.

`tf.random.stateless_*` gives one stream from its kernels and another one under XLA, so the
numbers come from integer operations: `segkit.hashing.pcg4d`, a hash of four 32-bit words.
"""

import math

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.hashing import pcg4d

_UNIT = 2.0**-24


def make_keys(seed, index):
    """Returns the key of an example's random numbers.

    Args:
        seed: Seed of the run, int64; scalar or the shape of `index`.
        index: Number of the example in the stream, int64, any shape.

    Returns:
        uint32, shape `(*index.shape, 2)`: 64 bits that two pairs `(seed, index)` hardly share.
    """
    index = tf.cast(index, tf.int64)
    seed = tf.broadcast_to(tf.cast(seed, tf.int64), tf.shape(index))
    seed, index = tf.bitcast(seed, tf.uint32), tf.bitcast(index, tf.uint32)
    words = pcg4d(tf.bitwise, index[..., 0], index[..., 1], seed[..., 0], seed[..., 1])
    return tf.stack(words[:2], axis=-1)


def uniform(keys, salt, count):
    """Draws numbers uniform in [0, 1).

    Args:
        keys: uint32, shape `(batch, 2)`, from `make_keys`.
        salt: Int from 0, or a list of them; each gives an independent sequence.
        count: Numbers per key and salt.

    Returns:
        float32, shape `(batch, count)`, or `(batch, len(salt), count)`: multiples of 2**-24.
    """
    return tf.concat(_units(keys, salt, count), axis=-1)[..., :count]


def normal(keys, salt, count):
    """Draws standard normal numbers, by the Box-Muller transform. Arguments as `uniform`."""
    a, b, c, d = _units(keys, salt, count)
    numbers = []
    for first, second in ((a, b), (c, d)):
        radius = tf.sqrt(-2.0 * tf.math.log(first + _UNIT / 2))
        angle = 2.0 * math.pi * second
        numbers += [radius * tf.cos(angle), radius * tf.sin(angle)]
    return tf.concat(numbers, axis=-1)[..., :count]


class Draws:
    """The random numbers of one transform for a batch: named, so that they can be shown.

    Each call takes the next of the transform's numbers, so a draw depends on the seed, the
    example, the transform's place in the policy, the draws before it and the budget.

    Attributes:
        batch: Number of examples.
        log: Dict `"transform.name" -> tensor (batch, ...)` of all that was drawn by name.
    """

    def __init__(self, keys, salt, budget, *, scope="", log=None, batch_keys=None, numbers=None):
        """Prepares up to `budget` numbers per example.

        Args:
            keys: uint32, shape `(batch, 2)`: one key per example.
            salt: Number of the transform in its policy.
            budget: Largest number of scalars that the transform draws by name.
            scope: Prefix of the names in `log`.
            log: Dict to write to, or `None`.
            batch_keys: As `keys`, equal for all examples of a global batch.
            numbers: The result of `uniform(keys, 2 * salt, budget)`, where it was drawn together
                with those of other transforms, which is faster.
        """
        self.batch = keys.shape[0]
        self.log = {} if log is None else log
        self._keys, self._salt, self._scope = keys, 2 * salt, scope
        self._batch_keys, self._budget, self._used = batch_keys, budget, 0
        self._numbers = uniform(keys, self._salt, budget) if numbers is None else numbers

    def batchwise(self):
        """Returns draws that all examples of a global batch share."""
        salt = self._salt // 2
        return Draws(self._batch_keys, salt, self._budget, scope=self._scope, log=self.log)

    def uniform(self, name, low, high, *shape):
        """Draws from [low, high): float32 `(batch, *shape)`. The limits broadcast to that."""
        return self.note(name, low + (high - low) * self._next(shape))

    def around_one(self, name, limits, *shape):
        """Draws a factor: half of them below 1 and half above, uniform on either side.

        Where `limits` = (low, high) do not lie on either side of 1, it is uniform between them.
        After nnU-Net's `BGContrast`. Returns float32 `(batch, *shape)`.
        """
        low, high = limits
        if not low < 1 < high:
            return self.uniform(name, low, high, *shape)
        number = 2.0 * self._next(shape)
        below, above = low + (1.0 - low) * number, 1.0 + (high - 1.0) * (number - 1.0)
        return self.note(name, tf.where(number < 1.0, below, above))

    def chance(self, name, probability, *shape):
        """Returns bool `(batch, *shape)`, true with `probability`."""
        return self.note(name, self._next(shape) < probability)

    def normals(self, *shape):
        """Draws standard normal numbers, float32 `(batch, *shape)`; not logged, no budget."""
        count = math.prod(shape)
        return tf.reshape(normal(self._keys, self._salt + 1, count), (self.batch, *shape))

    def note(self, name, value):
        """Writes a value `(batch, ...)` to the log, and returns it."""
        self.log[f"{self._scope}.{name}"] = value
        return value

    def _next(self, shape):
        start, self._used = self._used, self._used + math.prod(shape)
        if self._used > self._budget:
            raise ConfigError(
                f"augment: {self._scope} draws more than {self._budget} numbers per example."
            )
        return tf.reshape(self._numbers[:, start : self._used], (self.batch, *shape))


def _units(keys, salt, count):
    """Four float32 tensors of `ceil(count / 4)` numbers per key and salt, uniform in [0, 1)."""
    salt = tf.constant(salt, tf.uint32)
    counter = tf.cast(tf.range(-(-count // 4)), tf.uint32)
    keys = tf.reshape(keys, (-1, *[1] * salt.shape.rank, 2))
    words = pcg4d(tf.bitwise, counter, salt[..., None], keys[..., :1], keys[..., 1:])
    top = (tf.bitwise.right_shift(word, tf.constant(8, tf.uint32)) for word in words)
    return [tf.cast(tf.cast(word, tf.int32), tf.float32) * _UNIT for word in top]

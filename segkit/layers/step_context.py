"""What a training step tells the layers: which examples they see; and what they tell it back.

Random layers draw by example, and statistics are handed to the step instead of being assigned, so
neither depends on how a global batch is split over replicas or accumulated. Outside of a step of
`segkit.training` the layers behave as Keras' own.
"""

import contextlib
import contextvars
from typing import NamedTuple

_CURRENT = contextvars.ContextVar("segkit_step", default=None)


class StepContext(NamedTuple):
    """The step that is being traced.

    Attributes:
        keys: uint32, shape `(batch, 2)`: one key of random numbers per example.
        updates: Dict path of a variable -> value that a layer would assign to it. The
            step assigns the mean over all parts of the global batch.
    """

    keys: object
    updates: dict


@contextlib.contextmanager
def step_context(keys):
    """Makes layers called within draw from `keys`; yields their `StepContext`."""
    context = StepContext(keys, {})
    token = _CURRENT.set(context)
    try:
        yield context
    finally:
        _CURRENT.reset(token)


def current_step():
    """Returns the `StepContext` of the step being traced, or `None` outside of one."""
    return _CURRENT.get()

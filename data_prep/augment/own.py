"""Checks on transforms of the user's own, which the types of their options do not make."""

import tensorflow as tf

from data_prep.augment.geometry import Motion
from segkit.errors import ConfigError


def check_change(step, change, space):
    """Checks what a transform of the user's own has returned, by applying it to zeros.

    Args:
        step: Its `policy.Step`.
        change: What it returned.
        space: The `Space` that it was given.

    Raises:
        ConfigError: It is not what a transform of the step's kind returns.
    """
    batch = space.spacing_mm.shape[0]
    if step.kind == "geometry":
        _check_motion(step, change, batch)
        return
    arguments = [tf.zeros((batch, space.channels, *space.patch))]
    if step.kind == "mixing":
        arguments.append(tf.zeros((batch, *space.patch), tf.int32))
    taken = " and ".join(("image", "label")[: len(arguments)])
    if not callable(change):
        raise ConfigError(
            f"augment.{step.name} must return a function of {taken}, got {type(change).__name__}. "
            "Annotate its result with Motion if it is geometry, with Mixing if it mixes examples."
        )
    changed = change(*arguments)
    if not isinstance(changed, tuple):
        changed = (changed,)
    if len(changed) != len(arguments):
        raise ConfigError(f"augment.{step.name} must change {taken}, got {len(changed)} result(s).")
    soft = (batch, *space.patch, space.num_classes), tf.float32
    for name, before, after in zip(("image", "label"), arguments, changed, strict=False):
        if _form(after) not in (_form(before), soft if name == "label" else None):
            raise ConfigError(
                f"augment.{step.name} must keep the shape and dtype of the {name}, "
                f"{_text(before)}, got {_text(after)}."
            )


def _check_motion(step, change, batch):
    is_motion = isinstance(change, Motion)
    forms = [_form(x) for x in change[:2]] if is_motion else None
    if forms != [((batch, 3, 3), tf.float32), ((batch, 3), tf.float32)]:
        got = " and ".join(map(_text, change[:2])) if is_motion else type(change).__name__
        raise ConfigError(
            f"augment.{step.name} must return a Motion of float32 matrix ({batch}, 3, 3) and shift "
            f"({batch}, 3), got {got}."
        )


def _form(x):
    return tuple(getattr(x, "shape", ())), getattr(x, "dtype", None)


def _text(x):
    shape, dtype = _form(x)
    return f"{getattr(dtype, 'name', type(x).__name__)} {shape}"

"""A loss that is not finite: which patches it was computed on."""

import math

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import writing


def check_finite(progress, batch_size, inspect, folder):
    """Checks the losses of the epoch at hand.

    Args:
        progress: `Progress` of the run.
        batch_size: Size of the global batch.
        inspect: As in `fit.Batches`.
        folder: Run folder, where the batch is saved; `None`: it is not.

    Raises:
        ConfigError: A loss is not finite; names the step, the cases of the batch and its file.
        DataError: The batch cannot be saved.
    """
    losses = progress.results.losses
    bad = next((n for n, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is None:
        return
    step = progress.step - len(losses) + bad
    cases, images, labels = inspect(step * batch_size)
    saved = ""
    if folder is not None:
        path = folder / f"nonfinite-step-{step + 1}.npz"
        with writing(path, "Free some space."):
            np.savez_compressed(path, case=cases, image=images, label=labels)
        saved = f" (saved as {path})"
    raise ConfigError(
        f"the loss became {losses[bad]} in step {step + 1} on patches of {', '.join(cases)}"
        f"{saved}. Look at them, or lower train.learning_rate or train.clip_norm; earlier "
        "checkpoints are kept."
    )

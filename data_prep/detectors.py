"""What a network that finds objects one by one asks of a configuration and of its data set."""

import importlib.util
from dataclasses import replace

from data_prep.augment.policy import parse_policy
from segkit.config import Component
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.models import DETECTORS
from segkit.priors import count_priors

LOSS = "mask_rcnn"
MULTIPLE = 32  # of which the sides of a patch are
EXTRA = "official"  # top package of TensorFlow's Model Garden


def check_detector(config):
    """Refuses what does not go with a network that finds objects, and its loss without one.

    Imports nothing, so that a mistake is answered at once.

    Raises:
        ConfigError: Another loss, patch, policy or setting than it can learn with, or Model Garden
            is not installed.
    """
    name, loss = config.model.name, config.loss.name
    if name not in DETECTORS:
        if loss == LOSS:
            raise ConfigError(
                f"the loss {LOSS} belongs to --model {LOSS}, the model is {name}. Set "
                "loss.name=ce_dice."
            )
        return
    if loss != LOSS:
        raise ConfigError(f"{name} learns by the loss {LOSS}, got {loss!r}. Set loss.name={LOSS}.")
    _check_sides(name, config.data.patch_size)
    check_mixing(parse_policy(config.augment.policy))
    if config.train.remat:
        raise ConfigError(f"train.remat needs a network in stages; {name} has none. Take it out.")
    if importlib.util.find_spec(EXTRA) is None:
        raise ConfigError(
            f"--model {name} needs TensorFlow's Model Garden (no module {EXTRA}): "
            'pip install "segkit[maskrcnn]"'
        )


def check_mixing(steps):
    """Refuses the transforms of a policy, list of `Step`, that mix examples."""
    mixing = [step.name for step in steps if step.kind == "mixing"]
    if mixing:
        raise ConfigError(
            f"augment.policy: {mixing[0]} puts objects of two examples under the same ids. Take it "
            "out of the policy."
        )


def fit_detector(config, manifest):
    """Returns `config` with the anchors that the data set proposes, where it has none of its own.

    The configs of other networks come back as they are.

    Args:
        config: A `Config`.
        manifest: Manifest of the data set.

    Raises:
        DataError: The data set has no objects, or is that of a cascade.
    """
    if config.model.name not in DETECTORS:
        return config
    if "instances" not in manifest:
        raise DataError(
            f"{config.model.name} finds objects, and the data set {config.data.path} has none. "
            "Prepare it with --instances components, or from a layout with objects; see "
            "docs/instances.md."
        )
    if count_priors(manifest["channels"]):
        raise DataError(
            f"{config.model.name} cannot be the second stage of a cascade. Prepare the data with "
            "tools/prepare_data.py."
        )
    options = dict(config.model.options)
    for key in ("anchor_sides", "anchor_aspects"):
        if options.get(key) is None:
            options[key] = list(manifest["instances"][key])
    return replace(config, model=Component(config.model.name, options))


def _check_sides(name, patch):
    if len(patch) != 2:
        raise ConfigError(
            f"{name} sees slices: data.patch_size must be [height, width], got {list(patch)}."
        )
    for side in patch:
        if side % MULTIPLE:
            below = side // MULTIPLE * MULTIPLE
            raise ConfigError(
                f"{name} trains on patches whose sides are multiples of {MULTIPLE}, got "
                f"data.patch_size={list(patch)}. Nearest to {side}: {below or MULTIPLE} or "
                f"{below + MULTIPLE}."
            )

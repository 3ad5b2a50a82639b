"""Which share of its step each weight takes: decay from the head to the encoder, and freezing.

After the optimizer has moved a weight from `old` to `new`, it is put at
`old + share * (new - old)`. So a share means the same for every optimizer, with weight decay,
clipping and momentum, and a weight that is frozen keeps its bits. The optimizer's own state goes
on as if the whole step had been taken. Shares depend on the number of the step only: a resumed
run goes on with the right ones.
"""

from fnmatch import fnmatchcase

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import nearest


class LayerRates:
    """The shares of a model's weights.

    Attributes:
        variables: The Keras variables that do not always take their whole step.
    """

    def __init__(self, weights, decays, frozen, until):
        """States the shares.

        Args:
            weights: The model's Keras variables.
            decays: Dict path of a variable -> share.
            frozen: Paths of the variables whose share is 0 at first.
            until: Optimizer steps for which it is; `None`: all.
        """
        self._decays, self._frozen, self._until = decays, frozen, until
        self.variables = [v for v in weights if decays[v.path] != 1 or v.path in frozen]

    def share(self, path, step):
        """Returns the share of a variable's step, float32, after so many steps (int64)."""
        decay = tf.constant(self._decays[path], tf.float32)
        if path not in self._frozen:
            return decay
        return tf.where(step >= self._until, decay, 0.0) if self._until else tf.constant(0.0)

    def read(self):
        """Returns the values of `variables`; in a graph, as they are at this point."""
        return [tf.identity(variable.value) for variable in self.variables]

    def scale(self, strategy, before, step):
        """Takes back of the steps from `before` what is not theirs, on all replicas."""
        for variable, old in zip(self.variables, before, strict=True):
            share = self.share(variable.path, step)
            strategy.extended.update(variable.value, _moved, args=(old, share))


def build_layer_rates(model, train):
    """Returns the shares that a `TrainConfig` describes, `None` where all are 1.

    The stages of a network are `encoder0` to the deepest one, the decoder's from there on with the
    upsampling before each, and `logits`; of other networks, the layers whose names start alike up
    to the first `_`. With `n` stages after its own a layer takes `layer_decay ** n` of its steps.

    Args:
        model: `keras.Model`.
        train: A `segkit.config.TrainConfig`.

    Raises:
        ConfigError: If a pattern in `freeze` fits no layer with weights, or nothing would move.

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018,
        arXiv:1801.06146, section 3.2 (discriminative fine-tuning, there a factor of 1 / 2.6 per
        layer; and freezing at first).
    """
    if train.layer_decay == 1 and not train.freeze:
        return None
    layers = {v.path: layer_of(v) for v in model.weights}
    frozen = _frozen(layers, train.freeze)
    until = train.freeze_epochs * train.steps_per_epoch or None
    if until is None and frozen >= {v.path for v in model.trainable_variables}:
        raise ConfigError("train.freeze covers every layer: nothing would learn. Take some out.")
    last = {stage_of(layer): place for place, layer in enumerate(layers.values())}
    order = sorted(last, key=last.get, reverse=True)
    decays = {path: train.layer_decay ** order.index(stage_of(n)) for path, n in layers.items()}
    # Running statistics follow the activations and not a learning rate: they are frozen or not.
    decays |= {v.path: 1.0 for v in model.non_trainable_variables}
    return LayerRates(model.weights, decays, frozen, until)


def layer_of(variable):
    """Returns the name of the layer of a model that a variable belongs to."""
    return variable.path.partition("/")[0]


def stage_of(layer):
    """Returns the stage of a layer: `encoder0` of `encoder0_conv1`, `decoder2` of `up2`."""
    stage = layer.partition("_")[0]
    return f"decoder{stage[2:]}" if stage[:2] == "up" and stage[2:].isdigit() else stage


def _frozen(layers, patterns):
    """Paths of the weights of all layers that a pattern names."""
    found = set()
    for pattern in patterns:
        named = {path for path, layer in layers.items() if fnmatchcase(layer, pattern)}
        if not named:
            raise ConfigError(
                f"train.freeze: no layer with weights has the name {pattern!r}. "
                f"{nearest(pattern, set(layers.values()))}"
            )
        found |= named
    return found


def _moved(variable, old, share):
    new = tf.convert_to_tensor(variable)
    share = tf.cast(share, old.dtype)
    return variable.assign(tf.where(share == 0, old, old + share * (new - old)))

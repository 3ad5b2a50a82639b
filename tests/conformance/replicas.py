"""Trains on one, two or four replicas in every way and writes what came out of it.

`python replicas.py REPLICAS FILE`. A process of its own, because the devices of a process cannot
be changed.
"""

import logging
import sys

import keras
import numpy as np
import tensorflow as tf

from segkit.config import config_from_dict
from segkit.layers.spectral_norm import SpectralConvolution
from segkit.losses import LOSSES
from segkit.losses import build_loss
from segkit.metrics.counts import class_counts
from segkit.models import build_model
from segkit.training.devices import make_strategy
from segkit.training.learner import build_learner
from segkit.training.learner import distribute
from segkit.training.step import full_resolution

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # about retracing

BATCH, STEPS, CLASSES = 8, 2, 3
SIDES = (8, 12)
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
# Settings of `train`, then options of the network.
FEATURES = {
    "clipping and ema": ({"clip_norm": 0.05, "averaging": {"name": "ema", "decay": 0.5}}, {}),
    "accumulation": ({"accumulation_steps": 2}, {}),
    "dropout": (
        {},
        {"dropout": 0.3, "spatial_dropout": 0.2, "residual": True, "stochastic_depth": 0.3}
        | {"convs_per_stage": 2},
    ),
    "batch norm": ({}, {"normalization": "batch"}),
}
IN_FLOAT32 = {
    "plain": ({}, {}),
    "penalties": ({"l1": 1e-3, "l2": 1e-2, "weight_decay": 0.1}, {}),
    "deep supervision": ({}, {"deep_supervision": True, "downsamplings": 2}),
}
CASES = [(f, p) for f in FEATURES for p in PRECISIONS] + [(f, "float32") for f in IN_FLOAT32]
REGIONS = {"all": [1, 2], "dark": [2], "bright": [1]}
NEEDED = {
    "dice": {"group_size": 2},
    "region_ce_dice": {"regions": REGIONS, "class_order": [1, 2, 1]},
}
OTHERS = ("weighted_sum", "mask_rcnn", "adversarial")
SUMMED = [name for name in LOSSES if name not in OTHERS]
EVERY_LOSS = {"parts": [{name: NEEDED.get(name, {})} for name in SUMMED]}


def batches(part=(0, 1)):
    """Global batches of noise with bright and dark squares, the share of one worker."""
    rng = np.random.default_rng(0)
    labels = np.zeros((STEPS * BATCH, *SIDES), np.int32)
    for n, (row, column) in enumerate(rng.integers(0, 5, (len(labels), 2))):
        labels[n, row : row + 4, column : column + 4] = 1 + n % 2
    images = rng.normal(0, 0.5, (*labels.shape, 1)) + np.array([0, 1, -1])[labels][..., None]
    data = tf.data.Dataset.from_tensor_slices((images.astype(np.float32), labels))
    return data.batch(BATCH, drop_remainder=True)


def spectral_network(num_classes, input_shape):
    """Two convolutions with spectral norm."""
    image = keras.Input(input_shape, name="image")
    x = keras.layers.ReLU()(SpectralConvolution(8, (3, 3), name="first")(image))
    logits = SpectralConvolution(num_classes, (3, 3), dtype="float32", name="logits")(x)
    return keras.Model(image, logits)


def train(strategy, model, loss="ce_dice", loss_options=None, network="unet", **settings):
    """Returns losses and their terms, gradient norms, counts and weights after a few steps."""
    defaults = {"optimizer": {"name": "sgd", "momentum": 0.5}, "learning_rate": 0.1}
    raw = {"epochs": 1, "steps_per_epoch": STEPS, "batch_size": BATCH, **defaults, **settings}
    config = config_from_dict(
        {
            "model": {"name": "unet"},
            "data": {"patch_size": list(SIDES)},
            "loss": {"name": "ce_dice"},
            "train": raw,
        }
    ).train

    def build():
        built = build_model(network, CLASSES, (*SIDES, 1), **model)
        return built, build_loss(loss, **(loss_options or {}))

    learner = build_learner(config, strategy, build)

    def count(labels, logits):
        return class_counts(labels, full_resolution(logits), CLASSES)

    step, validate = learner.make_steps(config, strategy, count)
    results, held_out = [], []
    for number, batch in enumerate(distribute(strategy, BATCH, batches)):
        first = tf.constant(number * BATCH, tf.int64)
        results.append(step(batch, first, tf.constant(0.0)))
        if learner.average:
            learner.average.update(number + 1)
    with learner.averaged():
        weights = np.concatenate([np.ravel(w.numpy()) for w in learner.model.weights])
        if learner.average:
            held_out = [validate(batch) for batch in distribute(strategy, BATCH, batches)]
    terms = {name: [float(r["terms"][name]) for r in results] for name in results[0]["terms"]}
    return {
        **terms,
        "loss": [float(r["loss"]) for r in results + held_out],
        "gradient_norm": [float(r["gradient_norm"]) for r in results],
        "counts": [r["counts"].numpy() for r in results + held_out],
        "weights": weights,
    }


def main(replicas, path):
    """Runs every feature in every precision, and the sum of all losses, with and without XLA."""
    strategy, found = make_strategy(f"cpu:{replicas}"), {}
    small = {"filters": 4, "downsamplings": 0, "convs_per_stage": 1}
    for xla in (False, True):
        for feature, precision in CASES:
            settings, options = (FEATURES | IN_FLOAT32)[feature]
            settings = {"precision": precision, "xla": xla, **settings}
            found[f"{feature}|{precision}|{xla}"] = train(strategy, small | options, **settings)
        found[f"losses|float32|{xla}"] = train(
            strategy, small, "weighted_sum", EVERY_LOSS, xla=xla, learning_rate=0.01
        )
    flat = {f"{name}|{key}": np.array(v) for name, r in found.items() for key, v in r.items()}
    np.savez(path, **flat)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

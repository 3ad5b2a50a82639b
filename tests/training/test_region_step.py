"""Regions and voxels to be ignored in the training step."""

import keras
import numpy as np
import pytest

from segkit.losses import build_loss
from segkit.metrics.counts import counter
from segkit.models import build_model
from segkit.outputs import read_outputs
from segkit.training.optimizers import build_optimizer
from segkit.training.step import make_train_step

CLASSES = [{"name": name} for name in ("background", "disc", "dot", "ignore")]
REGIONS = {"regions": {"all": [1, 2], "dot": [2]}}


@pytest.fixture(scope="module")
def marked(task):
    """The task with a dot of another class in each image, and a margin to be ignored."""
    marked = type(task)()
    marked.labels = task.labels.copy()
    marked.labels[:, 6:9, 6:9] = 2
    marked.labels[:, :3] = 3
    return marked


@pytest.fixture(scope="module")
def results(marked):
    """Results of three steps on one replica and on two, by name of the loss."""
    found = {}
    for name, options in (("region_ce_dice", REGIONS), ("ce_dice", {})):
        outputs = read_outputs(CLASSES, options)
        for replicas in (1, 2):
            strategy = marked.strategy(replicas)
            with strategy.scope():
                keras.utils.set_random_seed(3)
                size = {"filters": 4, "downsamplings": 0, "convs_per_stage": 1}
                model = build_model("unet", outputs.num_channels, (16, 16, 1), **size)
                optimizer = build_optimizer(marked.config().train)
                optimizer.build(model.trainable_variables)
            loss = build_loss(name, **options, ignore_label=outputs.ignore_label)
            settings = {"count": counter(outputs), "batch_size": 4, "xla": False, "seed": 0}
            step = make_train_step(strategy, model, loss, optimizer, **settings)
            found[name, replicas] = marked.steps_of(strategy, step, 3)
    return found


@pytest.mark.parametrize("name", ["region_ce_dice", "ce_dice"])
def test_two_replicas_agree_with_one(results, name):
    for one, two in zip(results[name, 1], results[name, 2], strict=True):
        np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
        # A voxel on the edge may fall otherwise.
        np.testing.assert_allclose(two["counts"], one["counts"], atol=2)


@pytest.mark.parametrize("name", ["region_ce_dice", "ce_dice"])
def test_ignored_voxels_are_not_counted(results, marked, name):
    for number, result in enumerate(results[name, 1]):
        batch = marked.labels[4 * number : 4 * number + 4]
        background, disc, dot = ((batch == index).sum() for index in range(3))
        first = disc + dot if name == "region_ce_dice" else disc
        hits, extra, missed = result["counts"].numpy().T
        np.testing.assert_array_equal(hits + missed, [background, first, dot])
        predicted = (hits + extra)[: 2 if name == "region_ce_dice" else 3]
        assert predicted.sum() <= (batch != 3).sum()

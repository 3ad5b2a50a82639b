"""Mask R-CNN in the training loop: replicas, XLA, resuming, and whether it learns."""

import contextlib
import csv
import io

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.config import config_from_dict
from segkit.losses import build_loss
from segkit.models import build_model
from segkit.training.detection import Detection
from segkit.training.detection import join
from segkit.training.devices import make_strategy
from segkit.training.fit import Batches
from segkit.training.fit import fit
from segkit.training.learner import build_learner
from segkit.training.learner import distribute
from segkit.training.object_overlay import pasted
from segkit.training.run import load_run
from tests.models.mask_rcnn.scenes import CLASSES
from tests.models.mask_rcnn.scenes import SMALL
from tests.models.mask_rcnn.scenes import discs
from tests.models.mask_rcnn.scenes import small_network

SIZE, BATCH = 32, 4
MANIFEST = {
    "classes": [{"name": name} for name in ("background", "bright", "dark")],
    "channels": ["grey"],
    "preprocess": {"spacing_mm": None},
}
DATA = discs(2 * BATCH, SIZE, objects=2)


def batches(first_example=0, part=(0, 1)):
    """The same eight images again and again, the share of one worker."""
    number, count = part
    size = BATCH // count
    data = tf.data.Dataset.from_tensor_slices(DATA).repeat().skip(first_example).batch(BATCH)
    data = data.map(lambda x: {k: v[number * size : (number + 1) * size] for k, v in x.items()})
    return data.map(lambda x: join(x["image"], {"label": x["label"], "instance": x["instance"]}))


def config(**train):
    settings = {"epochs": 2, "steps_per_epoch": 1, "batch_size": BATCH, "learning_rate": 0.01}
    return config_from_dict(
        {
            "model": {"name": "mask_rcnn", **SMALL},
            "data": {"patch_size": [SIZE, SIZE]},
            "loss": {"name": "mask_rcnn"},
            "train": {"optimizer": "sgd", "schedule": "constant", **settings, **train},
        }
    )


def build():
    return small_network(), build_loss("mask_rcnn")


def curve(replicas, *, xla=False, **train):
    """Losses, terms and gradient norms of three steps, and of validation after them."""
    strategy = make_strategy(f"cpu:{replicas}")
    settings = config(xla=xla, **train).train
    learner = build_learner(settings, strategy, build)
    count = Detection(MANIFEST).count
    step, validate = learner.make_steps(settings, strategy, count)
    stream = iter(distribute(strategy, BATCH, lambda part: batches(0, part)))
    found = []
    for number in range(3):
        result = step(next(stream), tf.constant(BATCH * number, tf.int64), tf.constant(0.0))
        found.append([result["loss"], result["gradient_norm"], *result["terms"].values()])
        assert not result["counts"].numpy().any()
    result = validate(next(stream))
    assert result["counts"].numpy()[:, 3].tolist() == [BATCH] * CLASSES
    found.append([result["loss"], 0.0, *result["terms"].values()])
    return np.array(found, np.float64)


@pytest.fixture(scope="module")
def reference():
    return curve(1)


@pytest.mark.slow
def test_two_replicas_give_the_losses_of_one(reference):
    np.testing.assert_allclose(curve(2), reference, rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_xla_changes_no_loss(reference):
    np.testing.assert_allclose(curve(1, xla=True), reference, rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_follows_the_float32_curve(reference):
    found = curve(1, precision="mixed_bfloat16")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, 0], reference[0, 0], rtol=0.05)


@pytest.mark.slow
def test_a_resumed_run_is_that_which_was_not_stopped(tmp_path):
    def run(name, epochs, *, resume=False):
        validation = lambda part: batches(0, part).take(1)  # noqa: E731
        settings, lines = config(epochs=epochs), []
        fit(
            tmp_path / name,
            settings,
            MANIFEST,
            make_strategy("cpu:1"),
            build,
            Batches(batches, validation, None),
            objective=Detection(MANIFEST),
            resume=resume,
            report=lines.append,
        )
        return lines

    lines = run("whole", 2)
    assert "F1 of objects" in lines[0]
    run("parts", 1)
    run("parts", 2, resume=True)
    rows = []
    for name in ("whole", "parts"):
        with open(tmp_path / name / "history.csv", newline="", encoding="utf-8") as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == 2
    for column in ("train_loss", "validation_loss", "validation_loss/mask", "gradient_norm"):
        assert [row[column] for row in rows[0]] == [row[column] for row in rows[1]]
    assert list((tmp_path / "whole" / "logs" / "validation").iterdir())
    models = [load_run(tmp_path / name).model for name in ("whole", "parts")]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_it_learns_four_images_by_heart():
    data = {name: tf.constant(value) for name, value in discs(4, 96, objects=6).items()}
    sizes = {"filters": 16, "levels": [2, 3], "pyramid_filters": 32, "units": 64, "mask_convs": 1}
    counts = {"anchor_samples": 64, "region_samples": 32, "candidates": 128, "proposals": 48}
    counts |= {"detections": 48}
    anchors = {"anchor_sides": [12.0, 18.0], "anchor_aspects": [1.0], "max_objects": 8}
    model = build_model("mask_rcnn", CLASSES, (96, 96, 1), **sizes, **counts, **anchors)
    loss, optimizer = build_loss("mask_rcnn"), keras.optimizers.AdamW(0.003)
    optimizer.build(model.trainable_variables)
    weights = [v.value for v in model.trainable_variables]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            total = tf.reduce_mean(loss(None, model(data, training=True)))
        optimizer.apply(tape.gradient(total, weights), model.trainable_variables)

    for _ in range(100):
        step()
    outputs = model(data)
    assert mask_ap50(data, outputs) >= 0.95
    objective = Detection(MANIFEST)
    assert objective.score(objective.count(None, outputs)) > 0.9


def mask_ap50(data, outputs):
    """COCO's average precision of masks at an overlap of 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    label, instance = data["label"].numpy(), data["instance"].numpy()
    truth, found = [], []
    for image, (labels, ids) in enumerate(zip(label, instance, strict=True), start=1):
        for identity in np.unique(ids)[1:]:
            mask = ids == identity
            entry = {"id": len(truth) + 1, "iscrowd": 0, "area": int(mask.sum())}
            truth.append({**entry, **annotation(image, labels[mask][0], mask)})
    names = ("boxes", "scores", "classes", "masks")
    for image, one in enumerate(zip(*(outputs[n].numpy() for n in names), strict=True), start=1):
        for box, score, index, mask in zip(*one, strict=True):
            if score > 0:
                shown = pasted(box[None], mask[None], instance.shape[1:])
                found.append({"score": float(score), **annotation(image, index, shown)})
    images = [{"id": i + 1, "height": 96, "width": 96} for i in range(len(label))]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": index} for index in range(1, CLASSES)]
        coco.dataset = {"images": images, "annotations": truth, "categories": categories}
        coco.createIndex()
        scores = COCOeval(coco, coco.loadRes(found), "segm")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return scores.stats[1]


def annotation(image, index, mask):
    from pycocotools import mask as masks

    encoded = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"image_id": image, "category_id": int(index), "segmentation": encoded}

"""Patches with objects: class and id stay together with the image, wherever they are augmented."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep.object_statistics import slice_boxes
from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from data_prep.pipeline import device_augmentation
from data_prep.records import Chunk
from data_prep.records import encode
from data_prep.records import write_records
from segkit.errors import ConfigError
from segkit.errors import DataError

POLICY = [{"flip": {}}, {"rotation": {"degrees": 40}}, {"scaling": {"field_of_view": [0.6, 1.6]}}]


def objects(shape=(40, 48)):
    """Label and ids of 12 rectangles; the image is `ids * 10 + label` in each voxel."""
    ids, label = np.zeros((1, *shape), int), np.zeros((1, *shape), int)
    for index in range(12):
        top, left = 2 + 10 * (index // 4), 2 + 12 * (index % 4)
        ids[0, top : top + 6 + index % 3, left : left + 9] = index * 5000 + 1  # to above 32767
        label[0, top : top + 6 + index % 3, left : left + 9] = 1 + index % 2
    return label, ids


def write_folder(folder, count=2, **manifest):
    label, ids = objects()
    image = np.where(ids, ids // 5000 * 10 + label + 50, 0).astype(np.float32)
    chunks = [
        Chunk(
            case_id=f"c{n}",
            image=image[..., None],
            label=label.astype(np.uint8),
            spacing_mm=np.ones(3),
            affine=np.eye(4),
            origin=np.zeros(3),
            case_shape=np.array(label.shape),
            class_counts=np.bincount(label.ravel(), minlength=3),
            foreground=np.column_stack([label[label > 0], np.argwhere(label)])[::50],
            instance=ids.astype(np.uint16),
        )
        for n in range(count)
    ]
    written = write_records(folder / "a.tfrecord", map(encode, chunks))
    names = ("background", "a", "b")
    return {
        "channels": ["MRI"],
        "classes": [{"name": n, "value": v} for v, n in enumerate(names)],
        "preprocess": {"spacing_mm": None},
        "shards": [{"file": "a.tfrecord", "split": "fold0", **written}],
        "instances": {},
        **manifest,
    }


def stream(folder, manifest, policy, placement="input", **options):
    defaults = {"patch_size": (32, 32), "batch_size": 2, "seed": 1, "with_instances": True}
    augment = Augmentation(policy, placement)
    options = defaults | options
    return build_dataset(folder, manifest, ("fold0",), augment=augment, **options)


def expected_image(label, ids):
    return np.where(ids, ids // 5000 * 10 + label + 50, 0)


def test_label_and_ids_are_maps_of_their_own(tmp_path):
    dataset = stream(tmp_path, write_folder(tmp_path), [])
    image, labels = dataset.element_spec
    assert image.shape == (2, 32, 32, 1)
    assert {name: (x.shape, x.dtype) for name, x in labels.items()} == {
        "label": ((2, 32, 32), tf.int32),
        "instance": ((2, 32, 32), tf.int32),
    }
    _, ids = objects()
    for image, found in dataset.take(3):
        np.testing.assert_allclose(image[..., 0], expected_image(**named(found)), atol=0.01)
        assert set(np.unique(found["instance"])) <= set(np.unique(ids))


def named(found):
    return {"label": found["label"].numpy(), "ids": found["instance"].numpy()}


@pytest.mark.parametrize("patch", [(32, 32), (1, 32, 32)])
def test_image_class_and_id_stay_together_through_geometry(tmp_path, patch):
    """Away from edges the interpolated image is that of one object: its class and id are known."""
    dataset = stream(tmp_path, write_folder(tmp_path), POLICY, patch_size=patch)
    label, ids = objects()
    kind = dict(zip(ids.ravel().tolist(), label.ravel().tolist(), strict=True))
    seen = set()
    for image, found in dataset.take(8):
        shown, labels = image.numpy()[..., 0], named(found)
        whole = np.abs(shown - np.rint(shown)) < 0.02
        inside = whole & (labels["ids"] > 0) & (np.rint(shown) == expected_image(**labels))
        assert inside.sum() > 0.5 * (labels["ids"] > 0).sum()
        for index in np.unique(labels["ids"]):
            assert set(labels["label"][labels["ids"] == index].tolist()) == {kind[int(index)]}
        seen |= set(np.unique(labels["ids"]).tolist())
    assert seen == set(kind)


def test_boxes_follow_a_flip(tmp_path):
    manifest = write_folder(tmp_path)
    whole = {"patch_size": (40, 48), "batch_size": 1}
    ((_, plain),) = stream(tmp_path, manifest, [], **whole).take(1)
    ((_, turned),) = stream(tmp_path, manifest, [{"flip": {"axes": [0, 0, 1]}}], **whole).take(1)
    boxes = {
        index: (top, 48 - right, bottom, 48 - left)
        for index, _, _, (top, left, bottom, right) in slice_boxes(**numpy_of(plain))
    }
    found = {box.id: box.box for box in slice_boxes(**numpy_of(turned))}
    assert found == boxes
    assert len(found) == 12


def numpy_of(labels):
    return {"ids": labels["instance"].numpy(), "label": labels["label"].numpy()}


def test_augmentation_on_the_device_gives_the_patches_of_the_input(tmp_path):
    manifest = write_folder(tmp_path)
    policy = [{"flip": {}}, {"rotation": {"probability": 0.5, "degrees": 10}}]
    change = device_augmentation(Augmentation(policy, "device"), (24, 24), 3)
    options = {"patch_size": (24, 24), "seed": 4}
    ours = stream(tmp_path, manifest, policy, **options)
    compiled = tf.function(change, jit_compile=True, autograph=False)
    theirs = stream(tmp_path, manifest, policy, "device", **options)
    for (image, labels), batch in zip(ours.take(4), theirs.take(4), strict=True):
        other, others = compiled(*batch)
        near = np.abs(image - other).max(axis=-1) < 1e-2
        assert near.mean() > 0.99
        for name in ("label", "instance"):
            assert (labels[name].numpy() == others[name].numpy()).mean() > 0.99
        assert labels.keys() == others.keys()


def test_targets_stand_beside_ids(tmp_path):
    cases = {"c0": {"target": "ill"}, "c1": {}}
    manifest = write_folder(tmp_path, cases=cases, targets=["ill", "well"])
    ((_, labels),) = stream(tmp_path, manifest, [], with_targets=True).take(1)
    assert set(labels) == {"label", "instance", "target"}
    assert sorted(labels["target"].numpy()) == [-1, 0]


def test_other_streams_are_as_before(tmp_path):
    manifest = write_folder(tmp_path)
    policy = [{"flip": {}}, {"gaussian_noise": {}}]
    with_ids = stream(tmp_path, manifest, policy)
    without = stream(tmp_path, manifest, policy, with_instances=False)
    for (image, labels), (other, label) in zip(with_ids.take(3), without.take(3), strict=True):
        np.testing.assert_array_equal(image, other)
        np.testing.assert_array_equal(labels["label"], label)


@pytest.mark.parametrize("step", [{"mixup": {}}, {"cutmix": {}}, {"copy_paste": {"classes": [1]}}])
def test_mixing_is_refused(tmp_path, step):
    with pytest.raises(ConfigError, match="puts objects of two examples under the same ids"):
        stream(tmp_path, write_folder(tmp_path), [step])


def test_a_data_set_without_objects_is_refused(tmp_path):
    manifest = write_folder(tmp_path)
    del manifest["instances"]
    with pytest.raises(DataError, match=r"has no objects.*docs/instances\.md"):
        stream(tmp_path, manifest, [])

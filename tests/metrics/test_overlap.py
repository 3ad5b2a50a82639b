import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.metrics import METRICS
from segkit.metrics.counts import class_counts
from segkit.metrics.ratios import accuracy_from_counts
from segkit.metrics.ratios import dice_from_counts
from segkit.metrics.ratios import iou_from_counts
from segkit.tables import load

#        labels       0 0 0 1 1 2   (class 3 occurs nowhere)
#        predictions  0 0 1 1 2 2
LABELS = np.array([[0, 0, 0, 1, 1, 2]])
LOGITS = np.eye(4, dtype="float32")[np.array([[0, 0, 1, 1, 2, 2]])]
COUNTS = [[2, 0, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]]


def _metric(name, num_classes=4):
    return load(METRICS, name, "metric")(num_classes)


def test_counts_match_hand_counted_values():
    counts = class_counts(LABELS, LOGITS, 4)
    assert counts.dtype == tf.float32
    np.testing.assert_array_equal(counts, COUNTS)


@pytest.mark.parametrize("as_input", [np.array, tf.constant], ids=["numpy", "tensor"])
def test_scores_match_hand_computed_values(as_input):
    counts = as_input(np.array(COUNTS, "float32"))
    nan = np.nan
    # Dice 2*2/(4+0+1), 2/(2+1+1), 2/(2+1+0); IoU 2/3, 1/3, 1/2; recall 2/3, 1/2, 1/1.
    np.testing.assert_allclose(dice_from_counts(counts), [4 / 5, 1 / 2, 2 / 3, nan], rtol=1e-6)
    np.testing.assert_allclose(iou_from_counts(counts), [2 / 3, 1 / 3, 1 / 2, nan], rtol=1e-6)
    np.testing.assert_allclose(accuracy_from_counts(counts), [2 / 3, 1 / 2, 1, nan], rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_scores_of_numpy_counts_are_numpy_and_warn_of_nothing():
    assert isinstance(dice_from_counts(np.zeros((2, 3))), np.ndarray)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice", (1 / 2 + 2 / 3) / 2),  # foreground classes that occurred: 1 and 2
        ("iou", (1 / 3 + 1 / 2) / 2),
        ("mean_accuracy", (2 / 3 + 1 / 2 + 1) / 3),  # with the background
    ],
)
def test_metric_matches_hand_computed_value(name, expected):
    metric = _metric(name)
    metric.update_state(LABELS, LOGITS)
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-6)
    assert metric.per_class().shape == (4,)
    assert np.isnan(metric.per_class()[3])


@pytest.mark.parametrize("name", METRICS)
def test_metric_streams_batches_and_counts_alike(name):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (5, 3, 4, 6))
    logits = rng.normal(size=(5, 3, 4, 6, 4)).astype("float32")
    whole, streamed, fed = (_metric(name) for _ in range(3))
    whole.update_state(labels, logits)
    streamed.update_state(labels[:2], logits[:2])
    streamed.update_state(labels[2:], logits[2:])
    fed.update_counts(class_counts(labels, logits, 4))
    np.testing.assert_allclose(streamed.result(), whole.result(), rtol=1e-6)
    np.testing.assert_allclose(fed.result(), whole.result(), rtol=1e-6)
    whole.reset_state()
    assert np.isnan(whole.result())


def test_iou_equals_keras_mean_iou_when_all_classes_occur():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (2, 8, 8))
    logits = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    peer = keras.metrics.MeanIoU(3, sparse_y_pred=False)
    peer.update_state(labels, logits)
    metric = _metric("iou", 3)
    metric.update_state(labels, logits)
    np.testing.assert_allclose(np.mean(metric.per_class()), peer.result(), rtol=1e-6)


def test_a_missed_class_scores_zero_and_an_invented_one_too():
    metric = _metric("dice", 3)
    metric.update_state(np.array([[0, 1]]), np.eye(3)[[[0, 2]]])
    np.testing.assert_allclose(metric.result(), 0.0)
    recall = _metric("mean_accuracy", 3)
    recall.update_state(np.array([[0, 1]]), np.eye(3)[[[0, 2]]])
    np.testing.assert_allclose(recall.result(), 0.5)  # class 2 is in no label: (1 + 0) / 2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_counts_are_the_same_under_xla_for_any_label_dtype(dtype):
    compiled = tf.function(class_counts, jit_compile=True)
    np.testing.assert_array_equal(compiled(LABELS.astype(dtype), LOGITS, 4), COUNTS)


def test_counts_ignore_labels_outside_the_classes():
    # Only the prediction is counted, as a false positive of class 0.
    np.testing.assert_array_equal(
        class_counts(np.array([[255]]), np.eye(2)[[[0]]], 2), [[0, 1, 0], [0, 0, 0]]
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_soft_labels_count_as_their_most_probable_class(dtype):
    soft = (0.6 * np.eye(4)[LABELS] + 0.1).astype(dtype)
    np.testing.assert_array_equal(class_counts(soft, LOGITS, 4), COUNTS)
    compiled = tf.function(class_counts, jit_compile=True)
    np.testing.assert_array_equal(compiled(soft, LOGITS, 4), COUNTS)
    # A tie goes to the lowest index, as for predictions.
    tie = np.array([[[0.0, 0.5, 0.5]]], dtype)
    np.testing.assert_array_equal(class_counts(tie, np.eye(3)[[[1]]], 3)[1], [1, 0, 0])


@pytest.mark.parametrize("name", METRICS)
def test_metric_survives_its_config(name):
    config = keras.saving.serialize_keras_object(_metric(name))
    copy = keras.saving.deserialize_keras_object(config)
    assert (copy.name, copy.num_classes) == (name, 4)


def test_metric_refuses_weights_and_unknown_names():
    with pytest.raises(ValueError, match="no sample_weight"):
        _metric("dice").update_state(LABELS, LOGITS, sample_weight=1.0)
    with pytest.raises(ConfigError, match="Did you mean 'dice'"):
        load(METRICS, "dise", "metric")

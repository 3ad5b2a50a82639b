import keras
import numpy as np
import pytest
import tensorflow as tf

from data_prep.phantom import make_cine
from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import build_loss
from segkit.metrics.counts import class_counts
from segkit.metrics.ratios import dice_from_counts
from segkit.models import build_model

SMALL = {"filters": 8, "downsamplings": 1, "convs_per_stage": 1}
LENGTH = 8  # frames of a series


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def build(shape=(6, 8, 12, 1), **options):
    return build_model("convlstm_unet", 2, shape, **{**SMALL, **options})


def frames(length=6):
    return np.random.default_rng(0).normal(size=(1, length, 8, 12, 1)).astype("float32")


def test_weights_equal_the_count_by_hand():
    # Each normalized convolution: kernel * in * out, then gamma and beta.
    encoder = 9 * 2 * 8 + 16 + 9 * 8 * 16 + 32
    # An LSTM has four gates with kernels on inputs and states; there are two directions.
    lstm = 2 * (9 * 16 * 4 * 16 + 9 * 16 * 4 * 16 + 4 * 16)
    decoder = 4 * 32 * 8 + 8 + 9 * 16 * 8 + 16
    logits = 8 * 3 + 3
    model = build_model("convlstm_unet", 3, (None, None, None, 2), **SMALL)
    assert model.count_params() == encoder + lstm + decoder + logits
    # Forwards only: one LSTM less, and half of the channels to upsample.
    model = build_model("convlstm_unet", 3, (None, None, None, 2), bidirectional=False, **SMALL)
    assert model.count_params() == encoder + lstm // 2 + decoder - 4 * 16 * 8 + logits


def test_every_recurrent_stage_has_its_lstms():
    model = build(downsamplings=2, recurrent_stages=2)
    found = {layer.name for layer in model.layers if type(layer).__name__ == "ConvLSTM"}
    assert found == {f"lstm{n}_{d}" for n in (1, 2) for d in ("forward", "backward")}


def influence(model, changed):
    """Returns which frames' logits depend on the frame `changed`."""
    before = frames()
    after = before.copy()
    after[:, changed] += 1
    difference = np.abs(model(after) - model(before)).max(axis=(0, 2, 3, 4))
    return (difference > 1e-6).tolist()


def test_one_direction_never_looks_ahead():
    model = build(bidirectional=False)
    assert influence(model, 2) == [False, False, True, True, True, True]


def test_two_directions_look_both_ways():
    assert influence(build(), 2) == [True] * 6


def test_a_sequence_of_another_length_gets_the_same_weights_and_logits():
    model, any_length = build(), build((None, None, None, 1))
    any_length.set_weights(model.get_weights())
    np.testing.assert_allclose(any_length(frames()), model(frames()), atol=1e-5)
    assert any_length(frames(length=9)).shape == (1, 9, 8, 12, 2)


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    np.testing.assert_array_equal(model(frames()), model(frames()))
    assert not np.array_equal(model(frames(), training=True), model(frames(), training=True))


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((6, 7, 12, 1), {}, ShapeError, "height that is a multiple of 2, got 7"),
        ((8, 12, 1), {}, ShapeError, r"3-D .* got \(8, 12, 1\)"),
        ((0, 8, 12, 1), {}, ShapeError, "got 0"),
        ((6, 8, 12, 1), {"recurrent_stages": 3}, ConfigError, "recurrent_stages .* below 3, got 3"),
        ((6, 8, 12, 1), {"recurrent_stages": 0}, ConfigError, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(shape, options, error, message):
    with pytest.raises(error, match=message):
        build(shape, **options)


def train(model, images, labels, batch):
    """Takes 160 steps of Adam on batches drawn at random."""
    loss, optimizer = build_loss("ce_dice"), keras.optimizers.Adam(5e-3)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)

    @tf.function
    def step(x, y):
        weights = model.trainable_variables
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(y, model(x, training=True)))
        optimizer.apply(tape.gradient(value, [w.value for w in weights]), weights)

    for _ in range(160):
        drawn = rng.choice(len(images), batch, replace=False)
        step(tf.constant(images[drawn]), tf.constant(labels[drawn]))


def cine(seeds):
    """Small cine series, each with mean 0 and deviation 1, and their labels."""
    phantoms = [make_cine(n, shape=(LENGTH, 32, 32)) for n in seeds]
    images = np.stack([p.image.array.astype("float32") for p in phantoms])
    axes = (1, 2, 3, 4)
    images = (images - images.mean(axes, keepdims=True)) / images.std(axes, keepdims=True)
    return images, np.stack([p.label.array for p in phantoms]).astype("int32")


def dice(labels, logits):
    return float(dice_from_counts(class_counts(labels, logits, 2))[1])


@pytest.mark.slow
def test_a_sequence_tells_what_no_frame_tells():
    images, labels = cine(range(60))
    unseen, truth = cine(range(100, 120))
    options = {**SMALL, "downsamplings": 2}
    sequence = build_model("convlstm_unet", 2, images.shape[1:], **options)
    train(sequence, images, labels, batch=4)
    assert dice(truth, sequence(unseen)) > 0.9

    images, labels, unseen, truth = (np.concatenate(a) for a in (images, labels, unseen, truth))
    single = build_model("unet", 2, images.shape[1:], **options)
    train(single, images, labels, batch=4 * LENGTH)
    # Both discs of every frame marked: 2 / (1 + 2). Of one by guess: 1 / 2.
    assert 0.4 < dice(truth, single(unseen)) < 0.75

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model


def test_layers_have_the_sizes_of_the_paper_s_figure_1():
    model = build_model("unet2015", 2, (388, 388, 1), filters=2)
    side = {layer.name: layer.output.shape[1] for layer in model.layers}
    assert side["margin"] == 572
    contracting = [side[f"encoder{level}_conv{n}"] for level in range(5) for n in (1, 2)]
    assert contracting == [570, 568, 282, 280, 138, 136, 66, 64, 30, 28]
    assert [side[f"encoder{level}_pool"] for level in (1, 2, 3, 4)] == [284, 140, 68, 32]
    expanding = [side[f"{name}{level}"] for level in (3, 2, 1, 0) for name in ("up", "crop")]
    assert expanding == [56, 56, 104, 104, 200, 200, 392, 392]
    assert [side[f"decoder{level}_conv2"] for level in (3, 2, 1, 0)] == [52, 100, 196, 388]
    assert side["logits"] == 388


def test_weights_equal_the_count_by_hand():
    # Convolutions of kernel 3 with bias: 1 -> 64 -> 64, 64 -> 128 -> 128, ... 1024.
    widths = [64, 128, 256, 512, 1024]
    into = [1, 64, 128, 256, 512]
    contracting = sum(9 * a * b + b + 9 * b * b + b for a, b in zip(into, widths, strict=True))
    # Kernel 2 from 2 b to b filters, then 2 b -> b -> b.
    expanding = sum(4 * 2 * b * b + b + 9 * 2 * b * b + b + 9 * b * b + b for b in widths[:-1])
    model = build_model("unet2015", 2, (None, None, 1))
    assert model.count_params() == contracting + expanding + 64 * 2 + 2 == 31_030_658


def test_the_logits_are_those_of_valid_convolutions_on_the_mirrored_image():
    # 24 = 4 + 5 * 4: with two downsamplings the margin is 6 * 4 - 4 = 20.
    model = build_model("unet2015", 2, (None, None, 1), filters=2, downsamplings=2)
    image = np.random.default_rng(0).normal(size=(1, 24, 24, 1)).astype(np.float32)
    wider = np.pad(image, ((0, 0), (20, 20), (20, 20), (0, 0)), mode="reflect")
    # The network on the wider image pads again; all but its own margin is unchanged.
    inside = model(wider)[:, 20:-20, 20:-20]
    np.testing.assert_allclose(model(image), inside, atol=1e-5)


@pytest.mark.parametrize("sides", [(1, 2), (4, 5), (7, 30), (24, 21)])
def test_images_of_any_size_keep_it(sides):
    model = build_model("unet2015", 3, (None, None, 2), filters=2, downsamplings=2)
    fixed = build_model("unet2015", 3, (*sides, 2), filters=2, downsamplings=2)
    fixed.set_weights(model.get_weights())
    image = np.random.default_rng(0).normal(size=(1, *sides, 2)).astype(np.float32)
    assert model(image).shape == (1, *sides, 3)
    np.testing.assert_array_equal(model(image), fixed(image))


def test_dropout_stands_at_the_two_coarsest_stages_and_acts_in_training_only():
    model = build_model("unet2015", 2, (8, 8, 1), filters=2, downsamplings=2)
    assert [x.name for x in model.layers if "dropout" in x.name] == ["dropout1", "dropout2"]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(model(images), model(images))
    assert not np.array_equal(model(images, training=True), model(images, training=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "filters to be at least 1, got 0"),
        ({"downsamplings": 0}, "downsamplings to be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout to be at least 0 and below 1, got 1.0"),
        ({"normalization": "layer"}, "unknown normalization 'layer'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model("unet2015", 2, (8, 8, 1), **options)


def test_volumes_are_refused():
    with pytest.raises(ShapeError, match="unet2015 is 2-D and needs input_shape"):
        build_model("unet2015", 2, (8, 8, 8, 1))

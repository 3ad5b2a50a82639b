import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model
from segkit.models.dpn import classifier
from segkit.models.dpn import reconstructor

OPTIONS = {"filters": 8, "downsamplings": 2}


def shapes(model):
    return {v.path: tuple(v.shape) for v in model.weights}


@pytest.mark.parametrize(("name", "shape"), [("unet", (8, 8, 1)), ("unet3d", (8, 8, 12, 1))])
def test_layers_have_the_names_and_shapes_of_the_u_nets(name, shape):
    assert shapes(build_model("dpn", 3, shape, **OPTIONS)) == shapes(
        build_model(name, 3, shape, **OPTIONS)
    )


def test_the_number_of_weights_is_the_one_worked_out_by_hand():
    # Convolutions of 27 voxels without biases, encoder 1-8-8, 8-16-16 and decoder 16-8-8; scale
    # and offset after each; upsampling 16 to 8 by 8 voxels and a bias; logits 8 to 3.
    convolutions = 27 * (1 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 8 + 8 * 8)
    norms = 2 * (8 + 8 + 16 + 16 + 8 + 8)
    expected = convolutions + norms + (8 * 16 * 8 + 8) + (8 * 3 + 3)
    model = build_model("dpn", 3, (8, 8, 8, 1), filters=8, downsamplings=1)
    assert model.count_params() == expected


def test_without_skips_a_decoder_stage_sees_its_upsampling_only():
    plain, with_skips = (
        shapes(build_model("dpn", 3, (8, 8, 1), skips=skips, **OPTIONS)) for skips in (False, True)
    )
    differing = [name for name in plain if plain[name] != with_skips[name]]
    assert differing == ["decoder1_conv1/kernel", "decoder0_conv1/kernel"]
    assert plain["decoder0_conv1/kernel"] == (3, 3, 8, 8)


def test_a_reconstruction_has_the_shape_of_the_image():
    model = reconstructor((8, 12, 8, 2), **OPTIONS)
    image = np.ones((1, 8, 12, 8, 2), np.float32)
    assert model(image).shape == image.shape
    assert "reconstruction/kernel" in shapes(model)
    assert "logits/kernel" not in shapes(model)


def test_a_classifier_is_the_encoder_and_a_head():
    model = classifier((16, 16, 1), questions=4, classes=6, filters=8, downsamplings=1)
    assert model(np.ones((2, 16, 16, 1), np.float32)).shape == (2, 4, 6)
    layers = {name.split("/")[0].split("_")[0] for name in shapes(model)}
    assert layers == {"encoder0", "encoder1", "head"}
    # 8 x 8 voxels are averaged over boxes of 2 x 2 to 4 x 4, of 16 channels.
    assert shapes(model)["head/kernel"] == (4 * 4 * 16, 4 * 6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="dpn needs downsamplings to be at least 0"):
        build_model("dpn", 3, (8, 8, 1), downsamplings=-1)
    with pytest.raises(ShapeError, match="Pad it to 12"):
        build_model("dpn", 3, (8, 10, 1), downsamplings=2)

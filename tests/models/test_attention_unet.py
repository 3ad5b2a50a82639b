import keras
import numpy as np
import pytest

from segkit.models import build_model


def test_weights_are_those_of_a_plain_decoder_and_the_gates():
    plan = {"features_per_stage": [4, 6, 8], "strides": [1, [1, 2, 2], 2]}
    gated = build_model("attention_unet", 2, (None, None, None, 1), **plan)
    plain = build_model("plain_unet", 2, (None, None, None, 1), **plan)
    # Of the plain network every normalized convolution has a bias: two per stage of the encoder,
    # two per stage of the decoder.
    biases = 2 * (4 + 6 + 8) + 2 * (6 + 4)
    # One gate, at stage 1: 2 x 2 x 2 from 6 to 6 without bias, 1 from 8 to 6, 1 from 6 to 1.
    gate = 8 * 6 * 6 + (8 * 6 + 6) + (6 + 1)
    assert gated.count_params() == plain.count_params() - biases + gate


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_every_skip_but_the_finest_has_a_gate(stages):
    model = build_model("attention_unet", 2, (16, 16, 1), features_per_stage=[4] * stages)
    gates = [layer.name for layer in model.layers if layer.name.endswith("psi")]
    assert gates == [f"gate{level}_psi" for level in reversed(range(1, stages - 1))]


def test_a_gate_follows_the_paper_s_equations():
    plan = {"features_per_stage": [2, 4, 6], "strides": [1, 2, [2, 4]]}
    model = build_model("attention_unet", 2, (8, 16, 1), **plan)
    for layer in model.layers:  # biases other than zero
        if layer.name in ("gate1_g", "gate1_psi"):
            layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    names = ("encoder1_relu2", "encoder2_relu2", "gate1_product")
    parts = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 1)).astype(np.float32)
    x, g, product = (np.array(v[0]) for v in parts(image))
    weights = {n: [w.numpy() for w in model.get_layer(f"gate1_{n}").weights] for n in "xg"}
    psi, psi_bias = (w.numpy() for w in model.get_layer("gate1_psi").weights)

    # x is (4, 8, 4), g is (2, 2, 6): W_x sums over cells of 2 x 4 voxels.
    cells = x.reshape(2, 2, 2, 4, 4)
    seen = np.einsum("iajbc,abcf->ijf", cells, weights["x"][0])
    asked = g @ weights["g"][0][0, 0] + weights["g"][1]
    alpha = 1 / (1 + np.exp(-(np.maximum(seen + asked, 0) @ psi[0, 0] + psi_bias)))
    fine = keras.layers.UpSampling2D((2, 4), interpolation="bilinear")(alpha[None])[0]
    np.testing.assert_allclose(product, x * fine, atol=1e-5)


def test_deep_supervision_scores_every_stage_of_the_decoder():
    model = build_model(
        "attention_unet", 3, (4, 8, 8, 1), features_per_stage=[4] * 3, deep_supervision=True
    )
    shapes = {name: tuple(x.shape) for name, x in model.output.items()}
    assert shapes == {"logits": (None, 4, 8, 8, 3), "logits_1": (None, 2, 4, 4, 3)}

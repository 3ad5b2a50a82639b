import keras
import numpy as np

from segkit.models import build_model

PLAN = {"features_per_stage": [4, 6, 8, 10], "normalization": "none", "n_conv_per_stage": 1}


def test_weights_are_the_paper_s_nine_million():
    # Zhou 2018, table 2: 9.04 M for U-Net++ without deep supervision, 7.76 M for its U-Net.
    nested = build_model("unet_plus_plus", 2, (None, None, 3), normalization="none")
    assert round(nested.count_params() / 1e6, 2) == 9.04
    unet = build_model("unet", 2, (None, None, 3), normalization="none")
    assert round(unet.count_params() / 1e6, 2) == 7.76


def test_each_node_joins_all_before_it_and_one_from_below():
    model = build_model("unet_plus_plus", 2, (8, 16, 16, 1), strides=[1, [1, 2, 2], 2, 2], **PLAN)
    joined = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Concatenate):
            joined[layer.name] = [tensor.shape[-1] for tensor in layer.input]
    # x[i, j] joins j maps of its own stage and one upsampled to as many filters.
    assert joined == {
        "skip0_1": [4, 4],
        "skip1_1": [6, 6],
        "skip2_1": [8, 8],
        "skip0_2": [4, 4, 4],
        "skip1_2": [6, 6, 6],
        "skip0_3": [4, 4, 4, 4],
    }
    below = {f"up{i}_{j}": f"decoder{i + 1}_{j - 1}_relu2" for i, j in [(0, 2), (1, 2), (0, 3)]}
    below |= {f"up{i}_1": f"encoder{i + 1}_relu1" for i in range(3)}
    for up, source in below.items():
        assert model.get_layer(up).input is model.get_layer(source).output
    assert model.get_layer("up0_3").kernel.shape == (1, 2, 2, 4, 6)
    assert model.get_layer("decoder1_2_relu2").output.shape == (None, 8, 8, 8, 6)


def test_a_column_is_a_network_of_its_own():
    # The score of the first column does not see what is coarser than stage 1: pruning is exact.
    model = build_model("unet_plus_plus", 2, (16, 16, 1), deep_supervision=True, **PLAN)
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype(np.float32)
    before = model(image)
    assert list(before) == ["logits", "logits_2", "logits_1"]
    assert {tuple(x.shape) for x in before.values()} == {(1, 16, 16, 2)}
    for layer in model.layers:
        if layer.name.startswith(("encoder2", "up1_1")) and layer.weights:
            layer.set_weights([w * 2 for w in layer.get_weights()])
    after = model(image)
    np.testing.assert_array_equal(after["logits_1"], before["logits_1"])
    assert not np.allclose(after["logits_2"], before["logits_2"])


def test_deep_supervision_adds_one_score_per_further_column():
    plain = build_model("unet_plus_plus", 3, (None, None, 1), **PLAN)
    deep = build_model("unet_plus_plus", 3, (None, None, 1), deep_supervision=True, **PLAN)
    assert deep.count_params() - plain.count_params() == 2 * (4 * 3 + 3)

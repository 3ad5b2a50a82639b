import pytest

from segkit.models import build_model

PLAN = {"features_per_stage": [4, 4, 4]}
FAMILY = {
    "unet": {"filters": 4, "downsamplings": 2, "residual": True, "normalization": "none"},
    "unet2015": {"filters": 4, "downsamplings": 2},
    "plain_unet": PLAN,
    "resenc_unet": PLAN,
    "attention_unet": PLAN,
    "unet_plus_plus": PLAN,
}


def above(layer):
    """Names of the layers between the image and a layer, itself included."""
    found, waiting = set(), [layer]
    while waiting:
        one = waiting.pop()
        if one.name not in found:
            found.add(one.name)
            waiting += [node.operation for node in one._inbound_nodes[0].parent_nodes]
    return found


@pytest.mark.parametrize(("name", "options"), FAMILY.items())
def test_layers_of_the_encoder_and_no_others_are_named_so(name, options):
    model = build_model(name, 2, (16, 16, 1), **options)
    named = [layer for layer in model.layers if layer.name.startswith("encoder")]
    assert {layer.name[len("encoder")] for layer in named} == {"0", "1", "2"}
    # All that the coarsest map is made of, but for what has no weights.
    coarsest = [layer for layer in named if layer.name.startswith("encoder2")][-1]
    weighted = {layer.name for layer in model.layers if layer.weights}
    assert above(coarsest) & weighted == {layer.name for layer in named} & weighted

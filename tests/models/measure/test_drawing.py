"""What a drawing of a network shows."""

import keras
from keras import layers

from segkit.models.measure.blocks import find_blocks
from segkit.models.measure.drawing import draw_network
from segkit.models.measure.graph import read_graph
from segkit.models.measure.network import measure_network

UNET = {"filters": 4, "downsamplings": 2}


def test_the_stages_of_a_unet_are_its_blocks_and_skips_join_those_of_one_level():
    blocks = find_blocks(measure_network("unet", 3, (16, 24, 1), **UNET).graph)
    titles = ["encoder0", "encoder1", "encoder2", "decoder1", "decoder0"]
    assert [block.title for block in blocks] == titles
    assert [block.level for block in blocks] == [0, 1, 2, 1, 0]
    assert [block.column for block in blocks] == [0, 1, 2, 3, 4]
    assert [block.sides for block in blocks] == [(16, 24), (8, 12), (4, 6), (8, 12), (16, 24)]
    assert [block.channels for block in blocks] == [4, 8, 16, 8, 4]
    assert [sorted(block.sources) for block in blocks] == [[], [0], [1], [1, 2], [0, 3]]
    assert [block.outputs for block in blocks] == [[], [], [], [], ["logits"]]
    assert blocks[4].kernels == {(2, 2): 1, (3, 3): 2, (1, 1): 1}


def test_outputs_of_deep_supervision_are_shown_where_they_are_made():
    graph = measure_network("unet", 3, (16, 16, 1), deep_supervision=True, **UNET).graph
    blocks = find_blocks(graph)
    assert [block.outputs for block in blocks][-2:] == [["logits_1"], ["logits"]]


def test_valid_convolutions_stay_in_their_stage():
    x = image = keras.Input((64, 64, 1))
    for number in range(3):
        x = layers.Conv2D(2, 3, name=f"first_{number}")(x)
    x = layers.MaxPool2D(2)(x)
    x = layers.Conv2D(2, 3, name="second_0")(x)
    blocks = find_blocks(read_graph(keras.Model(image, x)))
    assert [(block.title, block.sides) for block in blocks] == [
        ("first", (58, 58)),
        ("second", (27, 27)),
    ]


def test_a_vector_has_a_block_below_all_resolutions():
    image, vector = keras.Input((8, 8, 2), name="image"), keras.Input((3,), name="covariates")
    scale = layers.Reshape((1, 1, 2))(layers.Dense(2, name="film")(vector))
    x = layers.Multiply()([layers.Conv2D(2, 3, padding="same", name="conv")(image), scale])
    blocks = find_blocks(read_graph(keras.Model([image, vector], x)))
    film = next(block for block in blocks if block.title == "film")
    assert film.level is None
    assert film.kernels == {(): 1}


def test_the_picture_has_a_box_per_block_and_an_arrow_per_way(tmp_path):
    graph = measure_network("unet", 3, (16, 24, 1), **UNET).graph
    draw_network(tmp_path / "unet.svg", graph, "unet")
    draw_network(tmp_path / "unet.png", graph, "unet")
    text = (tmp_path / "unet.svg").read_text()
    # The background of the figure; 5 boxes; 4 ways down and up, and 2 skips.
    assert text.count('<g id="patch_') == 1 + 5 + 4 + 2
    assert text.count("#0072b2") >= 2
    assert (tmp_path / "unet.png").read_bytes().startswith(b"\x89PNG")

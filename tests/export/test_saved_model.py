"""Exported models against the predictor, in this process and in one without segkit."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ExportError
from segkit.export.saved_model import export_saved_model
from segkit.export.saved_model import next_version
from segkit.inference.predictor import Predictor

PREPROCESS = {
    "orientation": "SAR",
    "spacing_mm": [1.0, 1.0, 1.0],
    "crop_to_nonzero": True,
    "normalization": [{"scheme": "zscore", "masked": True}],
}
CARD = {"classes": ["background", "organ"], "orientation": "SAR"}
LOAD = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
data = np.load(sys.argv[2])
result = model.signatures["serving_default"](
    image=tf.constant(data["image"]), spacing_mm=tf.constant(data["spacing_mm"])
)
np.savez(sys.argv[3], **{name: value.numpy() for name, value in result.items()})
assert "segkit" not in sys.modules
"""


class Rule(tf.Module):
    """Traced faster than a predictor; with `drift` it does not do the same thing twice."""

    num_channels, num_covariates, class_order = 1, 0, ()

    def __init__(self, drift=0.0):
        super().__init__()
        self.offset, self.drift = 0.0, drift

    def segment(self, image, spacing_mm, covariates=None):
        return self.probabilities(image, spacing_mm)[0]

    def probabilities(self, image, spacing_mm, covariates=None):
        self.offset += self.drift
        share = tf.nn.sigmoid(image[..., 0] * spacing_mm[0] - 1 + self.offset)
        return tf.cast(share > 0.5, tf.int32), tf.stack([1 - share, share], axis=-1)


def network(conv, sides, filters, precision="float32"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*sides, 1), name="image")
    x = conv(filters, 3, padding="same", activation="relu", dtype=precision)(inputs)
    x = keras.layers.Dropout(0.5)(x)
    x = conv(filters, 3, padding="same", dtype=precision)(x)
    return keras.Model(inputs, conv(2, 1, dtype="float32", name="logits")(x))


@pytest.fixture(scope="module")
def model():
    return network(keras.layers.Conv3D, (8, 8, 8), filters=128)


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, PREPROCESS, (8, 8, 8))


@pytest.fixture(scope="module")
def example():
    image = np.random.default_rng(0).random((6, 11, 13, 1), np.float32)
    image[:, :2] = 0
    return image, np.array([2.5, 0.8, 0.9], np.float32)


@pytest.fixture(scope="module")
def exported(predictor, example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "organ"
    return export_saved_model(predictor, folder, examples=[example], card=CARD)


def test_a_process_without_segkit_gives_the_same(predictor, exported, example, tmp_path):
    image, spacing_mm = example
    np.savez(tmp_path / "in.npz", image=image, spacing_mm=spacing_mm)
    command = [sys.executable, "-c", LOAD, exported, tmp_path / "in.npz", tmp_path / "out.npz"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    served = np.load(tmp_path / "out.npz")
    mask, probabilities = predictor.probabilities(image, spacing_mm)
    assert set(served) == {"mask", "probabilities"}
    np.testing.assert_array_equal(served["mask"], mask)
    np.testing.assert_allclose(served["probabilities"], probabilities, atol=1e-5)


def test_signatures_name_inputs_and_outputs(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    assert set(signatures) == {"serving_default", "mask"}
    inputs = signatures["mask"].structured_input_signature[1]
    assert {k: v.shape.as_list() for k, v in inputs.items()} == {
        "image": [None, None, None, 1],
        "spacing_mm": [3],
    }
    assert {k: v.dtype for k, v in signatures["mask"].structured_outputs.items()} == {
        "mask": tf.int32
    }
    outputs = signatures["serving_default"].structured_outputs
    assert outputs["probabilities"].shape.as_list()[-1] == 2


def test_the_card_lies_in_the_assets(exported):
    card = json.loads((exported / "assets" / "segkit.json").read_text())
    assert card["classes"] == CARD["classes"]
    assert card["version"] == 1
    assert card["parity"]["examples"] == 1
    assert card["parity"]["max_probability_difference"] <= 1e-5


def test_each_weight_is_written_once(model, exported):
    weights = 4 * model.count_params()
    size = sum(f.stat().st_size for f in exported.rglob("*") if f.is_file())
    assert weights > 1.7e6
    assert size < 1.3 * weights + 1e6


def test_mixed_precision_is_exported_as_it_is(example, tmp_path):
    slices = network(keras.layers.Conv2D, (8, 8), filters=2, precision="mixed_bfloat16")
    predictor = Predictor(slices, PREPROCESS, (8, 8))
    path = export_saved_model(predictor, tmp_path, examples=[example], card=CARD)
    graph = tf.saved_model.load(str(path)).signatures["mask"].graph
    functions = graph.as_graph_def().library
    nodes = [n for f in functions.function for n in f.node_def if n.op == "Conv2D"]
    assert {n.attr["T"].type for n in nodes} >= {tf.bfloat16.as_datatype_enum}


def test_versions_count_up_and_leave_nothing_else(example, tmp_path):
    for _ in range(2):
        export_saved_model(Rule(), tmp_path, examples=[example], card=CARD)
    (tmp_path / "notes").mkdir()
    assert next_version(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "notes"]
    assert next_version(tmp_path / "missing") == 1


def test_an_existing_version_is_refused(example, exported):
    with pytest.raises(ExportError, match="exists already"):
        export_saved_model(Rule(), exported.parent, examples=[example], card=CARD, version=1)


def test_an_export_that_differs_is_removed(example, tmp_path):
    with pytest.raises(ExportError, match="differs from the trained one on example 1"):
        export_saved_model(Rule(drift=1.0), tmp_path, examples=[example], card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_example_is_refused(tmp_path):
    with pytest.raises(ExportError, match="at least one example"):
        export_saved_model(Rule(), tmp_path, examples=[], card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(example, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        export_saved_model(Rule(), tmp_path / "file" / "m", examples=[example], card=CARD)


def test_regions_are_painted_in_the_exported_graph(example, tmp_path):
    image, spacing_mm = example
    inputs = keras.Input((8, 8, 8, 1), name="image")
    logits = keras.layers.Conv3D(1, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    logits.set_weights([np.ones((1, 1, 1, 1, 1), np.float32), np.zeros(1, np.float32)])
    predictor = Predictor(model, PREPROCESS, (8, 8, 8), class_order=(4,))
    path = export_saved_model(predictor, tmp_path, examples=[example], card=CARD)
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    served = signature(image=tf.constant(image), spacing_mm=tf.constant(spacing_mm))
    assert set(np.unique(served["mask"])) == {0, 4}
    np.testing.assert_array_equal(served["mask"] == 4, served["probabilities"][..., 0] > 0.5)


class Regions(Rule):
    """A rule of two regions, of which the second is as near to 1/2 as `edge` says."""

    class_order = (1, 2)

    def __init__(self, edge):
        super().__init__()
        self.edge, self.calls = edge, 0

    def probabilities(self, image, spacing_mm, covariates=None):
        self.calls += 1
        second = 0.5 + self.edge * (-1) ** self.calls
        share = tf.nn.sigmoid(image[..., 0] * spacing_mm[0])
        probabilities = tf.stack([share, tf.fill(tf.shape(share), second)], axis=-1)
        mask = tf.where(probabilities[..., 1] > 0.5, 2, tf.cast(share > 0.5, tf.int32))
        return mask, probabilities


def test_only_regions_near_a_half_may_be_decided_otherwise(example, tmp_path):
    path = export_saved_model(Regions(edge=2e-6), tmp_path, examples=[example], card=CARD)
    assert path.is_dir()
    with pytest.raises(ExportError, match="differs from the trained one"):
        export_saved_model(Regions(edge=2e-5), tmp_path, examples=[example], card=CARD)

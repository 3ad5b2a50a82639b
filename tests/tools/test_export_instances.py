"""Networks that find objects as SavedModels."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from segkit.errors import ExportError
from segkit.export.detector_model import check_parity
from segkit.inference.detector import detector_of
from segkit.inference.paste_masks import paste_masks
from segkit.io import read_label
from segkit.training.run import load_run
from tests.models.mask_rcnn.scenes import SMALL
from tests.tools import spots
from tools import predict
from tools.export import main

LOAD = """
import sys
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
data = np.load(sys.argv[2])
found = serve(image=tf.constant(data["image"]), spacing_mm=tf.ones(3))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
other = ("segkit", "data_prep", "official", "tf_keras")
assert not any(name.startswith(other) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(picture_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "nuclei"
    assert main(["--run", str(picture_run.folder), "--out", str(out)]) == 0
    return out / "1"


def test_the_card_says_what_was_compared(exported):
    card = json.loads((exported / "assets" / "segkit.json").read_text())
    assert card["model"] == "mask_rcnn"
    assert card["channels"] == ["red", "green", "blue"]
    assert card["classes"][1]["name"] == "nucleus"
    assert card["parity"]["examples"] == 2
    assert card["parity"]["objects"] > 0


def test_masks_of_the_export_pasted_are_those_of_the_predict_tool(picture_run, exported, tmp_path):
    shape = (60, 90)
    image = spots.spots(shape, spots.mosaic(shape))[0] * 250
    image = np.repeat(image.astype(np.uint8)[..., None], 3, axis=-1)
    Image.fromarray(image).save(tmp_path / "in.png")
    arguments = ["--run", picture_run.folder, "--input", tmp_path / "in.png", "--tile", 256]
    arguments += ["--output", tmp_path / "out.png"]
    assert predict.main([str(a) for a in arguments]) == 0
    expected = read_label(tmp_path / "out.png").array[0]
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    served = serve(image=tf.constant(image[None], tf.float32), spacing_mm=tf.ones(3))
    names = ("boxes", "scores", "classes", "masks")
    found = paste_masks(*(served[name][0].numpy() for name in names), shape)
    painted = np.zeros(shape, bool)
    for (y0, x0, y1, x1), mask in zip(found.boxes.astype(int), found.masks, strict=True):
        painted[y0:y1, x0:x1] |= mask
    np.testing.assert_array_equal(painted, expected > 0)
    assert len(found.scores) == expected.max()


def test_the_example_of_the_documentation_draws_the_objects(exported):
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall("```python\n(.*?)```", text, re.DOTALL) if "np.ix_" in c]
    height, width = 60, 90
    picture, ids, _ = spots.spots((height, width), [*spots.mosaic((height, width)), (2, 88)])
    image = tf.constant(np.repeat(picture[None, ..., None] * 250, 3, axis=-1), tf.float32)
    names = {"model": tf.saved_model.load(str(exported)), "image": image, "np": np, "tf": tf}
    names |= {"height": height, "width": width}
    exec(code, names)
    found = names["ids"]
    assert len(np.unique(found)) == ids.max()  # the one at the corner has a score below 0.5
    true, found = (ids > 0) & (ids < ids.max()), found > 0
    assert (true & found).sum() / (true | found).sum() > 0.85  # nearest cells


def test_two_objects_in_another_order_are_the_same(picture_run, exported):
    picture = spots.spots((64, 64), [(20, 20), (40, 45), (4, 40)])[0]
    image = np.repeat(picture[None, ..., None] * 250, 3, axis=-1).astype(np.float32)
    detector = detector_of(load_run(picture_run.folder))
    examples = [(image, np.ones(3, np.float32))]
    serve = detector.serve

    def rearranged(order):
        detector.serve = lambda *inputs: {
            name: value if name == "slices" else tf.gather(value, order, axis=1)
            for name, value in serve(*inputs).items()
        }

    places = list(range(spots.PLACES))
    rearranged([1, 0, *places[2:]])
    assert check_parity(detector, exported, examples)["objects"] == 3
    for missing in ([0, 1, *places[3:], 63], [0, 0, *places[2:]]):
        rearranged(missing)
        with pytest.raises(ExportError, match="boxes by up to"):
            check_parity(detector, exported, examples)


def test_an_export_of_other_weights_is_found_out(picture_run, exported):
    run = load_run(picture_run.folder)
    image = np.repeat(spots.spots((64, 64), [(20, 20)])[0][None, ..., None] * 250, 3, axis=-1)
    examples = [(image.astype(np.float32), np.ones(3, np.float32))]
    assert check_parity(detector_of(run), exported, examples)["objects"] == 1
    run.model.gain.assign(0.9)
    with pytest.raises(ExportError, match="differs from the trained one on example 1: masks"):
        check_parity(detector_of(run), exported, examples)
    with pytest.raises(ExportError, match="at least one example"):
        check_parity(detector_of(run), exported, [])


def test_volumes_are_checked_too(volume_run, tmp_path, capsys):
    assert main(["--run", str(volume_run.folder), "--out", str(tmp_path), "--check", "1"]) == 0
    assert "detections in 1 validation case(s): boxes within" in capsys.readouterr().out


def test_options_for_labels_of_pixels_are_refused(picture_run, mistake):
    line = mistake(main, "--run", picture_run.folder, "--mirror")
    assert "--mirror is for networks that label pixels" in line


@pytest.mark.slow
def test_tensorflow_alone_runs_an_exported_mask_rcnn(tmp_path_factory, tmp_path):
    """The real network, with random weights, needs neither segkit nor Model Garden."""
    from segkit.models import build_model

    root = tmp_path_factory.mktemp("mask_rcnn")
    run = spots.make_run(root, spots.write_nuclei(root / "raw"), "dsb2018", channels=3)
    keras.utils.set_random_seed(0)
    model = build_model("mask_rcnn", 2, (None, None, 3), **SMALL)
    model.save(run.folder / "model.keras")
    assert main(["--run", str(run.folder), "--check", "1"]) == 0
    exported = run.folder / "saved_model" / "1"
    assert json.loads((exported / "assets" / "segkit.json").read_text())["parity"]["objects"] > 0
    image = np.random.default_rng(0).uniform(0, 255, (2, 70, 45, 3)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    command = [sys.executable, "-c", LOAD, exported, tmp_path / "in.npz", tmp_path / "out.npz"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    served = np.load(tmp_path / "out.npz")
    expected = detector_of(load_run(run.folder), tile=256).slices(image / 255)
    names = ("boxes", "scores", "classes", "masks")
    for n, one in enumerate(expected):
        found = paste_masks(*(served[name][n] for name in names), (70, 45))
        found = found.take([k for k, mask in enumerate(found.masks) if mask.any()])
        assert len(one.scores) == len(found.scores) > 0
        np.testing.assert_allclose(one.scores, found.scores, atol=1e-4)
        np.testing.assert_array_equal(one.classes, found.classes)

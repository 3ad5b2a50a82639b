import csv
import sys

import pytest

from segkit.models import GENERATORS
from segkit.models import MODELS
from segkit.models.measure.network import measure_network
from tools import models

NETS = """
import keras
from keras import layers, ops


def tiny(num_classes, input_shape, *, filters: int = 3):
    image = keras.Input(input_shape)
    x = layers.Conv2D(filters, 3, padding="same")(image)
    weights = ops.einsum("bhwc,bhwd->bcd", x, x)
    x = ops.einsum("bhwc,bcd->bhwd", x, weights)
    return keras.Model(image, layers.Conv2D(num_classes, 1)(x))
"""


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_networks_are_tabulated_as_their_configs_have_them(tmp_path, capsys):
    path = tmp_path / "all.csv"
    assert models.main(["--csv", str(path)]) == 0
    table = rows(path)
    names = [name for name in MODELS if name != "mask_rcnn"]
    assert [row["model"] for row in table] == [*names, *GENERATORS]
    assert next(row for row in table if row["model"] == "spade")["receptive_field"] == "unknown"
    unet = next(row for row in table if row["model"] == "unet")
    costs = measure_network("unet", 2, (64, 64, 1), filters=16, downsamplings=3).costs
    assert unet["input"] == "64 x 64 x 1"
    assert int(unet["parameters"]) == costs.parameters == 482_466
    assert int(unet["multiply_adds"]) == costs.multiply_adds
    assert int(unet["training_bytes"]) == costs.training_bytes
    assert unet["receptive_field"] == "79 x 79"
    shown = capsys.readouterr()
    assert "note: mask_rcnn: mask_rcnn is not one graph" in shown.err
    line = next(x for x in shown.out.splitlines() if x.startswith("unet "))
    assert "0.48 M" in line
    assert "0.144 G" in line


def test_a_network_that_does_not_fit_the_input_is_a_note_among_all(capsys):
    assert models.main(["--input", "16", "16", "16", "1"]) == 0
    captured = capsys.readouterr()
    assert "unet3d" in captured.out
    assert "fcn8s" not in captured.out
    notes = captured.err.splitlines()
    assert any(n.startswith("note: fcn8s: fcn8s is 2-D and needs") for n in notes)


def test_options_classes_input_and_precision_change_the_numbers(tmp_path):
    found = []
    for arguments in (
        [],
        ["--set", "model.filters=8"],
        ["--classes", "4"],
        ["--input", "32", "64", "1"],
        ["--set", "train.precision=mixed_bfloat16"],
    ):
        path = tmp_path / f"{len(found)}.csv"
        assert models.main(["--model", "unet", "--csv", str(path), *arguments]) == 0
        found.append(rows(path)[0])
    first, filters, classes, sides, precision = found
    assert int(filters["parameters"]) < int(first["parameters"])
    # A convolution from 16 channels to 4 instead of 2 classes.
    assert int(classes["parameters"]) - int(first["parameters"]) == 2 * (16 + 1)
    assert int(sides["multiply_adds"]) * 2 == int(first["multiply_adds"])
    assert int(precision["training_bytes"]) < 0.55 * int(first["training_bytes"])


def test_a_network_of_ones_own_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny_nets_for_test.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "tiny_nets_for_test:tiny"
    argv = ["--model", name, "--input", "8", "8", "1", "--draw", "tiny.svg"]
    assert models.main(argv) == 0
    captured = capsys.readouterr()
    assert name in captured.out
    assert "all x all" in captured.out
    assert captured.err.startswith(f"note: {name}: the multiply-adds leave out the products of")
    assert (tmp_path / "tiny.svg").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "unett"], "Did you mean 'unet'"),
        (["--model", "unet", "--set", "model.filtres=3"], "Did you mean 'filters'"),
        (["--config", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["--model", "unet", "--input", "64"], "--input must be 2 or 3 sides and the number"),
        (["--model", "unet", "--input", "64", "0", "1"], "--input must be 2 or 3 sides"),
        (["--model", "unet", "--input", "64", "60", "1"], "multiple of 8, got 60"),
        (["--model", "unet", "--input", "8", "8", "8", "1"], "unet is 2-D"),
        (["--model", "unet", "--classes", "1"], "at least 2 classes"),
        (["--draw", "unet.png"], "--draw draws one network"),
        (["--model", "unet", "fcn8s", "--draw", "unet.png"], "--draw draws one network"),
        (["--model", "unet", "--draw", "unet.gif"], "--draw must end in .png, .pdf, .svg"),
        (["--model", "unet", "--csv", "unet.txt"], "--csv must end in .csv"),
        (["--model", "unet", "--csv", "nowhere/unet.csv"], "cannot write nowhere/unet.csv"),
        (["--model", "mine:net"], "Give --input and no --set"),
        (["--model", "mine:net", "--input", "8", "8", "1"], "no module mine"),
    ],
)
def test_a_mistake_gets_one_line(argv, message, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(models.main, *argv)
    assert list(tmp_path.iterdir()) == []

"""Functions of the user's own by name: the example of docs/extending.md, and mistakes."""

import importlib
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import keras
import pytest
import tensorflow  # noqa: F401 - seen by conftest, which then gives it two devices
import yaml

from segkit.config import load_config
from segkit.training.run import check_resumable
from segkit.training.run import load_run
from tools import evaluate
from tools import export
from tools import predict
from tools import prepare_data
from tools import train

pytestmark = pytest.mark.slow
PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
TOOLS = {t.__name__.rpartition(".")[2]: t for t in (evaluate, export, predict, prepare_data, train)}


def blocks():
    """The files of the page by name, and its commands."""
    page = PAGE.read_text(encoding="utf-8")
    files = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", page, re.M | re.S)
    commands = re.search(r"^```\n(python .*?)^```", page, re.M | re.S)[1].splitlines()
    return dict(files), commands


def call(command):
    """Runs one command of the page in this process and returns its exit code."""
    _, script, *argv = shlex.split(command)
    if script.startswith("tools/"):
        return TOOLS[Path(script).stem].main(argv)
    runpy.run_path(script)
    return 0


def forget():
    """Makes this process one that has not yet seen the package of the example."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "mypackage"]:
        del sys.modules[name]
    for name in [n for n in keras.saving.get_custom_objects() if n.startswith("mypackage>")]:
        del keras.saving.get_custom_objects()[name]
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder in which all commands of the page have been run."""
    folder = tmp_path_factory.mktemp("example")
    files, commands = blocks()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        for command in commands:
            forget()
            assert call(command) == 0, command
    return folder


@pytest.fixture
def example(trained, monkeypatch):
    """The same, as working directory of a process that has not seen its modules."""
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield trained
    forget()


def test_the_example_of_the_page_runs_from_data_to_export(example):
    assert len(blocks()[1]) == 6
    run = example / "runs" / "mine"
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert model == {"name": "mypackage.nets:small_net", "filters": 4}
    header = (run / "history.csv").read_text().splitlines()[0].split(",")
    assert "train_loss/robust_cross_entropy" in header
    assert "train_loss/dice" in header
    assert (run / "evaluation" / "fold0" / "results.json").is_file()
    assert (example / "mask.nii.gz").is_file()
    assert (run / "saved_model" / "1" / "saved_model.pb").is_file()


def test_a_run_keeps_the_modules_that_its_config_names(example):
    kept = example / "runs" / "mine" / "source" / "mypackage"
    assert sorted(path.name for path in kept.iterdir()) == ["augment.py", "losses.py", "nets.py"]
    for path in kept.iterdir():
        assert path.read_bytes() == (example / "mypackage" / path.name).read_bytes()


def test_a_run_whose_module_has_changed_is_used_with_a_warning(example, capsys):
    run = example / "runs" / "mine"
    nets = example / "mypackage" / "nets.py"
    before = nets.read_bytes()
    load_run(run)
    assert capsys.readouterr().err == ""
    forget()
    try:
        nets.write_bytes(before + b"\n\nLATER = True\n")
        load_run(run)
    finally:
        nets.write_bytes(before)
    assert sys.modules["mypackage.nets"].LATER
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {nets} has changed since {run} was trained")
    assert str(run / "source" / "mypackage" / "nets.py") in warning
    assert warning.count("\n") == 1


def test_going_on_with_a_changed_loss_is_warned_of(example, tmp_path, capsys):
    losses = example / "mypackage" / "losses.py"
    before = losses.read_bytes()
    config = load_config(example / "runs" / "mine" / "config.yaml")
    try:
        losses.write_bytes(before + b"\n")
        check_resumable(example / "runs" / "mine", config)
    finally:
        losses.write_bytes(before)
    assert capsys.readouterr().err.startswith(f"warning: {losses} has changed")


def test_a_run_whose_module_is_missing_is_refused(example, monkeypatch, mistake, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(example)])
    error = mistake(evaluate.main, "--run", example / "runs" / "mine")
    assert "was trained with a model of your own" in error
    assert "no module mypackage.nets" in error


def test_code_in_a_run_folder_is_not_run(example, monkeypatch, mistake, tmp_path):
    shutil.copytree(example / "runs" / "mine", tmp_path / "runs" / "gift")
    run = tmp_path / "runs" / "gift"
    trap = 'from pathlib import Path\n\nPath("run").touch()\n\n\ndef net():\n    return None\n'
    for place in (run / "__init__.py", run / "trap.py"):
        place.write_text(trap)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, folder in (("runs.gift.trap:net", tmp_path), ("trap:net", run)):
        monkeypatch.chdir(folder)
        config["model"]["name"] = name
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        error = mistake(evaluate.main, "--run", run)
        assert f"{name!r} is {run / 'trap.py'}: code in a run folder is never run" in error
        assert not (folder / "run").exists()


PLAIN = "augment.policy=none"  # what a policy compiles takes seconds
WRONG = """
import keras
import tensorflow as tf
from keras import layers, ops

from data_prep.augment.geometry import Motion
from data_prep.augment.mixing import Mixing

VALUE = 3


def half(num_classes, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Conv3D(num_classes, 1, 2)(inputs))


def one_class_more(num_classes, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Conv3D(num_classes + 1, 1)(inputs))


def half_precision(num_classes, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Conv3D(num_classes, 1)(inputs))


def no_model(num_classes, input_shape):
    return layers.Conv3D(num_classes, 1)


def no_star(num_classes, input_shape, filters=3):
    return None


class Net(keras.Model):
    pass


class Nameless(layers.Layer):
    def call(self, x):
        return x + 1


def unregistered(num_classes, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Conv3D(num_classes, 1)(Nameless()(inputs)))


def with_lambda(num_classes, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Conv3D(num_classes, 1)(layers.Lambda(lambda x: x)(inputs)))


def scalar(labels, logits):
    return ops.mean(logits)


def per_voxel(labels, logits):
    return ops.mean(logits, axis=-1)


def shrinks(draws, space):
    return lambda image: image[:, :, 1:]


def nothing(draws, space):
    return None


def no_motion(draws, space) -> Motion:
    return tf.eye(3)


def one_of_two(draws, space) -> Mixing:
    return lambda image, label: image


def no_data_set(source):
    return [source]
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.name=nowhere:net"], "no module nowhere"),
        (["model.name=wrong:gone"], "defines no gone. Known: "),
        (["model.name=wrong:VALUE"], "defines no VALUE"),
        (["model.name=wrong.py:half"], "no module wrong.py"),
        (["model.name=folder/wrong:half"], "must be like package.module:function"),
        (["model.name=broken:net"], "broken.py is not valid Python"),
        (["model.name=wrong:Net"], "must be a function of (num_classes, input_shape, *, options)"),
        (["model.name=wrong:no_star"], "got (num_classes, input_shape, filters)"),
        (["model.filtres=3"], "has no option 'filtres'. Did you mean 'filters'"),
        (["model.filters=3.5"], "model.filters must be int, got 3.5"),
        (["model={name: wrong:half}"], "(None, 16, 16, 16, 2) (batch, *patch, classes), got (None"),
        (["model={name: wrong:one_class_more}"], "classes), got (None, 16, 16, 16, 3)"),
        (["model={name: wrong:no_model}"], "must return keras.Model(inputs, outputs), got Conv3D"),
        (
            ["model={name: wrong:half_precision}", "train.precision=mixed_float16"],
            "must give float32 logits, got float16",
        ),
        (["model={name: wrong:unregistered}"], "from a file: Could not locate class 'Nameless'."),
        (["model={name: wrong:with_lambda}"], "could not be read back from a file: "),
        ([PLAIN, "loss={name: wrong:scalar}"], "loss 'scalar' must be one value per example"),
        ([PLAIN, "loss={name: wrong:per_voxel}"], "shape (batch,), got (2, 16, 16, 16)"),
        (["loss.parts=[wrong:gone: {}]"], "defines no gone"),
        (["loss.parts=[wrong:scalar: {p: 1}]"], "has no option 'p'"),
        (["augment.policy=[wrong:gone: {}]"], "defines no gone"),
        (["augment.policy=[wrong:shrinks: {}]"], "keep the shape and dtype of the image, float32"),
        (["augment.policy=[wrong:nothing: {}]"], "a function of image, got NoneType"),
        (["augment.policy=[wrong:no_motion: {}]"], "must return a Motion"),
        (["augment.policy=[wrong:one_of_two: {}]"], "image and label, got 1 result(s)"),
        (["train.optimizer=wrong:half"], "must be a function of (shared, *, options)"),
    ],
)
def test_a_mistake_of_ones_own_gets_one_line(example, settings, message, mistake, tmp_path):
    (example / "wrong.py").write_text(WRONG)
    (example / "broken.py").write_text("def net(:\n")
    importlib.invalidate_caches()
    config = yaml.safe_load((example / "mine.yaml").read_text())
    for setting in settings:
        key, _, value = setting.partition("=")
        section, _, option = key.partition(".")
        if option:
            config[section][option] = yaml.safe_load(value)
        else:
            config[section] = yaml.safe_load(value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    argv = ["--config", tmp_path / "config.yaml", "--data", "data/mine", "--run", tmp_path / "run"]
    assert message in mistake(train.main, *argv)


def test_mistakes_in_a_layout_and_of_the_command_line_get_one_line(example, mistake, tmp_path):
    (example / "wrong.py").write_text(WRONG)
    importlib.invalidate_caches()
    source = ["--source", "scans", "--out", tmp_path / "out", "--layout"]
    for layout, message in (
        ("mypackage.layouts:scn", "Did you mean 'scan'"),
        ("wrong:no_data_set", "must return a RawDataset, got list"),
        ("wrong:scalar", "must be a function of (source, *, options), got (labels, logits)"),
    ):
        assert message in mistake(prepare_data.main, *source, layout)
    option = ["mypackage.layouts:scan", "--layout-option", "spacing_mm=3"]
    assert "spacing_mm must be list[float]" in mistake(prepare_data.main, *source, *option)
    error = mistake(train.main, "--model", "mypackage.nets:small_net")
    assert "--model takes the name of a config" in error

"""Functions of the user's own by name: the example of docs/extending.md, and mistakes."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow  # noqa: F401 - seen by conftest, which then gives it two devices
import yaml

from tools import evaluate
from tools import export
from tools import predict
from tools import prepare_data
from tools import train

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


@pytest.mark.slow
def test_the_example_of_the_page_runs_from_data_to_export(example):
    assert len(blocks()[1]) == 6
    run = example / "runs" / "mine"
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert model == {"name": "mypackage.nets:small_net", "filters": 4}
    header = (run / "history.csv").read_text().splitlines()[0].split(",")
    assert "train_loss/robust_cross_entropy" in header
    assert (run / "evaluation" / "val" / "results.json").exists() or list(
        run.glob("evaluation/*/results.json")
    )
    assert (example / "mask.nii.gz").is_file()
    assert (run / "saved_model" / "1" / "saved_model.pb").is_file()

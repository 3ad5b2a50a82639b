"""Tests of the source itself: import direction, TensorFlow's absence, tables against files."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

# Lowest first. A module imports from lower lines, and from its own package.
LAYERS = (
    ("segkit.errors",),
    ("segkit.tables",),
    (
        "segkit.config",
        "segkit.volume",
        "segkit.hashing",
        "segkit.outputs",
        "segkit.regions",
        "segkit.priors",
        "segkit.covariates",
    ),
    ("segkit.layers", "segkit.losses", "segkit.metrics", "segkit.io"),
    ("segkit.models", "segkit.classical"),
    ("segkit.training", "segkit.inference", "segkit.export", "data_prep"),
    ("tools",),
)
TABLES = (
    "segkit.layers:LAYERS",
    "segkit.losses:LOSSES",
    "segkit.metrics:METRICS",
    "segkit.models:MODELS",
    "segkit.models:GENERATORS",
    "segkit.models:CRITICS",
    "segkit.classical:METHODS",
    "segkit.training:OPTIMIZERS",
    "segkit.training:SCHEDULES",
    "segkit.training:AVERAGES",
    "segkit.training:PRETEXTS",
    "segkit.training:TASKS",
    "data_prep.layouts:LAYOUTS",
    "data_prep.augment:TRANSFORMS",
)
WITH_TENSORFLOW = ("data_prep.pipeline", "data_prep.reader", "data_prep.service")
HEAVY = ("tensorflow", "keras")
# Modules beside the entries of a table.
SHARED = {
    "__init__",
    "axes",
    "blocks",
    "checks",
    "encoder_decoder",
    "ensemble",
    "gan",
    "image",
    "levels",
    "measure",
    "morphology",
    "parts",
    "seeds",
    "stages",
    "vgg16",
}


def modules():
    for top in ("segkit", "data_prep", "tools"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path


def imports(path, *, everywhere):
    """Names imported by a file; with `everywhere` also those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name):
    """Returns `(level, package)` of a module, or `None` when it is not in the map."""
    for level, packages in enumerate(LAYERS):
        for package in packages:
            if name == package or name.startswith(package + "."):
                return level, package
    return None


def violations(name, imported):
    level, package = layer(name)
    for other in imported:
        found = layer(other)
        if found and found[1] != package and found[0] >= level:
            yield f"{name} imports {other}"


def test_every_module_is_in_the_layer_map():
    stray = [n for n, _ in modules() if layer(n) is None and n not in ("segkit", "tools")]
    assert stray == []


def test_imports_go_downwards_only():
    found = [
        v for n, p in modules() if layer(n) for v in violations(n, imports(p, everywhere=True))
    ]
    assert found == []


def test_the_direction_check_sees_a_planted_violation():
    assert list(violations("segkit.io.nifti", ["segkit.models.unet"]))
    assert list(violations("segkit.export.x", ["data_prep.plan"]))
    assert not list(violations("segkit.models.unet", ["segkit.layers.norm", "segkit.errors"]))


def with_tensorflow(name):
    """Whether a module of data_prep may use TensorFlow: of augment, all but tables and policies."""
    transforms = {n for n, _ in modules() if n.startswith("data_prep.augment.")}
    return name in WITH_TENSORFLOW or name in transforms - {"data_prep.augment.policy"}


def free_of_tensorflow(name):
    if name.startswith("data_prep"):
        return not with_tensorflow(name)
    light = (
        "segkit.io",
        "segkit.config",
        "segkit.volume",
        "segkit.tables",
        "segkit.errors",
        "segkit.outputs",
        "segkit.priors",
        "segkit.classical",
        "segkit.covariates",
    )
    return name.startswith((*light, "tools"))


def test_conversion_reading_and_tools_do_not_import_tensorflow_at_the_top():
    found = [
        f"{name} imports {imported}"
        for name, path in modules()
        if free_of_tensorflow(name)
        for imported in imports(path, everywhere=False)
        if imported.split(".")[0] in HEAVY or with_tensorflow(imported)
    ]
    assert found == []


def test_networks_are_backend_neutral():
    neutral = (
        "segkit.models",
        "segkit.layers",
        "segkit.losses",
        "segkit.metrics",
        "segkit.regions",
    )
    found = [
        n
        for n, p in modules()
        if n.startswith(neutral) and "tensorflow" in imports(p, everywhere=True)
        if not n.startswith("segkit.models.mask_rcnn.")
    ]
    assert found == []


@pytest.mark.parametrize("table", TABLES)
def test_table_entries_exist_and_every_file_is_in_the_table(table):
    module, _, attribute = table.partition(":")
    entries = getattr(importlib.import_module(module), attribute)
    for name, entry in entries.items():
        target, _, function = entry.partition(":")
        assert callable(getattr(importlib.import_module(target), function)), name


@pytest.mark.parametrize(
    ("folder", "table"),
    [
        ("segkit/models", "segkit.models:MODELS"),
        ("segkit/models/gan", "segkit.models:GENERATORS|CRITICS"),
        ("segkit/classical", "segkit.classical:METHODS"),
        ("data_prep/layouts", "data_prep.layouts:LAYOUTS"),
    ],
)
def test_no_file_is_missing_from_its_table(folder, table):
    module, _, attributes = table.partition(":")
    tables = [getattr(importlib.import_module(module), name) for name in attributes.split("|")]
    entries = [entry for each in tables for entry in each.values()]
    listed = {entry.partition(":")[0].split(".")[len(Path(folder).parts)] for entry in entries}
    found = [
        *(ROOT / folder).glob("*.py"),
        *(p.parent for p in (ROOT / folder).glob("*/__init__.py")),
    ]
    files = {p.stem for p in found} - SHARED
    assert files == listed


def test_every_model_has_a_config_and_every_config_a_model():
    from segkit.models import GENERATORS
    from segkit.models import MODELS

    texts = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "configs").glob("*.yaml")}
    named = {stem: yaml.safe_load(text)["model"]["name"] for stem, text in texts.items()}
    assert {name: named.get(name) for name in MODELS} == {name: name for name in MODELS}
    assert set(named.values()) == set(MODELS) | set(GENERATORS)


@pytest.mark.parametrize("tool", sorted(p.stem for p in (ROOT / "tools").glob("*.py")))
def test_help_shows_examples_without_tensorflow(tool):
    code = (
        f"import sys, runpy; sys.argv = ['{tool}', '--help']\n"
        f"try:\n    runpy.run_path(r'{ROOT / 'tools' / tool}.py', run_name='__main__')\n"
        "except SystemExit:\n    assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "examples:" in result.stdout


def test_no_file_is_longer_than_400_lines():
    long = [str(p) for _, p in modules() if len(p.read_text().splitlines()) > 400]
    assert long == []


def test_the_readme_stays_under_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200

from pathlib import Path

import pytest
import yaml

from segkit.config import Component
from segkit.config import config_from_dict
from segkit.config import first_difference
from segkit.config import load_config
from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.losses import LOSSES
from segkit.models import CRITICS
from segkit.models import GENERATORS
from segkit.models import MODELS
from segkit.tables import named_options
from segkit.training import PRETEXTS
from segkit.training import TASKS

ROOT = Path(__file__).resolve().parents[1]
TABLES = {"model": MODELS | GENERATORS, "loss": LOSSES, "pretext": PRETEXTS, "task": TASKS}
SMALL = {
    "model": {"name": "unet", "filters": 8},
    "data": {"patch_size": [32, 32]},
    "loss": {"name": "ce_dice"},
    "train": {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4},
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_a_file_becomes_a_typed_config(config_file):
    config = load_config(config_file, tables=TABLES)
    assert config.model == Component("unet", {"filters": 8})
    assert config.train.batch_size == 4
    assert config.inference.overlap == 0.5


def test_overrides_win_over_the_file_and_later_ones_over_earlier(config_file):
    config = load_config(
        config_file, ["train.epochs=5", "train.epochs=7", "model.filters=16"], TABLES
    )
    assert config.train.epochs == 7
    assert config.model.options == {"filters": 16}


def test_a_section_pretext_is_checked_kept_and_may_be_absent(config_file, tmp_path):
    assert load_config(config_file, tables=TABLES).pretext is None
    overrides = ["pretext.name=masked", "pretext.block=4"]
    config = load_config(config_file, overrides, TABLES)
    assert config.pretext == Component("masked", {"block": 4})
    save_config(config, tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml", tables=TABLES) == config
    assert first_difference(config, load_config(config_file)) == "pretext.name"
    with pytest.raises(ConfigError, match="pretext.block must be int, got 'big'"):
        load_config(config_file, [*overrides, "pretext.block=big"], TABLES)


def test_a_section_task_and_a_second_data_set_are_kept_and_may_be_absent(config_file, tmp_path):
    assert load_config(config_file, tables=TABLES).task is None
    overrides = ["task.name=noise", "data.style=data/other"]
    config = load_config(config_file, overrides, {**TABLES, "task": TASKS})
    assert config.task == Component("noise")
    save_config(config, tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml") == config
    assert first_difference(config, load_config(config_file)) == "data.style"
    with pytest.raises(ConfigError, match="task 'noise' has no option 'size'"):
        load_config(config_file, [*overrides, "task.size=4"], {**TABLES, "task": TASKS})


def test_saving_and_loading_gives_the_same_config(config_file, tmp_path):
    config = load_config(
        config_file,
        [
            "augment.policy=[flip: {axes: [0.5, 0, 0]}]",
            "train.xla=off",
            "train.optimizer={name: sgd, momentum: 0.9}",
        ],
        TABLES,
    )
    assert config.train.optimizer == {"name": "sgd", "momentum": 0.9}
    save_config(config, tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml", tables=TABLES) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epohcs=3", r"unknown key train.epohcs. Did you mean 'epochs'"),
        ("trian.epochs=3", r"no section 'trian'. Did you mean 'train'"),
        ("model.filtres=3", r"model 'unet' has no option 'filtres'. Did you mean 'filters'"),
        ("model.filters=wide", r"model.filters must be int, got 'wide'"),
        ("model.name=unett", r"unknown model 'unett'. Did you mean 'unet'"),
        ("loss.name=cedice", r"unknown loss 'cedice'. Did you mean 'ce_dice'"),
        ("train.learning_rate=1e-4", r"YAML reads 1e-4 as text; write 0.0001"),
        ("train.learning_rate=1e-5", r"YAML reads 1e-5 as text; write 1.0e-05"),
        ("train.epochs=true", r"train.epochs must be int, got True \(bool\)"),
        ("train.epochs=0", r"train.epochs must be above 0, got 0"),
        ("train.precision=mixed_flaot16", r"Did you mean 'mixed_float16'"),
        ("train.optimizer=3", r"train.optimizer must be str | dict, got 3"),
        ("train.warmup_steps=-1", r"train.warmup_steps must be 0 or more, got -1"),
        ("train.warmup_steps=0.5", r"train.warmup_steps must be int, got 0.5"),
        ("train.l1=-0.1", r"train.l1 must be 0 or more, got -0.1"),
        ("train.l2=-0.1", r"train.l2 must be 0 or more, got -0.1"),
        ("train.xla=maybe", r"train.xla must be auto, on, off or step"),
        ("data.patch_size=[8]", r"data.patch_size must be 2 or 3 sides, got \[8\]"),
        ("data.patch_size=[8, a]", r"data.patch_size must be list\[int\]"),
        ("data.foreground_fraction=2", r"must be between 0 and 1, got 2"),
        ("augment.placement=gpu", r"augment.placement cannot be 'gpu'.*device, input"),
        ("augment.interpolation=cubik", r"Did you mean 'cubic'"),
        ("data.memory_mb=0", r"data.memory_mb must be above 0"),
        ("data.repeats={case: -1}", r"data.repeats.case must be a whole number from 0, got -1"),
        ("data.repeats={case: true}", r"data.repeats.case must be a whole number from 0, got True"),
        ("data.repeats={001: 2}", r"a case in data.repeats must be text; quote it, got 1"),
        ("data.repeats=[a]", r"data.repeats must be dict"),
        ("inference.overlap=1", r"inference.overlap must be at least 0 and below 1"),
        ("train.epochs", r"--set takes section.key=value"),
        ("epochs=3", r"--set takes section.key=value"),
    ],
)
def test_a_wrong_setting_says_what_where_and_how(config_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file, [override], TABLES)


@pytest.mark.parametrize(
    ("section", "key"), [("train", "epochs"), ("data", "patch_size"), ("model", "name")]
)
def test_a_missing_key_is_named(section, key):
    raw = {name: dict(values) for name, values in SMALL.items()}
    del raw[section][key]
    with pytest.raises(ConfigError, match=f"{section}.{key} is missing"):
        config_from_dict(raw, TABLES)


def test_a_missing_file_names_the_nearest_config(config_file):
    with pytest.raises(ConfigError, match="Did you mean 'small'"):
        load_config(config_file.with_name("smal.yaml"))


@pytest.mark.parametrize("text", ["train: [", "- 1", "train: 3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match="bad.yaml"):
        load_config(tmp_path / "bad.yaml")


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("train: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not a readable YAML"):
        load_config(tmp_path / "evil.yaml")


def test_first_difference_names_the_setting(config_file):
    one = load_config(config_file, tables=TABLES)
    other = load_config(config_file, ["model.filters=9"], TABLES)
    assert first_difference(one, other) == "model.filters"
    assert first_difference(one, one) is None


def test_the_order_of_regions_is_a_difference(config_file):
    one, other = (
        load_config(config_file, ["loss.name=region_ce_dice", f"loss.regions={{{text}}}"])
        for text in ("all: [1, 2], core: [2]", "core: [2], all: [1, 2]")
    )
    assert first_difference(one, other) == "loss.regions"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_loads(path):
    config = load_config(path, tables=TABLES)
    assert config.model.name in MODELS | GENERATORS
    assert (config.model.name in GENERATORS) == bool(config.task)
    if config.task:
        named_options(config.loss.options["critic"], "loss.critic", CRITICS)

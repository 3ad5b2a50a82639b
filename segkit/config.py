"""The whole configuration schema, and the strict loader of `configs/NAME.yaml`.

A config is a flat typed YAML file, two levels deep: `model data augment loss pretext task train
inference`. `model`, `loss`, `pretext` and `task` name a component; their other keys are the
keyword-only arguments of its builder. Precedence: file, then `--set section.key=value`. Nothing
here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import yaml

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.tables import MISSING
from segkit.tables import check_type
from segkit.tables import named_options


@dataclass(frozen=True)
class Component:
    """A named part with its options, such as `model: {name: unet, filters: 16}`.

    Attributes:
        name: Name in the component's table.
        options: Keyword arguments of its builder.
    """

    name: str
    options: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the network sees.

    Attributes:
        path: Folder written by `tools/prepare_data.py`; `null` means the built-in phantoms.
        fold: Fold to validate on; all others train.
        splits: Names of the splits to train on instead, `[]`: all other folds; in pre-training of
            a data set without labels, its `test`.
        patch_size: Patch side lengths in voxels: `[height, width]` draws slices,
            `[depth, height, width]` draws volumes.
        foreground_fraction: Share of training patches forced to be centred on foreground.
        memory_mb: The input pipeline never holds more than this, in MiB, per data set.
        deterministic: Yield training patches in a fixed order, or whichever is ready first.
        service: Address of a `tf.data` service that makes the training patches
            (`grpc://host:port`, see tools/serve_data.py), or `null`.
        repeats: How often each training case is seen per round, case id -> 0 or more; a case
            that is not named: once.
        style: Folder of a second data set, whose look a generator learns (task `style`), or `null`.
    """

    path: str | None = None
    fold: int = 0
    splits: list[str] = field(default_factory=list)
    patch_size: list[int]
    foreground_fraction: float = 1 / 3
    memory_mb: int = 2048
    deterministic: bool = True
    service: str | None = None
    repeats: dict = field(default_factory=dict)
    style: str | None = None

    def __post_init__(self):
        _require(len(self.patch_size) in (2, 3), "data.patch_size", self.patch_size, "2 or 3 sides")
        _require(min(self.patch_size) > 0, "data.patch_size", self.patch_size, "positive sides")
        _require_range("data.foreground_fraction", self.foreground_fraction, 0, 1)
        _require(self.fold >= 0, "data.fold", self.fold, "a fold number from 0")
        _require(self.memory_mb > 0, "data.memory_mb", self.memory_mb, "above 0")
        for case, count in self.repeats.items():
            # YAML reads 001 as a number.
            _require(isinstance(case, str), "a case in data.repeats", case, "text; quote it")
            whole = isinstance(count, int) and not isinstance(count, bool) and count >= 0
            _require(whole, f"data.repeats.{case}", count, "a whole number from 0")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of each training patch.

    Attributes:
        policy: `none`, `light`, `nnunet` or `heavy`, the path of a YAML file with a list of
            transforms, or the list itself, which is what a run folder's config holds.
        placement: `input` changes patches in the input pipeline, on CPU cores; `device` in the
            training step, on each replica's device. Both make the same patches.
        interpolation: `linear` or `cubic`, of the image; labels take the nearest voxel.
    """

    policy: str | list = "none"
    placement: str = "input"
    interpolation: str = "linear"

    def __post_init__(self):
        _require_one_of("augment.placement", self.placement, PLACEMENTS)
        _require_one_of("augment.interpolation", self.interpolation, INTERPOLATIONS)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the weights are found.

    Attributes:
        epochs: Number of epochs; the learning-rate schedule ends with the last.
        steps_per_epoch: Optimizer steps per epoch.
        batch_size: Patches per step over *all* replicas; a multiple of their number.
        validation_batches: Batches of validation patches after each epoch, the same each time.
        optimizer: Name in `segkit.training.OPTIMIZERS`, or `{name: ..., option: value}`.
        learning_rate: Learning rate that the schedule and the warm-up take a share of.
        schedule: Name in `segkit.training.SCHEDULES`, or `{name: ..., option: value}`.
        warmup_steps: Optimizer steps of linear warm-up, from `1 / warmup_steps`; 0: none.
        weight_decay: Decoupled weight decay per step, times the learning rate.
        l1: Weight of the sum of absolute kernel weights, added to the loss.
        l2: Weight of the sum of squared kernel weights, added to the loss.
        clip_norm: Largest global gradient norm; 0 switches clipping off.
        precision: `float32`, `mixed_float16` or `mixed_bfloat16`.
        initial_weights: Run folder whose weights are taken over where name and shape are the same,
            such as one of tools/pretrain.py; `null`: all weights start at random.
        initial_layers: Patterns of names of layers that take them over, such as `["encoder*"]`;
            `[]`: all.
        layer_decay: Factor on the steps of a stage of the network, from one stage to the one
            before it; 1: all stages take whole steps.
        freeze: Patterns of names of layers whose weights do not move, such as `["encoder*"]`.
        freeze_epochs: Epochs for which they do not; 0: all.
        accumulation_steps: Parts that each replica's share of a batch is cut into, one after the
            other: the same gradient in less memory.
        remat: Keep only what stages of the network hand to each other for the backward pass, and
            compute the rest again: the same gradient in less memory and more time.
        averaging: Name in `segkit.training.AVERAGES`, or `{name: ..., option: value}`, of the
            average of the weights that is validated and saved; `null`: the weights themselves.
        xla: `auto` (on for GPUs, off for CPUs), `on` or `off`: compile each replica's forward and
            backward; `step`: the whole step, on GPUs or a single replica.
        deterministic: The same bits in every run on the same machine, at some cost of speed.
        case_weight: Factor of the loss of a network's `case_classes`.
        early_stopping: Epochs without a better mean foreground Dice before stopping; 0: never.
        checkpoint_every: Epochs between checkpoints.
        keep_checkpoints: Number of newest checkpoints kept.
        seed: Seed of initial weights, order, patches, augmentation and dropout.
        histograms: Write histograms of the weights to TensorBoard after each epoch.
        hparams: Write settings and best score to TensorBoard's table of hyperparameters.
        profile_steps: `[first, last]`: steps to profile for TensorBoard; `[]`: none.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    validation_batches: int = 16
    optimizer: str | dict = "adam"
    learning_rate: float = 1e-3
    schedule: str | dict = "poly"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    clip_norm: float = 12.0
    precision: str = "float32"
    initial_weights: str | None = None
    initial_layers: list[str] = field(default_factory=list)
    layer_decay: float = 1.0
    freeze: list[str] = field(default_factory=list)
    freeze_epochs: int = 0
    accumulation_steps: int = 1
    remat: bool = False
    averaging: str | dict | None = None
    xla: bool | str = "auto"
    deterministic: bool = False
    case_weight: float = 1.0
    early_stopping: int = 0
    checkpoint_every: int = 1
    keep_checkpoints: int = 2
    seed: int = 0
    histograms: bool = False
    hparams: bool = False
    profile_steps: list[int] = field(default_factory=list)

    def __post_init__(self):
        counts = ("epochs", "steps_per_epoch", "batch_size", "validation_batches")
        for name in (*counts, "accumulation_steps", "checkpoint_every", "keep_checkpoints"):
            _require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        _require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        not_negative = ("warmup_steps", "weight_decay", "l1", "l2", "clip_norm", "case_weight")
        for name in (*not_negative, "freeze_epochs", "early_stopping", "seed"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        inside = 0 < self.layer_decay <= 1
        _require(inside, "train.layer_decay", self.layer_decay, "above 0 and at most 1")
        fits = bool(self.initial_weights) or not self.initial_layers
        expected = "[] without train.initial_weights"
        _require(fits, "train.initial_layers", self.initial_layers, expected)
        fits = self.freeze_epochs < self.epochs and (self.freeze or not self.freeze_epochs)
        expected = "below train.epochs, and 0 without train.freeze"
        _require(fits, "train.freeze_epochs", self.freeze_epochs, expected)
        _require_one_of("train.precision", self.precision, PRECISIONS)
        known = ("auto", True, False, "step")
        _require(self.xla in known, "train.xla", self.xla, "auto, on, off or step")
        steps = self.profile_steps
        ordered = not steps or (len(steps) == 2 and 0 < steps[0] <= steps[1])
        _require(ordered, "train.profile_steps", steps, "[] or [first, last] from 1")


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How whole cases are predicted.

    Attributes:
        overlap: Share of a tile that the next one covers again, in [0, 1).
        mirror: Average the logits over all flips of the spatial axes.
    """

    overlap: float = 0.5
    mirror: bool = False

    def __post_init__(self):
        inside = 0 <= self.overlap < 1
        _require(inside, "inference.overlap", self.overlap, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment, complete: what a run folder's `config.yaml` holds."""

    model: Component
    data: DataConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: Component
    pretext: Component | None = None
    task: Component | None = None
    train: TrainConfig
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def to_dict(self):
        """Returns nested plain dictionaries, in the order of the schema."""
        return {f.name: _section_dict(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def flat(self):
        """Returns a plain dictionary `"section.key" -> value`."""
        sections = self.to_dict().items()
        return {f"{name}.{key}": v for name, section in sections for key, v in section.items()}


PLACEMENTS = ("input", "device")
INTERPOLATIONS = ("linear", "cubic")
OPTIONAL = ("pretext", "task")  # sections that a config need not have
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_SECTIONS = {
    "model": Component,
    "data": DataConfig,
    "augment": AugmentConfig,
    "loss": Component,
    "pretext": Component,
    "task": Component,
    "train": TrainConfig,
    "inference": InferenceConfig,
}


def load_config(path, overrides=(), tables=None):
    """Reads and checks a configuration file.

    Args:
        path: YAML file.
        overrides: Strings `section.key=value`, the value in YAML; later ones win.
        tables: Mapping section -> table, for the sections that name a component, such as
            `{"model": MODELS, "loss": LOSSES}`.

    Returns:
        A `Config`.

    Raises:
        ConfigError: Missing file, invalid YAML, unknown key, missing key, wrong type or a value
            out of range; names the path, the value and the nearest match.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [p.stem for p in Path(path).parent.glob("*.yaml")]
        hint = nearest(Path(path).stem, known) if known else "Check the path."
        raise ConfigError(f"no config file {path}. {hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a readable YAML file: {reason}.") from None
    raw = _as_mapping(raw, str(path))
    for override in overrides:
        _override(raw, override)
    try:
        return config_from_dict(raw, tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def config_from_dict(raw, tables=None):
    """Checks nested dictionaries against the schema and returns a `Config`.

    Args:
        raw: Mapping section -> mapping key -> value.
        tables: As in `load_config`.

    Raises:
        ConfigError: As `load_config`.
    """
    for section in raw:
        if section not in _SECTIONS:
            raise ConfigError(f"unknown section {section!r}. {nearest(section, _SECTIONS)}")
    sections = {}
    for section, kind in _SECTIONS.items():
        values = _as_mapping(raw.get(section), section)
        if section in OPTIONAL and not values:
            sections[section] = None
        elif kind is Component:
            table = (tables or {}).get(section)
            sections[section] = Component(*named_options(values, section, table))
        else:
            sections[section] = _typed_section(section, kind, values)
    return Config(**sections)


def save_config(config, path):
    """Writes `config` as YAML that `load_config` reads back equal."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    Path(path).write_text(text, encoding="utf-8")


def first_difference(a, b):
    """Returns `"section.key"` of the first setting in which two configs differ, or `None`.

    The order of a mapping counts: it is that of a network's channels in `loss.regions`.
    """
    a, b = a.to_dict(), b.to_dict()
    for section in a:
        for key in {**a[section], **b[section]}:
            values = a[section].get(key, MISSING), b[section].get(key, MISSING)
            if values[0] != values[1] or _keys(values[0]) != _keys(values[1]):
                return f"{section}.{key}"
    return None


def _keys(value):
    return list(value) if isinstance(value, dict) else None


def _typed_section(section, kind, values):
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"unknown key {section}.{key}. {nearest(key, fields)}")
        check_type(value, fields[key].type, f"{section}.{key}")
    for key, f in fields.items():
        has_default = f.default is not dataclasses.MISSING
        if not has_default and f.default_factory is dataclasses.MISSING and key not in values:
            raise ConfigError(f"{section}.{key} is missing; add it to the file.")
    return kind(**values)


def _as_mapping(value, where):
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a mapping of keys to values, got {value!r}.")
    return value


def _override(raw, text):
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot or not name:
        raise ConfigError(f"--set takes section.key=value, got {text!r}.")
    if section not in _SECTIONS:
        raise ConfigError(f"--set {text}: no section {section!r}. {nearest(section, _SECTIONS)}")
    try:
        value = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: the value is not valid YAML.") from None
    raw[section] = {**_as_mapping(raw.get(section), section), name: value}


def _section_dict(section):
    if section is None:
        return {}
    if isinstance(section, Component):
        return {"name": section.name, **section.options}
    return dataclasses.asdict(section)


def _require(condition, path, value, expected):
    if not condition:
        raise ConfigError(f"{path} must be {expected}, got {value!r}.")


def _require_range(path, value, low, high):
    _require(low <= value <= high, path, value, f"between {low} and {high}")


def _require_one_of(path, value, known):
    if value not in known:
        raise ConfigError(f"{path} cannot be {value!r}. {nearest(value, known)}")

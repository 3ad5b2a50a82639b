"""The run folder: everything that evaluate, predict and export need, in one place."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from segkit import __version__
from segkit.config import Config
from segkit.config import first_difference
from segkit.config import load_config
from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import writing
from segkit.outputs import read_outputs
from segkit.priors import count_priors
from segkit.priors import without_priors
from segkit.tables import short_name
from segkit.training.checkpoint import list_checkpoints
from segkit.training.sources import check_sources
from segkit.training.sources import import_networks
from segkit.training.sources import save_sources

FIRST_STAGE = "first_stage"  # of a cascade: a folder in the data set and in its runs
METHOD = "method.yaml"  # what is in it if the first stage is not a run
PACKAGES = ("tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class Run:
    """A trained run, loaded.

    Attributes:
        folder: The run folder.
        config: Its resolved configuration.
        manifest: The manifest of the data set that it was trained on.
        model: `keras.Model` with the best weights found; gives float32 logits.
        first: What finds the last channels of this run's images: another run, a dict of the
            arguments of `segkit.inference.method.Method`, or `None`.
    """

    folder: Path
    config: Config
    manifest: dict
    model: object
    first: "Run | dict | None" = None

    @property
    def channels(self):
        """Names of the channels of an image to predict: the data set's without priors."""
        return without_priors(self.manifest["channels"])

    @property
    def outputs(self):
        """What the model's channels stand for, `segkit.outputs.Outputs`.

        Raises:
            ConfigError: If the run is a pre-training or makes images, so that its model tells no
                classes apart.
        """
        if self.config.pretext:
            raise ConfigError(
                f"{self.folder} is a pre-training ({self.config.pretext.name}), which segments "
                "nothing. Fine-tune it first: tools/train.py --set "
                f"train.initial_weights={self.folder}"
            )
        if self.config.task:
            raise ConfigError(
                f"{self.folder} makes images (task {self.config.task.name}) and segments nothing. "
                "See docs/gans.md for what to do with it."
            )
        return read_outputs(self.manifest["classes"], self.config.loss.options)


def check_new(folder):
    """Checks that a run can start in `folder`; one that never reached a checkpoint may restart.

    Raises:
        ConfigError: If the folder holds a run that can be resumed.
    """
    if list_checkpoints(Path(folder) / "checkpoints"):
        raise ConfigError(f"{folder} holds a run already. Add --resume, or name another --run.")


def create_run(folder, config, manifest):
    """Makes a new run folder with config, manifest, own modules and a record of the environment.

    The first stage of a cascade is copied from the data set to the run.

    Args:
        folder: Folder to make.
        config: A `Config`.
        manifest: Manifest of the data set.

    Raises:
        ConfigError: If the folder holds a run that can be resumed.
        DataError: If it cannot be written, or the data set's first stage is gone.
    """
    folder = Path(folder)
    check_new(folder)
    with writing(f"the run folder {folder}", "Name another --run or --runs."):
        if (folder / "config.yaml").exists():
            shutil.rmtree(folder / "logs", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")
        save_sources(config, folder)
        text = json.dumps(manifest, indent=1)
        (folder / "dataset.json").write_text(text, encoding="utf-8")
        record = json.dumps(_environment(text), indent=1)
        (folder / "environment.json").write_text(record, encoding="utf-8")
        if count_priors(manifest["channels"]):
            _copy_first_stage(Path(config.data.path), folder)


def save_model(model, path):
    """Writes `model.keras`, whole or not at all."""
    temporary = path.with_name(".model.tmp.keras")
    try:
        model.save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def find_resumable(runs, model_name):
    """Returns the newest run folder of a model that has a checkpoint.

    Args:
        runs: Folder that holds the runs.
        model_name: Name of the model; run folders are called `MODEL-DATE-TIME`.

    Raises:
        ConfigError: If there is none.
    """
    found = sorted(Path(runs).glob(f"{short_name(model_name)}-*/checkpoints/step-*"))
    if not found:
        raise ConfigError(
            f"nothing to resume: no run of {model_name!r} with a checkpoint in {runs}. "
            "Drop --resume, or name the folder with --run."
        )
    return max((p.parents[1] for p in found), key=lambda p: p.name)


def check_resumable(folder, config):
    """Checks that a run can go on with `config`; warns if a module of the user's own has changed.

    Raises:
        ConfigError: If the folder holds no run, or was started with another config; names the
            first setting that differs.
    """
    if not (Path(folder) / "config.yaml").exists():
        raise ConfigError(f"nothing to resume: {folder} holds no run. Drop --resume to start it.")
    difference = first_difference(load_config(Path(folder) / "config.yaml"), config)
    if difference:
        raise ConfigError(
            f"cannot resume {folder}: {difference} differs from the run's config.yaml. "
            "Use the same settings, or start a new run."
        )
    check_sources(config, folder)


def default_folder(runs, model_name):
    """Returns a folder name for a new run: `RUNS/MODEL-YYYYMMDD-HHMMSS`."""
    now = datetime.datetime.now().astimezone()
    return Path(runs) / f"{short_name(model_name)}-{now:%Y%m%d-%H%M%S}"


def load_run(folder):
    """Reads a run folder written by `tools/train.py`.

    The modules of networks of the user's own are imported, with a warning if they have changed.

    Args:
        folder: The run folder.

    Returns:
        A `Run`.

    Raises:
        DataError: If the folder is no run, has no trained model yet, lacks its first stage, or a
            module of the user's own is missing.
    """
    import keras

    import segkit.layers  # noqa: F401  (registers the layers that model.keras names)

    folder = Path(folder)
    for name in ("config.yaml", "dataset.json", "model.keras"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} is not a trained run: it has no {name}. Train it first.")
    config = load_config(folder / "config.yaml")
    import_networks(config, folder)
    try:
        manifest = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{folder} is damaged: {reason} Train it again.") from None
    first = _load_first_stage(folder) if count_priors(manifest["channels"]) else None
    return Run(folder, config, manifest, model, first)


def _load_first_stage(folder):
    if not (folder / FIRST_STAGE).is_dir():
        raise DataError(
            f"{folder} is the second stage of a cascade, but has no folder {FIRST_STAGE}. Copy it "
            "from the data set that the run was trained on."
        )
    method = folder / FIRST_STAGE / METHOD
    if method.is_file():
        return yaml.safe_load(method.read_text(encoding="utf-8"))
    return load_run(folder / FIRST_STAGE)


def _copy_first_stage(data, folder):
    source = data / FIRST_STAGE
    if not source.is_dir():
        raise DataError(
            f"{data} has channels of a first stage, but no folder {FIRST_STAGE}. Make the data set "
            "with tools/cascade.py."
        )
    shutil.rmtree(folder / FIRST_STAGE, ignore_errors=True)
    shutil.copytree(source, folder / FIRST_STAGE)


def _environment(manifest_text):
    return {
        "segkit": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "dataset_sha256": hashlib.sha256(manifest_text.encode()).hexdigest(),
    }


def _git_commit():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()

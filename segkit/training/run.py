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

from segkit import __version__
from segkit.config import Config
from segkit.config import first_difference
from segkit.config import load_config
from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import writing
from segkit.outputs import read_outputs
from segkit.training.checkpoint import list_checkpoints

PACKAGES = ("tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class Run:
    """A trained run, loaded.

    Attributes:
        folder: The run folder.
        config: Its resolved configuration.
        manifest: The manifest of the data set that it was trained on.
        model: `keras.Model` with the best weights found; gives float32 logits.
    """

    folder: Path
    config: Config
    manifest: dict
    model: object

    @property
    def outputs(self):
        """What the model's channels stand for, `segkit.outputs.Outputs`.

        Raises:
            ConfigError: If the run is a pre-training, whose model tells no classes apart.
        """
        if self.config.pretext:
            raise ConfigError(
                f"{self.folder} is a pre-training ({self.config.pretext.name}), which segments "
                "nothing. Fine-tune it first: tools/train.py --set "
                f"train.initial_weights={self.folder}"
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
    """Makes a new run folder with config, manifest and a record of the environment.

    Args:
        folder: Folder to make.
        config: A `Config`.
        manifest: Manifest of the data set.

    Raises:
        ConfigError: If the folder holds a run that can be resumed.
        DataError: If it cannot be written.
    """
    folder = Path(folder)
    check_new(folder)
    with writing(f"the run folder {folder}", "Name another --run or --runs."):
        if (folder / "config.yaml").exists():
            shutil.rmtree(folder / "logs", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")
        text = json.dumps(manifest, indent=1)
        (folder / "dataset.json").write_text(text, encoding="utf-8")
        record = json.dumps(_environment(text), indent=1)
        (folder / "environment.json").write_text(record, encoding="utf-8")


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
    found = sorted(Path(runs).glob(f"{model_name}-*/checkpoints/step-*"))
    if not found:
        raise ConfigError(
            f"nothing to resume: no run of {model_name!r} with a checkpoint in {runs}. "
            "Drop --resume, or name the folder with --run."
        )
    return max((p.parents[1] for p in found), key=lambda p: p.name)


def check_resumable(folder, config):
    """Checks that a run can go on with `config`.

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


def default_folder(runs, model_name):
    """Returns a folder name for a new run: `RUNS/MODEL-YYYYMMDD-HHMMSS`."""
    now = datetime.datetime.now().astimezone()
    return Path(runs) / f"{model_name}-{now:%Y%m%d-%H%M%S}"


def load_run(folder):
    """Reads a run folder written by `tools/train.py`.

    Args:
        folder: The run folder.

    Returns:
        A `Run`.

    Raises:
        DataError: If the folder is no run, or has no trained model yet.
    """
    import keras

    import segkit.layers  # noqa: F401  (registers the layers that model.keras names)

    folder = Path(folder)
    for name in ("config.yaml", "dataset.json", "model.keras"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} is not a trained run: it has no {name}. Train it first.")
    try:
        manifest = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{folder} is damaged: {reason} Train it again.") from None
    return Run(folder, load_config(folder / "config.yaml"), manifest, model)


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

"""Synthetic data sets: cases that a network made, mixed into training and kept out of all else.

A manifest says so under the key `synthetic`, a record in the feature of that name. `load_manifest`
refuses such a manifest where cases are scored, and reading refuses records that it does not fit.
No TensorFlow.
"""

from pathlib import Path
from typing import NamedTuple

from data_prep.manifest import load_manifest
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.models import DETECTORS
from segkit.tables import check_type

SPLIT = "synthetic"


class Synthetic(NamedTuple):
    """A synthetic data set to mix into training.

    Attributes:
        folder: Its folder.
        manifest: Its manifest.
        count: How many examples of each batch it makes.
    """

    folder: Path
    manifest: dict
    count: int


def check_options(config):
    """Refuses a `data.synthetic` that is not `{path, ratio}`, or that no batch has room for."""
    options, size = config.data.synthetic, config.train.batch_size
    if not options:
        return
    if set(options) != {"path", "ratio"}:
        raise ConfigError(
            f"data.synthetic must be {{path: FOLDER, ratio: SHARE}} or {{}}, got {options!r}."
        )
    check_type(options["path"], "str", "data.synthetic.path")
    check_type(options["ratio"], "float", "data.synthetic.ratio")
    if not 0 <= options["ratio"] <= 1:
        raise ConfigError(
            f"data.synthetic.ratio must be between 0 and 1, got {options['ratio']!r}."
        )
    if options["ratio"] and not round(options["ratio"] * size):
        raise ConfigError(
            f"data.synthetic.ratio is {options['ratio']}, of a train.batch_size of {size} no "
            f"example. Set at least {1 / size:.3g}, or 0 to mix in nothing."
        )
    if options["ratio"] and config.data.service:
        raise ConfigError(
            "data.synthetic and data.service do not go together: workers of a service cannot keep "
            "the share in each batch. Set one of them to null or {}."
        )


def read_synthetic(config, manifest):
    """Returns the `Synthetic` to mix into training, or `None`.

    Args:
        config: A `Config`.
        manifest: Manifest of the data set of `data.path`.

    Raises:
        ConfigError: The options make no sense, it was made from cases to validate or test on, or
            the network asks for what synthetic cases do not have.
        DataError: It is not there, not synthetic, or made for other images or classes.
    """
    check_options(config)
    options = config.data.synthetic
    if not options or not options["ratio"]:
        return None
    folder = Path(options["path"])
    synthetic = load_manifest(folder, synthetic=True)
    if "synthetic" not in synthetic:
        raise DataError(
            f"data.synthetic.path: {folder} holds real cases. Name a data set of "
            "tools/synthesize.py there; real ones are for data.path."
        )
    _check_fit(folder, synthetic, config, manifest)
    _check_unseen(folder, synthetic, config.data.fold, manifest)
    _check_network(config)
    _check_patch(folder, synthetic, config.data.patch_size)
    return Synthetic(folder, synthetic, round(options["ratio"] * config.train.batch_size))


def places(batch_size, count):
    """Returns which examples of a batch are synthetic: `count` of them, spread evenly."""
    return [n for n in range(batch_size) if (n + 1) * count // batch_size > n * count // batch_size]


def check_mark(chunk, manifest, path):
    """Refuses a record that is synthetic in a data set that is not, and the other way round.

    Args:
        chunk: `Chunk` of the record.
        manifest: Manifest of its data set.
        path: Its file.
    """
    if bool(chunk.synthetic) == ("synthetic" in manifest):
        return
    kind, other = ("synthetic", "real") if chunk.synthetic else ("real", "synthetic")
    raise DataError(
        f"{path}: the case {chunk.case_id} is {kind}, in a data set of {other} cases. Keep the two "
        "in folders of their own: make the data set again, and mix in training with data.synthetic."
    )


def _check_fit(folder, synthetic, config, manifest):
    if not synthetic["classes"]:
        raise DataError(
            f"data.synthetic.path: {folder} has images without labels, from which "
            f"{config.model.name} cannot learn. Make one with a generator of the task labels."
        )
    facts = [
        {**{key: data[key] for key in ("channels", "classes")}, **data["preprocess"]}
        for data in (synthetic, manifest)
    ]
    for key in {**facts[0], **facts[1]}:
        theirs, ours = (fact.get(key) for fact in facts)
        if theirs != ours:
            raise DataError(
                f"data.synthetic.path: {folder} does not fit {config.data.path}: {key} is "
                f"{theirs!s:.80} there, {ours!s:.80} here. Make it with a generator that was "
                "trained on this data set."
            )


def _check_unseen(folder, synthetic, fold, manifest):
    seen = set(synthetic["synthetic"]["trained_on"])
    held_out = (f"fold{fold}", "test")
    leaked = [
        case
        for case, entry in manifest["cases"].items()
        if entry["split"] in held_out and entry["source_sha256"] in seen
    ]
    if leaked:
        raise ConfigError(
            f"data.synthetic.path: {folder} was made from {len(leaked)} cases that are held out "
            f"here, such as {leaked[0]}, so their scores would be too good. Train the generator "
            f"with data.fold={fold}, and make the data set again."
        )


def _check_network(config):
    if config.model.name in DETECTORS:
        raise ConfigError(
            f"data.synthetic: synthetic cases have no single objects, which {config.model.name} "
            "learns to find. Set data.synthetic={}."
        )
    if config.model.options.get("covariates"):
        raise ConfigError(
            "data.synthetic: synthetic cases have no covariates, which the network takes. Set "
            "data.synthetic={} or model.covariates=0."
        )


def _check_patch(folder, synthetic, patch_size):
    """Padding would tell a synthetic patch from a real one that is cut out of more."""
    made = synthetic["synthetic"].get("patch_size")
    if made is None:
        return
    sides = ([1] * 3 + list(made))[-len(patch_size) :]
    if any(side < asked for side, asked in zip(sides, patch_size, strict=True)):
        raise ConfigError(
            f"data.synthetic.path: the cases in {folder} are patches of {list(made)}, too small "
            f"for a data.patch_size of {list(patch_size)}. Make larger ones, or train on smaller."
        )

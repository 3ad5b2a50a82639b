"""Whether a configuration fits the data set that it is to be trained on."""

from data_prep.augment.policy import parse_policy
from segkit.covariates import entry_names
from segkit.errors import ConfigError
from segkit.models import DETECTORS


def check_fold(fold, manifest):
    """Refuses a fold that the data set does not have."""
    if fold >= manifest["folds"]:
        raise ConfigError(
            f"data.fold must be below {manifest['folds']}, the data set's number of folds, "
            f"got {fold}."
        )


def check_splits(data):
    """Refuses to train on what is scored afterwards."""
    if f"fold{data.fold}" in data.splits:
        raise ConfigError(
            f"data.splits holds fold{data.fold}, on which data.fold={data.fold} validates. Take it "
            "out, or change data.fold."
        )
    if "test" in data.splits:
        raise ConfigError(
            "data.splits holds test, whose cases are held back to score the run. Take it out."
        )


def check_patch(patch_size, manifest):
    """Refuses a patch that stored chunks cut off.

    Returns:
        List of notes: of each side that chunks hold in some places only.
    """
    chunk, overlap = (manifest["options"][key] for key in ("chunk", "chunk_overlap"))
    notes = []
    sides = list(zip(reversed(patch_size), reversed(("depth", "height", "width")), strict=False))
    for axis, (side, name) in enumerate(sides, start=1):
        if all(case["shape"][-axis] <= chunk for case in manifest["cases"].values()):
            continue
        mend = f"Prepare the data again with --chunk-overlap {side}"
        if side > chunk:
            raise ConfigError(
                f"data.patch_size has a {name} of {side}, but cases are stored in chunks of "
                f"{chunk}. {mend}, or use a smaller patch."
            )
        if side > overlap:
            notes.append(
                f"note: patches across the seam of two chunks are never drawn, because the {name} "
                f"of {side} is above their overlap of {overlap}. {mend} to draw them too."
            )
    return notes


def check_classes(config):
    """Refuses members of an ensemble, or first stages, that give no probabilities of classes."""
    if config.model.name in DETECTORS:
        raise ConfigError(
            "an ensemble or a cascade takes probabilities of classes, and "
            f"{config.model.name} finds objects. Use a network for classes."
        )
    if "regions" in config.loss.options:
        raise ConfigError(
            "an ensemble averages probabilities of classes, but the loss "
            f"{config.loss.name!r} learns overlapping regions. Train members with another loss."
        )


def check_soft_labels(config, outputs):
    """Refuses soft labels, as mixup makes them, where they cannot say what labels must say."""
    soft = "mixup" in [step.name for step in parse_policy(config.augment.policy)]
    if soft and (outputs.regions or outputs.ignore_label is not None):
        what = "be in several regions" if outputs.regions else "be ignored"
        raise ConfigError(
            f"augment.policy: mixup makes class probabilities of the labels, by which a voxel "
            f"cannot {what}. Take mixup out of the policy; cutmix does not change labels so."
        )


def check_table(config, manifest):
    """Refuses a network that takes or tells what the data set does not say of its cases."""
    names = {
        "covariates": entry_names(manifest.get("covariates", [])),
        "case_classes": manifest.get("targets", []),
    }
    mixing = [step.name for step in parse_policy(config.augment.policy) if step.kind == "mixing"]
    for option, known in names.items():
        asked = config.model.options.get(option, 0)
        if asked and asked != len(known):
            mend = (
                f"Set model.{option}={len(known)}" if known else "Prepare it from a table with some"
            )
            raise ConfigError(
                f"model.{option} is {asked}, the data set has {len(known)} "
                f"({', '.join(known) or 'none'}). {mend}; see docs/fusion.md."
            )
        if asked and mixing:
            raise ConfigError(
                f"augment.policy: {mixing[0]} mixes cases, for which model.{option} has one answer "
                f"each. Take it out of the policy, or set model.{option}=0."
            )


def check_style(data, manifest, style):
    """Refuses a second data set whose patches cannot show the same as those of the first.

    Args:
        data: A `segkit.config.DataConfig`, whose `style` is the second.
        manifest: Manifest of the first.
        style: Manifest of the second.
    """
    for key, what in (("orientation", "axes"), ("spacing_mm", "voxel size in mm")):
        one, other = manifest["preprocess"][key], style["preprocess"][key]
        if one != other:
            raise ConfigError(
                f"data.style {data.style}: its {what} is {other}, that of the data set {one}. "
                f"Prepare both with the same --{key.removesuffix('_mm')}."
            )
    if len(style["channels"]) != len(manifest["channels"]):
        raise ConfigError(
            f"data.style {data.style} has {len(style['channels'])} channels, and the data set has "
            f"{len(manifest['channels'])}. Both must have the same ones."
        )
    if bool(style["classes"]) != bool(manifest["classes"]) and data.foreground_fraction > 0:
        raise ConfigError(
            "only one of the data sets in data.path and data.style has labels, so that only its "
            "patches would be centred on foreground, and the two would differ in more than their "
            "look. Set data.foreground_fraction=0."
        )


def check_pairs(policy, batch_size, replicas):
    """Refuses shares of a batch in which mixing would pair patches otherwise than in the whole."""
    mixing = [step.name for step in parse_policy(policy) if step.kind == "mixing"]
    if mixing and batch_size % (2 * replicas):
        raise ConfigError(
            f"{mixing[0]} on devices mixes patches in pairs: train.batch_size must be a multiple "
            f"of {2 * replicas} for {replicas} replicas, got {batch_size}. Change it, or set "
            "augment.placement=input."
        )

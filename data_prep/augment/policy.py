"""Policies: ordered lists of transforms with their probabilities and options; no TensorFlow.

A policy is written as YAML, one transform per line, in the order in which they are applied:

    - rotation: {probability: 0.2, degrees: 30}
    - gaussian_noise: {probability: 0.1, std: [0.0, 0.1]}

Geometry comes first, wherever it stands in the list, and mixing comes last. A transform of the
user's own, `module:function`, is of the kind that the annotation of its result tells.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from data_prep.augment import GEOMETRY
from data_prep.augment import INTENSITY
from data_prep.augment import MIXING
from data_prep.augment import POLICIES
from data_prep.augment import TRANSFORMS
from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.tables import check_options
from segkit.tables import check_type
from segkit.tables import is_own
from segkit.tables import result_of
from segkit.tables import short_name
from segkit.tables import target

FOLDER = Path(__file__).parent / "policies"
RESULTS = {"Motion": "geometry", "Mixing": "mixing"}


class Step(NamedTuple):
    """One transform of a policy.

    Attributes:
        name: Key of `data_prep.augment.TRANSFORMS`, or `module:function`.
        probability: Share of the examples that it changes.
        options: Its keyword arguments.
        label: Unique name within the policy: `gamma`, `gamma 2`, ...
        number: Place in the policy, from 0.
    """

    name: str
    probability: float
    options: dict
    label: str
    number: int

    @property
    def kind(self):
        """`"geometry"`, `"intensity"` or `"mixing"`."""
        if is_own(self.name):
            result = (result_of(self.name) or "").strip("'\"").rpartition(".")[2]
            return RESULTS.get(result, "intensity")
        kinds = {"geometry": GEOMETRY, "intensity": INTENSITY, "mixing": MIXING}
        return next(kind for kind, table in kinds.items() if self.name in table)


def read_policy(policy):
    """Returns a policy as the list that YAML holds, checked.

    Args:
        policy: One of `POLICIES`, the path of a YAML file, or the list itself.

    Raises:
        ConfigError: No such policy or file, invalid YAML, or a transform, option, probability
            or value that does not exist or does not fit; names the nearest match.
    """
    entries = policy if isinstance(policy, list | tuple) else _read_file(policy)
    parse_policy(entries)
    return list(entries)


def parse_policy(entries):
    """Returns the `Step`s of a policy given as a list. Raises as `read_policy`."""
    steps, seen = [], {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ConfigError(
                f"augment: entry {number + 1} of the policy must be 'name: {{options}}', "
                f"got {entry!r}."
            )
        ((name, options),) = entry.items()
        if options is not None and not isinstance(options, dict):
            raise ConfigError(f"augment.{name} must be a mapping of options, got {options!r}.")
        options = dict(options or {})
        probability = options.pop("probability", 1.0)
        check_type(probability, "float", f"augment.{name}.probability")
        if not 0 <= probability <= 1:
            raise ConfigError(
                f"augment.{name}.probability must be between 0 and 1, got {probability!r}."
            )
        target(TRANSFORMS, name, "augmentation")
        check_options(TRANSFORMS, name, options, f"augment.{name}")
        label = short_name(name)
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            label += f" {seen[label]}"
        steps.append(Step(name, float(probability), options, label, number))
    return steps


def _read_file(policy):
    path = Path(policy)
    if path.suffix not in (".yaml", ".yml"):
        if policy not in POLICIES:
            raise ConfigError(
                f"unknown augmentation policy {policy!r}. {nearest(str(policy), POLICIES)} "
                "A policy of your own is named by its file, such as mine.yaml."
            )
        path = FOLDER / f"{policy}.yaml"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a readable augmentation policy: {reason}.") from None
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise ConfigError(f"{path} must hold a list of transforms, got {type(entries).__name__}.")
    return entries

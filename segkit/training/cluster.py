"""What `TF_CONFIG` says of several workers; no TensorFlow."""

import json
import os

from segkit.errors import ConfigError

_KINDS = ("chief", "worker")


def number_of_workers():
    """Returns how many workers train together; 1 where `TF_CONFIG` is not set.

    Raises:
        ConfigError: It is set to something else than `{"cluster": ..., "task": ...}`.
    """
    cluster, _ = _read()
    return max(1, sum(len(cluster.get(kind, ())) for kind in _KINDS))


def is_first_worker():
    """Returns whether this process is the one that writes the run folder and reports.

    Raises:
        ConfigError: As `number_of_workers`.
    """
    cluster, task = _read()
    first = next((kind for kind in _KINDS if cluster.get(kind)), None)
    return first is None or (task["type"] == first and int(task["index"]) == 0)


def _read():
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text) if text else {"cluster": {}, "task": {}}
        cluster, task = dict(config["cluster"]), dict(config["task"])
        if cluster:
            cluster[task["type"]][int(task["index"])]  # this process is one of them
        return cluster, task
    except (ValueError, TypeError, KeyError, IndexError):
        raise ConfigError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host1:5000", "host2:5000"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}, got {text!r}.'
        ) from None

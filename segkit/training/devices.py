"""Which devices a run uses: `--devices` to a `tf.distribute.Strategy`."""

import re
from functools import lru_cache

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.training.cluster import number_of_workers


def make_strategy(devices="auto"):
    """Returns the strategy for `devices`; call it before TensorFlow touches a device.

    Args:
        devices: `"auto"` (all GPUs, else one CPU), `"cpu"`, `"gpu"` (all), or with a number of
            replicas: `"cpu:2"` makes two logical CPU devices, `"gpu:4"` takes four GPUs. Where
            the environment variable `TF_CONFIG` names several workers, each process has the
            GPUs or the CPU of its machine, so no number can be given.

    Returns:
        The default strategy for one device, `MirroredStrategy` for several,
        `MultiWorkerMirroredStrategy` for several workers.

    Raises:
        ConfigError: Malformed text, more GPUs than there are, devices already in use, or a
            `TF_CONFIG` that cannot be read.
    """
    match = re.fullmatch(r"(auto|cpu|gpu)(?::([1-9]\d*))?", devices)
    if not match or devices.startswith("auto:"):
        raise ConfigError(f"devices must be auto, cpu, cpu:N, gpu or gpu:N, got {devices!r}.")
    kind, count = match.group(1), int(match.group(2) or 0)
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "auto":
        kind = "gpu" if gpus else "cpu"
    if number_of_workers() > 1:
        return _workers(kind, count, gpus)
    if kind == "cpu":
        return _cpu_strategy(count or 1, hide_gpus=bool(gpus))
    if len(gpus) < max(count, 1):
        raise ConfigError(f"--devices {devices}: this machine shows {len(gpus)} GPU(s). Try cpu.")
    return _mirrored(tuple(f"GPU:{n}" for n in range(count or len(gpus))))


def make_deterministic():
    """Makes all further TensorFlow operations of the process give the same bits in every run."""
    tf.config.experimental.enable_op_determinism()


def _workers(kind, count, gpus):
    if count:
        raise ConfigError(
            f"--devices {kind}:{count} with several workers in TF_CONFIG: each takes the devices "
            f"of its machine. Use {kind}."
        )
    if kind == "cpu" and gpus:
        tf.config.set_visible_devices([], "GPU")
    return tf.distribute.MultiWorkerMirroredStrategy()


def _cpu_strategy(count, hide_gpus):
    try:
        if hide_gpus:
            tf.config.set_visible_devices([], "GPU")
        if count > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
            tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError:
        raise ConfigError(
            f"cannot make {count} CPU replicas: TensorFlow already runs with other devices in "
            "this process. Call make_strategy first."
        ) from None
    return _mirrored(tuple(f"CPU:{n}" for n in range(count)))


@lru_cache
def _mirrored(names):
    """One strategy for all runs of a process: each new one would count its collectives anew."""
    if len(names) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(names)

"""Which devices a run uses: `--devices` to a `tf.distribute.Strategy`."""

import re

import tensorflow as tf

from segkit.errors import ConfigError


def make_strategy(devices="auto"):
    """Returns the strategy for `devices`; call it before TensorFlow touches a device.

    Args:
        devices: `"auto"` (all GPUs, else one CPU), `"cpu"`, `"gpu"` (all), or with a number of
            replicas: `"cpu:2"` makes two logical CPU devices, `"gpu:4"` takes four GPUs.

    Returns:
        The default strategy for one device, `MirroredStrategy` for several.

    Raises:
        ConfigError: Malformed text, more GPUs than there are, or devices already in use.
    """
    match = re.fullmatch(r"(auto|cpu|gpu)(?::([1-9]\d*))?", devices)
    if not match or devices.startswith("auto:"):
        raise ConfigError(f"devices must be auto, cpu, cpu:N, gpu or gpu:N, got {devices!r}.")
    kind, count = match.group(1), int(match.group(2) or 0)
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "auto":
        kind = "gpu" if gpus else "cpu"
    if kind == "cpu":
        return _cpu_strategy(count or 1, hide_gpus=bool(gpus))
    if len(gpus) < max(count, 1):
        raise ConfigError(f"--devices {devices}: this machine shows {len(gpus)} GPU(s). Try cpu.")
    return _mirrored([f"GPU:{n}" for n in range(count or len(gpus))])


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
    return _mirrored([f"CPU:{n}" for n in range(count)])


def _mirrored(names):
    if len(names) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(names)

import pytest

from segkit.errors import ConfigError
from segkit.training.devices import make_strategy


@pytest.mark.parametrize(("devices", "replicas"), [("cpu", 1), ("cpu:1", 1), ("cpu:2", 2)])
def test_the_number_of_replicas_follows_the_devices(devices, replicas):
    assert make_strategy(devices).num_replicas_in_sync == replicas


@pytest.mark.parametrize("devices", ["cpu:0", "tpu", "gpu:x", "auto:2", ""])
def test_malformed_devices_are_refused(devices):
    with pytest.raises(ConfigError, match="devices must be auto, cpu, cpu:N, gpu or gpu:N"):
        make_strategy(devices)


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="this machine shows"):
        make_strategy("gpu:64")


def test_more_cpu_replicas_than_the_process_started_with_is_refused():
    make_strategy("cpu:2").run(lambda: 0)
    with pytest.raises(ConfigError, match="already runs with other devices"):
        make_strategy("cpu:3")

"""Batches made by other processes or machines, with the `tf.data` service.

The dispatcher hands out groups of rounds (see `reader.read_stream`) to its workers. A worker
reads the shards itself, so the data set's folder must have the same path on all machines.
"""

import socket

import tensorflow as tf

from segkit.errors import ConfigError

PROTOCOL = "grpc://"
_TIMEOUT = 10


def made_by_service(dataset, address, ahead):
    """Returns `dataset` as the workers of a service make it, in an order that depends on them.

    Args:
        dataset: `tf.data.Dataset` whose source counts the parts that workers may share.
        address: Of the dispatcher, `grpc://HOST:PORT`.
        ahead: Number of elements to have under way.

    Raises:
        ConfigError: The address is malformed, or nothing answers there.
    """
    check_answers(address)
    service = tf.data.experimental.service
    return dataset.apply(
        service.distribute(
            service.ShardingPolicy.DYNAMIC,
            address,
            max_outstanding_requests=ahead,
            compression=None,  # patches are noise to it
        )
    )


def check_answers(address):
    """Raises `ConfigError` unless a server accepts connections: TensorFlow would wait for ever."""
    host, _, port = address.removeprefix(PROTOCOL).rpartition(":")
    if not (address.startswith(PROTOCOL) and host and port.isdecimal()):
        raise ConfigError(f"data.service must be {PROTOCOL}HOST:PORT, got {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"data.service: nothing answers at {address} ({reason}). Start tools/serve_data.py, "
            "or set data.service=null."
        ) from None

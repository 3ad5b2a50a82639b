"""Makes training batches on this machine for others: a tf.data service."""

import argparse
import os
import socket
import sys
import time

from segkit.errors import ConfigError
from segkit.errors import exit_code

LOCAL = ("127.0.0.1", "localhost")
EXAMPLES = """examples:
  python tools/serve_data.py                                     # for trainings on this machine
  python tools/serve_data.py --host 10.0.0.5 --port 5050         # for others in this network
  python tools/serve_data.py --host 10.0.0.6 --dispatcher grpc://10.0.0.5:5050   # more cores for it

The data set's folder must have the same path on all machines. With the default --host only this
machine is served (on Linux); with another, TensorFlow listens on all network interfaces, without
encryption or password: keep the port (and the worker's, any free one) behind a firewall.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address told to trainings (default: 127.0.0.1)")
    add("--port", type=int, default=5050, help="port of the dispatcher; 0: any (default: 5050)")
    add("--dispatcher", metavar="ADDRESS", help="work for this one instead of starting another")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(
        serve, parse_args(argv), interrupted="trainings wait until a service answers again."
    )


def serve(args):
    """Starts the servers and keeps them until an interrupt."""
    servers, address = start(args.host, args.port, args.dispatcher)
    print(f"Making batches. Train with: --set data.service={address}", flush=True)
    while servers:
        time.sleep(3600)  # unlike the servers' `join`, it ends on Ctrl-C


def start(host, port, dispatcher=None):
    """Returns the running servers, the worker last, and the dispatcher's address.

    Raises:
        ConfigError: The port is taken or not allowed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from data_prep.service import PROTOCOL
    from data_prep.service import check_answers

    service = tf.data.experimental.service
    servers = []
    if dispatcher is None:
        check_free(host, port)
        config = service.DispatcherConfig(port=port, protocol="grpc")
        servers.append(service.DispatchServer(config))
        dispatcher = f"{PROTOCOL}{host}:{servers[0].target.rpartition(':')[2]}"
    check_answers(dispatcher)
    config = service.WorkerConfig(
        dispatcher_address=dispatcher.removeprefix(PROTOCOL), worker_address=f"{host}:%port%"
    )
    servers.append(service.WorkerServer(config))
    if host in LOCAL:
        keep_local()
    return servers, dispatcher


def keep_local():
    """Lets this process accept connections from this machine only.

    TensorFlow's servers listen on all interfaces and cannot be told otherwise, so their sockets
    are tied to the loopback device once they listen.

    Raises:
        ConfigError: The system cannot do that; it is not Linux, for one.
    """
    try:
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                opened = socket.socket(fileno=number)
            except OSError:
                continue  # no socket
            if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            opened.detach()  # it stays open: it is TensorFlow's
    except (OSError, AttributeError) as error:
        raise ConfigError(
            f"cannot listen on this machine only ({error}). Name an address of it with --host."
        ) from None


def check_free(host, port):
    """Refuses a port that cannot be used."""
    try:
        with socket.create_server((host, port)):
            return
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}). Choose another --port or --host."
        ) from None


if __name__ == "__main__":
    sys.exit(main())

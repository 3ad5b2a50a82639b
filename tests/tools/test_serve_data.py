import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from tools import serve_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def heard():
    """Lets a child process hear Ctrl-C, to which one is deaf that a shell put into the background.

    A child inherits that a signal is ignored, but not a handler.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_another_process_makes_the_batches_of_this_one(tmp_path, heard):
    source = scan_source("phantom", "ct:6")
    manifest, _ = convert(source, tmp_path, source="ct:6", options=Options(layout="phantom"))
    options = {"patch_size": (16, 16), "batch_size": 2, "seed": 0, "batches": 6}
    options["augment"] = Augmentation([{"rotation": {}}, {"elastic": {}}, {"gamma": {}}])

    def batches(**more):
        splits = tuple({shard["split"] for shard in manifest["shards"]})
        stream = build_dataset(tmp_path, manifest, splits, **options, **more)
        return sorted(image.tobytes() for image, _ in stream.as_numpy_iterator())

    command = [sys.executable, str(ROOT / "tools" / "serve_data.py"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        line = next(line for line in server.stdout if "--set data.service=" in line)
        assert batches(service=line.strip().rpartition("=")[2]) == batches()
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130
    finally:
        server.kill()


def test_a_second_machine_works_for_the_first():
    servers, address = serve_data.start("127.0.0.1", 0)
    more, same = serve_data.start("127.0.0.1", 0, dispatcher=address)
    assert same == address
    assert len(more) == 1
    sharding = tf.data.experimental.service.ShardingPolicy.DYNAMIC
    distribute = tf.data.experimental.service.distribute(sharding, address)
    found = tf.data.Dataset.range(20).apply(distribute)
    np.testing.assert_array_equal(sorted(found.as_numpy_iterator()), range(20))
    del more, servers


def test_a_port_in_use_or_a_missing_dispatcher_is_one_line_and_exit_code_2(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve_data.main(["--port", str(taken.getsockname()[1])]) == 2
    assert "Choose another --port" in capsys.readouterr().err
    assert serve_data.main(["--dispatcher", "grpc://127.0.0.1:1"]) == 2
    assert "nothing answers at grpc://127.0.0.1:1" in capsys.readouterr().err


def test_only_this_machine_reaches_it_unless_told_otherwise():
    def devices():
        """The devices to which the listening sockets of this process are tied."""
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                opened = socket.socket(fileno=number)
            except OSError:
                continue
            if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield opened.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 20)
            opened.detach()

    servers, _ = serve_data.start("127.0.0.1", 0)
    tied = list(devices())
    assert len(tied) >= len(servers)
    assert {device.rstrip(b"\0") for device in tied} == {b"lo"}

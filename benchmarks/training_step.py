"""One training step of a 3-D U-Net: segkit's loop, plain Keras `fit`, and PyTorch, in one run.

    python benchmarks/training_step.py                           # segkit and Keras
    python benchmarks/training_step.py --peers peers/bin/python  # and nnU-Net's in PyTorch
    python benchmarks/training_step.py --profile                 # where segkit's time goes

The network is nnU-Net's plain U-Net for 40 x 56 x 40 patches: four stages of 32 to 256 filters;
loss cross-entropy and Dice, SGD with Nesterov momentum, the same batch again and again. All
contestants take turns, on all cores. segkit's step also counts voxels per class and takes the norm
of the gradient, which Keras and PyTorch are not asked for. `benchmarks/augmentation.py` says how to
make the peers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from tqdm import tqdm

from segkit.config import config_from_dict
from segkit.losses import build_loss
from segkit.metrics.counts import counter
from segkit.models import build_model
from segkit.outputs import read_outputs
from segkit.training.learner import build_learner
from segkit.training.learner import distribute

PATCH, CLASSES = (40, 56, 40), 3
CALLS = ("PartitionedCall", "StatefulPartitionedCall", "While", "If")  # their content counts


def make_batches(batch_size):
    """An endless data set of one batch of noise."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *PATCH, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (batch_size, *PATCH)).astype(np.int32)
    return tf.data.Dataset.from_tensors((images, labels)).repeat().prefetch(2)


def make_model(filters):
    return build_model("unet3d", CLASSES, (*PATCH, 1), filters=filters)


def with_segkit(args):
    """Returns a function `count -> seconds` that trains with segkit's step as its loop does."""
    train = {"epochs": 1, "steps_per_epoch": 10**6, "batch_size": args.batch, "optimizer": "sgd"}
    sections = {"model": {"name": "unet3d"}, "data": {"patch_size": list(PATCH)}}
    raw = {**sections, "loss": {"name": "ce_dice"}, "train": train}
    config, strategy = config_from_dict(raw).train, tf.distribute.get_strategy()
    learner = build_learner(
        config, strategy, lambda: (make_model(args.filters), build_loss("ce_dice"))
    )
    count = counter(read_outputs([{"name": str(n)} for n in range(CLASSES)], {}))
    step, _ = learner.make_steps(config, strategy, count)
    stream = iter(distribute(strategy, args.batch, lambda part: make_batches(args.batch)))

    def run(count):
        start, pending = time.perf_counter(), None
        for number in range(count):
            batch = next(stream)
            learner.set_rate(number, [])
            result = step(batch, tf.constant(number, tf.int64), tf.constant(0.0))
            if pending is not None:
                float(pending["loss"])
            pending = result
        float(pending["loss"])
        return time.perf_counter() - start

    return run


def with_keras(args):
    """Returns a function `count -> seconds` that trains with Keras' `fit`."""
    model, loss = make_model(args.filters), build_loss("ce_dice")
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.99, nesterov=True, global_clipnorm=12.0)
    model.compile(optimizer, loss=lambda labels, logits: loss(labels, logits), jit_compile=False)
    stream = make_batches(args.batch)

    def run(count):
        start = time.perf_counter()
        model.fit(stream, steps_per_epoch=count, epochs=1, verbose=0)
        return time.perf_counter() - start

    return run


def with_pytorch(args):
    """Starts the peers' worker; returns a function `count -> seconds`."""
    worker = subprocess.Popen(
        [
            args.peers,
            str(Path(__file__).with_name("peers") / "training_step.py"),
            str(args.batch),
            str(args.filters),
            str(os.cpu_count()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(count):
        worker.stdin.write(f"{count}\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    return run


def print_profile(args):
    """Prints which operations the time of segkit's step goes to, summed over threads."""
    run = with_segkit(args)
    run(2)  # compiles
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            seconds = run(args.steps)
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    times = Counter()
    for plane in space.planes:
        for event in (e for line in plane.lines for e in line.events):
            name = plane.event_metadata[event.metadata_id].name  # "node:Operation", "Class::call"
            node, _, operation = name.rpartition(":")
            is_operation = operation.isidentifier() and operation not in CALLS
            if node and not node.endswith(":") and is_operation:
                times[operation] += event.duration_ps / 1e9
    total = sum(times.values())
    print(f"{seconds / args.steps * 1e3:.0f} ms per step\n")
    print("| operation | ms per step, over all threads | share |\n|---|---|---|")
    for operation, ms in times.most_common(12):
        print(f"| {operation} | {ms / args.steps:.1f} | {ms / total:.1%} |")


def main(argv=None):
    """Prints ms per step of each contestant and the ratio to the first, or a profile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", metavar="PYTHON", help="Python that has PyTorch and nnU-Net")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--filters", type=int, default=32, help="of the first stage")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--profile", action="store_true", help="list segkit's operations instead")
    args = parser.parse_args(argv)
    if args.profile:
        print_profile(args)
        return
    contestants = {"segkit": with_segkit(args), "Keras fit": with_keras(args)}
    if args.peers:
        contestants["PyTorch"] = with_pytorch(args)
    times = {name: [] for name in contestants}
    for number in tqdm(range(args.rounds + 1), desc="rounds", disable=None):
        for name, run in contestants.items():
            ms = run(args.steps) / args.steps * 1e3
            times[name] += [ms] if number else []  # the first round compiles
    print(
        f"batch {args.batch}, {args.filters} filters, {args.rounds} turns of {args.steps} steps\n"
    )
    print("| one training step | ms | lowest - highest | segkit's share |\n|---|---|---|---|")
    for name, found in times.items():
        share = np.median(times["segkit"]) / np.median(found)
        spread = f"{min(found):.0f} - {max(found):.0f}"
        print(f"| {name} | {np.median(found):.0f} | {spread} | {share:.2f} |")


if __name__ == "__main__":
    main()

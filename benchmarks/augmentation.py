"""Augmentation of one 96^3 patch with its label, one thread, against other libraries in one run.

`python benchmarks/augmentation.py` measures segkit and where its time goes. For the comparison
make a separate environment, which segkit itself never needs, and name its Python:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 nnunetv2==2.8.1 monai==1.6.1 torchio==1.2.1
    python benchmarks/augmentation.py --peers peers/bin/python

Patches are read out of one 128^3 source in memory. All contestants take turns, so that a noisy
machine is noisy for all of them.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data_prep.augment import intensity
from data_prep.augment import noise
from data_prep.augment import sample
from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_record
from data_prep.augment.crop import crop
from data_prep.augment.geometry import rotation_matrix
from data_prep.augment.grid import coordinates
from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from data_prep.augment.random import make_keys
from data_prep.augment.random import normal

SOURCE, PATCH, CLASSES = (128,) * 3, (96,) * 3, 3
ALWAYS_ON = [
    {"rotation": {"degrees": 30}},
    {"scaling": {"field_of_view": [0.7, 1.4]}},
    {"elastic": {"displacement": [0.0, 0.03]}},
    {"gamma": {"gamma": [0.7, 1.5]}},
    {"gaussian_noise": {"std": [0.0, 0.1]}},
]
PEERS = {"always on": ("batchgeneratorsv2", "MONAI", "TorchIO"), "nnunet": ("nnU-Net",)}
MEBI = 1 << 20


def make_record():
    """A chunk of noise as `data_prep.records.decode` gives it."""
    rng = np.random.default_rng(0)
    return {
        "image": tf.constant(rng.integers(-9999, 9999, (*SOURCE, 1)), tf.int16),
        "slope": tf.constant([3e-4]),
        "intercept": tf.constant([0.1]),
        "label": tf.constant(rng.integers(0, CLASSES, SOURCE), tf.uint16),
        "spacing_mm": tf.ones(3),
    }


def ours(record, policy):
    """Returns a function `count -> seconds` that takes patches out of a `tf.data` pipeline."""
    steps, start = parse_policy(policy), tf.constant([16, 16, 16])

    @tf.autograph.experimental.do_not_convert
    def example(index):
        keys = Keys(make_keys(0, index[None]), make_keys(1, index[None]))
        return augment_record(record, start, PATCH, keys, steps, num_classes=CLASSES)

    stream = iter(tf.data.Dataset.range(1 << 40).map(example, num_parallel_calls=1))

    def run(count):
        begin = time.perf_counter()
        for _ in range(count):
            next(stream)
        return time.perf_counter() - begin

    return run


def theirs(python):
    """Starts the peers' worker; returns a function `name -> (count -> seconds)`."""
    worker = subprocess.Popen(
        [python, str(Path(__file__).with_name("peers") / "augmentation.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(name, count):
        worker.stdin.write(f"{name} {count}\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        sys.exit(f"error: the peers' worker ended. Try: {python} benchmarks/peers/augmentation.py")

    return lambda name: lambda count: run(name, count)


def compare(name, contestants, rounds, count):
    """Prints ms per patch of each contestant and the ratio to the first; all take turns."""
    for run in contestants.values():
        run(max(1, count // 5))
    times = {contestant: [] for contestant in contestants}
    for _ in tqdm(range(rounds), desc=name, leave=False, disable=None):
        for contestant, run in contestants.items():
            times[contestant].append(run(count) / count * 1e3)
    base = np.median(times[next(iter(times))])
    print(f"\n| {name}, {rounds} x {count} patches | ms per patch | lowest - highest | ratio |")
    print("|---|---|---|---|")
    for contestant, found in times.items():
        middle = np.median(found)
        spread = f"{min(found):.0f} - {max(found):.0f}"
        print(f"| {contestant} | {middle:.1f} | {spread} | {middle / base:.1f} |")


def milliseconds(function, *args, repeats=25):
    """Median time of a call, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - begin)
    return np.median(times[2:]) * 1e3


def stages(record):
    """Returns rows (stage, ms, bytes that it must read and write) of the always-on policy."""
    voxels, rows = int(np.prod(PATCH)), int(np.prod(SOURCE))
    angles = tf.constant([[0.2, -0.15, 0.25]])
    matrix = rotation_matrix(tf.cos(angles), tf.sin(angles))
    centre, field = tf.constant([[63.5, 63.5, 63.5]]), tf.random.normal((1, 7, 7, 7, 3))
    sizes = tf.constant([SOURCE])
    image = tf.reshape(record["image"], (1, -1, 1))
    label = tf.reshape(record["label"], (1, -1))
    start = tf.constant([16, 16, 16])
    cut = tf.reshape(crop(record, start, PATCH)[0], (1, 1, *PATCH))
    keys = make_keys(0, tf.range(1))

    def cut_out():
        return crop(record, start, PATCH)

    def points(matrix, centre, field):
        return coordinates(matrix, centre, PATCH, field)

    def read_image(image, matrix, centre, field):
        values, cover = sample.interpolate(image, sizes, points(matrix, centre, field))
        return values * record["slope"] + cover * record["intercept"]

    def read_label(label, matrix, centre, field):
        return sample.nearest(label, sizes, points(matrix, centre, field))

    def read_both(image, label, matrix, centre, field):
        place = (matrix, centre, field)
        return read_image(image, *place), read_label(label, *place)

    def draw_noise(keys):
        return tf.reshape(normal(keys, 1, voxels), (1, 1, *PATCH))

    def compiled(function):
        return tf.function(function, jit_compile=True, autograph=False)

    def graph(function):
        return tf.function(function, autograph=False)

    place = (matrix, centre, field)
    gamma = graph(lambda x: intensity.adjust_gamma(x, tf.constant([[1.3]])))
    add = graph(lambda x, n: noise.add_gaussian_noise(x, tf.constant([[0.1]]), n))
    drawn = graph(draw_noise)(keys)
    return [
        ("plain cut (int16 to float32)", milliseconds(graph(cut_out)), voxels * (2 + 2 + 4 + 2)),
        ("grid alone", milliseconds(compiled(points), *place), voxels * 12),
        (
            "grid and image, linear",
            milliseconds(compiled(read_image), image, *place),
            rows * 2 + voxels * 4,
        ),
        (
            "grid and label, nearest",
            milliseconds(compiled(read_label), label, *place),
            rows * 2 + voxels * 2,
        ),
        (
            "grid, image and label",
            milliseconds(compiled(read_both), image, label, *place),
            rows * 4 + voxels * 6,
        ),
        ("gamma, statistics kept", milliseconds(gamma, cut), voxels * 8),
        ("noise: numbers", milliseconds(graph(draw_noise), keys), voxels * 4),
        ("noise: added", milliseconds(add, cut, drawn), voxels * 12),
    ]


def bandwidth():
    """Bytes per second that one thread copies, reading and writing counted."""
    source = np.ones(256 * MEBI, np.uint8)
    target = np.empty_like(source)
    return 2 * source.size / milliseconds(np.copyto, target, source, repeats=9) * 1e3


def main():
    """Prints the comparison, then the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", metavar="PYTHON", help="Python that has the other libraries")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--patches", type=int, default=8, help="patches per turn, always on")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    record = make_record()
    peer = theirs(args.peers) if args.peers else None
    if peer is None:
        print("segkit alone; --help says how to add the other libraries.")
    policies = {"always on": ALWAYS_ON, "nnunet": read_policy("nnunet")}
    for name, policy in policies.items():
        contestants = {"segkit": ours(record, policy)}
        contestants |= {other: peer(other) for other in PEERS[name] if peer}
        count = args.patches * (1 if name == "always on" else 8)  # most of its draws do little
        compare(name, contestants, args.rounds, count)
    speed = bandwidth()
    print(f"\nOne thread copies {speed / 1e9:.1f} GB/s.\n")
    print("| stage | ms | least bytes, MB | share of the bandwidth |")
    print("|---|---|---|---|")
    for name, ms, size in stages(record):
        share = size / (ms * 1e-3) / speed
        print(f"| {name} | {ms:.1f} | {size / 1e6:.1f} | {share:.0%} |")


if __name__ == "__main__":
    main()

"""Measures segkit on this machine; `input`: the pipeline from shards to batches of patches."""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.augment.policy import read_policy
from data_prep.manifest import load_manifest
from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.priors import count_priors

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
EXAMPLES = """examples:
  python tools/benchmark.py input                                # synthetic records
  python tools/benchmark.py input --data data/hippocampus --patch 40 56 40
  python tools/benchmark.py input --policies none nnunet mine.yaml --threads 1 --parallel 1
  python tools/benchmark.py input --train-step unet3d --patch 40 56 40 --memory-mb 256

Columns: patches per second (median, lowest and highest of the repeats); ratio to the first
policy; share of what a loader that always yields the same batch reaches; highest memory of a new
process above that of a stream of the same policy over tiny records, tensors (as TensorFlow counts
them) and all of it, which must stay below the budget; with --placement device the time of the
compiled augmentation; with --train-step the share of the time that the step waited.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    tool = what.add_parser(
        "input", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = tool.add_argument
    add("--data", metavar="FOLDER", help="prepared data set (default: synthetic records)")
    add("--shape", type=int, nargs=3, default=[128] * 3, help="of a synthetic record")
    add("--cases", type=int, default=24, help="number of synthetic records")
    add("--patch", type=int, nargs="+", default=[96] * 3, metavar="N", help="2 or 3 sides")
    add("--batch", type=int, default=2, help="patches per batch")
    add("--policies", nargs="+", default=["none", "light", "nnunet", "heavy"], metavar="POLICY")
    add("--placement", choices=["input", "device"], default="input", help="of augmentation")
    add("--parallel", type=int, help="patches made at once (default: one per core)")
    add("--threads", type=int, help="of TensorFlow (default: one per core)")
    add("--memory-mb", type=int, default=1024, help="budget of the pipeline")
    add("--patches", type=int, default=100, help="patches per measurement")
    add("--repeats", type=int, default=3, help="measurements")
    add("--train-step", metavar="MODEL", help="feed a training step of configs/MODEL.yaml")
    add("--json", metavar="FILE", help="write the figures there too")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(run, parse_args(argv), interrupted="nothing was written.")


def run(args):
    policies = {name: read_policy(name) for name in args.policies}
    config = model_config(args) if args.train_step else None
    set_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(args.data or made)
        manifest = load_manifest(folder) if args.data else write_records_of_noise(folder, args)
        bar = tqdm(policies.items(), desc="policies", leave=False, disable=None)
        rows = [measure(name, policy, folder, manifest, config, args) for name, policy in bar]
        dummy = rate_of(lambda: constant_stream(folder, manifest, args), args)
    for row in rows:
        row["ratio"] = row["patches_per_second"] / rows[0]["patches_per_second"]
        row["share_of_dummy"] = row["patches_per_second"] / np.median(dummy)
    print(table(rows, float(np.median(dummy)), manifest, args))
    if args.json:
        with writing(args.json, "Choose another --json."):
            Path(args.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(name, policy, folder, manifest, config, args):
    """Returns the row of one policy: speed, memory, and the share of waiting."""
    from data_prep.pipeline import Augmentation

    augment = Augmentation(policy, args.placement)

    def make():
        return stream(folder, manifest, augment, args)

    take(iter(make()), max(2, args.patches // args.batch // 4))  # compiles, loads, allocates
    rates = rate_of(make, args)
    tensors, resident = in_new_process(hold, policy, folder, manifest, args)
    row = {
        "policy": name,
        "patches_per_second": float(np.median(rates)),
        "lowest": min(rates),
        "highest": max(rates),
        "tensors_mb": tensors >> 20,
        "resident_mb": resident >> 20,
    }
    if args.placement == "device":
        row["device_ms"] = device_milliseconds(make, augment, manifest, args)
    if config is not None:
        row["input_wait_share"] = waiting(make, augment, manifest, config, args)
    return row


def in_new_process(function, *args):
    """Returns what a function returns in a process that has held nothing before."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def hold(policy, folder, manifest, args):
    """Returns the highest memory of a stream, of its tensors and in all, without its program.

    The program (graphs, compiled functions) is what a stream over tiny records takes. The
    reader pauses after each batch, so that all buffers fill.
    """
    from data_prep.pipeline import Augmentation

    set_threads(args.threads)
    augment = Augmentation(policy, args.placement)
    sides = {"shape": [16] * 3, "patch": [8] * len(args.patch)}
    small = argparse.Namespace(**vars(args) | sides | {"cases": 16, "batch": 1, "memory_mb": 64})
    with tempfile.TemporaryDirectory() as made:
        records = write_records_of_noise(Path(made), small)
        tiny = iter(stream(Path(made), records, augment, small))
        take(tiny, 100)
        memory = Memory()
        del tiny
    with memory:
        batches = iter(stream(folder, manifest, augment, args))
        for _ in range(max(2, args.patches // args.batch)):
            next(batches)
            time.sleep(0.02)
    return memory.tensors, memory.resident


def device_milliseconds(make, augment, manifest, args):
    """Returns the median time of the compiled augmentation of one batch."""
    import tensorflow as tf

    from data_prep.pipeline import device_augmentation

    priors = count_priors(manifest["channels"])
    change = device_augmentation(
        augment, tuple(args.patch), len(manifest["classes"]), priors=priors
    )
    compiled = tf.function(change, jit_compile=True, autograph=False)
    iterator, times = iter(make()), []
    for batch in (next(iterator) for _ in range(args.repeats + 1)):
        start = time.perf_counter()
        compiled(*batch)[0].numpy()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[1:]))


def stream(folder, manifest, augment, args):
    from data_prep.pipeline import build_dataset

    splits = {shard["split"] for shard in manifest["shards"]} - {"test"}
    return build_dataset(
        folder,
        manifest,
        tuple(sorted(splits)),
        patch_size=tuple(args.patch),
        batch_size=args.batch,
        seed=0,
        augment=augment,
        memory_bytes=args.memory_mb << 20,
        num_parallel_calls=args.parallel,
    )


def constant_stream(folder, manifest, args):
    """The ceiling of the machinery: one batch again and again."""
    import tensorflow as tf

    batch = next(iter(stream(folder, manifest, None, args)))
    return tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)


def take(iterator, count):
    """Takes so many batches; returns the seconds that it took."""
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return time.perf_counter() - start


def rate_of(make, args):
    """Returns patches per second of each repeat, out of one stream."""
    iterator, batches = iter(make()), max(1, args.patches // args.batch)
    take(iterator, max(1, batches // 10))
    return [batches * args.batch / take(iterator, batches) for _ in range(args.repeats)]


def waiting(make, augment, manifest, config, args):
    """Returns the share of time that a training step waits for its input."""
    import tensorflow as tf

    from data_prep.pipeline import device_augmentation
    from segkit.losses import build_loss
    from segkit.metrics.counts import class_counts
    from segkit.models import build_model
    from segkit.training.learner import build_learner

    classes, patch = len(manifest["classes"]), tuple(args.patch)

    def build():
        shape = (*patch, len(manifest["channels"]))
        model = build_model(config.model.name, classes, shape, **config.model.options)
        return model, build_loss(config.loss.name, **config.loss.options)

    strategy = tf.distribute.get_strategy()
    learner = build_learner(config.train, strategy, build)
    on_device = augment.placement == "device"
    priors = count_priors(manifest["channels"])
    prepare = device_augmentation(augment, patch, classes, priors=priors) if on_device else None
    count = partial(class_counts, num_classes=classes)
    step, _ = learner.make_steps(config.train, strategy, count, prepare)
    first, go_on = tf.constant(0, tf.int64), tf.constant(0.0)
    iterator, waited = iter(make()), 0.0
    step(next(iterator), first, go_on)["loss"].numpy()
    start = time.perf_counter()
    for _ in range(max(2, args.patches // args.batch // 2)):
        before = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - before
        step(batch, first, go_on)["loss"].numpy()
    return waited / (time.perf_counter() - start)


def model_config(args):
    path = CONFIGS / f"{args.train_step}.yaml"
    sides = f"data.patch_size={list(args.patch)}"
    return load_config(path, [sides, f"train.batch_size={args.batch}"])


def set_threads(threads):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}.")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


class Memory(threading.Thread):
    """Samples, within a `with` block, how much more memory is in use than when it was made.

    Attributes:
        resident: Highest increase of the process, in bytes.
        tensors: Highest increase of what TensorFlow allocates on the CPU, in bytes.
    """

    def __init__(self):
        import tensorflow as tf

        super().__init__()
        self._info = tf.config.experimental.get_memory_info
        tf.config.experimental.reset_memory_stats("CPU:0")
        self._before = resident_bytes(), self._info("CPU:0")["current"]
        self.resident = self.tensors = 0
        self._done = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self.join()
        self.tensors = self._info("CPU:0")["peak"] - self._before[1]

    def run(self):
        """Samples every 10 ms."""
        while not self._done.wait(0.01):
            self.resident = max(self.resident, resident_bytes() - self._before[0])


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def write_records_of_noise(folder, args):
    """Writes shards of noise images with a ball of label 1 each; returns their manifest."""
    from data_prep.records import Chunk
    from data_prep.records import encode
    from data_prep.records import write_records

    rng, shape = np.random.default_rng(0), tuple(args.shape)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n + 2)[1:-1] for n in shape], indexing="ij"))
    label = ((grid**2).sum(0) < 0.3).astype(np.uint8)
    voxels = np.insert(np.argwhere(label), 0, 1, axis=1)

    def record(number):
        return encode(
            Chunk(
                case_id=f"case{number}",
                image=rng.normal(size=(*shape, 1)).astype(np.float32),
                label=label,
                spacing_mm=np.ones(3),
                affine=np.eye(4),
                origin=np.zeros(3),
                case_shape=np.array(shape),
                class_counts=np.bincount(label.ravel(), minlength=2),
                foreground=voxels[rng.choice(len(voxels), min(200, len(voxels)))],
            )
        )

    shards = []
    for number in range(4):
        name = f"fold0-{number:05d}-of-00004.tfrecord"
        written = write_records(folder / name, map(record, range(number, args.cases, 4)))
        shards.append({"file": name, "split": "fold0", **written})
    return {
        "channels": ["MRI"],
        "classes": [{"name": "background", "value": 0}, {"name": "ball", "value": 1}],
        "preprocess": {"spacing_mm": [1.0, 1.0, 1.0]},
        "shards": [shard for shard in shards if shard["records"]],
    }


def table(rows, dummy, manifest, args):
    """Returns the rows as a Markdown table."""
    wait, device = (key in rows[0] for key in ("input_wait_share", "device_ms"))
    size = sum(shard["bytes"] for shard in manifest["shards"]) >> 20
    lines = [
        f"Patches of {args.patch}, {args.batch} per batch, placement {args.placement}; a constant "
        f"batch: {dummy:.0f} patches/s. Records: {size} MiB. Budget: {args.memory_mb} MiB.\n",
        "| policy | patches/s | lowest - highest | ratio | of constant | tensors, process, MiB |"
        + (" on device, ms per batch |" if device else "")
        + (" input wait |" if wait else ""),
        "|---|---|---|---|---|---|" + "---|" * (wait + device),
    ]
    for row in rows:
        lines.append(
            f"| {row['policy']} | {row['patches_per_second']:.1f} | {row['lowest']:.1f} - "
            f"{row['highest']:.1f} | {row['ratio']:.2f} | {row['share_of_dummy']:.1%} | "
            f"{row['tensors_mb']}, {row['resident_mb']} |"
            + (f" {row['device_ms']:.1f} |" if device else "")
            + (f" {row['input_wait_share']:.1%} |" if wait else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

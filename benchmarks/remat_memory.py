"""Peak of memory and time of a training step, with `train.remat` and without.

    python benchmarks/remat_memory.py --model unet3d --shape 96 96 96 1 --set filters=16

Each runs in a process of its own, whose memory before the first step is subtracted. The time is
that of the processor, over all cores, because it hardly depends on what else the machine does.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import yaml


def main(argv=None):
    """Prints one line without `remat` and one with it."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parse(argv)
    if args.child:
        print(json.dumps(_measure(args, args.child == "remat")))
        return
    for kind in ("keep", "remat"):
        command = [sys.executable, __file__, *argv, "--child", kind]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peak, seconds = json.loads(run.stdout.splitlines()[-1])
        print(f"{kind:6} peak {peak:6.0f} MB, step {seconds:6.2f} s of CPU")


def _parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet3d")
    parser.add_argument("--shape", type=int, nargs="+", default=[96, 96, 96, 1], metavar="SIDE")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--child", choices=("keep", "remat"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _measure(args, remat):
    """Returns the peak in MB and the median seconds of the steps after the first."""
    import keras
    import tensorflow as tf

    from segkit.losses import build_loss
    from segkit.metrics.counts import class_counts
    from segkit.models import build_model
    from segkit.training.step import full_resolution
    from segkit.training.step import make_train_step

    options = {k: yaml.safe_load(v) for k, _, v in (s.partition("=") for s in args.set)}
    model = build_model(args.model, 3, args.shape, **options)
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)
    step = make_train_step(
        tf.distribute.get_strategy(),
        model,
        build_loss("ce_dice"),
        optimizer,
        count=lambda labels, logits: class_counts(labels, full_resolution(logits), 3),
        batch_size=1,
        xla=False,
        seed=0,
        remat=remat,
    )
    images = tf.random.stateless_normal((1, *args.shape), (0, 0))
    batch = images, tf.cast(tf.abs(images[..., 0]), "int32") % 3
    before, seconds = _peak_mb(), []
    for number in range(args.steps):
        start = time.process_time()
        float(step(batch, tf.constant(number, tf.int64), tf.constant(0.0))["loss"])
        seconds.append(time.process_time() - start)
    return _peak_mb() - before, statistics.median(seconds[1:])


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

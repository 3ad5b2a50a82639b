"""Time of one training step (forward, loss, backward) of a network, for several options.

    python benchmarks/model_step.py --model unet3d --shape 40 56 40 1 --batch 2 \
        --set filters=16 --vary normalization=none,instance,group

All variants are measured in turn within one run, so their ratios hold on a busy machine.
"""

import argparse
import statistics
import time

import yaml


def main(argv=None):
    """Prints one line per variant; the first one is the reference of the ratio."""
    args = _parse(argv)
    option, _, values = args.vary.partition("=")
    variants = [{option: yaml.safe_load(v)} for v in values.split(",")] if option else [{}]
    fixed = {k: yaml.safe_load(v) for k, _, v in (s.partition("=") for s in args.set)}

    steps = [_make_step(args, {**fixed, **variant}) for variant in variants]
    times = [[] for _ in steps]
    for _ in range(args.rounds):
        for step, measured in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            measured.append(1e3 * (time.perf_counter() - start))

    reference = statistics.median(times[0])
    print(f"{'variant':30} {'median ms':>10} {'min ms':>8} {'max ms':>8} {'ratio':>6}")
    for variant, t in zip(variants, times, strict=True):
        median = statistics.median(t)
        label = ", ".join(f"{k}={v}" for k, v in variant.items()) or args.model
        print(f"{label:30} {median:10.0f} {min(t):8.0f} {max(t):8.0f} {median / reference:6.2f}")


def _parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet3d")
    parser.add_argument("--shape", type=int, nargs="+", default=[40, 56, 40, 1], metavar="SIDE")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--loss", default="ce_dice")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--vary", default="", metavar="OPTION=VALUE,VALUE")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args(argv)


def _make_step(args, options):
    """Returns a function that runs one step and waits for it; already traced."""
    import tensorflow as tf

    from segkit.losses import build_loss
    from segkit.models import build_model

    model = build_model(args.model, args.classes, args.shape, **options)
    loss = build_loss(args.loss)
    images = tf.random.stateless_normal((args.batch, *args.shape), (0, 0))
    labels = tf.cast(tf.abs(images[..., 0]), "int32") % args.classes
    weights = [w.value for w in model.trainable_variables]

    @tf.function
    def gradients(images, labels):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(labels, model(images, training=True)))
        return tape.gradient(value, weights)

    def step():
        gradients(images, labels)[0].numpy()

    step()
    step()
    return step


if __name__ == "__main__":
    main()

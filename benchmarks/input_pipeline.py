"""Patches per second out of the input pipeline, without and with augmentation.

`python benchmarks/input_pipeline.py` writes synthetic records to a temporary folder, reads them
through `data_prep.pipeline` and prints a table. Report the machine with the figures.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data_prep.pipeline import build_dataset
from data_prep.records import Chunk
from data_prep.records import encode
from data_prep.records import write_records
from segkit.config import AugmentConfig

NNUNET_LIKE = AugmentConfig(
    flip=[0.5, 0.5, 0.5],
    rotation_deg=30.0,
    rotation_probability=0.2,
    scaling=[0.7, 1.4],
    scaling_probability=0.2,
    brightness=[0.75, 1.25],
    contrast=[0.75, 1.25],
    intensity_probability=0.15,
)
AFFINE_ALWAYS = AugmentConfig(rotation_deg=30.0, rotation_probability=1.0)


def write_data(folder, shape, cases, seed=0):
    """Writes one shard of noise images with a ball of label 1 each; returns its manifest."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n + 2)[1:-1] for n in shape], indexing="ij"))
    label = ((grid**2).sum(0) < 0.3).astype(np.uint8)
    voxels = np.argwhere(label)

    def record(n):
        chosen = voxels[rng.choice(len(voxels), 200)]
        return encode(
            Chunk(
                case_id=f"case{n}",
                image=rng.normal(size=(*shape, 1)).astype(np.float32),
                label=label,
                spacing_mm=np.ones(3),
                affine=np.eye(4),
                origin=np.zeros(3),
                case_shape=np.array(shape),
                class_counts=np.bincount(label.ravel(), minlength=2),
                foreground=np.insert(chosen, 0, 1, axis=1),
            )
        )

    name = "fold0-00000-of-00001.tfrecord"
    written = write_records(Path(folder) / name, map(record, range(cases)))
    return {
        "channels": ["MRI"],
        "classes": [{"name": "background", "value": 0}, {"name": "ball", "value": 1}],
        "shards": [{"file": name, "split": "fold0", **written}],
    }


def rate(dataset, patches, batch_size):
    """Patches per second after a warm-up of one tenth."""
    iterator = iter(dataset)
    for _ in range(max(1, patches // batch_size // 10)):
        next(iterator)
    start = time.perf_counter()
    for _ in range(patches // batch_size):
        next(iterator)
    return patches / (time.perf_counter() - start)


def main():
    """Prints one row per augmentation: median, lowest and highest of the repetitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[36, 50, 35], help="of a record")
    parser.add_argument("--patch", type=int, nargs="+", default=[40, 56, 40], help="2 or 3 sides")
    parser.add_argument("--cases", type=int, default=40, help="number of records")
    parser.add_argument("--batch", type=int, default=2, help="patches per batch")
    parser.add_argument("--patches", type=int, default=600, help="patches per measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per row")
    parser.add_argument("--parallel", type=int, default=1, help="patches made at once")
    args = parser.parse_args()
    rows = {"none": None, "nnU-Net-like": NNUNET_LIKE, "rotation always": AFFINE_ALWAYS}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_data(folder, tuple(args.shape), args.cases)
        print(f"records {args.shape}, patch {args.patch}, {args.parallel} at once")
        print(f"{'augmentation':<16} {'patches/s':>10} {'lowest':>8} {'highest':>8} {'ratio':>6}")
        base = None
        for name, augment in rows.items():
            dataset = build_dataset(
                folder,
                manifest,
                ("fold0",),
                patch_size=args.patch,
                batch_size=args.batch,
                seed=0,
                augment=augment,
                num_parallel_calls=args.parallel,
            )
            rates = sorted(rate(dataset, args.patches, args.batch) for _ in range(args.repeats))
            middle = rates[len(rates) // 2]
            base = base or middle
            print(
                f"{name:<16} {middle:>10.0f} {rates[0]:>8.0f} {rates[-1]:>8.0f} "
                f"{middle / base:>6.2f}"
            )


if __name__ == "__main__":
    main()

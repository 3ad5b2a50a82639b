"""Worker of `benchmarks/nuclei_baselines.py`: StarDist, trained as its own example does.

Called with a folder and CPU minutes. Reads `FOLDER/train/CASE.npz` (`image`, `(h, w, channels)`,
and `ids`) and `FOLDER/val/CASE.npz`; writes `FOLDER/maps/CASE.npy` with the objects of each image
of the latter, `CASE.json` with their scores, and `FOLDER/spent.json`.

As in the notebook "2D / 2_training" of StarDist: `Config2D` with 32 rays on a grid of 2 x 2 and
defaults for all else, percentiles 1 and 99.8 of each channel, holes filled, 15 % of the training
images for validation and for the thresholds; flips, turns, intensities and noise as augmentation.
Only its 400 epochs are cut off by the budget. Start-up and validation count, the thresholds and the
prediction do not.
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
from csbdeep.utils import normalize
from stardist import fill_label_holes
from stardist.models import Config2D
from stardist.models import StarDist2D

VALIDATION_SHARE = 0.15


class Budget(keras.callbacks.Callback):
    """Ends a training when the process has used its CPU time."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.steps = seconds, 0

    def on_train_batch_end(self, batch, logs=None):
        """Counts the step and looks at the clock."""
        self.steps += 1
        self.model.stop_training = time.process_time() > self.seconds


def augment(image, ids):
    """Turns and flips at random, scales and shifts the intensities of all channels, adds noise."""
    turned = np.random.permutation(2)
    image, ids = image.transpose(*turned, 2), ids.transpose(turned)
    axes = [axis for axis in range(2) if np.random.rand() > 0.5]
    image, ids = np.flip(image, axes), np.flip(ids, axes)
    image = image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
    deviation = 0.02 * np.random.uniform(0, 1)
    return image + deviation * np.random.normal(0, 1, image.shape), ids


def read(folder):
    """Returns dict case -> normalised image, and dict case -> ids where they are given."""
    images, ids = {}, {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            images[path.stem] = normalize(arrays["image"], 1, 99.8, axis=(0, 1))
            if "ids" in arrays:
                ids[path.stem] = fill_label_holes(arrays["ids"].astype(np.int32))
    return images, ids


def train(folder, seconds):
    """Trains and returns the model, its steps and the CPU seconds of training and thresholds."""
    images, ids = read(folder / "train")
    cases = np.random.RandomState(42).permutation(sorted(images))
    held = max(1, round(VALIDATION_SHARE * len(cases)))
    (x, y), validation = (
        ([images[case] for case in part], [ids[case] for case in part])
        for part in (cases[:-held], cases[-held:])
    )
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=x[0].shape[-1])
    keras.utils.set_random_seed(0)
    model, budget = StarDist2D(config, name="model", basedir=str(folder)), Budget(seconds)
    model.prepare_for_training()
    model.callbacks.append(budget)
    model.train(x, y, validation_data=validation, augmenter=augment)
    trained = time.process_time()
    model.optimize_thresholds(*validation)
    return model, budget.steps, trained, time.process_time() - trained


def predict(model, folder):
    """Writes the objects of the images of `val`; an object has the number of its polygon."""
    maps = folder / "maps"
    maps.mkdir(exist_ok=True)
    for case, image in read(folder / "val")[0].items():
        ids, found = model.predict_instances(image)
        scores = {int(n): float(found["prob"][n - 1]) for n in np.unique(ids[ids > 0])}
        objects = [{"id": n, "class": "nucleus", "score": score} for n, score in scores.items()]
        np.save(maps / f"{case}.npy", ids)
        (maps / f"{case}.json").write_text(json.dumps({"objects": objects}))


def main():
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
    model, steps, trained, thresholds = train(folder, 60 * minutes)
    predict(model, folder)
    spent = {"steps": steps, "seconds": trained, "threshold_seconds": thresholds}
    spent |= {"parameters": model.keras_model.count_params()}
    (folder / "spent.json").write_text(json.dumps(spent))


if __name__ == "__main__":
    main()

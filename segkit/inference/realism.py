"""Scores of made images as a whole: how real, how varied, and whether they were learnt by heart."""

import numpy as np

from segkit.errors import DataError
from segkit.metrics.generation.frechet_distance import frechet_distance
from segkit.metrics.generation.kernel_distance import subset_kernel_distances
from segkit.metrics.generation.memorisation import ALARM
from segkit.metrics.generation.memorisation import memorisation
from segkit.metrics.generation.precision_recall import precision_recall

POLICY = (
    "Distances, precision and recall are between held-out real images and as many others, on the "
    "features of the extractor that is named; scores of two extractors cannot be compared, and "
    "neither is FID or KID, which are on Inception's. frechet_distance needs more images than "
    "features and is smaller of more images. kernel_distance: mean and standard deviation over 100 "
    "subsets, unbiased, so real images score around 0. 'training' are real images of the training "
    "cases, scored as if they were made: what to aim at, no perfect generator does better. "
    f"Memorisation: alarm where the p-value is below {ALARM:g}; examples are taken as independent."
)


def score_realism(images, extractors):
    """Scores made images on the features of each extractor.

    Args:
        images: Dict of float32 arrays `(examples, *sides, channels)`: `held_out`, real images not
            trained on; `made`; `training`, real images drawn as the held-out ones; and
            `all_training`, those that may have been learnt by heart.
        extractors: List of `segkit.inference.features.Extractor`.

    Returns:
        `(report, checks)`: list of dicts that JSON can hold, one per extractor: `features`, its
        name, `size`, `made` and `training`, dicts of scores, `memorisation` and `notes`, list of
        text; and the `Memorisation` of each.

    Raises:
        DataError: If there are too few images for any score but the Fréchet distance, which is
            `None` then with a note that says how many it needs; or features are NaN.
    """
    report, checks = [], []
    for extractor in extractors:
        features = {kind: extractor(array) for kind, array in images.items()}
        entry = {"features": extractor.name, "size": features["made"].shape[1], "notes": []}
        for kind in ("made", "training"):
            entry[kind] = _scores(features["held_out"], features[kind], entry["notes"])
        found = memorisation(features["all_training"], features["held_out"], features["made"])
        entry["memorisation"] = _described(found)
        report.append(entry)
        checks.append(found)
    return report, checks


def describe_memorisation(images, extractor):
    """Returns the memorisation check alone on further features: `(dict, Memorisation)`.

    Args:
        images: As for `score_realism`, without `training`.
        extractor: `Extractor`.
    """
    kinds = ("all_training", "held_out", "made")
    found = memorisation(*(extractor(images[kind]) for kind in kinds))
    return {"features": extractor.name, **_described(found)}, found


def _scores(real, others, notes):
    number = min(len(real), len(others))
    real, others = real[:number], others[:number]
    subsets = subset_kernel_distances(real, others)
    shares = precision_recall(real, others)
    return {
        "frechet_distance": _frechet(real, others, notes),
        "kernel_distance": float(subsets.mean()),
        "kernel_distance_deviation": float(subsets.std()),
        "precision": shares.precision,
        "recall": shares.recall,
    }


def _frechet(real, others, notes):
    if len(real) > real.shape[1]:
        return frechet_distance(real, others)
    note = (
        f"The Fréchet distance needs more than {real.shape[1]} images of each kind on these "
        f"features, there are {len(real)}."
    )
    if note not in notes:
        notes.append(note)
    return None


def _described(found):
    return {
        "distance": float(np.median(found.made)),
        "held_out_distance": float(np.median(found.held_out)),
        "ratio": None if np.isnan(found.ratio) else found.ratio,
        "nearer_than_all_held_out": found.nearer,
        "p_value": found.p_value,
        "alarm": bool(found.alarm),
    }


def distinct(images):
    """Returns the numbers of images that are no copy of an earlier one, int64.

    Raises:
        DataError: If an image holds NaN or infinite values.
    """
    broken = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
    if broken.size:
        raise DataError(
            f"{broken.size} of {len(images)} images hold NaN or infinite values. Check the run's "
            "training, or the data."
        )
    seen = {}
    for number, image in enumerate(images):
        seen.setdefault(image.tobytes(), number)
    return np.array(sorted(seen.values()))

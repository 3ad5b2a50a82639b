"""Free-response ROC: share of objects found against false positives per image."""

import numpy as np

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def froc_hits(overlaps, scores, iou=0.5):
    """Says which detections of an image hit a true object.

    In the order of falling scores a detection takes the object, not yet taken, of the largest IoU,
    if that is above the threshold. A second detection of an object is a false positive. (LUNA16
    forgives it; here it would hide objects doubled at the seams of tiles.)

    Args:
        overlaps: `Overlaps`, of maps or masks.
        scores: Shape `(predictions,)`.
        iou: Threshold in [0, 1); lesions are often taken as found above 0.1.

    Returns:
        `(scores, hits)`: float64 and bool, one per detection that counts; those without a hit that
        mostly lie on ignored objects are left out.
    """
    scores = np.asarray(scores, float)
    true, predicted = overlaps.pairs.T
    hits, taken = np.zeros(len(scores), bool), np.zeros(len(overlaps.true), bool)
    above = overlaps.iou > iou
    for pair in np.lexsort((-overlaps.iou, predicted, -scores[predicted])):
        if above[pair] and not taken[true[pair]] and not hits[predicted[pair]]:
            taken[true[pair]] = hits[predicted[pair]] = True
    counted = hits | ~overlaps.on_void
    return scores[counted], hits[counted]


class Froc:
    """The curve of many images, also of a part of them or with some counted repeatedly."""

    def __init__(self, hits, truths):
        """Joins the images.

        Args:
            hits: For each image what `froc_hits` returned.
            truths: For each image its number of true objects.
        """
        scores = np.concatenate([np.empty(0), *(s for s, _ in hits)])
        order = np.argsort(-scores, kind="stable")
        image = np.repeat(np.arange(len(hits)), [len(s) for s, _ in hits])
        self._image = image[order]
        self._hits = np.concatenate([np.empty(0, bool), *(h for _, h in hits)])[order]
        # Detections of one score come all together or not at all.
        self._last = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
        self._truths = np.asarray(truths)

    def sensitivities(self, weights, rates=RATES):
        """Returns the share of true objects found at given false positives per image.

        Of all thresholds on the score with at most so many false positives, it is the largest
        share; between thresholds nothing is interpolated. The mean over `RATES` is the
        "competition performance metric".

        Args:
            weights: How often each image counts, shape `(images,)`.
            rates: False positives per image.

        Returns:
            float64, shape `(rates,)`; NaN without any true object.

        Reference:
            Bunch et al., "A free response approach to the measurement and characterization of
            radiographic observer performance", 1978; Setio et al., "Validation, comparison, and
            combination of algorithms for automatic detection of pulmonary nodules", Medical Image
            Analysis 42, 2017, arXiv:1612.08012, for the rates.
        """
        truths = (weights * self._truths).sum()
        if not truths:
            return np.full(len(rates), np.nan)
        each = np.asarray(weights, float)[self._image]
        found = np.append(0.0, np.cumsum(each * self._hits)[self._last])
        false = np.append(0.0, np.cumsum(each * ~self._hits)[self._last])
        allowed = np.searchsorted(false, np.asarray(rates) * weights.sum(), side="right") - 1
        return found[allowed] / truths

"""The loss of Mask R-CNN: five terms, from what the network says and what it should have said."""

from keras import ops

from segkit.errors import ConfigError
from segkit.losses.loss import Loss

STAGE_WEIGHTS = (1.0, 0.5, 0.25)  # of a cascade's box heads
POSITIVE, NEGATIVE = 1, 0


class MaskRCNNLoss(Loss):
    """Sum of the losses of both stages, each normalised within its example.

    - `rpn_score`: mean binary cross-entropy over the sampled anchors;
    - `rpn_box`: sum over positive anchors of the smooth L1 distance of the four offsets, bent at
      1/9, over the number of sampled anchors;
    - `class`: mean cross-entropy over the sampled regions;
    - `box`: like `rpn_box`, over the regions, bent at 1;
    - `mask`: mean binary cross-entropy over the pixels of the positive regions' masks.

    The box heads of a cascade have the weights 1, 1/2 and 1/4. An example without objects has the
    first and the third term only. All is computed in float32.

    Reference:
        Ren et al., arXiv:1506.01497, equation 1; Girshick, arXiv:1504.08083, equations 1 to 3; He
        et al., "Mask R-CNN", arXiv:1703.06870, section 3; the cascade: Cai and Vasconcelos,
        arXiv:1906.09756, whose stages have equal weights; those here are Model Garden's.
    """

    def __init__(
        self,
        *,
        rpn_score: float = 1.0,
        rpn_box: float = 1.0,
        classes: float = 1.0,
        box: float = 1.0,
        mask: float = 1.0,
        ignore_label: int | None = None,
    ):
        """Takes the weights of the terms.

        Args:
            rpn_score: Weight of the term of that name, 0 or more, and so are the others.
            rpn_box: Weight.
            classes: Weight of the term `class`.
            box: Weight.
            mask: Weight.
            ignore_label: Not used: the network ignores the class after its last by itself.

        Raises:
            ConfigError: If a weight is negative.
        """
        weights = {"rpn_score": rpn_score, "rpn_box": rpn_box, "class": classes, "box": box}
        self._weights = {**weights, "mask": mask}
        if min(self._weights.values()) < 0:
            raise ConfigError(f"loss mask_rcnn needs weights of 0 or more, got {self._weights}.")
        super().__init__("mask_rcnn", None)

    def parts(self, labels, outputs):
        """Returns the weighted terms, dict name -> float32 `(batch,)`.

        Args:
            labels: Not used: the network makes its targets itself.
            outputs: What the network gives with objects, see `segkit.models.mask_rcnn.builder`.
        """
        terms = {**anchor_terms(outputs), **region_terms(outputs), "mask": mask_term(outputs)}
        return {name: weight * terms[name] for name, weight in self._weights.items()}


def anchor_terms(outputs):
    """Returns the terms of the first stage, dict name -> float32 `(batch,)`.

    Args:
        outputs: Dict with `anchor_logits` and `anchor_kinds` `(batch, n)`, of which 1 is positive,
            0 negative, and -1 not counted; `anchor_offsets` and `anchor_targets` `(batch, n, 4)`.
    """
    kinds = outputs["anchor_kinds"]
    counted = _float(kinds >= NEGATIVE)
    positive = _float(kinds == POSITIVE)
    number = _at_least_one(counted)
    entropy = _binary_entropy(positive, outputs["anchor_logits"])
    offsets = smooth_l1(outputs["anchor_offsets"] - outputs["anchor_targets"], bend=1 / 9)
    return {
        "rpn_score": ops.sum(entropy * counted, axis=-1) / number,
        "rpn_box": ops.sum(offsets * positive, axis=-1) / number,
    }


def region_terms(outputs):
    """Returns the terms of the box heads, dict name -> float32 `(batch,)`.

    Args:
        outputs: Dict with `class_logits` `(batch, stages, n, classes)`, `class_targets` `(batch,
            stages, n)`, where 0 is the background and -1 not counted, and `box_offsets` and
            `box_targets` `(batch, stages, n, 4)`.
    """
    targets = outputs["class_targets"]
    logits = ops.cast(outputs["class_logits"], "float32")
    weights = ops.convert_to_tensor(STAGE_WEIGHTS[: logits.shape[1]], "float32")
    counted, positive = _float(targets >= 0), _float(targets > 0)
    number = _at_least_one(counted)
    truth = ops.one_hot(ops.maximum(targets, 0), logits.shape[-1], dtype="float32")
    entropy = -ops.sum(truth * ops.log_softmax(logits), axis=-1)
    offsets = smooth_l1(outputs["box_offsets"] - outputs["box_targets"], bend=1.0)
    return {
        "class": ops.sum(weights * ops.sum(entropy * counted, axis=-1) / number, axis=-1),
        "box": ops.sum(weights * ops.sum(offsets * positive, axis=-1) / number, axis=-1),
    }


def mask_term(outputs):
    """Returns the term of the masks, float32 `(batch,)`.

    Args:
        outputs: Dict with `mask_logits` and `mask_targets` `(batch, n, side, side)`, and
            `mask_kinds` `(batch, n)`, of which 1 is counted.
    """
    positive = _float(outputs["mask_kinds"] == POSITIVE)
    entropy = _binary_entropy(outputs["mask_targets"], outputs["mask_logits"])
    per_region = ops.mean(entropy, axis=(-2, -1))
    return ops.sum(per_region * positive, axis=-1) / _at_least_one(positive)


def smooth_l1(differences, *, bend):
    """Returns the smooth L1 norm over the last axis: `d**2 / (2 bend)` up to `bend`, then linear.

    Args:
        differences: Any shape.
        bend: Where it becomes `|d| - bend / 2`.
    """
    size = ops.abs(ops.cast(differences, "float32"))
    values = ops.where(size < bend, 0.5 * ops.square(size) / bend, size - 0.5 * bend)
    return ops.sum(values, axis=-1)


def _binary_entropy(truth, logits):
    """Cross-entropy from logits, without overflow."""
    logits = ops.cast(logits, "float32")
    return ops.maximum(logits, 0.0) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))


def _at_least_one(counted):
    return ops.maximum(ops.sum(counted, axis=-1), 1.0)


def _float(condition):
    return ops.cast(condition, "float32")

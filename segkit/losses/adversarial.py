"""Losses of a critic and of the generator that plays against it.

A critic gives logits at one or more scales, `(batch, *positions, 1)` each; a loss is the mean over
the positions of each scale, and over the scales. A high logit says "real".
"""

from keras import ops

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.losses.loss import Loss

KINDS = ("non_saturating", "hinge", "least_squares", "wasserstein")
AUGMENTATIONS = ("color", "translation", "cutout")


class AdversarialLoss(Loss):
    """What generator and critic learn from; the terms are computed by a game.

    The game (`segkit.training.adversarial.game`) calls both networks, so labels and logits alone do
    not make this loss.

    Attributes:
        kind: One of `KINDS`.
        critic: Name of the critic, or a dict of `name` and its options.
        weights: Dict name of a further term -> weight; 0: the term is not computed.
        critic_steps: Updates of the critic per update of the generator.
        critic_rate: Learning rate of the critic over that of the generator.
        critic_augment: Tuple of `AUGMENTATIONS`, of all that the critic sees.
    """

    def __init__(
        self,
        *,
        kind: str = "hinge",
        critic: str | dict = "patch",
        l1: float = 0.0,
        feature_matching: float = 0.0,
        diversity: float = 0.0,
        r1: float = 0.0,
        gradient_penalty: float = 0.0,
        cycle: float = 0.0,
        identity: float = 0.0,
        consistency: float = 0.0,
        critic_steps: int = 1,
        critic_rate: float = 1.0,
        critic_augment: list[str] = (),
    ):
        """Takes the options.

        Args:
            kind: `non_saturating`, `hinge`, `least_squares` or `wasserstein`.
            critic: Key of `segkit.models.CRITICS`, or `{name: ..., option: value}`.
            l1: Weight of the mean distance of made and real voxels, of paired tasks.
            feature_matching: Weight of the distance of the critic's features, of paired tasks.
            diversity: Weight by which the critic's features of two images made of one input, from
                other noise, are driven apart; `feature_matching` at most. With both weights alike
                the generator descends the energy score of these features, of which the minimum is
                to vary as real images do; feature matching alone wants one image per input, the
                median of the features.
            r1: Weight of R1, gamma in the paper.
            gradient_penalty: Weight of the gradient penalty of WGAN-GP.
            cycle: Weight of the distance of an image and what comes back, of the task `style`.
            identity: Weight of the distance of an image and itself in its own style, likewise.
            consistency: Weight of the cross-entropy of a segmentation of what was made, likewise.
            critic_steps: Updates of the critic per update of the generator, from 1.
            critic_rate: Factor on `train.learning_rate` for the critic, above 0.
            critic_augment: Names in `AUGMENTATIONS`; empty: none.

        Raises:
            ConfigError: An unknown kind or augmentation, or a value out of range.

        Reference:
            TTUR: Heusel et al., NeurIPS 2017, arXiv:1706.08500. Energy score: Gneiting and Raftery,
            2007, doi:10.1198/016214506000001437, equation 21; of features of a critic: Bellemare
            et al., arXiv:1705.10743. Here of each feature by itself, with absolute differences.
        """
        super().__init__("adversarial", None)
        self.kind, self.critic = kind, critic
        self.weights = {
            "l1": l1,
            "feature_matching": feature_matching,
            "diversity": diversity,
            "r1": r1,
            "gradient_penalty": gradient_penalty,
            "cycle": cycle,
            "identity": identity,
            "consistency": consistency,
        }
        self.critic_steps, self.critic_rate = critic_steps, critic_rate
        self.critic_augment = tuple(critic_augment)
        self._check()

    def parts(self, labels, logits):
        """Refuses: the terms come from a game.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "loss adversarial trains a generator against a critic, which needs a config with a "
            "section task. Add one, or choose another loss."
        )

    def _check(self):
        if self.kind not in KINDS:
            raise ConfigError(f"unknown loss.kind {self.kind!r}. {nearest(self.kind, KINDS)}")
        for name in self.critic_augment:
            if name not in AUGMENTATIONS:
                hint = nearest(name, AUGMENTATIONS)
                raise ConfigError(f"unknown entry {name!r} of loss.critic_augment. {hint}")
        for name, weight in self.weights.items():
            if weight < 0:
                raise ConfigError(f"loss.{name} must be 0 or more, got {weight}.")
        matching, diversity = self.weights["feature_matching"], self.weights["diversity"]
        if diversity > matching:  # nothing would hold images back from the ever more unlike
            raise ConfigError(
                f"loss.diversity must be at most loss.feature_matching, {matching}, "
                f"got {diversity}."
            )
        if self.critic_steps < 1:
            raise ConfigError(f"loss.critic_steps must be 1 or more, got {self.critic_steps}.")
        if not self.critic_rate > 0:
            raise ConfigError(f"loss.critic_rate must be above 0, got {self.critic_rate}.")


def critic_loss(kind, real_logits, fake_logits):
    """Returns the loss of the critic, float32 `(batch,)`.

    With logits `r` of real and `f` of made images, at each position:

        non_saturating: softplus(-r) + softplus(f)
        hinge:          max(0, 1 - r) + max(0, 1 + f)
        least_squares:  ((r - 1)^2 + f^2) / 2
        wasserstein:    f - r

    Args:
        kind: One of `KINDS`.
        real_logits: List of `(batch, *positions, 1)`, one per scale.
        fake_logits: Likewise.

    Reference:
        Goodfellow et al., arXiv:1406.2661, equation 1; Miyato et al., arXiv:1802.05957, equation
        16; Mao et al., arXiv:1611.04076, equation 8; Arjovsky et al., arXiv:1701.07875, equation 3.
    """
    values = {
        "non_saturating": lambda r, f: ops.softplus(-r) + ops.softplus(f),
        "hinge": lambda r, f: ops.relu(1.0 - r) + ops.relu(1.0 + f),
        "least_squares": lambda r, f: (ops.square(r - 1.0) + ops.square(f)) / 2.0,
        "wasserstein": lambda r, f: f - r,
    }
    return _mean_over_scales(values[kind], real_logits, fake_logits)


def generator_loss(kind, fake_logits):
    """Returns the loss of the generator, float32 `(batch,)`.

        non_saturating: softplus(-f)
        hinge:          -f
        least_squares:  (f - 1)^2 / 2
        wasserstein:    -f

    Args and reference: as `critic_loss`; there equations: section 3, 17, 8 and 3.
    """
    values = {
        "non_saturating": lambda f: ops.softplus(-f),
        "hinge": lambda f: -f,
        "least_squares": lambda f: ops.square(f - 1.0) / 2.0,
        "wasserstein": lambda f: -f,
    }
    return _mean_over_scales(values[kind], fake_logits)


def critic_accuracy(kind, real_logits, fake_logits):
    """Returns how often the critic is right, float32 `(batch,)`, in [0, 1].

    It is right about a position of a real image whose logit is above the middle of what it is
    trained to say, 0, or 1/2 with least squares, and of a made one below. With `wasserstein` there
    is no middle: it is right where the real logit is above the made one.

    Args: as `critic_loss`.
    """
    middle = 0.5 if kind == "least_squares" else 0.0

    def right(r, f):
        if kind == "wasserstein":
            return ops.cast(r > f, "float32")
        return (ops.cast(r > middle, "float32") + ops.cast(f < middle, "float32")) / 2.0

    return _mean_over_scales(right, real_logits, fake_logits)


def mean_logits(logits):
    """Returns the mean over the positions of each scale and over scales, float32 `(batch,)`."""
    return _mean_over_scales(lambda x: x, logits)


def feature_distance(real, fake):
    """Returns the distance of the critic's features, float32 `(batch,)`.

    It is the sum over layers of the mean absolute difference, the mean over scales. Nothing is
    learned from the features of the real images.

    Args:
        real: List of scales, each a list of features `(batch, *positions, channels)`.
        fake: Likewise.

    Reference:
        Wang et al., "pix2pixHD", CVPR 2018, arXiv:1711.11585, equation 4; there the sum over
        scales.
    """
    scales = [
        sum(
            _mean(ops.abs(_float(f) - ops.stop_gradient(_float(r))))
            for r, f in zip(*scale, strict=True)
        )
        for scale in zip(real, fake, strict=True)
    ]
    return sum(scales) / len(scales)


def weighted_l1(real, fake, weight=None):
    """Returns the mean absolute difference of each example, float32 `(batch,)`.

    Args:
        real: `(batch, *spatial, channels)`.
        fake: Likewise.
        weight: Weight of each voxel `(batch, *spatial, 1)`, 0 or more; the result is the sum over
            the sum of weights, 0 where these are all 0. `None`: 1 everywhere.
    """
    difference = ops.abs(_float(fake) - _float(real))
    if weight is None:
        return _mean(difference)
    per_voxel = ops.mean(difference, axis=-1, keepdims=True)
    axes = tuple(range(1, len(real.shape)))
    total = ops.sum(_float(weight), axis=axes)
    return ops.sum(per_voxel * weight, axis=axes) / ops.maximum(total, 1e-6)


def _mean_over_scales(value, *logits):
    scales = [_mean(value(*map(_float, scale))) for scale in zip(*logits, strict=True)]
    return sum(scales) / len(scales)


def _mean(values):
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


def _float(values):
    return ops.cast(values, "float32")

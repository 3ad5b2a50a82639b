"""Style transfer between two data sets whose images do not belong together.

One generator gives images of the data set the look of another one (`data.style`), a second one
gives that one's images the look of the first; each has a critic. What came there and back must be
as it was (cycle), an image that has the look already must stay as it is (identity), and a network
that segments images of the data set must still find the labels in what was made of them
(consistency), so that a translated image can keep its label map.
"""

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import build_loss
from segkit.losses.adversarial import generator_loss
from segkit.losses.adversarial import weighted_l1
from segkit.training.adversarial.differentiable_augment import augmented
from segkit.training.adversarial.game import Player
from segkit.training.adversarial.game import check_inputs
from segkit.training.adversarial.game import check_terms
from segkit.training.adversarial.game import logits_of
from segkit.training.adversarial.game import terms_of_critic
from segkit.training.adversarial.tasks import Task
from segkit.training.adversarial.tasks import label_map
from segkit.training.run import load_run
from segkit.training.step import full_resolution

TERMS = ("r1", "gradient_penalty", "cycle", "identity", "consistency")


class Style(Task):
    """Images of one data set with the look of another, unpaired.

    Departure from the paper: critics see the images of the step, not a store of older ones, which
    could not be resumed or shared between replicas; R1 or spectral norms keep critics calm instead.

    Attributes:
        two_sets: That a batch's images are a dict of `image` and, of the other data set, `style`.

    Reference:
        Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
        Networks", ICCV 2017, arXiv:1703.10593; consistency of labels: Hoffman et al., "CyCADA",
        ICML 2018, arXiv:1711.03213, section 3.
    """

    gives = ("image",)
    two_sets = True

    def __init__(self, patches, *, segmenter: str | None = None):
        """Takes the network that must still find the labels.

        Args:
            patches: `segkit.training.adversarial.tasks.Patches`.
            segmenter: Run folder of a network that segments images of the data set (`data.path`),
                for `loss.consistency`; `null` without.

        Raises:
            ConfigError: If there are no labels for the segmenter.
        """
        if segmenter is not None and patches.num_classes < 2:
            raise ConfigError(
                "task.segmenter compares a segmentation with label maps, and the data set of "
                "data.path has none. Take it out, and set loss.consistency=0."
            )
        self.labelled, self._segmenter = segmenter is not None, segmenter
        super().__init__(patches)

    def game(self, loss, build_generator, build_critic):
        """Builds two networks of each kind; see `Task.game`.

        Raises:
            ConfigError: If networks, loss and task do not go together, or the segmenter is no run
                of this data set.
            ShapeError: If the segmenter takes other patches.
        """
        if bool(loss.weights["consistency"]) != self.labelled:
            raise ConfigError(
                "loss.consistency and task.segmenter go together: the weight of the term, and the "
                f"run folder of the network for it. Got {loss.weights['consistency']} and "
                f"{self._segmenter}."
            )
        segmenter = load_segmenter(self._segmenter, self.patches) if self.labelled else None
        generators = [build_generator() for _ in range(2)]
        return StyleGame(loss, generators, [build_critic(0) for _ in range(2)], segmenter)


class StyleGame:
    """Two generators and two critics, with the methods of `segkit.training.adversarial.game.Game`.

    Attributes:
        generators: Two `Player`: from the data set to the style, which is the model of the run, and
            back.
        critics: Two `Player`: of images in the style, and in the look of the data set.
        loss: `AdversarialLoss`.
    """

    def __init__(self, loss, generators, critics, segmenter=None):
        """Joins them.

        Args:
            loss: `AdversarialLoss`.
            generators: Two `keras.Model` from a dict of `image` to an image, as above.
            critics: Two `keras.Model` from a dict of `image` to a dict of logits, as above.
            segmenter: `Segmenter`, or `None`.

        Raises:
            ConfigError: If loss and networks do not go together.
        """
        self.loss, self._segmenter = loss, segmenter
        self._forth, self._back = (
            Player(n, m) for n, m in zip(("forth", "back"), generators, strict=True)
        )
        self._of_style, self._of_source = (
            Player(n, m) for n, m in zip(("style_critic", "source_critic"), critics, strict=True)
        )
        self.generators = [self._forth, self._back]
        self.critics = [self._of_style, self._of_source]
        check_terms(loss, TERMS)
        for player in self.generators:
            check_inputs(player, Style.gives)

    def critic_terms(self, images, labels, training=True):
        """Returns what both critics learn from; see `Game.critic_terms`.

        Args:
            images: Dict of `image` and `style`, float32 `(batch, *spatial, channels)` each.
            labels: Not used.
            training: As there.
        """
        source, style = images["image"], images["style"]
        made = [_call(self._forth, source, training), _call(self._back, style, training)]
        terms, watched = {}, {}
        for player, real, fake in zip(self.critics, (style, source), made, strict=True):
            found = self._critic_terms(player, real, tf.stop_gradient(fake), training)
            terms = _added(terms, found[0])
            watched = _added(watched, found[1])
        return terms, {name: value / 2.0 for name, value in watched.items()}

    def generator_terms(self, images, labels, training=True):
        """Returns what both generators learn from.

        Args:
            images: As in `critic_terms`.
            labels: Class indices of `image`, or a dict of them as `label`; for the consistency.
            training: As in `critic_terms`.

        Returns:
            As `Game.generator_terms`; `cycle` and `identity` are sums over both directions.
        """
        source, style = images["image"], images["style"]
        translated, back = _call(self._forth, source, training), _call(self._back, style, training)
        pairs = (self._of_style, translated), (self._of_source, back)
        losses = [self._adversarial(player, made, training) for player, made in pairs]
        terms, weights = {"adversarial": sum(losses)}, self.loss.weights
        if weights["cycle"]:
            there = weighted_l1(source, _call(self._back, translated, training))
            here = weighted_l1(style, _call(self._forth, back, training))
            terms["cycle"] = weights["cycle"] * (there + here)
        if weights["identity"]:
            kept = weighted_l1(style, _call(self._forth, style, training))
            kept += weighted_l1(source, _call(self._back, source, training))
            terms["identity"] = weights["identity"] * kept
        if weights["consistency"]:
            missed = self._segmenter.cross_entropy(label_map(labels), translated)
            terms["consistency"] = weights["consistency"] * missed
        return terms, {}

    def sample(self, images, labels):
        """Returns images translated without training: `real` has the style, `fake` is made so."""
        source = images["image"]
        fake = _call(self._forth, source, training=False)
        return {"real": images["style"], "fake": fake, "condition": source[..., :1]}

    def _adversarial(self, player, image, training):
        judged = _call(player, self._seen(image, training), training)
        return generator_loss(self.loss.kind, logits_of(judged))

    def _critic_terms(self, player, real, fake, training):
        real, fake = self._seen(real, training), self._seen(fake, training)

        def judged(image):
            return logits_of(_call(player, image, training))

        return terms_of_critic(self.loss, judged, real, fake, training)

    def _seen(self, image, training):
        return augmented(image, None, self.loss.critic_augment if training else ())[0]


class Segmenter:
    """A trained network that stays as it is, and how far it is from labels."""

    def __init__(self, model, ignore_label=None):
        """Takes the network.

        Args:
            model: `keras.Model` from images to logits.
            ignore_label: Class index of voxels that do not count, or `None`.
        """
        model.trainable = False
        ignored = {} if ignore_label is None else {"ignore_label": ignore_label}
        self._model, self._loss = model, build_loss("cross_entropy", **ignored)

    def cross_entropy(self, labels, images):
        """Returns the mean cross-entropy of each example, float32 `(batch,)`."""
        return self._loss(labels, full_resolution(self._model(images, training=False)))


def load_segmenter(folder, patches):
    """Returns the `Segmenter` of a trained run.

    Args:
        folder: Its run folder.
        patches: `segkit.training.adversarial.tasks.Patches` of the images that it is given.

    Raises:
        ConfigError: If it tells other classes apart, or regions, or takes more than images.
        ShapeError: If it takes other patches.
        DataError: If there is no trained run.
    """
    run = load_run(folder)
    outputs = run.outputs
    if outputs.class_order or outputs.num_channels != patches.num_classes:
        raise ConfigError(
            f"task.segmenter {folder} tells {outputs.num_channels} classes or regions apart, the "
            f"data set has {patches.num_classes} classes. Train one on the data set of data.path."
        )
    if isinstance(run.model.input, dict):
        raise ConfigError(
            f"task.segmenter {folder} takes {', '.join(run.model.input)}. Use one of images alone."
        )
    taken = tuple(run.model.input.shape[1:])
    if len(taken) != len(patches.shape) or any(
        side not in (None, given) for side, given in zip(taken, patches.shape, strict=True)
    ):
        raise ShapeError(
            f"task.segmenter {folder} takes patches of {taken}, and they are {patches.shape}. "
            "Train it with the same data.patch_size."
        )
    return Segmenter(run.model, outputs.ignore_label)


def _call(player, image, training):
    return player({"image": image}, training)


def _added(total, values):
    return {name: value + total.get(name, 0.0) for name, value in values.items()}

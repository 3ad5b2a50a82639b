"""What generator and critic say to each other: the terms of both losses, and samples."""

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.per_example import normal
from segkit.layers.step_context import current_step
from segkit.layers.step_context import step_context
from segkit.losses.adversarial import critic_accuracy
from segkit.losses.adversarial import critic_loss
from segkit.losses.adversarial import feature_distance
from segkit.losses.adversarial import generator_loss
from segkit.losses.adversarial import mean_logits
from segkit.losses.adversarial import weighted_l1
from segkit.training.adversarial.differentiable_augment import augmented
from segkit.training.adversarial.penalties import gradient_penalty
from segkit.training.adversarial.penalties import r1

ADDED = ("noise", "class")  # inputs of a generator that no task gives
PAIRED = ("l1", "feature_matching")  # weights of terms of paired tasks
TERMS = ("r1", "gradient_penalty")  # of all tasks of this game


class Player:
    """One of the networks of a game.

    What its layers would assign goes to the step under the player's name, so that two networks
    whose layers have the same names stay apart.

    Attributes:
        name: Its name within the game.
        model: Functional `keras.Model` from a dict of inputs.
        takes: Names of its inputs.
    """

    def __init__(self, name, model):
        self.name, self.model = name, model
        self.takes = tuple(model.input)

    def __call__(self, inputs, training):
        """Returns the outputs of the network; of a dict of inputs it takes those that it knows.

        Must be called in a `step_context`. Of several calls in a step, the first one says what the
        layers assign.
        """
        step = current_step()
        with step_context(step.keys) as context:
            outputs = self.model({name: inputs[name] for name in self.takes}, training=training)
        for path, value in context.updates.items():
            step.updates.setdefault(f"{self.name}/{path}", value)
        return outputs


class Game:
    """A generator and its critic.

    All methods are called in a `step_context`, and draw the same random numbers from the same keys.

    Attributes:
        generators: List of `Player`; the first one is the model of the run.
        critics: List of `Player`.
        loss: `AdversarialLoss`.
    """

    def __init__(self, task, loss, generator, critic):
        """Joins the two.

        Args:
            task: From `build_task`.
            loss: `AdversarialLoss`.
            generator: `keras.Model` from a dict of inputs to images.
            critic: `keras.Model` from a dict of `image` and, where they are seen, `condition` and
                `class`, to a dict of `logits_0`, `logits_1`, ... and `features_...`.

        Raises:
            ConfigError: If task, loss and networks do not go together.
        """
        self._task, self.loss = task, loss
        self._generator, self._critic = Player("generator", generator), Player("critic", critic)
        self.generators, self.critics = [self._generator], [self._critic]
        noisy = ("diversity",) if "noise" in self._generator.takes else ()
        check_terms(loss, (*PAIRED, *noisy, *TERMS) if task.paired else TERMS)
        check_inputs(self._generator, task.gives)

    def critic_terms(self, images, labels, training=True):
        """Returns what the critic learns from.

        Args:
            images: float32 `(batch, *spatial, channels)`.
            labels: As in `Task.example`.
            training: Whether networks are called in training, with augmentation and penalties.

        Returns:
            `(terms, watched)`: dicts name -> float32 `(batch,)`; the terms are weighted.
        """
        example = self._task.example(images, labels)
        made = tf.stop_gradient(self._made(example, training))
        (real, condition), (fake, _) = (
            self._seen(example, x, training) for x in (example.real, made)
        )

        def judged(image):
            return logits_of(self._judged(image, condition, example.ids, training))

        return terms_of_critic(self.loss, judged, real, fake, training)

    def generator_terms(self, images, labels, training=True):
        """Returns what the generator learns from; arguments and result as in `critic_terms`."""
        example = self._task.example(images, labels)
        made = self._made(example, training)
        fake, condition = self._seen(example, made, training)
        outputs = self._judged(fake, condition, example.ids, training)
        weights = self.loss.weights
        terms = {"adversarial": generator_loss(self.loss.kind, logits_of(outputs))}
        if weights["feature_matching"]:
            real, _ = self._seen(example, example.real, training)
            aim = self._judged(real, condition, example.ids, training)
            distance = feature_distance(features_of(aim), features_of(outputs))
            terms["feature_matching"] = weights["feature_matching"] * distance
        if weights["diversity"]:
            # Through one image of the two only: half of the slope, as the energy score has it. What
            # layers draw, such as noise per voxel, is the same in both.
            other, _ = self._seen(example, self._made(example, training, "other_noise"), training)
            beside = self._judged(other, condition, example.ids, training)
            distance = feature_distance(features_of(beside), features_of(outputs))
            terms["diversity"] = -weights["diversity"] * distance
        if weights["l1"]:
            terms["l1"] = weights["l1"] * weighted_l1(example.real, made, example.weight)
        return terms, {}

    def sample(self, images, labels):
        """Returns images made without training.

        Returns:
            Dict of `real` and `fake`, float32 `(batch, *spatial, channels)`, and `condition`, what
            the generator was given, float32 `(batch, *spatial, 1)`, where there is something.
        """
        example = self._task.example(images, labels)
        found = {"real": example.real, "fake": self._made(example, training=False)}
        return found if example.shown is None else {**found, "condition": example.shown}

    def _made(self, example, training, noise="noise"):
        """The whole images that the generator makes, of noise of that name."""
        inputs = added_inputs(self._generator, example, noise)
        made = self._generator({**example.inputs, **inputs}, training)
        return example.compose(made) if example.compose else made

    def _seen(self, example, image, training):
        """Image and condition as the critic sees them; those of one example change alike."""
        kinds = self.loss.critic_augment if training else ()
        return augmented(image, example.condition, kinds)

    def _judged(self, image, condition, ids, training):
        return self._critic({"image": image, "condition": condition, "class": ids}, training)


def terms_of_critic(loss, judged, real, fake, training):
    """Returns what one critic learns from, as `Game.critic_terms` does.

    Args:
        loss: `AdversarialLoss`.
        judged: Function of an image that returns the critic's logits as a list.
        real: float32 `(batch, *spatial, channels)`, as the critic sees it.
        fake: The same of a made image, through which no gradient flows.
        training: Whether the penalties are due.
    """

    def value(image):
        return mean_logits(judged(image))

    pair = judged(real), judged(fake)
    weights, kind = loss.weights, loss.kind
    terms = {"critic": critic_loss(kind, *pair)}
    if training and weights["r1"]:
        terms["r1"] = weights["r1"] * r1(value, real)
    if training and weights["gradient_penalty"]:
        penalty = gradient_penalty(value, real, fake)
        terms["gradient_penalty"] = weights["gradient_penalty"] * penalty
    scores = {"critic_real": mean_logits(pair[0]), "critic_fake": mean_logits(pair[1])}
    return terms, {"critic_accuracy": critic_accuracy(kind, *pair), **scores}


def added_inputs(player, example, noise="noise"):
    """Returns the inputs of a generator that no task gives, as a dict, drawn for each example.

    Args:
        player: The generator.
        example: `Example`.
        noise: Name of the noise; that of another name is other noise.
    """
    added = {"class": example.ids} if "class" in player.takes else {}
    if "noise" in player.takes:
        size = player.model.input["noise"].shape[-1]
        added["noise"] = normal(f"{player.name}_{noise}", None, tf.shape(example.real)[0], (size,))
    return added


def logits_of(outputs):
    """Returns the critic's logits as a list, one `(batch, *, 1)` per scale."""
    return [x for name, x in outputs.items() if name.startswith("logits")]


def features_of(outputs):
    """Returns the critic's features as a list of lists, those of each scale together."""
    scales = {}
    for name, x in outputs.items():
        if name.startswith("features"):
            scales.setdefault(name.split("_")[1], []).append(x)
    return list(scales.values())


def check_terms(loss, known):
    """Refuses weights of terms that a game does not have.

    Raises:
        ConfigError: Names the first.
    """
    for name, weight in loss.weights.items():
        if weight and name not in known:
            raise ConfigError(
                f"loss.{name} is {weight}, but the task has no such term; it has "
                f"{', '.join(known)}. Set loss.{name}=0."
            )


def check_inputs(player, gives):
    """Refuses a generator that takes what the task does not give, or leaves out what it gives.

    Raises:
        ConfigError: Names both.
    """
    missing = set(player.takes) - {*gives, *ADDED}
    unused = set(gives) - set(player.takes)
    if missing or unused:
        raise ConfigError(
            f"the generator {player.model.name} takes {', '.join(player.takes)}, and the task "
            f"gives {', '.join(gives) or 'noise only'}. Choose two that go together; see "
            "docs/gans.md."
        )

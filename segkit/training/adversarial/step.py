"""One training step of a game: the critic's turn and, every so many steps, the generator's.

A turn is what a step is elsewhere (`segkit.training.step`): forward, loss and backward per replica,
compiled by XLA there; then one reduction, and the update. In its turn the generator plays against
the critic after that one's.
"""

from typing import NamedTuple

import tensorflow as tf

from segkit.layers.step_context import step_context
from segkit.training.replica import accumulated
from segkit.training.replica import assign_updates
from segkit.training.replica import first
from segkit.training.replica import loss_scale
from segkit.training.replica import replica_keys
from segkit.training.replica import shares
from segkit.training.replica import summed


class Found(NamedTuple):
    """What forward and backward of a turn find, as sums over the examples of the global batch.

    Attributes:
        gradients: Of the scaled loss, one per trainable variable.
        terms: Dict term of the loss -> float32 scalar, divided by the batch size.
        watched: Dict of what is watched, likewise.
        updates: Dict player and path of a variable -> value, divided by the number of parts.
    """

    gradients: list
    terms: dict
    watched: dict
    updates: dict


class Split(NamedTuple):
    """How a global batch is split.

    Attributes:
        batch_size: Size of the global batch.
        replicas: Number of replicas.
        steps: Accumulation steps of each.
    """

    batch_size: int
    replicas: int
    steps: int = 1

    @property
    def share(self):
        """Examples per replica."""
        return self.batch_size // self.replicas

    @property
    def part(self):
        """Examples per accumulation step."""
        return self.share // self.steps


class _Turn:
    """The turn of the players of one side."""

    def __init__(self, play, players, optimizer, split, *, xla, prepare):
        """Compiles it.

        Args:
            play: `Game.critic_terms` or `Game.generator_terms`.
            players: List of `Player` that learn.
            optimizer: Built on their trainable variables.
            split: `Split`.
            xla: Compile forward, loss and backward.
            prepare: As in `make_adversarial_step`.
        """
        self._play, self._prepare, self._split, self._optimizer = play, prepare, split, optimizer
        self._variables = trainable_variables(players)
        self._running = {
            f"{player.name}/{v.path}": v
            for player in players
            for v in player.model.non_trainable_variables
        }
        self._learn = tf.function(self._forward_backward, jit_compile=xla, autograph=False)
        self._look = tf.function(self._forward, jit_compile=xla, autograph=False)

    def take(self, data):
        """Updates the players on this replica's share `(*batch, keys)`.

        Returns:
            `(terms, watched, norm)`: dicts of scalars, and the norm of the gradient.
        """
        split, scale = self._split, loss_scale(self._optimizer)
        local = accumulated(self._learn, data, scale, steps=split.steps, part=split.part)
        found = summed(local)
        norm = tf.linalg.global_norm(found.gradients) / scale
        self._optimizer.apply(found.gradients, self._variables)
        assign_updates(self._running, found.updates)
        return found.terms, found.watched, norm

    def skip(self, data):
        """Returns what `take` does without an update; the norm is 0."""
        split = self._split
        terms, watched = summed(accumulated(self._look, data, steps=split.steps, part=split.part))
        return terms, watched, tf.zeros(())

    def _forward_backward(self, data, scale):
        with tf.GradientTape() as tape:
            terms, watched, updates = self._played(data)
            scaled = sum(terms.values()) * scale
        gradients = tape.gradient(scaled, [v.value for v in self._variables])
        parts = self._split.replicas * self._split.steps
        own = {path: x / parts for path, x in updates.items() if path in self._running}
        return Found(gradients, terms, watched, own)

    def _forward(self, data):
        terms, watched, _ = self._played(data)
        return terms, watched

    def _played(self, data):
        size = self._split.part
        data = tf.nest.map_structure(lambda x: tf.ensure_shape(x, (size, *x.shape[1:])), data)
        *batch, keys = data
        with step_context(keys) as context:
            images, labels = self._prepare(*batch) if self._prepare else batch
            played = self._play(images, labels)
        terms, watched = (shares(values, self._split.batch_size) for values in played)
        return terms, watched, context.updates


def make_adversarial_step(
    strategy,
    game,
    optimizers,
    *,
    batch_size,
    xla,
    seed,
    accumulation_steps=1,
    prepare=None,
):
    """Returns a function that trains both sides of a game on one global batch.

    Args:
        strategy: A `tf.distribute.Strategy` in whose scope networks and optimizers were built.
        game: `Game`; its loss says how often the generator's turn comes.
        optimizers: `(generators', critics')`, each built on its side's `trainable_variables`.
        batch_size: As in `segkit.training.step.make_train_step`, and so are the others.
        xla: Compile each turn's forward, loss and backward; `"step"`: the whole step.
        seed: Seed of the random numbers.
        accumulation_steps: Number of parts that each replica's share is cut into.
        prepare: Function from a part of a batch to `(images, labels)`.

    Returns:
        Function `(batch, first_example, stop) -> dict` as of `make_train_step`: `loss` is that of
        the generator, the sum of its terms, and `gradient_norm` its gradient's; `terms` are those
        of both sides. Where the generator has no turn its terms are computed all the same, and
        `gradient_norm` is 0. `watched` has what the game watches and `critic_gradient_norm`;
        `counts` is 0.
    """
    split = Split(batch_size, strategy.num_replicas_in_sync, accumulation_steps)
    options = {"xla": xla is True, "prepare": prepare}
    critic = _Turn(game.critic_terms, game.critics, optimizers[1], split, **options)
    generator = _Turn(game.generator_terms, game.generators, optimizers[0], split, **options)

    def make(second):
        def replica_step(batch, first_example, stop):
            data = (*batch, replica_keys(seed, first_example, split.share))
            critic_terms, watched, critic_norm = critic.take(data)
            terms, more, norm = second(data)
            watched = {**watched, **more, "critic_gradient_norm": critic_norm}
            stops = summed(tf.identity(stop))  # each replica needs its own
            results = {"loss": sum(terms.values()), "terms": {**terms, **critic_terms}}
            results |= {"gradient_norm": norm, "watched": watched}
            return {**results, "counts": tf.zeros(()), "stop": stops}

        if xla == "step":
            replica_step = tf.function(replica_step, jit_compile=True, autograph=False)

        @tf.function(autograph=False)
        def step(batch, first_example, stop):
            return first(strategy, strategy.run(replica_step, args=(batch, first_example, stop)))

        return step

    both, alone, every = make(generator.take), make(generator.skip), game.loss.critic_steps

    def step(batch, first_example, stop):
        number = int(first_example) // batch_size + 1
        return (alone if number % every else both)(batch, first_example, stop)

    return step


def make_adversarial_validation(strategy, game, *, count, batch_size):
    """Returns a compiled function that scores one global batch without training.

    Args:
        strategy: As in `make_adversarial_step`, and so are the others.
        game: `Game`.
        count: Function of labels and what `Game.sample` returns.
        batch_size: Size of the global batch.

    Returns:
        Function `batch -> dict` with `loss`, `terms`, `watched` and `counts`; `batch` is from
        `keyed`.
    """

    def replica_step(batch):
        inputs, labels = batch
        images = inputs["image"]
        with step_context(inputs["keys"]):
            terms, more = game.generator_terms(images, labels, training=False)
            critic_terms, watched = game.critic_terms(images, labels, training=False)
            counts = count(labels, game.sample(images, labels))
        values = (terms, critic_terms, {**watched, **more})
        terms, critic_terms, watched = (shares(x, batch_size) for x in values)
        results = {"loss": sum(terms.values()), "terms": {**terms, **critic_terms}}
        return summed({**results, "watched": watched, "counts": counts})

    @tf.function(autograph=False)
    def step(batch):
        return first(strategy, strategy.run(replica_step, args=(batch,)))

    return step


def trainable_variables(players):
    """Returns the trainable variables of all players of a side."""
    return [v for player in players for v in player.model.trainable_variables]

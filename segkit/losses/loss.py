"""A loss with its options bound."""

from segkit.losses.deep_supervision import over_resolutions


class Loss:
    """Function of labels and logits that gives one float32 value per example.

    Attributes:
        name: Key of `LOSSES`.
    """

    def __init__(self, name, function):
        """Binds a loss.

        Args:
            name: Key of `LOSSES`.
            function: `(labels, logits)` -> `(batch,)`, or a dict of such terms, which add up to
                the loss.
        """
        self.name = name
        self._function = function

    def __call__(self, labels, logits):
        """Returns the loss, float32 `(batch,)`: the sum of `parts`."""
        return sum(self.parts(labels, logits).values())

    def parts(self, labels, logits):
        """Returns the terms of the loss, already weighted.

        Args:
            labels: Class indices `(batch, *spatial)`, or soft: float class probabilities
                `(batch, *spatial, classes)`.
            logits: Shape `(batch, *spatial, classes)`; or a dict of logits at several
                resolutions, the finest first, which are weighted as in `deep_supervision`.

        Returns:
            Dict of float32 tensors of shape `(batch,)`; a loss of one term has its own name as
            key.
        """
        if isinstance(logits, dict):
            return over_resolutions(self._terms, labels, logits)
        return self._terms(labels, logits)

    def _terms(self, labels, logits):
        terms = self._function(labels, logits)
        return terms if isinstance(terms, dict) else {self.name: terms}

"""A loss with its options bound."""

from segkit.errors import ShapeError
from segkit.losses.deep_supervision import over_resolutions


class Loss:
    """Function of labels and logits that gives one float32 value per example.

    Attributes:
        name: Key of `LOSSES`, or name of the user's own function.
    """

    def __init__(self, name, function):
        """Binds a loss.

        Args:
            name: As above.
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

        Raises:
            ShapeError: If a term is not one value per example.
        """
        if isinstance(logits, dict):
            return over_resolutions(self._terms, labels, logits)
        return self._terms(labels, logits)

    def _terms(self, labels, logits):
        terms = self._function(labels, logits)
        terms = terms if isinstance(terms, dict) else {self.name: terms}
        for term, value in terms.items():
            shape = tuple(getattr(value, "shape", ()))
            if len(shape) != 1:
                raise ShapeError(
                    f"the loss {term!r} must be one value per example, shape (batch,), got "
                    f"{shape}. Take the mean over all axes but the first."
                )
        return terms

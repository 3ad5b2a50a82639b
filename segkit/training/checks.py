"""Checks on the options of optimizers and schedules that their types do not make."""

from segkit.errors import ConfigError


def check_share(what, **options):
    """Checks that every option is at least 0 and below 1.

    Args:
        what: Config key that holds the options, for the message: `"train.optimizer"`.
        **options: Values by name.

    Raises:
        ConfigError: Names the first that is outside.
    """
    for name, value in options.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{what}.{name} must be at least 0 and below 1, got {value!r}.")


def check_positive(what, **options):
    """Checks that every option is above 0; arguments and error as in `check_share`."""
    for name, value in options.items():
        if not value > 0:
            raise ConfigError(f"{what}.{name} must be above 0, got {value!r}.")

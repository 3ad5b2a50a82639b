"""Learning-rate schedules: functions of the step, evaluated inside the optimizer."""

import keras


def constant(learning_rate, total_steps):
    """Returns a schedule that stays at `learning_rate` for all of `total_steps`."""
    return keras.optimizers.schedules.PolynomialDecay(learning_rate, total_steps, learning_rate)


def poly(learning_rate, total_steps):
    """Returns `learning_rate * (1 - step / total_steps) ** 0.9`.

    Reference: Chen et al., "DeepLab", TPAMI 2018, arXiv:1606.00915, section 4.1; the power is
    nnU-Net's. Departure from nnU-Net: decays every step, not every epoch.
    """
    return keras.optimizers.schedules.PolynomialDecay(learning_rate, total_steps, 0.0, power=0.9)


def cosine(learning_rate, total_steps):
    """Returns `learning_rate * (1 + cos(pi * step / total_steps)) / 2`.

    Reference: Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, equation 5, without
    restarts.
    """
    return keras.optimizers.schedules.CosineDecay(learning_rate, total_steps)

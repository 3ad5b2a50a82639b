import numpy as np
import pytest

from segkit.training.schedules import constant
from segkit.training.schedules import cosine
from segkit.training.schedules import poly


@pytest.mark.parametrize(
    ("step", "expected"),
    # nnU-Net v2's PolyLRScheduler at lr 0.01 over 1000 epochs.
    [
        (0, 0.01),
        (1, 0.009990999549834914),
        (10, 0.009909954834128341),
        (500, 0.005358867312681466),
        (999, 1.995262314968881e-05),
    ],
)
def test_poly_agrees_with_nnunet(step, expected):
    np.testing.assert_allclose(float(poly(0.01, 1000)(step)), expected, rtol=1e-4)


def test_cosine_passes_through_its_known_points():
    schedule = cosine(0.02, 100)
    # (1 + cos(pi t)) / 2 at t = 0, 1/3, 1/2, 1 is 1, 3/4, 1/2, 0.
    values = [float(schedule(s)) for s in (0, 100 / 3, 50, 100)]
    np.testing.assert_allclose(values, [0.02, 0.015, 0.01, 0.0], atol=1e-7)


def test_constant_does_not_move():
    schedule = constant(0.3, 10)
    np.testing.assert_allclose([float(schedule(s)) for s in (0, 5, 10, 99)], 0.3, rtol=1e-6)

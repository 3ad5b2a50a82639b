"""A small network and a small batch for it."""

import keras
import pytest

from tests.models.mask_rcnn.scenes import discs
from tests.models.mask_rcnn.scenes import small_network


@pytest.fixture
def batch():
    """Two images of 64 x 64."""
    return discs(2, 64)


@pytest.fixture(scope="module")
def network():
    """A small network with new weights."""
    keras.utils.set_random_seed(0)
    return small_network()

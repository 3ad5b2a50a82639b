"""Fixtures that all tests share."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_collection_finish():
    """Gives TensorFlow two CPU devices, before the first test touches one.

    Tests of two replicas and of one then share a process.
    """
    if "tensorflow" in sys.modules or "keras" in sys.modules:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the public data sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SEGKIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SEGKIT_DATA to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Seeds every generator that a test has not seeded itself: a test passes always or never."""
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:
        import keras

        keras.utils.set_random_seed(0)

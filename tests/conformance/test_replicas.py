"""One, two and four replicas, with and without XLA, in every precision: the same training.

The reference is one replica without XLA in the same precision. Tolerances are relative to the
largest value: float32 differs by the order of sums, half precision by one rounding of activations
(2**-11 for float16, 2**-8 for bfloat16) that another order of a sum may tip over; of counts, single
voxels whose two largest logits are that close.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.replicas import CASES
from tests.conformance.replicas import FEATURES
from tests.conformance.replicas import IN_FLOAT32
from tests.conformance.replicas import SUMMED

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {
    "float32": {"loss": 1e-5, "gradient_norm": 1e-4, "counts": 1e-3, "weights": 1e-4},
    "mixed_float16": {"loss": 1e-3, "gradient_norm": 2e-2, "counts": 1e-2, "weights": 3e-3},
    "mixed_bfloat16": {"loss": 3e-3, "gradient_norm": 5e-2, "counts": 2e-2, "weights": 1e-2},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of `replicas.py`, by number of replicas."""
    folder = tmp_path_factory.mktemp("replicas")
    script = str(Path(__file__).with_name("replicas.py"))
    processes = {
        n: subprocess.Popen([sys.executable, script, str(n), str(folder / f"{n}.npz")], cwd=ROOT)
        for n in (1, 2, 4)
    }
    for process in processes.values():
        assert process.wait() == 0
    return {n: np.load(folder / f"{n}.npz") for n in processes}


def assert_same(found, case, replicas, xla, what, tolerance):
    expected = found[1][f"{case}|False|{what}"]
    result = found[replicas][f"{case}|{xla}|{what}"]
    limit = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=limit, err_msg=what)


every_way = pytest.mark.parametrize(
    ("replicas", "xla"), [(n, xla) for n in (1, 2, 4) for xla in (False, True)]
)


@every_way
@pytest.mark.parametrize(("feature", "precision"), CASES)
def test_replicas_and_xla_change_nothing(found, feature, precision, replicas, xla):
    for what, tolerance in TOLERANCE[precision].items():
        assert_same(found, f"{feature}|{precision}", replicas, xla, what, tolerance)


@every_way
@pytest.mark.parametrize("loss", SUMMED)
def test_replicas_and_xla_change_no_loss(found, loss, replicas, xla):
    assert_same(found, "losses|float32", replicas, xla, loss, 1e-5)


@every_way
def test_replicas_and_xla_change_no_gradient_of_the_sum_of_all_losses(found, replicas, xla):
    for what in ("gradient_norm", "weights"):
        assert_same(found, "losses|float32", replicas, xla, what, 1e-4)


@pytest.mark.parametrize("feature", [name for name in FEATURES | IN_FLOAT32 if name != "plain"])
def test_every_feature_changes_something(found, feature):
    plain, changed = (found[1][f"{f}|float32|False|weights"] for f in ("plain", feature))
    alike = plain.shape == changed.shape and np.allclose(plain, changed, rtol=1e-4)
    assert alike == (feature == "accumulation")  # of which memory is all that differs

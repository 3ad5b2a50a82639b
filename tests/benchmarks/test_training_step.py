import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training_step.py"


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(SCRIPT))["main"]


@pytest.mark.slow
def test_segkit_and_keras_take_turns(main, capsys):
    main(["--batch", "1", "--filters", "1", "--rounds", "1", "--steps", "1"])
    table = capsys.readouterr().out
    assert "| segkit | " in table
    assert "| Keras fit | " in table


@pytest.mark.slow
def test_a_profile_lists_the_convolutions(main, capsys):
    main(["--batch", "1", "--filters", "1", "--steps", "1", "--profile"])
    assert "Conv3DBackpropFilterV2" in capsys.readouterr().out

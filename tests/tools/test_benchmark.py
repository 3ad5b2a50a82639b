import json
import re

import pytest
import tensorflow  # noqa: F401 - seen by conftest, which then gives it two devices

from tools import benchmark

TINY = ["input", "--shape", "12", "12", "12", "--patch", "8", "8", "8", "--cases", "4"]
TINY += ["--patches", "4", "--repeats", "2", "--memory-mb", "64"]


def measured(tmp_path, *more):
    out = tmp_path / "rows.json"
    assert benchmark.main([*TINY, *more, "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_each_policy_gets_a_row_with_speed_and_memory_below_the_budget(tmp_path, capsys):
    rows = measured(tmp_path, "--policies", "none", "nnunet")
    table = capsys.readouterr().out
    assert "Patches of [8, 8, 8], 2 per batch" in table
    assert [row["policy"] for row in rows] == ["none", "nnunet"]
    dummy = int(re.search(r"batch: (\d+) patches/s", table).group(1))
    for row in rows:
        assert f"| {row['policy']} |" in table
        assert 0 < row["lowest"] <= row["patches_per_second"] <= row["highest"]
        assert row["patches_per_second"] / row["share_of_dummy"] == pytest.approx(dummy, abs=0.51)
        assert 0 <= row["tensors_mb"] <= 64
        assert 0 <= row["resident_mb"] <= 64
    assert rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == rows[1]["patches_per_second"] / rows[0]["patches_per_second"]


@pytest.mark.parametrize("placement", ["input", "device"])
def test_a_training_step_reports_the_share_of_waiting(tmp_path, placement):
    options = ["--policies", "light", "--placement", placement, "--train-step", "unet3d"]
    (row,) = measured(tmp_path, *options)
    assert 0 < row["input_wait_share"] < 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--policies", "nnunett"], "Did you mean 'nnunet'"),
        (["--train-step", "unet4d"], "unet4d"),
        (["--data", "nowhere"], "nowhere"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--policies", "none", "--batch", "100000"], "Set data.memory_mb="),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(argv, message, capsys):
    assert benchmark.main([*TINY, *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1

import sys

import numpy as np
import pytest

from benchmarks import runs


def test_cpu_seconds_are_those_of_the_program():
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    assert 0.4 < runs.call(sys.executable, "-c", busy) < 5
    with pytest.raises(SystemExit, match="failed"):
        runs.call(sys.executable, "-c", "raise SystemExit(1)")


def test_tools_are_those_beside_the_script(capfd):
    runs.tool("train.py", "--help")
    out = capfd.readouterr().out
    assert "== train.py --help" in out
    assert "--no-evaluate" in out


def test_a_training_goes_on_where_it_was_stopped_and_is_done_once(tmp_path, monkeypatch):
    run, calls = tmp_path / "run", []

    def tool(name, *arguments):
        """Does one of two epochs."""
        calls.append((name, *arguments))
        (run / "checkpoints" / f"step-{len(calls)}").mkdir(parents=True)
        (run / "config.yaml").write_text("train: {epochs: 2}")
        rows = ["epoch", *map(str, range(len(calls)))]
        (run / "history.csv").write_text("\n".join(rows))
        return 3.0

    monkeypatch.setattr(runs, "tool", tool)
    with pytest.raises(SystemExit, match="run was stopped. Repeat the command to go on"):
        runs.train("pretrain.py", run, "--data", "d")
    assert runs.train("pretrain.py", run, "--data", "d") == 3.0
    assert runs.train("pretrain.py", run, "--data", "d") == 0.0
    first = ("pretrain.py", "--run", run, "--data", "d")
    assert calls == [first, (*first, "--resume")]


def test_more_labelled_cases_hold_those_of_fewer_and_seeds_differ():
    cases = {f"c{n:02d}": {"split": f"fold{n % 5}"} for n in range(50)}
    manifest = {"folds": 5, "cases": cases}

    def kept(count, seed):
        left_out = runs.leave_out(manifest, "fold0", count, seed)
        return {c for c, e in cases.items() if e["split"] != "fold0" and c not in left_out}

    assert len(kept(8, 0)) == 8
    assert kept(4, 0) < kept(8, 0)
    assert kept(8, 0) != kept(8, 1)
    with pytest.raises(SystemExit, match="--labels 41: the training folds have 40 cases"):
        kept(41, 0)


def test_the_interval_is_over_seeds_and_cases_in_pairs():
    rng = np.random.default_rng(1)
    before = rng.uniform(0.2, 0.9, (3, 40))
    found = runs.paired_gain(before, before + 0.01)  # pairs: how hard a case is cancels out
    assert found["gain"] == pytest.approx(0.01)
    assert found["interval"] == pytest.approx([0.01, 0.01])
    noisy = runs.paired_gain(before, before + rng.normal(0.02, 0.05, (3, 40)))
    low, high = noisy["interval"]
    # 120 differences of deviation 0.05: 1.96 * 0.05 / sqrt(120) = 0.009 either way, and more
    # because seeds are drawn too.
    assert low < noisy["gain"] < high
    assert 0.012 < high - low < 0.05


def test_a_case_without_foreground_has_no_score():
    report = {"per_case": {"b": {"dice": [1, 0.5, None]}, "a": {"dice": [1, 0.25, 0.75]}}}
    np.testing.assert_array_equal(runs.case_scores(report), [0.5, 0.5])

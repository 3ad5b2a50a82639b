import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "instances.py"


def test_both_ways_are_timed_and_agree(capsys):
    pytest.importorskip("pycocotools")
    main = runpy.run_path(str(SCRIPT))["main"]
    main(["--sides", "160", "192", "--naive", "160", "--objects", "20", "--rounds", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == [
        "160 x 160, 66 detections",
        "192 x 192, 64 detections",
        "20 objects",
    ]
    assert "not tried" in lines[3]

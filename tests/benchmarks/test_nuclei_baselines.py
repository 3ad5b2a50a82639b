import argparse

import numpy as np
import pytest

from benchmarks import nuclei_baselines
from benchmarks.nuclei_baselines import write
from benchmarks.nuclei_baselines import write_arrays
from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from tests.tools.spots import SHAPES
from tests.tools.spots import write_nuclei


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """Folder of a prepared data set, and its manifest."""
    root = tmp_path_factory.mktemp("nuclei")
    source = str(write_nuclei(root / "raw"))
    options = Options(layout="dsb2018", folds=2)
    dataset = scan_source("dsb2018", source)
    return root / "data", convert(dataset, root / "data", source=source, options=options)[0]


def test_what_is_to_be_predicted_has_no_ids(nuclei, tmp_path):
    data, manifest = nuclei
    write_arrays(argparse.Namespace(data=data, fold=1), tmp_path)
    for folder, fold in (("train", "fold0"), ("val", "fold1")):
        cases = {case for case, entry in manifest["cases"].items() if entry["split"] == fold}
        assert {path.stem for path in (tmp_path / folder).iterdir()} == cases
        for case in cases:
            with np.load(tmp_path / folder / f"{case}.npz") as arrays:
                assert arrays["image"].shape == (*SHAPES[case], 3)
                assert ("ids" in arrays) == (folder == "train")
                if folder == "train":
                    assert (arrays["ids"].max() == 0) == (case == "c")


def scores(value):
    columns = nuclei_baselines.COLUMNS
    row = dict.fromkeys(columns, value) | {f"{key}_interval": [0.1, 0.9] for key in columns}
    alone = row | {f"{key}_interval": [None, None] for key in columns} | {"pq": None}
    return {"all": {"cases": 4, "mean": row}, "stained": {"cases": 1, "mean": alone}}


def test_each_kind_of_image_has_a_table(tmp_path):
    args = argparse.Namespace(out=tmp_path, fold=0, cpu_minutes=2.0)
    rows = {"Mask R-CNN": {"groups": scores(0.5)}}
    rows["StarDist"] = {"groups": scores(0.75), "cpu_minutes": 2.04, "steps": 30}
    write(args, rows)
    lines = (tmp_path / "results.md").read_text().splitlines()
    titles = [line for line in lines if line.endswith(" images")]
    assert titles == ["all, 4 images", "stained, 1 images"]
    first, second = (line for line in lines if line.startswith("| StarDist | 2.0 min | 30 | "))
    assert first.split(" | ")[3:6] == ["0.750 (0.100-0.900)"] * 3
    assert second.split(" | ")[3:8] == ["0.750", "0.750", "0.750", "0.750", ""]
    assert sum(line.startswith("| Mask R-CNN |  |  | 0.500") for line in lines) == 2


def test_a_report_of_an_older_version_is_refused(tmp_path):
    groups = scores(0.5)
    del groups["all"]["mean"]["dsb2018_50"]
    with pytest.raises(SystemExit, match="has no dsb2018_50"):
        write(argparse.Namespace(out=tmp_path, fold=0, cpu_minutes=2.0), {"x": {"groups": groups}})


def test_without_data_nothing_is_measured(capsys):
    nuclei_baselines.main([])
    assert "nothing measured" in capsys.readouterr().out

"""The command line: summary, exit codes, one line per mistake."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_data.py"
LABELS = "labels=background=0,cell=255"


def load_tool():
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


main = load_tool().main


@pytest.fixture
def source(tmp_path):
    """Six gray pictures of 12 x 16 with a square cell."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for n in range(6):
        mask = np.zeros((12, 16), np.uint8)
        mask[3:9, 4:10] = 255
        image = rng.integers(0, 99, size=mask.shape).astype(np.uint8) + mask // 2
        Image.fromarray(image).save(tmp_path / "raw" / "images" / f"p{n}.png")
        Image.fromarray(mask).save(tmp_path / "raw" / "masks" / f"p{n}.png")
    return tmp_path / "raw"


def arguments(source, out, *more):
    fixed = ["--source", source, "--layout", "images", "--layout-option", LABELS, "--out", out]
    return [*map(str, fixed), "--workers", "1", "--folds", "3", *more]


def mistake(capsys, argv):
    assert main(argv) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    return lines[0]


def test_it_converts_and_tells_what_and_what_next(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(source, out)) == 0
    shown = capsys.readouterr()
    assert "cases     6, of these 0 for testing; 0 skipped" in shown.out
    assert "spacing each case's own, median shape [1, 12, 16]" in shown.out
    assert "class     cell: 18.75 % of voxels" in shown.out  # 36 / 192
    assert f"python tools/train.py --model unet --data {out}" in shown.out
    assert "writing shards: 6/6" in shown.err
    assert main(arguments(source, out)) == 0
    assert "is up to date" in capsys.readouterr().out


def test_objects_are_made_and_told(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(source, out, "--instances", "components")) == 0
    shown = capsys.readouterr().out
    assert "objects   6, up to 1 in a case; sides 6 to 6 voxels, median 6\n" in shown
    assert f"python tools/train.py --model mask_rcnn --data {out}" in shown
    line = mistake(capsys, arguments(source, out))
    assert "options.instances: components before, None now" in line


def test_overlaps_and_kinds_are_told(tmp_path, capsys):
    for n in range(5):
        for name, box in (("masks/a", (2, 8)), ("masks/b", (6, 9)), (f"images/{n}", (0, 9))):
            path = tmp_path / "raw" / str(n) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.zeros((12, 12), np.uint8)
            array[box[0] : box[1], box[0] : box[1]] = 9
            Image.fromarray(array).save(path)
    argv = ["--source", tmp_path / "raw", "--layout", "dsb2018", "--out", tmp_path / "out"]
    assert main([*map(str, argv), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "kind      fluorescence: 5 case(s)" in shown
    assert "objects   10, up to 2 in a case" in shown
    assert "20 voxels of overlapping masks, in 5 case(s), were given to the smaller" in shown


def test_verify_passes_an_intact_data_set_and_names_a_corrupt_shard(source, tmp_path, capsys):
    out = tmp_path / "out"
    main(arguments(source, out))
    assert main(["--verify", "--out", str(out)]) == 0
    assert "is intact: 6 shards, 6 cases." in capsys.readouterr().out
    shard = sorted(out.glob("*.tfrecord"))[2]
    data = bytearray(shard.read_bytes())
    data[40] ^= 255
    shard.write_bytes(data)
    line = mistake(capsys, ["--verify", "--out", str(out)])
    assert shard.name in line
    assert "Delete it" in line
    shard.unlink()
    assert main(arguments(source, out)) == 0
    assert main(["--verify", "--out", str(out)]) == 0


def test_each_mistake_is_one_clear_line(source, tmp_path, capsys):
    out = tmp_path / "out"
    cases = [
        (arguments(tmp_path / "nothing", out), "does not exist"),
        (arguments(source, out, "--layout", "imges"), "Did you mean 'images'?"),
        (arguments(source, out, "--layout-option", "labls=x"), "Did you mean 'labels'?"),
        (arguments(source, out, "--layout-option", "labels"), "must be like key=value"),
        (arguments(source, out, "--spacing", "1,1"), "--spacing must be like 1,1,1 or keep"),
        (arguments(source, out, "--spacing", "1,0,1"), "three positive lengths"),
        (arguments(source, out, "--orientation", "RAT"), "one of R/L, A/P and S/I"),
        (arguments(source, out, "--chunk", "8", "--chunk-overlap", "8"), "overlap < chunk"),
        (arguments(source, out, "--splits", "random"), "unknown split scheme 'random'"),
        (arguments(source, out, "--instances", "slice"), "Did you mean 'slices'?"),
        (arguments(source, out, "--folds", "7"), "7 folds need as many patients, got 6"),
        (["--verify", "--out", str(out)], "no prepared data set"),
    ]
    for argv, expected in cases:
        assert expected in mistake(capsys, argv)
        assert not out.exists()


def test_bad_data_is_one_clear_line_and_leaves_nothing(source, tmp_path, capsys):
    out = tmp_path / "out"
    Image.fromarray(np.full((12, 16), 7, np.uint8)).save(source / "masks" / "p1.png")
    Image.fromarray(np.zeros((12, 15), np.uint8)).save(source / "masks" / "p2.png")
    image = source / "images" / "p3.png"
    image.write_bytes(image.read_bytes()[:100])
    line = mistake(capsys, arguments(source, out))
    assert "3 of 6 cases cannot be used" in line
    assert "label value 7 is not in the class map {'background': 0, 'cell': 255}" in line
    assert "must lie on one grid" in line
    assert "p3.png" in line
    assert not any(out.iterdir())
    assert main(arguments(source, out, "--skip-bad")) == 0
    assert "cases     3, of these 0 for testing; 3 skipped" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_named(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = mistake(capsys, arguments(source, tmp_path / "file" / "out"))
    assert "cannot write the data set: Not a directory" in line


def test_ctrl_c_says_how_to_go_on(source, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.convert.convert", interrupt)
    assert main(arguments(source, tmp_path / "out")) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_help_shows_examples_without_tensorflow(tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['prepare_data.py', '--help']\n"
        "try: runpy.run_path(sys.argv.pop(0) and PATH, run_name='__main__')\n"
        "except SystemExit: print({'tensorflow', 'scipy', 'pydicom'} & set(sys.modules))"
    ).replace("sys.argv.pop(0) and PATH", repr(str(TOOL)))
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "examples:" in shown.stdout
    assert shown.stdout.endswith("set()\n")

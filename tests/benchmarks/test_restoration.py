import json

import numpy as np
import pytest

from benchmarks import restoration
from segkit.inference.restoration_scores import summarise_restoration
from segkit.io.nifti import read_nifti
from segkit.io.nifti import write_nifti
from segkit.volume import Volume


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Trainings that do nothing, and scores of a network that is better by 20 times the noise.

    Returns a function that runs the benchmark; and the calls of tools and trainings.
    """
    calls = []

    def train(name, run, *arguments):
        calls.append((name, run, *arguments))
        run.mkdir(parents=True, exist_ok=True)

    def tool(name, *arguments):
        calls.append((name, *arguments))
        noise = [a for a in arguments if str(a).startswith("gaussian=")]
        level = json.loads(noise[0].partition("=")[2])[0] if noise else 0.0
        folder = f"fold1-gaussian={level}-{level}" if noise else "fold1"
        rows = {"as given": 10.0, "network": 30 + 20 * level, "a": 29.0, "b": 30.0}
        scores = {
            method: [{"psnr": x, "ssim": x / 100, "ms_ssim": np.nan, "psnr_inside": np.nan}] * 2
            for method, x in rows.items()
        }
        task = {"name": "t", **({"gaussian": [level, level]} if noise else {})}
        header = {"run": "run", "split": "fold1", "data": "d", "task": task}
        report = summarise_restoration(scores, ["x", "y"], header, {}, (24, 24))
        place = arguments[1] / "evaluation" / folder
        place.mkdir(parents=True)
        (place / "results.json").write_text(json.dumps(report))

    monkeypatch.setattr(restoration, "train", train)
    monkeypatch.setattr(restoration, "tool", tool)

    def start(*arguments):
        common = ["--data", "d", "--out", str(tmp_path), "--fold", "1"]
        restoration.main([*common, *arguments])

    return start, calls


def test_inpainting_is_trained_and_scored_on_all_of_the_held_out_slices(stage, tmp_path, capsys):
    start, calls = stage
    start("--only", "inpainting", "--set", "train.epochs=1")
    run = tmp_path / "inpainting" / "run"
    training, scoring = calls
    assert training[:6] == ("train.py", run, "--model", "inpaint_gan", "--data", "d")
    assert {"data.fold=1", "train.epochs=1", restoration.PATCH} <= set(training)
    assert scoring == ("evaluate_synthesis.py", "--run", run, "--split", "fold1", "--cover")
    text = (tmp_path / "inpainting" / "results.md").read_text()
    assert "Network less the best of the others: PSNR (dB) 0.00 (0.00 to 0.00), b" in text
    assert text in capsys.readouterr().out


def test_noise_has_a_table_for_each_level_and_none_is_scored_twice(stage, tmp_path):
    start, calls = stage
    start("--only", "enhancement", "--count", "7")
    assert [call[-1] for call in calls[1:]] == [
        "gaussian=[0.1, 0.1]",
        "gaussian=[0.25, 0.25]",
        "gaussian=[0.5, 0.5]",
    ]
    assert all(call[6:8] == ("--count", 7) for call in calls[1:])
    kept = tmp_path / "enhancement" / "results.md"
    text = kept.read_text()
    assert text.count("| network  ") == 3
    for level, gain in ((0.1, 2), (0.25, 5), (0.5, 10)):
        table = text[text.index(f"gaussian [{level}, {level}]") :]
        line = next(x for x in table.splitlines() if x.startswith("Network less the best"))
        assert f"PSNR (dB) {gain}.00 ({gain}.00 to {gain}.00), b" in line
    kept.unlink()
    start("--only", "enhancement")
    assert [call[0] for call in calls[4:]] == ["train.py"]  # which does nothing, either
    assert kept.read_text() == text


def test_without_data_nothing_is_measured(capsys):
    restoration.main([])
    assert "nothing measured" in capsys.readouterr().out


def test_style_needs_the_raw_data():
    with pytest.raises(SystemExit):
        restoration.parse_args(["--data", "x"])
    assert restoration.parse_args(["--data", "x", "--only", "inpainting"]).only == ["inpainting"]


def test_what_was_regained():
    assert restoration.regained(0.8, 0.2, 0.5) == pytest.approx(0.5)
    assert np.isnan(restoration.regained(0.8, 0.8, 0.9))


def test_the_style_inverts_the_contrast_and_has_a_texture():
    image = np.repeat(np.linspace(0, 100, 40), 400).reshape(40, 20, 20)
    found = restoration.restyled(image, seed=3)
    levels = found.mean(axis=(1, 2))
    assert (np.diff(levels) < 12).all()
    assert levels[0] - levels[-1] == pytest.approx(1000, abs=60)
    # Half way up the range of percentiles lies 1000 (1 - sqrt(1/2)).
    assert levels[19:21].mean() == pytest.approx(1000 * (1 - np.sqrt(0.5)), abs=30)
    rest = found - levels[:, None, None]
    assert rest.std() == pytest.approx(40, rel=0.15)
    assert np.corrcoef(rest[:, :, 1:].ravel(), rest[:, :, :-1].ravel())[0, 1] > 0.6
    np.testing.assert_array_equal(found, restoration.restyled(image, seed=3))


def test_the_other_data_set_has_new_images_and_the_same_labels(tmp_path):
    source = tmp_path / "raw"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
    image = Volume(np.random.default_rng(0).normal(100, 9, (4, 6, 6)).astype(np.float32))
    label = Volume((image.array > 100).astype(np.uint8))
    write_nifti(source / "imagesTr" / "x_001.nii.gz", image)
    (source / "imagesTr" / "._x_001.nii.gz").write_text("left by a Mac")
    write_nifti(source / "labelsTr" / "x_001.nii.gz", label)
    (source / "dataset.json").write_text(json.dumps({"name": "x"}))
    restoration.write_restyled(source, tmp_path / "B")
    found = read_nifti(tmp_path / "B" / "imagesTr" / "x_001.nii.gz")
    expected = restoration.restyled(image.array.astype(np.float64), seed=0)
    np.testing.assert_allclose(found.array, expected, rtol=1e-6)
    np.testing.assert_allclose(found.affine, image.affine)
    written = (tmp_path / "B" / "labelsTr" / "x_001.nii.gz").read_bytes()
    assert written == (source / "labelsTr" / "x_001.nii.gz").read_bytes()
    assert (tmp_path / "B" / "dataset.json").exists()


def test_a_part_that_is_done_is_only_shown(tmp_path, capsys):
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "results.md").write_text("kept")
    restoration.main(["--data", "x", "--source", "y", "--out", str(tmp_path), "--only", "style"])
    assert "kept" in capsys.readouterr().out

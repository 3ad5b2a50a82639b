import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from segkit.io.nifti import read_nifti
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "restoration.py"


@pytest.fixture(scope="module")
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def rows(*values):
    """Rows of two cases: gains of the network in PSNR and, a hundredth of that, in SSIM."""
    return [
        {
            "case": case,
            "scores": {
                "network": {"psnr": 30 + gain, "ssim": 0.9 + gain / 100},
                "median": {"psnr": 30, "ssim": 0.9},
                "mean": {"psnr": 29, "ssim": 0.95},
            },
        }
        for case, gain in zip("aab", values, strict=True)
    ]


def test_without_data_nothing_is_measured(script, capsys):
    script.main([])
    assert "nothing measured" in capsys.readouterr().out


def test_style_needs_the_raw_data(script):
    with pytest.raises(SystemExit):
        script.parse_args(["--data", "x"])
    assert script.parse_args(["--data", "x", "--only", "inpainting"]).only == ["inpainting"]


def test_scores_are_those_of_the_formula(script):
    truth = np.linspace(0, 4, 120).reshape(10, 12).astype(np.float32)
    found = script.scored(truth, {"same": truth, "off": truth + 0.4})
    assert found["same"] == {"psnr": 100.0, "ssim": pytest.approx(1)}
    # Range 4, error 0.4: 20 log10(10) = 20 dB.
    assert found["off"]["psnr"] == pytest.approx(20, abs=1e-4)
    assert found["off"]["ssim"] < 1


def test_the_difference_is_the_mean_over_cases(script):
    mean, low, high = script.difference(rows(1.0, 3.0, 4.0), "median", "psnr")
    assert mean == pytest.approx((2.0 + 4.0) / 2)  # not over slices, 8 / 3
    assert (low, high) == (pytest.approx(2.0), pytest.approx(4.0))


def test_the_network_is_held_against_the_best_rival_of_each_measure(script):
    text = "\n".join(script.table({"noise": rows(1.0, 1.0, 1.0)}, ["median", "mean"]))
    assert "Network minus median, PSNR: +1.00" in text
    assert "Network minus mean, SSIM: -0.0400" in text
    assert "| network | 31.00 | 0.9100 |" in text


def test_what_was_regained(script):
    assert script.regained(0.8, 0.2, 0.5) == pytest.approx(0.5)
    assert np.isnan(script.regained(0.8, 0.8, 0.9))


def test_holes_are_those_of_the_task(script):
    holes = script.random_holes(40, (20, 24), seed=1)
    assert holes.shape == (40, 20, 24)
    assert holes.dtype == bool
    assert 0.1 < holes.mean() < 0.4
    np.testing.assert_array_equal(holes, script.random_holes(40, (20, 24), seed=1))
    assert not np.array_equal(holes, script.random_holes(40, (20, 24), seed=2))


def test_the_harmonic_fills_a_plane(script):
    plane = np.add.outer(np.arange(12.0), np.arange(14.0))
    hole = np.zeros(plane.shape, bool)
    hole[4:8, 5:9] = True
    found = script.biharmonic(np.where(hole, 0.0, plane), hole)
    np.testing.assert_allclose(found, plane, atol=1e-6)
    np.testing.assert_array_equal(script.biharmonic(plane, hole & False), plane)


def test_each_method_takes_away_noise_and_more_of_it_with_its_best_option(script):
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(40, 40)), 4).astype(np.float32)
    truth /= truth.std()
    noisy = script.with_noise(truth, 0.5, seed=0)
    assert np.std(noisy - truth) == pytest.approx(0.5, rel=0.05)
    best = script.tune([(truth, noisy)], 0.5)
    assert set(best) == {f"{m} for {x}" for m in script.CLASSICAL for x in ("psnr", "ssim")}
    before = script.scored(truth, {"": noisy})[""]["psnr"]
    for name, method in script.CLASSICAL.items():

        def psnr(option, method=method):
            return script.scored(truth, {"": method(noisy, 0.5, option)})[""]["psnr"]

        chosen = psnr(best[f"{name} for psnr"])
        assert chosen > before + 3
        assert chosen == max(map(psnr, script.CHOICES[name]))


def test_the_style_inverts_the_contrast_and_has_a_texture(script):
    image = np.repeat(np.linspace(0, 100, 40), 400).reshape(40, 20, 20)
    found = script.restyled(image, seed=3)
    levels = found.mean(axis=(1, 2))
    assert (np.diff(levels) < 12).all()
    assert levels[0] - levels[-1] == pytest.approx(1000, abs=60)
    # Half way up the range of percentiles lies 1000 (1 - sqrt(1/2)).
    assert levels[19:21].mean() == pytest.approx(1000 * (1 - np.sqrt(0.5)), abs=30)
    rest = found - levels[:, None, None]
    assert rest.std() == pytest.approx(40, rel=0.15)
    assert np.corrcoef(rest[:, :, 1:].ravel(), rest[:, :, :-1].ravel())[0, 1] > 0.6
    np.testing.assert_array_equal(found, script.restyled(image, seed=3))


def test_the_other_data_set_has_new_images_and_the_same_labels(script, tmp_path):
    source = tmp_path / "raw"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
    image = Volume(np.random.default_rng(0).normal(100, 9, (4, 6, 6)).astype(np.float32))
    label = Volume((image.array > 100).astype(np.uint8))
    write_nifti(source / "imagesTr" / "x_001.nii.gz", image)
    (source / "imagesTr" / "._x_001.nii.gz").write_text("left by a Mac")
    write_nifti(source / "labelsTr" / "x_001.nii.gz", label)
    (source / "dataset.json").write_text(json.dumps({"name": "x"}))
    script.write_restyled(source, tmp_path / "B")
    found = read_nifti(tmp_path / "B" / "imagesTr" / "x_001.nii.gz")
    expected = script.restyled(image.array.astype(np.float64), seed=0)
    np.testing.assert_allclose(found.array, expected, rtol=1e-6)
    np.testing.assert_allclose(found.affine, image.affine)
    written = (tmp_path / "B" / "labelsTr" / "x_001.nii.gz").read_bytes()
    assert written == (source / "labelsTr" / "x_001.nii.gz").read_bytes()
    assert (tmp_path / "B" / "dataset.json").exists()


def test_a_run_that_was_stopped_is_not_taken_for_done(script, tmp_path):
    (tmp_path / "config.yaml").write_text("train: {epochs: 2}")
    (tmp_path / "history.csv").write_text("epoch\n1\n")
    assert not script.is_whole(tmp_path)
    (tmp_path / "history.csv").write_text("epoch\n1\n2\n")
    assert script.is_whole(tmp_path)


def test_a_part_that_is_done_is_only_shown(script, tmp_path, capsys):
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "results.md").write_text("kept")
    script.main(["--data", "x", "--source", "y", "--out", str(tmp_path), "--only", "style"])
    assert "kept" in capsys.readouterr().out

import numpy as np
from PIL import Image

from segkit.inference.image_grid import middle_slice
from segkit.inference.image_grid import save_grid
from segkit.inference.restoration_scores import summarise_restoration
from segkit.inference.synthesis_report import realism_lines
from segkit.inference.synthesis_report import restoration_lines
from segkit.inference.synthesis_report import write_nearest
from segkit.inference.synthesis_report import write_restored
from segkit.metrics.generation.memorisation import Memorisation

SCORES = {
    "frechet_distance": None,
    "kernel_distance": 0.012345,
    "kernel_distance_deviation": 0.001,
    "precision": 0.5,
    "recall": 0.25,
}
CHECK = {"ratio": 0.5, "nearer_than_all_held_out": 3, "p_value": 0.00123, "alarm": True}


def test_the_table_of_made_images_names_the_features_and_the_alarm():
    entry = {"features": "runs/x, layer y", "size": 7, "notes": ["Too few."], "memorisation": CHECK}
    report = {
        "run": "gan",
        "split": "fold0",
        "data": "d",
        "made": 9,
        "held_out": 8,
        "cases": 2,
        "all_training": 50,
        "realism": [{**entry, "made": SCORES, "training": SCORES}],
        "memorisation_of_intensities": {**CHECK, "features": "intensities", "alarm": False},
    }
    text = "\n".join(realism_lines(report))
    assert "9 made images, 8 held-out ones of 2 cases" in text
    assert "Features: runs/x, layer y (7; not FID or KID)" in text
    assert "0.01235 ± 0.00100" in text
    assert "Too few." in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert ["runs/x, layer y", "0.500", "3 of 9", "0.0012", "YES"] in rows
    assert ["intensities", "0.500", "3 of 9", "0.0012", "no sign"] in rows
    assert ["made", "-", "0.01235 ± 0.00100", "0.500", "0.250"] in rows


def test_the_table_of_restored_images_has_gains_and_options():
    def scores(*psnrs):
        return [{"psnr": p, "ssim": 0.5, "ms_ssim": np.nan, "psnr_inside": np.nan} for p in psnrs]

    methods = {"as given": scores(10, 12), "network": scores(20, 22), "median": scores(15, 18)}
    task = {"name": "enhancement", "gaussian": [0.1, 0.2]}
    header = {"run": "gan", "split": "fold0", "data": "d", "task": task}
    options = {"median": {"size": 3}}
    report = summarise_restoration(methods, ["a", "b"], header, options, (24, 24))
    text = "\n".join(restoration_lines(report))
    assert "2 examples of 2 cases, gaussian [0.1, 0.2]\n" in text
    assert "Network less the best of the others: PSNR (dB) 4.50 (4.00 to 5.00), median" in text
    assert "21.00 (20.00 to 22.00)" in text
    assert "4.50 (4.00 to 5.00)" in text
    assert "median: size 3" in text
    assert "MS-SSIM" not in text


def test_a_volume_is_shown_by_its_middle_slice_and_colours_stay():
    volume = np.arange(3 * 4 * 5 * 2).reshape(3, 4, 5, 2)
    np.testing.assert_array_equal(middle_slice(volume), volume[1, :, :, 0])
    assert middle_slice(np.zeros((4, 5, 3))).shape == (4, 5, 3)
    assert middle_slice(np.zeros((4, 5, 1))).shape == (4, 5)


def pixels(path):
    return np.asarray(Image.open(path).convert("L"), float)


def test_rows_are_turned_unless_pictures_are_upright(tmp_path):
    image = np.zeros((1, 8, 8, 1))
    image[:, :4] = 1
    for name, upright in (("a.png", True), ("b.png", False)):
        save_grid(tmp_path / name, {"one": image}, title="", upright=upright)
    first, second = (pixels(tmp_path / name) for name in ("a.png", "b.png"))
    black = [np.flatnonzero((p < 40).sum(axis=1) > 40).mean() for p in (first, second)]
    assert black[0] > black[1] + 20  # zeros are below in the upright one


def test_classes_have_colours_and_intensities_a_grey_scale(tmp_path):
    labels, image = np.zeros((2, 8, 8, 1), int), np.zeros((2, 8, 8, 1))
    labels[:, 4:], image[:, 4:] = 1, 1
    columns = {"label": labels, "real": image}
    save_grid(tmp_path / "x.png", columns, title="", notes=["a", "b"], classes=("label",))
    picture = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"), int)
    orange = (np.abs(picture - (230, 159, 0)).sum(axis=-1) < 10).sum()
    black = (picture.sum(axis=-1) < 30).sum()
    assert orange > 5000
    assert 1.8 < black / orange < 2.3  # half of each column is black


def test_the_nearest_pair_comes_first(tmp_path):
    made, training = np.zeros((3, 8, 8, 1)), np.zeros((5, 8, 8, 1))
    made[2, :, :4] = training[4, :, :4] = 1
    check = Memorisation(
        made=np.array([5.0, 4.0, 0.0]),
        held_out=np.ones(3),
        nearest=np.array([0, 1, 4]),
        relative=np.array([0.9, 0.8, 0.0]),
        ratio=1.0,
        nearer=1,
        p_value=1.0,
    )
    write_nearest(tmp_path, made, training, {"x": check}, upright=True)
    picture = pixels(tmp_path / "nearest-x.png")
    rows = np.array_split(picture[40:], 3)
    # The two halves of the first pair are white, other images are black.
    assert rows[0].mean() > rows[1].mean() + 10


def test_the_worst_the_median_and_the_best_are_drawn(tmp_path):
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1))
    columns = {"as given": images, "network": images, "truth": images}
    write_restored(tmp_path, columns, np.array([3.0, 1.0, 2.0, 5.0, 4.0]), upright=False)
    assert pixels(tmp_path / "restored.png").std() > 20

import numpy as np
import pytest
from PIL import Image

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from tools import inspect_data
from tools.inspect_data import main

PATCH = ["--patch", "8", "16", "16"]
SMALL = ["--rows", "2", "--columns", "3"]


@pytest.fixture
def write_policy(tmp_path):
    def write(text):
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def drawn(monkeypatch):
    """What the tool draws: a dict of the rows and the other arguments of `save_sheet`."""
    found = {}

    def keep(path, rows, names, colours, title, **look):
        found.update(rows=rows, names=names, title=title, **look)

    monkeypatch.setattr(inspect_data, "save_sheet", keep)
    return found


def call(run, *options):
    return main(["--data", str(run.data), *PATCH, *SMALL, *options])


def test_a_sheet_and_a_table_are_written(mr_run, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert call(mr_run, "--augment", "light", "--out", str(path)) == 0
    with Image.open(path) as picture:
        assert picture.width == pytest.approx(150 * (0.1 + 4 * 1.8), abs=1)
        assert np.asarray(picture.convert("L")).std() > 20
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "probability", "in", "this", "sheet"]
    assert lines[1].split()[:2] == ["flip", "1.00"]
    assert lines[2].split()[:2] == ["rotation", "0.20"]
    assert "ms per patch, 2 patches at a time" in lines[-2]
    assert str(path) in lines[-1]


def test_without_a_policy_all_patches_differ(mr_run, drawn):
    assert call(mr_run) == 0
    pictures = [picture for row in drawn["rows"] for picture in row]
    assert [len(row) for row in drawn["rows"]] == [3, 3]
    assert len({picture.image.tobytes() for picture in pictures}) == 6
    assert {picture.caption for picture in pictures} == {""}


def test_patches_are_centred_on_foreground(mr_run, drawn):
    assert call(mr_run) == 0
    assert all((picture.label == 1).any() for row in drawn["rows"] for picture in row)


def test_every_column_augments_the_patch_of_the_first(mr_run, drawn, write_policy):
    policy = write_policy("- flip: {axes: [0, 0, 1]}\n- brightness: {factor: [1.5, 1.5]}")
    assert call(mr_run, "--augment", policy) == 0
    for first, *others in drawn["rows"]:
        assert first.caption == "as it is"
        for other in others:
            np.testing.assert_array_equal(other.image, first.image[:, ::-1] * 1.5)
            np.testing.assert_array_equal(other.label, first.label[:, ::-1])
            assert other.window == first.window
            assert other.caption == "flip: w\nbrightness: 1.5"


def test_columns_differ_and_depend_on_the_seed_alone(mr_run, drawn, write_policy):
    policy = write_policy("- gaussian_noise: {std: [0.1, 0.2]}")

    def images(seed):
        assert call(mr_run, "--augment", policy, "--seed", seed) == 0
        return [[picture.image.tobytes() for picture in row] for row in drawn["rows"]]

    first = images("0")
    assert all(len(set(row)) == 4 for row in first)
    assert images("0") == first
    assert images("1") != first


def test_mixing_joins_the_rows_of_a_pair(mr_run, drawn, write_policy):
    assert call(mr_run, "--augment", write_policy("- mixup: {alpha: 1.0}")) == 0
    (a, *mixed), (b, *_) = drawn["rows"]
    for picture in mixed:
        share = float(picture.caption.removeprefix("mixup: "))
        expected = share * a.image + (1 - share) * b.image
        np.testing.assert_allclose(picture.image, expected, atol=0.05)  # two digits of the share
        assert picture.label.shape == (16, 16, 2)


def test_slices_are_drawn_from_volumes(mr_run, drawn):
    options = ["--data", str(mr_run.data), "--patch", "12", "10", *SMALL, "--augment", "light"]
    assert main(options) == 0
    assert drawn["rows"][0][0].image.shape == (12, 10)
    assert not drawn["upright"]


def test_a_configuration_gives_data_patch_and_policy(mr_run, drawn, tmp_path):
    config = (mr_run.folder / "config.yaml").read_text().replace("policy: none", "policy: light")
    path = tmp_path / "config.yaml"
    path.write_text(config)
    assert main(["--config", str(path), *SMALL]) == 0
    assert drawn["rows"][0][0].image.shape == (16, 16)
    assert "8 x 16 x 16, augmentation: config.yaml" in drawn["title"]
    assert len(drawn["rows"][0]) == 4


def test_the_patch_follows_the_cases_where_nothing_gives_it(mr_run, drawn):
    assert main(["--data", str(mr_run.data), *SMALL]) == 0
    assert drawn["rows"][0][0].image.shape == (22, 18)  # mm, less the empty columns


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        (["--patch", "0", "8"], "--patch must be at least 1"),
        (["--patch", "8"], "needs 2 or 3 entries"),
        (["--channel", "1"], "--channel must be from 0 to 0, got 1"),
        (["--out", "sheet.gif"], "--out must end in one of .png, .pdf, .svg, got 'sheet.gif'"),
        (["--augment", "hevy"], "Did you mean 'heavy'?"),
        (["--data", "nowhere"], "no prepared data set in nowhere"),
        (["--out", "no/such/folder/sheet.png"], "Name another file with --out."),
    ],
)
def test_a_mistake_is_one_line(mr_run, mistake, option, words):
    assert words in mistake(main, "--data", mr_run.data, *PATCH, *SMALL, *option)


def test_a_policy_that_does_not_fit_the_data_is_one_line(mr_run, mistake, write_policy):
    policy = write_policy("- hue: {degrees: 10}")
    assert "needs 3 channels" in mistake(
        main, "--data", mr_run.data, *PATCH, *SMALL, "--augment", policy
    )


def test_objects_are_drawn_one_by_one(mr_run, drawn, tmp_path, write_policy):
    options = Options(layout="nnunet", folds=3, instances="components")
    dataset = scan_source("nnunet", str(mr_run.source))
    convert(dataset, tmp_path / "data", source=mr_run.source, options=options)
    policy = write_policy("- flip: {axes: [0, 0, 1]}")
    assert main(["--data", str(tmp_path / "data"), *PATCH, *SMALL, "--augment", policy]) == 0
    for first, *others in drawn["rows"]:
        assert set(np.unique(first.label)) == {0, 1}
        np.testing.assert_array_equal(first.instance, first.label)
        for other in others:
            np.testing.assert_array_equal(other.instance, first.instance[:, ::-1])
    assert drawn["title"].endswith(", 8 objects")
    assert main(["--data", str(tmp_path / "data"), *PATCH, *SMALL]) == 0
    assert drawn["title"].endswith(", 6 objects")

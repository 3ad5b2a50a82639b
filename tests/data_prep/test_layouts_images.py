import numpy as np
import pytest
from PIL import Image

from data_prep.layouts import scan_source
from segkit.errors import ConfigError
from segkit.errors import DataError


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def build(folder, masks, *, images="images", labels="masks", suffix="", colour=False):
    """One 4 x 6 image per mask, named by the mask's key; a mask is a list of its values."""
    for name, values in masks.items():
        save(folder / images / f"{name}.png", np.full((4, 6, 3) if colour else (4, 6), 7))
        save(folder / labels / f"{name}{suffix}.png", np.resize(values, (4, 6)))
    return str(folder)


@pytest.mark.parametrize(
    ("images", "labels", "suffix"),
    [
        ("image", "label", ""),
        ("images", "masks", "_mask"),
        ("imgs", "labels", "_label"),
        ("Images", "mask", "_Segmentation"),
    ],
)
def test_images_and_masks_pair_by_name(tmp_path, images, labels, suffix):
    masks = {"10": [0, 255], "9": [0, 255], "x_mask": [0]}
    source = build(tmp_path, masks, images=images, labels=labels, suffix=suffix)
    dataset = scan_source("images", source)
    assert [c.id for c in dataset.cases] == ["9", "10", "x_mask"]
    assert dataset.channels == ("gray",)
    assert dataset.classes == {"background": 0, "foreground": 255}
    image, label = dataset.read(dataset.cases[0])
    assert image.array.shape == (1, 4, 6, 1)
    assert set(np.unique(label.array)) == {0, 255}


def test_colour_images_have_three_channels(tmp_path):
    dataset = scan_source("images", build(tmp_path, {"a": [0, 1]}, colour=True))
    assert dataset.channels == ("red", "green", "blue")
    assert dataset.read(dataset.cases[0])[0].array.shape == (1, 4, 6, 3)


@pytest.mark.parametrize(
    ("masks", "classes"),
    [
        ({"a": [0], "b": [0, 1]}, {"background": 0, "foreground": 1}),
        ({"a": [128]}, {"background": 0, "foreground": 128}),
        ({"a": [0, 2], "b": [1]}, {"background": 0, "class_1": 1, "class_2": 2}),
        (
            {"a": range(21)},
            {"background": 0} | {f"class_{n}": n for n in range(1, 21)},
        ),
    ],
)
def test_classes_follow_from_the_values_of_all_masks(tmp_path, masks, classes):
    assert scan_source("images", build(tmp_path, masks)).classes == classes


@pytest.mark.parametrize(
    ("masks", "shown"),
    [
        ({"a": [0]}, "0,"),
        ({"a": [0, 100], "b": [0, 255]}, "0, 100, 255,"),
        ({"a": [1, 2]}, "1, 2,"),
        ({"a": range(22)}, "0, 1, 2, 3, "),
    ],
)
def test_ambiguous_masks_are_refused(tmp_path, masks, shown):
    message = f"hold the values {shown}.* Pass --layout-option labels=background=0,NAME=VALUE"
    with pytest.raises(DataError, match=message):
        scan_source("images", build(tmp_path, masks))


def test_named_labels_are_taken_as_given(tmp_path):
    source = build(tmp_path, {"a": [0, 100, 255]})
    dataset = scan_source("images", source, labels="nerve = 255, background=0,cell body=100")
    assert list(dataset.classes.items()) == [("background", 0), ("cell body", 100), ("nerve", 255)]


@pytest.mark.parametrize("text", ["a", "a=1,,b=2", "a=x", "a=0,a=1", "a=-1"])
def test_malformed_labels_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="labels must be like"):
        scan_source("images", build(tmp_path, {"a": [0]}), labels=text)


def test_labels_need_a_background(tmp_path):
    with pytest.raises(DataError, match="option labels: no label has the value 0"):
        scan_source("images", build(tmp_path, {"a": [0]}), labels="a=1,b=2")


def test_the_patient_is_found_in_the_name(tmp_path):
    source = build(tmp_path, {"p1_s1": [0, 1], "p1_s2": [0], "p2_s1": [0]})
    cases = scan_source("images", source, patient=r"^([^_]+)_").cases
    assert [c.patient for c in cases] == ["p1", "p1", "p2"]


@pytest.mark.parametrize(
    ("removed", "message"),
    [("masks/a.png", "a.png has no mask"), ("images/b.png", "b.png has no image")],
)
def test_unpaired_files_are_refused(tmp_path, removed, message):
    source = build(tmp_path, {"a": [0, 1], "b": [0, 1]})
    (tmp_path / removed).unlink()
    with pytest.raises(DataError, match=message):
        scan_source("images", source)


def test_missing_doubled_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds none; exactly one of the folders image, images"):
        scan_source("images", str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="no images in"):
        scan_source("images", str(tmp_path))
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="holds labels and masks; exactly one"):
        scan_source("images", str(tmp_path))


def test_two_files_of_one_name_are_refused(tmp_path):
    source = build(tmp_path, {"a": [0, 1]})
    save(tmp_path / "images" / "a.bmp", np.zeros((4, 6)))
    with pytest.raises(DataError, match=r"a.bmp and .*a.png have the same name"):
        scan_source("images", source)


def test_hidden_and_foreign_files_are_left_out(tmp_path):
    source = build(tmp_path, {"a": [0, 1]})
    (tmp_path / "images" / "._a.png").write_bytes(b"macOS")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"Windows")
    assert [c.id for c in scan_source("images", source).cases] == ["a"]


def test_a_mask_of_another_size_is_refused_when_read(tmp_path):
    source = build(tmp_path, {"a": [0, 1]})
    save(tmp_path / "masks" / "a.png", np.eye(5))
    dataset = scan_source("images", source)
    with pytest.raises(DataError, match=r"shape \(1, 4, 6\).* and shape \(1, 5, 5\)"):
        dataset.read(dataset.cases[0])


def test_the_membrane_slices_scan_and_read(shared_data):
    dataset = scan_source("images", str(shared_data / "isbi2012"))
    assert len(dataset.cases) == 25
    assert dataset.classes == {"background": 0, "foreground": 255}
    image, label = dataset.read(dataset.cases[-1])
    assert image.array.shape == (1, 512, 512, 1)
    assert set(np.unique(label.array)) == {0, 255}

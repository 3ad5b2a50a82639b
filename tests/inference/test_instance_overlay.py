import matplotlib.colors
import numpy as np
import pytest

from segkit.inference.detections import InstanceMap
from segkit.inference.detections import Truth
from segkit.inference.detections import separate
from segkit.inference.instance_overlay import EXTRA
from segkit.inference.instance_overlay import FOUND
from segkit.inference.instance_overlay import HIT
from segkit.inference.instance_overlay import IGNORED
from segkit.inference.instance_overlay import MISSED
from segkit.inference.instance_overlay import save_comparison
from segkit.inference.instance_overlay import save_objects


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def count(picture, colour):
    """Pixels of a colour between the title and the legend."""
    wanted = np.array(matplotlib.colors.to_rgb(colour)) * 255
    near = np.abs(picture - wanted).max(axis=-1) < 12
    return int(near[len(picture) // 8 : len(picture) * 7 // 8].sum())


def scene(offset):
    labels = np.zeros((40, 60), np.int32)
    labels[5:20, 5:20], labels[5:20, 35:50] = 1, 2
    guess = np.zeros((40, 60), np.int32)
    guess[5 + offset : 20 + offset, 5:20] = 1
    guess[28:36, 35:50] = 2
    marks = np.ones(2, np.int32)
    return labels, InstanceMap(guess, marks.astype(np.float32), marks)


@pytest.mark.parametrize("colour_image", [True, False])
def test_colours_tell_what_was_found_missed_and_invented(tmp_path, colour_image):
    image = np.zeros((40, 60, 3) if colour_image else (40, 60))
    labels, found = scene(1)
    truth = Truth(labels, np.ones(2, np.int32), np.zeros(2, bool))
    save_comparison(tmp_path / "a.png", [("title", image, truth, found)])
    picture = pixels(tmp_path / "a.png")
    assert min(count(picture, colour) for colour in (FOUND, MISSED, HIT, EXTRA)) > 20
    assert count(picture, IGNORED) == 0


def test_ignored_objects_are_grey_and_not_missed(tmp_path):
    labels, found = scene(1)
    truth = Truth(labels, np.ones(2, np.int32), np.array([False, True]))
    save_comparison(tmp_path / "a.png", [("title", np.zeros((40, 60)), truth, found)] * 2)
    picture = pixels(tmp_path / "a.png")
    assert count(picture, IGNORED) > 20
    assert count(picture, MISSED) == 0


def test_objects_have_the_colour_of_their_class(tmp_path):
    _, found = scene(0)
    found = found._replace(classes=np.array([1, 2], np.int32))
    for objects in (found, separate(found)):
        path = tmp_path / "a.png"
        save_objects(path, np.zeros((40, 60)), objects, ["background", "one", "two"], "title")
        assert min(count(pixels(path), colour) for colour in (EXTRA, HIT)) > 50
    empty = InstanceMap(np.zeros((40, 60), np.int32), np.zeros(0), np.zeros(0, np.int32))
    save_objects(path, np.zeros((40, 60)), empty, ["background", "one"], "title")
    assert count(pixels(path), EXTRA) == 0

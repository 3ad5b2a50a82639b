import numpy as np
import pytest
from PIL import Image

from segkit.inference.overlay import COLOURS
from segkit.inference.overlay import Slice
from segkit.inference.overlay import pick_slice
from segkit.inference.overlay import save_overlay


def has_colour(picture, colour):
    wanted = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
    return (np.abs(picture[..., :3].astype(int) - wanted).max(axis=-1) < 12).sum() > 20


def square(shape, low, high):
    mask = np.zeros(shape, np.uint8)
    mask[low:high, low:high] = 1
    return mask


@pytest.mark.parametrize("shape", [(40, 30), (10, 80), (1, 9)])
def test_the_picture_shows_outlines_in_the_colours_of_the_classes(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    truth, guess = square(shape, 0, 6), square(shape, 2, 8) * 2
    guess = np.where(guess.any(), guess, truth * 2)
    shown = Slice(image, truth, guess, aspect=1.5)
    save_overlay(tmp_path / "a.png", shown, ["background", "organ", "lesion"], "a title")
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert has_colour(picture, COLOURS[0])
    assert has_colour(picture, COLOURS[1])
    assert not has_colour(picture, COLOURS[4])


def test_a_slice_without_any_foreground_is_drawn(tmp_path):
    empty = np.zeros((8, 8), np.uint8)
    save_overlay(tmp_path / "a.png", Slice(empty, empty, empty, 1.0), ["background", "x"], "t")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_slice_with_most_foreground_is_taken():
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[1, 0, 0] = 1
    truth[3, :2, :2] = 1
    image = np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32)
    guess = np.zeros((4, 5, 6), np.int32)
    guess[3, 4, 4] = 1
    shown = pick_slice(image, truth, lambda index: guess[index], (3.0, 2.0, 1.0))
    np.testing.assert_array_equal(shown.truth, truth[3])
    assert np.argwhere(shown.prediction).tolist() == [[4, 4]]
    assert shown.aspect == 2
    assert (shown.image.dtype, shown.image.min(), shown.image.max()) == (np.uint8, 0, 255)


def test_without_truth_the_middle_slice_is_taken():
    truth = np.zeros((5, 2, 2), np.uint8)
    image = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1))
    guess = np.zeros((5, 2, 2), np.int32)
    guess[2] = 1
    shown = pick_slice(image, truth, lambda index: guess[index], (1.0, 1.0, 1.0))
    assert shown.prediction.all()

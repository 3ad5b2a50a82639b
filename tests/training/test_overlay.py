import numpy as np

from segkit.training.overlay import PALETTE
from segkit.training.overlay import panel


def test_a_panel_shows_image_truth_and_prediction_side_by_side():
    image = np.zeros((4, 5, 1), np.float32)
    image[0] = 1  # the first row is white
    truth, prediction = np.zeros((2, 4, 5), int)
    truth[3, 0], prediction[3, 1] = 1, 2
    picture = panel(image, truth, prediction, upright=True, opacity=1.0)
    assert picture.shape == (4, 15, 3)
    assert picture.dtype == np.uint8
    assert (picture[0] == 255).all()
    np.testing.assert_array_equal(picture[3, 5], PALETTE[0])
    np.testing.assert_array_equal(picture[3, 11], PALETTE[1])
    assert (picture[3, 6:10] == 0).all()


def test_slices_are_turned_so_that_anterior_is_up():
    image = np.arange(4.0)[:, None, None] * np.ones((4, 3, 1))  # brighter towards anterior
    labels = np.zeros((4, 3), int)
    rows = panel(image, labels, labels)[:, 0, 0].astype(int)
    assert (np.diff(rows) < 0).all()
    np.testing.assert_array_equal(panel(image, labels, labels, upright=True)[::-1, 0, 0], rows)


def test_soft_labels_are_shown_by_their_most_probable_class():
    truth = np.array([[0, 1, 2], [2, 1, 0]])
    soft = 0.6 * np.eye(3)[truth] + 0.4 / 3
    image = np.zeros((2, 3, 1))
    np.testing.assert_array_equal(panel(image, soft, truth), panel(image, truth, truth))


def test_of_a_volume_the_slice_with_the_most_foreground_is_shown():
    truth = np.zeros((3, 4, 4), int)
    truth[1, :2], truth[2, :3] = 1, 1
    image = np.zeros((3, 4, 4, 1))
    image[2, 0] = 1
    one_slice = panel(image[2], truth[2], truth[2])
    np.testing.assert_array_equal(panel(image, truth, truth), one_slice)

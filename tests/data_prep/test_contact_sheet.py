import numpy as np
import pytest
from PIL import Image

from data_prep.contact_sheet import Picture
from data_prep.contact_sheet import caption
from data_prep.contact_sheet import rim
from data_prep.contact_sheet import save_sheet
from data_prep.contact_sheet import window

ORANGE, BLUE = "#ff8000", "#0000ff"


def sheet(path, label, *, image=None, columns=3, **options):
    """Pixels of a sheet of one row; class 1 is orange, class 2 blue."""
    image = np.zeros(label.shape[:2]) if image is None else image
    rows = [[Picture(image, label, (0, 1), "as it is")] * columns]
    save_sheet(path, rows, ["background", "a", "b"], [ORANGE, BLUE], "title", **options)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def places(pixels, colour):
    """Rows and columns of the pixels of a colour inside of the black pictures."""
    wanted = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
    top = np.flatnonzero((pixels == 0).all(-1).sum(axis=1) > 200)[0]  # below the legend
    rows, columns = np.nonzero((abs(pixels - wanted) < 30).all(-1))
    return rows[rows >= top] - top, columns[rows >= top]


def corner_label():
    label = np.zeros((20, 20), int)
    label[2:8, 2:8] = 1
    return label


def test_each_class_has_an_outline_of_its_colour(tmp_path):
    label = corner_label()
    label[12:18, 12:18] = 2
    pixels = sheet(tmp_path / "s.png", label, columns=1)
    side = 1.7 * 150  # of a picture of 20 x 20
    for colour, first, last in ((ORANGE, 2, 8), (BLUE, 12, 18)):
        rows, columns = places(pixels, colour)
        assert rows.min() == pytest.approx(first / 20 * side, abs=3)
        assert rows.max() == pytest.approx(last / 20 * side, abs=3)
        assert columns.min() - 15 == pytest.approx(first / 20 * side, abs=3)
        assert columns.max() - 15 == pytest.approx(last / 20 * side, abs=3)


def test_upright_says_where_the_first_row_is(tmp_path):
    above, _ = places(sheet(tmp_path / "s.png", corner_label(), upright=True), ORANGE)
    below, _ = places(sheet(tmp_path / "s.png", corner_label(), upright=False), ORANGE)
    assert above.max() < 0.5 * 1.7 * 150 < below.min()


def test_pixels_that_are_higher_than_wide_are_drawn_so(tmp_path):
    square = sheet(tmp_path / "s.png", corner_label())
    high = sheet(tmp_path / "s.png", corner_label(), aspect=2.0)
    assert high.shape[0] - square.shape[0] == pytest.approx(1.7 * 150, abs=2)


def test_a_class_is_in_the_legend_only_if_it_is_in_a_picture(tmp_path):
    pixels = sheet(tmp_path / "s.png", corner_label(), image=np.ones((20, 20)))
    assert (abs(pixels - [255, 128, 0]) < 30).all(-1).any()
    assert not (abs(pixels - [0, 0, 255]) < 30).all(-1).any()


def test_what_is_improbable_has_a_dotted_outline(tmp_path):
    label = np.zeros((20, 20, 3), np.float32)
    label[..., 0] = 1
    label[2:8, 2:8] = 0.7, 0.3, 0
    dotted, _ = places(sheet(tmp_path / "s.png", label), ORANGE)
    label[2:8, 2:8] = 0.3, 0.7, 0
    solid, _ = places(sheet(tmp_path / "s.png", label), ORANGE)
    assert 0.1 * len(solid) < len(dotted) < 0.7 * len(solid)


def test_colour_images_keep_their_colour(tmp_path):
    image = np.full((20, 20, 3), (1.5, 0.5, -1.0))  # outside of [0, 1]: clipped
    pixels = sheet(tmp_path / "s.png", np.zeros((20, 20), int), image=image)
    assert (pixels == [255, 127, 0]).all(-1).sum() > 3 * 250**2


def test_the_window_leaves_out_the_extremes_and_is_never_empty():
    assert window(np.linspace(0, 1, 1001).reshape(7, 143)) == pytest.approx((0.005, 0.995))
    low, high = window(np.ones((4, 4)))
    assert low < high
    assert window(np.full((4, 4, 3), 9.0)) == (0.0, 1.0)


def test_a_caption_names_the_steps_that_changed_the_example():
    draws = {
        "rotation.applied": np.array(True),
        "rotation.degrees": np.array([12.34, -7.06, 0]),
        "scaling.applied": np.array(False),
        "scaling.field_of_view": np.array([1.3]),
        "gamma 2.applied": np.array(True),
        "gamma 2.gamma": np.array([1.25, 0.8, 1, 0.333, 2]),
        "flip.applied": np.array(True),
        "flip.mirrored": np.array([True, False, True]),
        "blur.applied": np.array(True),
        "blur.channel": np.array([False, True]),
        "blur.sigma": np.array([[0.5, 0.6, 0.7], [1, 1, 1]]),
    }
    assert caption(draws).splitlines() == [
        "rotation: 12 -7.1 0°",
        "gamma 2: 1.2 0.8 1 0.33 …",
        "flip: d w",
        "blur: channel 1, sigma 0.5 0.6 0.7 1 …",
    ]


@pytest.mark.parametrize(
    "draws",
    [
        {},
        {"blur.applied": True, "blur.channel": [False], "blur.sigma": [[1.0, 1, 1]]},
        {"flip.applied": True, "flip.mirrored": [True, False, False]},  # a slice's depth
    ],
)
def test_what_touches_nothing_is_no_change(draws):
    draws = {name: np.array(value) for name, value in draws.items()}
    assert caption(draws, "hw") == "no change"


def test_objects_have_rims_and_boxes_of_their_own(tmp_path):
    label = np.zeros((20, 20), int)
    label[4:12, 2:14] = 1
    ids = label.copy()
    ids[4:12, 8:14] = 7  # touches the first one
    label[ids == 7] = 2
    picture = Picture(np.zeros((20, 20)), label, (0, 1), "", ids)
    path = tmp_path / "s.png"
    save_sheet(path, [[picture]], ["background", "a", "b"], [ORANGE, BLUE], "title")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    side = 1.7 * 150 / 20  # of a voxel
    for colour, left, right in ((ORANGE, 2, 8), (BLUE, 8, 14)):
        rows, columns = places(pixels, colour)
        assert rows.min() == pytest.approx(4 * side, abs=3)
        assert rows.max() == pytest.approx(12 * side, abs=3)
        assert columns.min() - 15 == pytest.approx(left * side, abs=3)
        assert columns.max() - 15 == pytest.approx(right * side, abs=3)
        inner = (rows > 5.3 * side) & (rows < 10.7 * side)
        inner &= (columns - 15 > (left + 1.3) * side) & (columns - 15 < (right - 1.3) * side)
        assert not inner.any()


def test_the_rim_is_where_ids_change():
    ids = np.zeros((5, 6), int)
    ids[:, :3], ids[1:4, 3:] = 4, 9
    expected = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(rim(ids)[:, :3], expected)
    np.testing.assert_array_equal(rim(ids)[1:4, 3:], [[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert not rim(ids)[[0, 4], 3:].any()

import pytest

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.outputs import painting_order
from segkit.outputs import read_outputs

TUMOUR = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def classes(*names):
    return [{"name": name, "value": 10 * n} for n, name in enumerate(names)]


BRAIN = classes("background", "oedema", "necrosis", "rim")


def test_without_regions_each_class_has_a_channel():
    outputs = read_outputs(BRAIN, {"alpha": 0.5})
    assert (outputs.num_channels, outputs.ignore_label, outputs.class_order) == (4, None, ())
    assert outputs.names == ["background", "oedema", "necrosis", "rim"]
    assert outputs.classes == BRAIN


def test_with_regions_each_region_has_a_channel():
    outputs = read_outputs(BRAIN, {"regions": TUMOUR})
    assert outputs.num_channels == 3
    assert outputs.names == ["background", "whole", "core", "enhancing"]
    assert outputs.class_order == (1, 2, 3)
    assert outputs.classes == BRAIN


@pytest.mark.parametrize("loss", [{}, {"ignore_label": None}, {"ignore_label": 4}])
def test_the_class_ignore_has_no_channel(loss):
    outputs = read_outputs([*BRAIN, {"name": "ignore", "value": 99}], loss)
    assert (outputs.num_channels, outputs.ignore_label) == (4, 4)
    assert outputs.classes == BRAIN


def test_regions_go_with_a_class_to_ignore():
    outputs = read_outputs([*BRAIN, {"name": "ignore", "value": 99}], {"regions": TUMOUR})
    assert (outputs.num_channels, outputs.ignore_label) == (3, 4)


@pytest.mark.parametrize(
    ("regions", "given", "expected"),
    [
        # {1, 2, 3} - {2, 3} = {1}; {2, 3} - {3} = {2}; {3}.
        (TUMOUR, None, (1, 2, 3)),
        ({"core": [4, 2], "all": [2]}, None, (4, 2)),
        (TUMOUR, [2, 3, 3], (2, 3, 3)),
        ({"all": [1, 2]}, [2], (2,)),
    ],
)
def test_the_painting_order_is_what_later_regions_leave_or_what_is_given(regions, given, expected):
    assert painting_order(regions, given) == expected


@pytest.mark.parametrize(
    ("regions", "given", "message"),
    [
        ({"all": [1, 2]}, None, "class_order is needed: the region 'all' of .* has 2 classes"),
        ({"a": [1], "all": [1, 2]}, None, "class_order is needed: the region 'all'"),
        ({"a": [1], "b": [1]}, None, "class_order is needed: the region 'a' of .* has 0 classes"),
        (TUMOUR, [1, 2], "class_order must name one class of each of the 3 regions"),
        (TUMOUR, [1, 1, 3], "class_order must name one class of each"),
        ({}, None, "must give each name a list of class indices"),
        ({"a": []}, None, "must give each name a list of class indices"),
        ({"a": [-1]}, None, "must give each name a list of class indices"),
    ],
)
def test_a_painting_order_that_is_unclear_or_wrong_is_refused(regions, given, message):
    with pytest.raises(ConfigError, match=message):
        painting_order(regions, given)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"regions": {"all": [1, 4], "four": [4]}}, "'all' holds 4, .* indices 1 to 3"),
        ({"regions": {"a": [0]}}, "'a' holds 0, which is no foreground class"),
        ({"ignore_label": 3}, "ignore_label is 3, but the data set has no class to ignore"),
        ({"parts": [{"dice": {"ignore_label": 2}}]}, "ignore_label is 2, but"),
        (
            {"parts": [{"dice": None}, {"region_ce_dice": {"regions": TUMOUR}}]},
            "cannot be part of a sum",
        ),
    ],
)
def test_losses_that_do_not_fit_the_classes_are_refused(loss, message):
    with pytest.raises(ConfigError, match=message):
        read_outputs(BRAIN, loss)


def test_the_class_to_ignore_is_the_last_and_no_other():
    marked = [*BRAIN, {"name": "ignore", "value": 99}]
    with pytest.raises(ConfigError, match="ignore_label is 1, but .* 'ignore' has the index 4"):
        read_outputs(marked, {"ignore_label": 1})
    with pytest.raises(ConfigError, match="'a' holds 4, which is no foreground class"):
        read_outputs(marked, {"regions": {"a": [4]}})
    with pytest.raises(DataError, match="'ignore' must be the last"):
        read_outputs(classes("background", "ignore", "organ"), {})

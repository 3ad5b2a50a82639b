"""Whether two data sets can be the two looks of a style transfer."""

import pytest

from data_prep.checks import check_style
from segkit.config import DataConfig
from segkit.errors import ConfigError


def manifest(classes=("background", "organ"), channels=("MRI",), **preprocess):
    preprocess = {"orientation": "SAR", "spacing_mm": [1.0, 1.0, 1.0], **preprocess}
    return {"channels": list(channels), "classes": list(classes), "preprocess": preprocess}


def check(style, share=1 / 3):
    data = DataConfig(patch_size=[8, 8], style="data/b", foreground_fraction=share)
    check_style(data, manifest(), style)


def test_two_data_sets_that_fit_each_other_pass():
    check(manifest(classes=("background", "lesion", "organ")))
    check(manifest(classes=()), share=0.0)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (manifest(orientation="RAS"), r"its axes is RAS, that of the data set SAR.*--orientation"),
        (manifest(spacing_mm=[2.0, 1.0, 1.0]), r"voxel size in mm is \[2.0.*same --spacing"),
        (manifest(spacing_mm=None), "voxel size in mm is None"),
        (manifest(channels=("T1", "T2")), "has 2 channels, and the data set has 1"),
        (manifest(classes=()), "Set data.foreground_fraction=0"),
    ],
)
def test_two_that_do_not_are_refused(style, message):
    with pytest.raises(ConfigError, match=message):
        check(style)

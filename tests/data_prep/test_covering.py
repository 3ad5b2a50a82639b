import numpy as np
import pytest

from data_prep import covering
from data_prep.covering import count_covering
from data_prep.covering import covering_patches
from data_prep.whole_cases import WholeCase

SHAPES = {"a": (3, 10, 7), "b": (2, 4, 9)}


@pytest.fixture
def manifest(monkeypatch):
    """Two cases, one per split, whose voxels are numbered from 1."""

    def read(folder, manifest, split):
        for case, shape in SHAPES.items():
            if manifest["cases"][case]["split"] == split:
                image = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(*shape, 1)
                yield WholeCase(case, image, None, None, None)

    monkeypatch.setattr(covering, "read_cases", read)
    splits = {"a": "fold0", "b": "test"}
    return {"cases": {c: {"split": splits[c], "shape": [*s]} for c, s in SHAPES.items()}}


@pytest.mark.parametrize("patch", [(4, 7), (5, 3), (2, 4, 4), (16, 16), (3, 16, 2)])
def test_every_voxel_is_covered(manifest, patch):
    patches = list(covering_patches("data", manifest, ["fold0", "test"], patch))
    assert len(patches) == count_covering(manifest, ["fold0", "test"], patch)
    for case, shape in SHAPES.items():
        images = [image for name, image in patches if name == case]
        assert all(image.shape == (*patch, 1) for image in images)
        assert set(np.ravel(images)) - {0} == set(range(1, np.prod(shape) + 1))


def test_a_patch_lies_centred_on_a_case_that_is_smaller_and_inside_one_that_is_larger(manifest):
    patches = [image for _, image in covering_patches("data", manifest, ["test"], (6, 6))]
    assert len(patches) == 2 * 2  # slices, and places along 9 columns
    first = patches[0][..., 0]
    np.testing.assert_array_equal(first[1:5], 1 + np.arange(36).reshape(4, 9)[:, :6])
    np.testing.assert_array_equal(first[[0, 5]], 0)
    np.testing.assert_array_equal(patches[1][1:5, :, 0], 1 + np.arange(36).reshape(4, 9)[:, 3:])


def test_cases_that_are_never_seen_are_left_out(manifest):
    options = ["fold0", "test"], (4, 4), {"a": 0, "b": 3}
    patches = list(covering_patches("data", manifest, *options))
    assert {case for case, _ in patches} == {"b"}
    assert len(patches) == count_covering(manifest, *options)

"""A network with hand-made rules on whole cases: tiles, borders, volumes, and as it is served."""

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.inference.detections import paint
from segkit.inference.detector import Detector
from segkit.inference.detector import onto_source
from segkit.inference.paste_masks import paste_masks
from tests.tools.spots import SpotNetwork
from tests.tools.spots import mosaic
from tests.tools.spots import spots

PREPROCESS = {
    "orientation": "SAR",
    "spacing_mm": None,
    "crop_to_nonzero": False,
    "normalization": [{"scheme": "rescale", "low": 0, "high": 1}],
}


def make(patch=(64, 64), preprocess=PREPROCESS, **options):
    return Detector(SpotNetwork(1), preprocess, patch, **options)


def prepared(*pictures):
    return np.stack(pictures)[..., None].astype(np.float32)


def case(shape, **changes):
    """What the manifest says of a picture that kept its grid."""
    affine = np.eye(4)[[2, 1, 0, 3]].tolist()
    kept = {"source_shape": [1, *shape], "source_affine": affine, "orientation": "SAR"}
    kept |= {"crop": [[0, 1], [0, shape[0]], [0, shape[1]]], "shape": [1, *shape]}
    return kept | changes


def test_a_slice_smaller_than_a_patch_keeps_its_pixels():
    image, ids, _ = spots((41, 30), [(12, 10), (30, 20)])
    (found,) = make().slices(prepared(image))
    np.testing.assert_array_equal(paint(found).labels > 0, ids > 0)
    assert found.shape == (41, 30)
    # 7 pixels on each side of the brightest one; the second box ends at the border.
    expected = [[5, 3, 20, 18], [23, 13, 38, 28]]
    np.testing.assert_allclose(found.boxes[np.argsort(found.boxes[:, 0])], expected)


def test_what_reaches_into_the_zeros_around_a_slice_is_cut_off():
    image, ids, _ = spots((41, 30), [(2, 10), (30, 28)])
    (found,) = make().slices(prepared(image))
    np.testing.assert_array_equal(paint(found).labels > 0, ids > 0)
    assert found.boxes.min() == 0
    assert found.boxes[:, 3].max() == 30
    for box, mask in zip(found.boxes.astype(int), found.masks, strict=True):
        assert mask.shape == (box[2] - box[0], box[3] - box[1])


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_slices_are_cut_into_tiles_and_put_together_one_by_one(overlap):
    shape = (100, 90)
    pictures = [spots(shape, mosaic(shape, seed)) for seed in range(3)]
    calls = []
    found = make(overlap=overlap).slices(
        prepared(*(image for image, _, _ in pictures)), lambda *progress: calls.append(progress)
    )
    for one, (_, ids, _) in zip(found, pictures, strict=True):
        assert len(one.scores) == ids.max()
        labels = paint(one).labels
        np.testing.assert_array_equal(labels > 0, ids > 0)
        assert len(np.unique(np.stack([labels, ids]).reshape(2, -1), axis=1).T) == ids.max() + 1
    tiles = 3 * {0.25: 2 * 2, 0.5: 3 * 2}[overlap]
    assert calls[-1] == (tiles, tiles)


def test_a_picture_without_objects_and_one_of_noise_below_the_threshold():
    for image in (np.zeros((70, 100)), np.full((70, 100), 0.2)):
        (found,) = make().slices(prepared(image))
        assert len(found.scores) == 0
        assert found.boxes.shape == (0, 4)
        assert paint(found).labels.shape == (70, 100)


def test_a_picture_that_kept_its_grid_keeps_overlapping_masks_and_low_scores():
    image = spots((64, 64), [(30, 30), (10, 2)])[0]
    kept = make().find(prepared(image), case((64, 64)), undo=None)
    assert kept.boxes.shape == (2, 4)
    assert kept.scores.min() < 0.7
    turned = case((64, 64), source_affine=(np.eye(4)[[2, 1, 0, 3]] * [1, -1, 1, 1]).tolist())
    found = make().find(prepared(image), turned, lambda ids: ids[:, ::-1], min_score=0.7)
    assert found.labels.shape == (64, 64)
    assert len(found.scores) == 1
    assert found.labels[63 - 30, 30] == 1


def test_objects_that_vanish_on_the_source_grid_are_left_out():
    volume = np.zeros((2, 64, 64))
    volume[0], volume[1] = (spots((64, 64), [place])[0] for place in ((20, 20), (40, 40)))
    found = make().find(prepared(*volume), case((64, 64)), lambda ids: ids)
    assert len(found.scores) == 2
    half = onto_source(found, lambda ids: ids * (np.arange(2) == 1)[:, None, None])
    assert len(half.scores) == 1
    assert half.labels.max() == 1


def test_what_is_served_is_what_is_found_without_tiles():
    image, _, _ = spots((70, 90), mosaic((70, 90)))
    detector = make()
    served = detector.serve(prepared(image), np.ones(3, np.float32))
    names = ("boxes", "scores", "classes", "masks")
    pasted = paste_masks(*(served[name][0].numpy() for name in names), (70, 90))
    (found,) = make(tile=256).slices(prepared(image))
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_allclose(getattr(pasted, name), getattr(found, name), atol=1e-4)
    for one, other in zip(pasted.masks, found.masks, strict=True):
        np.testing.assert_array_equal(one, other)


def test_boxes_are_served_in_pixels_of_the_source():
    """Cropped to what is not 0, resampled to pixels of 1 mm, padded to a patch, and back."""
    picture = spots((30, 40), [(10, 12), (20, 30)])[0]
    fine = np.kron(picture, np.ones((2, 1)))  # rows of 0.5 mm
    volume = np.zeros((5, 70, 45, 1), np.float32)
    volume[1:4, 6:66, 3:43, 0] = fine
    volume[1:4, 6, 3], volume[1:4, 65, 42] = 1e-3, 1e-3  # the corners are not 0
    preprocess = {**PREPROCESS, "spacing_mm": [2.0, 1.0, 1.0], "crop_to_nonzero": True}
    served = make(preprocess=preprocess).serve(volume, np.array([2.0, 0.5, 1.0], np.float32))
    np.testing.assert_allclose(served["slices"], [1, 2, 3])
    for boxes, scores in zip(served["boxes"].numpy(), served["scores"].numpy(), strict=True):
        boxes = boxes[scores > 0]
        boxes = boxes[np.argsort(boxes[:, 1])]
        # 7 pixels of 1 mm around (10, 12) and (20, 30) of the picture: twice as many rows.
        expected = [[6 + 6, 5 + 3, 36 + 6, 20 + 3], [26 + 6, 23 + 3, 56 + 6, 38 + 3]]
        np.testing.assert_allclose(boxes, expected, atol=0.01)
    assert not served["boxes"].numpy()[:, 2:].any()


def test_mistakes_are_told():
    with pytest.raises(ConfigError, match="overlap must be"):
        make(overlap=1.0)
    with pytest.raises(ConfigError, match="a tile must have 32"):
        make(tile=16)
    with pytest.raises(ShapeError, match="the data set has 2"):
        make(preprocess={**PREPROCESS, "normalization": PREPROCESS["normalization"] * 2})
    with pytest.raises(ShapeError, match=r"takes \(d, h, w, 1\), got \(1, 64, 64, 3\)"):
        make().slices(np.zeros((1, 64, 64, 3), np.float32))

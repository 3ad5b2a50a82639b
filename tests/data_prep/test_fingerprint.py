"""Pass 1: what it measures, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.fingerprint import make_fingerprint
from data_prep.fingerprint import measure
from data_prep.fingerprint import measure_cases
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.volume import Volume

CLASSES = {"background": 0, "organ": 5}


def volumes(seed):
    """A 6x8x10 image (2 mm slices, axes I, A, R) with a box of the organ in it."""
    rng = np.random.default_rng(seed)
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-2, 0, 0, 0], [0, 0, 0, 1.0]])
    image = np.zeros((6, 8, 10), dtype=np.int16)
    image[1:5, 1:7, 2:8] = rng.integers(1, 100, size=(4, 6, 6))
    label = np.zeros((6, 8, 10), dtype=np.uint8)
    label[2:4, 2:5, 3:6] = 5
    return Volume(image, affine, ("odd header",) if seed == 2 else ()), Volume(label, affine)


def read(case):
    return volumes(int(case.id[1:]))


def digest(case):
    return case.id


def dataset(count=3, **changes):
    cases = tuple(
        RawCase(f"c{n}", f"p{n}", (f"c{n}.nii",), f"c{n}-label.nii") for n in range(count)
    )
    whole = RawDataset("toy", ("MRI",), CLASSES, cases, read, digest)
    return replace(whole, **changes)


def test_facts_of_a_case_are_those_of_its_arrays():
    data = dataset()
    facts, samples = measure(data.cases[0], data)
    image, label = volumes(0)
    assert facts["shape"] == [6, 8, 10]
    assert facts["box"] == [[1, 5], [1, 7], [2, 8]]
    assert facts["class_voxels"] == [480 - 18, 18]  # the organ is 2 * 3 * 3 voxels
    assert (facts["lowest"], facts["highest"]) == ([0.0], [float(image.array.max())])
    np.testing.assert_array_equal(samples[:, 0], image.array[label.array == 5])


def test_fingerprint_pools_the_foreground_of_all_cases():
    facts, samples, bad = measure_cases(dataset())
    found = make_fingerprint(facts, samples)
    pooled = np.concatenate([i.array[v.array == 5] for i, v in map(volumes, range(3))])
    stats = found.intensities[0]
    assert not bad
    assert stats["mean"] == pytest.approx(pooled.mean())
    assert stats["std"] == pytest.approx(pooled.std())
    assert stats["percentile_99_5"] == pytest.approx(np.percentile(pooled, 99.5))
    np.testing.assert_array_equal(found.spacings_mm, [[2, 1, 1]] * 3)
    np.testing.assert_array_equal(found.shapes, [[4, 6, 6]] * 3)
    assert found.relative_size == pytest.approx(4 * 6 * 6 / 480)
    assert found.class_voxels.tolist() == [3 * 462, 3 * 18]
    assert found.notes == {"odd header": 1}
    assert not found.flat


def test_shapes_and_spacings_are_those_of_the_canonical_orientation():
    def turned(case):
        return tuple(v.oriented("RAS") for v in read(case))

    facts, samples, _ = measure_cases(dataset(read=turned))
    assert facts["c0"]["shape"] == [10, 8, 6]
    found = make_fingerprint(facts, samples)
    np.testing.assert_array_equal(found.shapes, [[4, 6, 6]] * 3)
    np.testing.assert_array_equal(found.spacings_mm, [[2, 1, 1]] * 3)


def test_samples_of_a_large_foreground_are_limited_and_repeatable():
    image = Volume(np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32))
    label = Volume(np.full((30, 30, 30), 5, dtype=np.uint8))
    data = dataset(read=lambda case: (image, label))
    first, again, other = (measure(data.cases[n], data)[1] for n in (0, 0, 1))
    assert first.shape == (10_000, 1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_voxels_to_be_ignored_are_not_sampled():
    data = dataset(classes={"background": 0, "ignore": 5})
    facts, samples = measure(data.cases[0], data)
    assert facts["class_voxels"] == [480 - 18, 18]
    assert len(samples) == 0


def test_without_labels_the_nonzero_voxels_are_sampled():
    data = dataset(classes={}, read=lambda case: (read(case)[0], None))
    facts, samples = measure(data.cases[0], data)
    assert facts["class_voxels"] is None
    assert len(samples) == 4 * 6 * 6


def test_pictures_are_told_from_thin_volumes():
    picture = Volume(np.ones((1, 8, 8), dtype=np.uint8))
    thin = Volume(picture.array, picture.affine * [[2], [2], [2], [1]])
    for volume, flat in ((picture, True), (thin, False)):
        data = dataset(classes={}, read=lambda case, volume=volume: (volume, None))
        assert make_fingerprint(*measure_cases(data)[:2]).flat is flat


def with_label(array):
    return lambda case: (read(case)[0], Volume(array, read(case)[0].affine))


def test_an_unknown_label_value_names_file_value_and_map():
    label = volumes(0)[1].array.copy()
    label[0, 0, 0] = 3
    data = dataset(read=with_label(label))
    with pytest.raises(DataError, match=r"c0-label.nii: label value 3 is not .*'organ': 5"):
        measure(data.cases[0], data)


def test_a_label_of_another_shape_is_refused():
    data = dataset(read=with_label(np.zeros((6, 8, 9), dtype=np.uint8)))
    with pytest.raises(ShapeError, match=r"shape \(6, 8, 9\), its image \(6, 8, 10\)"):
        measure(data.cases[0], data)


def test_nan_a_missing_label_and_a_missing_channel_are_refused():
    nan = Volume(np.full((2, 2, 2), np.nan, dtype=np.float32))
    data = dataset(read=lambda case: (nan, None))
    with pytest.raises(DataError, match="NaN or infinite"):
        measure(data.cases[0], data)
    data = dataset(read=lambda case: (read(case)[0], None))
    with pytest.raises(DataError, match="no label, but is not held back"):
        measure(data.cases[0], data)
    with pytest.raises(ShapeError, match=r"1 channel\(s\) where the data set has 2"):
        measure(data.cases[0], dataset(channels=("T1", "T2")))


def test_a_bad_case_is_reported_beside_the_good_ones():
    def read_or_fail(case):
        if case.id == "c1":
            raise DataError("c1.nii is cut off.")
        return read(case)

    seen = []
    facts, _, bad = measure_cases(
        dataset(read=read_or_fail), progress=lambda *count: seen.append(count)
    )
    assert list(facts) == ["c0", "c2"]
    assert bad == {"c1": "c1.nii is cut off."}
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_data_set_without_any_foreground_is_refused():
    facts, samples, _ = measure_cases(
        dataset(read=with_label(np.zeros((6, 8, 10), dtype=np.uint8)))
    )
    with pytest.raises(DataError, match="none of the 3 cases has a foreground voxel"):
        make_fingerprint(facts, samples)

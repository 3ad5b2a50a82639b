"""Synthetic cases: as many in each batch as asked, always the same ones, and nowhere else."""

import os
from dataclasses import replace
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from data_prep.manifest import load_manifest
from data_prep.manifest import write_json
from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from data_prep.reader import reading_errors
from data_prep.records import decode
from data_prep.records import decode_numpy
from data_prep.records import encode
from data_prep.synthetic import Synthetic
from data_prep.synthetic import check_options
from data_prep.synthetic import places
from data_prep.synthetic import read_synthetic
from data_prep.whole_cases import read_cases
from segkit.config import config_from_dict
from segkit.errors import ConfigError
from segkit.errors import DataError
from tests.data_prep.test_pipeline import make_chunk
from tests.data_prep.test_pipeline import numbered
from tests.data_prep.test_pipeline import write_folder

POLICY = [{"flip": {}}, {"rotation": {"probability": 0.5}}, {"brightness": {"factor": [0.5, 2.0]}}]


def marked(split, count):
    """Synthetic chunks of 4x5x6 voxels whose image is 100 and more, everywhere one number."""
    label = np.zeros((4, 5, 6), int)
    label[1, 2, 3] = 1
    chunks = [
        replace(
            make_chunk(f"synthetic-{n:06d}", label, np.full(label.shape, 100 + n, np.float32)),
            synthetic="labels of c0",
        )
        for n in range(count)
    ]
    return {split: [chunks]}


@pytest.fixture
def folders(tmp_path):
    """Real and synthetic data sets: 7 cases with images 0 to 6, and 5 with images 100 to 104."""
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
    manifest = complete(write_folder(tmp_path / "real", numbered(7)))
    made = complete(write_folder(tmp_path / "made", marked("synthetic", 5)))
    made |= {"synthetic": {"task": "labels", "patch_size": [4, 5, 6], "trained_on": []}}
    for name, content in (("real", manifest), ("made", made)):
        write_json(tmp_path / name / "dataset.json", content)
    return SimpleNamespace(
        real=tmp_path / "real",
        made=tmp_path / "made",
        manifest=manifest,
        synthetic=lambda count: Synthetic(tmp_path / "made", made, count),
    )


def complete(manifest):
    """Adds what `load_manifest` asks for."""
    shards = [{**shard, "cases": []} for shard in manifest["shards"]]
    rest = {"name": "toy", "layout": "msd", "options": {}, "fingerprint": {}, "folds": 2}
    plan = {"spacing_mm": [1.0, 1.0, 1.0], "orientation": "SAR"}
    return {**manifest, **rest, "cases": {}, "preprocess": plan, "shards": shards}


def batches(folders, count, number=6, size=4, **options):
    """The first `number` batches of 4 examples, `count` of them synthetic, as NumPy arrays."""
    synthetic = folders.synthetic(count) if count else None
    common = {"patch_size": (2, 2, 2), "batch_size": size, "seed": 3, "synthetic": synthetic}
    stream = build_dataset(
        folders.real, folders.manifest, ("fold0",), **{**common, "with_cases": True, **options}
    )
    return list(stream.take(number).as_numpy_iterator())


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def is_made(batch):
    return [case.startswith(b"synthetic-") for case in batch[0]]


def test_a_mark_is_in_synthetic_records_only():
    chunk = make_chunk("a", np.ones((2, 2, 2), int))
    plain, made = encode(chunk), encode(replace(chunk, synthetic="labels of é"))
    assert b"synthetic" not in plain
    assert decode_numpy(plain).synthetic is None
    assert decode_numpy(made).synthetic == "labels of é"
    assert decode(plain)["synthetic"].numpy() == b""
    assert decode(made)["synthetic"].numpy().decode() == "labels of é"


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(4, 0, []), (4, 1, [3]), (4, 2, [1, 3]), (4, 4, [0, 1, 2, 3]), (6, 4, [1, 2, 4, 5])],
)
def test_synthetic_places_are_spread_evenly(size, count, expected):
    assert places(size, count) == expected


@pytest.mark.parametrize("count", [1, 3])
def test_each_batch_has_as_many_synthetic_examples_as_asked(folders, count):
    found = batches(folders, count, number=20)
    assert [is_made(batch) for batch in found] == [[n in places(4, count) for n in range(4)]] * 20
    for batch in found:
        assert [image.max() >= 100 for image in batch[1]] == is_made(batch)
    # 20 batches are more than a round of both: all cases come, each as often as the others.
    cases = [case for batch in found for case in batch[0]]
    assert len(set(cases)) == 12


def test_device_placement_mixes_as_input_placement(folders):
    common = {"with_cases": False, "number": 3, "foreground_fraction": 0.0}
    there = batches(folders, 1, **common, augment=Augmentation(POLICY, "device"))
    here = batches(folders, 1, **common, augment=Augmentation([]))
    for (image, *_), (plain, _) in zip(there, here, strict=True):
        np.testing.assert_allclose(image.max(axis=(1, 2, 3, 4)), plain.max(axis=(1, 2, 3, 4)))


def test_a_ratio_of_one_reads_nothing_real(folders):
    assert all(all(is_made(batch)) for batch in batches(folders, 4))


@pytest.mark.parametrize("augment", [Augmentation([]), Augmentation(POLICY)])
def test_a_resumed_mixture_goes_on_where_it_stopped(folders, augment):
    whole = batches(folders, 1, number=8, augment=augment)
    rest = batches(folders, 1, number=5, augment=augment, start_index=3 * 4)
    assert_same(whole[3:], rest)
    # From within a batch: the examples are those of the whole stream, cut elsewhere.
    later = batches(folders, 1, number=1, augment=augment, start_index=6)
    np.testing.assert_array_equal(later[0][1], np.concatenate([whole[1][1][2:], whole[2][1][:2]]))


@pytest.mark.parametrize("placement", ["input", "device"])
@pytest.mark.parametrize("count", [1, 2])
def test_two_parts_are_the_whole(folders, placement, count):
    policy = POLICY if placement == "device" else [{"flip": {}}]
    options = {"augment": Augmentation(policy, placement), "with_cases": placement == "input"}
    whole = batches(folders, count, **options)
    parts = [batches(folders, count, part=(n, 2), **options) for n in (0, 1)]
    joined = [
        tuple(np.concatenate(both) for both in zip(*pair, strict=True))
        for pair in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_no_synthetic_data_set_and_none_of_its_examples_are_the_same(folders):
    assert_same(batches(folders, 0), batches(folders, 0, synthetic=folders.synthetic(0)))


def test_mixing_in_does_not_change_which_real_examples_come(folders):
    common = {"foreground_fraction": 0.0, "number": 4}
    mixed = [case for batch in batches(folders, 1, **common) for case in batch[0]]
    alone = [case for batch in batches(folders, 0, size=3, **common) for case in batch[0]]
    assert [case for case in mixed if not case.startswith(b"synthetic-")] == alone


def test_the_asked_share_of_both_is_centred_on_foreground(folders):
    found = batches(folders, 2, number=30, foreground_fraction=1.0)
    for _, _, label in found:
        assert (label[:, 1, 1, 1] == 1).all()


def test_a_class_of_synthetic_cases_is_not_known(folders):
    folders.manifest["targets"] = ["benign", "malignant"]
    folders.manifest["cases"] = {f"c{n}": {"target": "malignant"} for n in range(7)}
    synthetic = folders.synthetic(1)
    synthetic.manifest["cases"] = {f"synthetic-{n:06d}": {} for n in range(5)}
    options = {"with_targets": True, "synthetic": synthetic}
    for _, _, labels in batches(folders, 1, **options):
        assert labels["target"].tolist() == [1, 1, 1, -1]


def test_covariates_of_synthetic_cases_are_refused(folders):
    with pytest.raises(ConfigError, match="synthetic cases have no covariates"):
        batches(folders, 1, with_covariates=True)


def test_validation_batches_are_never_synthetic(folders):
    with pytest.raises(DataError, match="made is synthetic: nothing is validated on it"):
        batches(folders, 1, batches=2)
    made = folders.synthetic(0)
    options = {"patch_size": (2, 2, 2), "batch_size": 1, "seed": 0, "batches": 2}
    with pytest.raises(DataError, match="nothing is validated on it"):
        build_dataset(made.folder, made.manifest, ("synthetic",), **options)


def test_a_synthetic_manifest_is_refused_where_cases_are_scored(folders):
    with pytest.raises(DataError, match=r"made is synthetic: a network made its images"):
        load_manifest(folders.made)
    assert load_manifest(folders.made, synthetic=True)["synthetic"]["task"] == "labels"


def test_synthetic_records_without_a_word_in_the_manifest_are_found(folders, tmp_path):
    folder = tmp_path / "smuggled"
    folder.mkdir()
    shards = {"fold0": numbered(2)["fold0"] + marked("fold0", 1)["fold0"]}
    manifest = complete(write_folder(folder, shards))
    assert len(list(read_cases(folders.real, folders.manifest, "fold0"))) == 7
    with pytest.raises(DataError, match=r"case synthetic-000000 is synthetic, in a data set of re"):
        list(read_cases(folder, manifest, "fold0"))
    options = {"patch_size": (2, 2, 2), "batch_size": 1, "seed": 0}
    for held_out in ({}, {"batches": 6}):
        stream = build_dataset(folder, manifest, ("fold0",), **options, **held_out)
        with (
            pytest.raises(DataError, match=r"fold0-00001.*synthetic-000000 is synthetic"),
            reading_errors(folder, manifest),
        ):
            list(stream.take(6))


def test_real_records_in_a_synthetic_data_set_are_found(folders):
    manifest = {**folders.manifest, "synthetic": {}}
    with (
        pytest.raises(DataError, match="the case c0 is real, in a data set of synthetic cases"),
        reading_errors(folders.real, manifest),
    ):
        list(build_dataset(
            folders.real, manifest, ("fold0",), patch_size=(2, 2, 2), batch_size=1, seed=0
        ).take(1))  # fmt: skip


def config_of(folders, synthetic=None, **sections):
    """A config that mixes in a quarter, with changes."""
    given = {"path": str(folders.made), "ratio": 0.25} if synthetic is None else synthetic
    sections = {
        "model": {"name": "unet3d"},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4},
        **sections,
    }
    data = {"path": str(folders.real), "patch_size": [4, 4, 4], "synthetic": given}
    return config_from_dict({**sections, "data": {**data, **sections.get("data", {})}})


def test_a_quarter_of_four_examples_is_one(folders):
    found = read_synthetic(config_of(folders), folders.manifest)
    assert (found.folder, found.count) == (folders.made, 1)
    assert read_synthetic(config_of(folders, {}), folders.manifest) is None
    nothing = {"path": "nowhere", "ratio": 0}
    assert read_synthetic(config_of(folders, nothing), folders.manifest) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "x"}, r"must be \{path: FOLDER, ratio: SHARE\}"),
        ({"path": "x", "ratio": 0.5, "share": 1}, r"must be \{path: FOLDER, ratio: SHARE\}"),
        ({"path": "x", "ratio": 1.5}, "ratio must be between 0 and 1, got 1.5"),
        ({"path": "x", "ratio": -0.1}, "ratio must be between 0 and 1, got -0.1"),
        ({"path": "x", "ratio": float("nan")}, "ratio must be between 0 and 1, got nan"),
        ({"path": "x", "ratio": "half"}, "data.synthetic.ratio must be"),
        ({"path": 3, "ratio": 0.5}, "data.synthetic.path must be"),
        ({"path": "x", "ratio": 0.1}, "of a train.batch_size of 4 no example. Set at least 0.25"),
    ],
)
def test_options_that_make_no_sense_are_refused(folders, given, message):
    with pytest.raises(ConfigError, match=message):
        check_options(config_of(folders, given))


def test_a_service_is_refused_beside_a_mixture(folders):
    config = config_of(folders, data={"service": "grpc://localhost:1"})
    with pytest.raises(ConfigError, match="data.synthetic and data.service do not go together"):
        check_options(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("channels", ["CT"], r"channels is \['CT'\] there, \['MRI'\] here"),
        ("classes", [{"name": "background", "value": 0}], "classes is .* there"),
        ("classes", [], "images without labels, from which unet3d cannot learn"),
        ("preprocess", {"spacing_mm": [2.0, 1.0, 1.0], "orientation": "SAR"}, r"spacing_mm is \[2"),
    ],
)
def test_a_data_set_of_another_kind_is_refused(folders, key, value, message):
    manifest = load_manifest(folders.made, synthetic=True)
    write_json(folders.made / "dataset.json", {**manifest, key: value})
    with pytest.raises(DataError, match=message):
        read_synthetic(config_of(folders), folders.manifest)


def test_a_real_data_set_is_not_mixed_in(folders):
    config = config_of(folders, {"path": str(folders.real), "ratio": 0.5})
    with pytest.raises(DataError, match="real holds real cases"):
        read_synthetic(config, folders.manifest)


@pytest.mark.parametrize(("split", "refused"), [("fold0", True), ("fold1", False), ("test", True)])
def test_what_was_made_of_held_out_cases_is_refused(folders, split, refused):
    made = load_manifest(folders.made, synthetic=True)
    made["synthetic"]["trained_on"] = ["sum of c1"]
    write_json(folders.made / "dataset.json", made)
    cases = {f"c{n}": {"split": "fold1", "source_sha256": f"sum of c{n}"} for n in range(3)}
    cases["c1"]["split"] = split
    manifest = {**folders.manifest, "cases": cases}
    if not refused:
        assert read_synthetic(config_of(folders), manifest).count == 1
        return
    with pytest.raises(ConfigError, match=r"made from 1 cases that are held out here, such as c1"):
        read_synthetic(config_of(folders), manifest)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"patch_size": [4, 8, 4]}}, r"patches of \[4, 5, 6\], too small .* \[4, 8, 4\]"),
        ({"model": {"name": "mask_rcnn"}}, "have no single objects, which mask_rcnn"),
        ({"model": {"name": "fusion_unet", "covariates": 3}}, "have no covariates"),
    ],
)
def test_networks_that_ask_for_more_are_refused(folders, sections, message):
    with pytest.raises(ConfigError, match=message):
        read_synthetic(config_of(folders, **sections), folders.manifest)


def test_slices_do_not_train_a_network_for_volumes(folders):
    made = load_manifest(folders.made, synthetic=True)
    made["synthetic"]["patch_size"] = [5, 6]
    write_json(folders.made / "dataset.json", made)
    with pytest.raises(ConfigError, match=r"are patches of \[5, 6\], too small"):
        read_synthetic(config_of(folders), folders.manifest)
    flat = config_of(folders, data={"patch_size": [4, 4]})
    assert read_synthetic(flat, folders.manifest).count == 1

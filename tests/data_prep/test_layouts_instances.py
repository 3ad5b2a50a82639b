"""Layouts with objects: DSB2018's masks, maps of ids, COCO's annotations, and components."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from data_prep.layouts.dsb2018 import kind_of
from data_prep.manifest import load_manifest
from data_prep.records import decode_numpy
from data_prep.records import read_records
from segkit.errors import ConfigError
from segkit.errors import DataError

DARK, BRIGHT, PURPLE = (5, 5, 5), (220, 220, 220), (200, 120, 190)
SHAPE = (12, 16)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array), mode).save(path)


def box(top, left, bottom, right):
    mask = np.zeros(SHAPE, np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def add_nuclei(root, name, masks, colour=DARK, alpha=True):
    image = np.full((*SHAPE, 3), colour, np.uint8)
    for n, mask in enumerate(masks):
        image[mask > 0] = 90 + n
        save(root / name / "masks" / f"m{n}.png", mask)
    if alpha:
        image = np.dstack([image, np.full(SHAPE, 255, np.uint8)])
    (root / name / "masks").mkdir(parents=True, exist_ok=True)
    save(root / name / "images" / f"{name}.png", image)


@pytest.fixture
def nuclei(tmp_path):
    """Ten images of DSB2018's kind; `a0` has overlapping masks, `a1` none."""
    root = tmp_path / "raw" / "stage1_train"
    add_nuclei(root, "a0", [box(1, 1, 7, 7), box(5, 5, 8, 9)])
    add_nuclei(root, "a1", [], BRIGHT, alpha=False)
    for n in range(2, 10):
        add_nuclei(root, f"a{n}", [box(0, 0, 3, 3), box(6, 8, 10, 16)], PURPLE)
    save(root / "a9" / "images" / "a9.png", np.full(SHAPE, 9, np.uint8))  # grey
    (root / ".DS_Store").write_text("")
    return tmp_path / "raw"


def chunks_of(folder, manifest):
    found = {}
    for shard in manifest["shards"]:
        for chunk in map(decode_numpy, read_records(folder / shard["file"])):
            found.setdefault(chunk.case_id, []).append(chunk)
    return found


def test_nuclei_have_ids_a_class_and_a_kind(nuclei):
    dataset = scan_source("dsb2018", str(nuclei))
    assert dataset.cases == scan_source("dsb2018", str(nuclei / "stage1_train")).cases
    kinds = [case.kind for case in dataset.cases]
    assert kinds == ["fluorescence", "brightfield", *["stained"] * 7, "fluorescence"]
    image, label, objects = dataset.read(dataset.cases[0])
    assert image.array.shape == (1, *SHAPE, 3)
    assert image.array[0, 0, 0].tolist() == [*DARK]
    # 36 and 12 pixels, 4 of both: the smaller one has them
    assert np.bincount(objects.ids.ravel()).tolist() == [192 - 44, 32, 12]
    assert objects.lost == 4
    np.testing.assert_array_equal(label.array, objects.ids > 0)
    _, label, objects = dataset.read(dataset.cases[1])
    assert not label.array.any()
    assert not objects.ids.any()
    assert dataset.read(dataset.cases[9])[0].array.shape == (1, *SHAPE, 3)


@pytest.mark.parametrize(
    ("colour", "kind"),
    [
        (DARK, "fluorescence"),
        ((0, 0, 90), "fluorescence"),
        (BRIGHT, "brightfield"),
        ((222, 220, 224), "brightfield"),
        (PURPLE, "stained"),
        ((215, 200, 225), "stained"),
    ],
)
def test_the_background_tells_the_kind(colour, kind):
    image = np.full((1, 10, 10, 3), colour)
    image[0, :3] = (100, 100, 100)  # cells
    assert kind_of(image) == kind
    assert kind_of(image * 257) == kind  # 16 bits


def test_a_data_set_of_nuclei_holds_ids_and_statistics(nuclei, tmp_path):
    options = Options(layout="dsb2018")
    arguments = {"source": nuclei, "options": options}
    dataset = scan_source("dsb2018", str(nuclei))
    manifest, _ = convert(dataset, tmp_path / "out", **arguments)
    assert manifest == load_manifest(tmp_path / "out")
    entry = manifest["instances"]
    # a9 has the masks of the others although its image is grey
    assert (entry["count"], entry["per_case_max"], entry["max_id"]) == (18, 2, 2)
    assert (entry["overlap_voxels"], entry["overlap_cases"]) == (4, 1)
    assert (entry["sides"][0], entry["sides"][-1]) == (3.0, 6.0)
    assert [case["kind"] for case in manifest["cases"].values()].count("stained") == 7
    schemes = [step["scheme"] for step in manifest["preprocess"]["normalization"]]
    assert schemes == ["rescale"] * 3
    ((first,),) = (
        parts for case, parts in chunks_of(tmp_path / "out", manifest).items() if case == "a0"
    )
    expected = dataset.read(dataset.cases[0])[2].ids
    assert first.instance.dtype == np.uint16
    np.testing.assert_array_equal(first.instance, expected)
    np.testing.assert_array_equal(first.source_instance, expected)
    np.testing.assert_array_equal(first.label, expected > 0)
    np.testing.assert_allclose(first.image[0, 0, 0], 5 / 255, atol=1e-5)
    again, written = convert(dataset, tmp_path / "out", **arguments)
    assert (again, written) == (manifest, 0)


def test_an_interrupted_conversion_measures_what_was_there(nuclei, tmp_path):
    dataset = scan_source("dsb2018", str(nuclei))
    arguments = {"source": nuclei, "options": Options(layout="dsb2018")}
    manifest, _ = convert(dataset, tmp_path / "out", **arguments)
    (tmp_path / "out" / "dataset.json").unlink()
    (tmp_path / "out" / manifest["shards"][0]["file"]).unlink()
    assert convert(dataset, tmp_path / "out", **arguments) == (manifest, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda root: save(root / "a2/masks/x.png", np.zeros((3, 3), np.uint8)),
            r"x\.png has shape",
        ),
        (lambda root: (root / "a2/masks/m0.png").write_text("x"), r"m0\.png cannot be read"),
        (lambda root: (root / "a2/images/a2.png").write_text("x"), r"a2\.png cannot be read"),
    ],
)
def test_a_bad_file_spoils_its_case_only(nuclei, tmp_path, change, text):
    change(nuclei / "stage1_train")
    dataset = scan_source("dsb2018", str(nuclei))
    options = Options(layout="dsb2018")
    with pytest.raises(DataError, match=f"1 of 10 cases cannot be used: a2: .*{text}"):
        convert(dataset, tmp_path / "out", source=nuclei, options=options)
    options = replace(options, skip_bad=True)
    manifest, _ = convert(dataset, tmp_path / "out", source=nuclei, options=options)
    assert list(manifest["skipped"]) == ["a2"]
    assert manifest["instances"]["count"] == 16


def test_a_folder_that_is_no_case_is_refused(nuclei):
    (nuclei / "stage1_train" / "a2" / "images" / "a2.png").unlink()
    with pytest.raises(DataError, match="a2 must hold one image in images/"):
        scan_source("dsb2018", str(nuclei))


def test_instance_maps_are_objects_of_one_class(tmp_path):
    for name in ("1", "2"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((*SHAPE, 3), np.uint8))
        ids = np.zeros(SHAPE, np.uint16)
        ids[0, :4], ids[2:4, 5] = 300, 7
        save(tmp_path / "ids" / f"{name}_instances.png", ids)
    dataset = scan_source("images", str(tmp_path), instances="ids")
    assert dataset.classes == {"background": 0, "object": 1}
    _, label, objects = dataset.read(dataset.cases[0])
    assert sorted(np.unique(objects.ids)) == [0, 7, 300]
    np.testing.assert_array_equal(label.array, objects.ids > 0)
    before = dataset.digest(dataset.cases[0])
    save(tmp_path / "ids" / "1_instances.png", np.zeros(SHAPE, np.uint8))
    assert dataset.digest(dataset.cases[0]) != before
    (tmp_path / "ids" / "2_instances.png").unlink()
    with pytest.raises(DataError, match=r"2\.png has no map of objects of the same name"):
        scan_source("images", str(tmp_path), instances="ids")
    with pytest.raises(DataError, match="nowhere does not exist"):
        scan_source("images", str(tmp_path), instances="nowhere")


def test_instance_maps_stand_beside_masks_of_classes(tmp_path):
    save(tmp_path / "images" / "1.png", np.zeros(SHAPE, np.uint8))
    save(tmp_path / "masks" / "1.png", box(0, 0, 2, 2) // 255 + box(4, 4, 6, 6) // 127)
    save(tmp_path / "labels" / "1.png", box(0, 0, 2, 2) // 51 + box(4, 4, 6, 6))
    dataset = scan_source("images", str(tmp_path), instances="labels")
    assert dataset.classes == {"background": 0, "class_1": 1, "class_2": 2}
    _, label, objects = dataset.read(dataset.cases[0])
    assert (label.array[0, 5, 5], objects.ids[0, 5, 5], objects.ids[0, 0, 0]) == (2, 255, 5)


def test_a_table_has_a_column_of_instance_maps_in_any_format(tmp_path):
    affine = np.diag([-1.0, -1, 2, 1])
    ids = np.zeros((6, 5, 4), np.int16)
    ids[1:3, 1:3], ids[4] = 4, 9
    for name, array in (("image", ids * 1.5), ("ids", ids)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "t.csv").write_text("image,instances\nimage.nii.gz,ids.nii.gz\n")
    dataset = scan_source("table", str(tmp_path / "t.csv"), labels="background=0,tumour=1")
    image, label, objects = dataset.read(dataset.cases[0])
    assert dataset.classes == {"background": 0, "tumour": 1}
    np.testing.assert_array_equal(image.array[..., 0], objects.ids * 1.5)
    np.testing.assert_array_equal(label.array, objects.ids > 0)
    dataset = scan_source("table", str(tmp_path / "t.csv"))
    assert dataset.classes == {"background": 0, "object": 1}


def coco(folder, annotations, **image):
    """Writes an annotation file with one image of 16 x 12 pixels."""
    save(folder / "images" / "a.png", np.zeros(SHAPE, np.uint8))
    save(folder / "images" / "b.png", np.zeros(SHAPE, np.uint8))
    entry = {"id": 7, "file_name": "a.png", "height": 12, "width": 16} | image
    other = {"id": 8, "file_name": "b.png", "height": 12, "width": 16}
    categories = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]
    annotations = [{"id": n, "image_id": 7} | a for n, a in enumerate(annotations)]
    content = {"images": [entry, other], "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))
    return str(folder)


def test_coco_polygons_and_run_lengths_become_objects(tmp_path):
    crowd = {"category_id": 2, "iscrowd": 1}
    source = coco(
        tmp_path,
        [
            {"category_id": 5, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]},  # 3 rows, 4 columns
            {
                "category_id": 2,
                "segmentation": [[8, 0, 10, 0, 10, 2, 8, 2], [12, 0, 13, 0, 13, 2, 12, 2]],
            },
            crowd | {"segmentation": {"counts": [10, 2, 180], "size": [12, 16]}},
        ],
    )
    dataset = scan_source("coco", source)
    assert dataset.classes == {"background": 0, "cat": 1, "dog": 2, "ignore": 3}
    assert [case.id for case in dataset.cases] == ["a", "b"]
    _, label, objects = dataset.read(dataset.cases[0])
    expected = np.zeros((1, *SHAPE), int)
    expected[0, 1:4, 1:5] = 1
    expected[0, :2, 8:10] = expected[0, :2, 12] = 2
    expected[0, 10:, 0] = 3  # down the first column
    np.testing.assert_array_equal(objects.ids, expected)
    np.testing.assert_array_equal(label.array, np.array([0, 2, 1, 3])[expected])
    assert not dataset.read(dataset.cases[1])[2].ids.any()
    assert dataset.digest(dataset.cases[0]) != dataset.digest(dataset.cases[1])


@pytest.mark.parametrize(
    ("annotation", "image", "text"),
    [
        ({"segmentation": [[1, 1, 2, 2]]}, {}, "annotation 0 of .*three points"),
        ({"segmentation": {"counts": [3, 4]}}, {}, "add up to 192 pixels"),
        ({}, {}, "annotation 0 of .*a.png"),
        ({"segmentation": [[1, 1, 2, 2, 1, 2]]}, {"height": 16, "width": 12}, "says 16 x 12"),
        ({"segmentation": []}, {"file_name": "c.png"}, "'c.png' is not in"),
        ({"segmentation": []}, {"file_name": "../train.json"}, "'../train.json' is not in"),
        ({"segmentation": [], "category_id": 3}, {}, "KeyError"),
        ({"segmentation": []}, {"file_name": "b.jpg"}, "two images, of one name"),
    ],
)
def test_a_malformed_annotation_is_named(tmp_path, annotation, image, text):
    source = coco(tmp_path, [{"category_id": 5} | annotation], **image)

    def read():
        dataset = scan_source("coco", source)
        dataset.read(dataset.cases[0])

    with pytest.raises(DataError, match=text):
        read()


def volumes(folder, shape=(5, 12, 12)):
    """Six volumes, two organs: one part above the other in the first class, a block of another."""
    rows = ["image,label"]
    for n in range(6):
        label = np.zeros(shape, np.uint8)
        label[1:4, 2:4, 2:9] = 1
        label[2, 2:4, 4:7] = 0  # in this slice two parts, which the slices around join
        label[0, 8:10, 8:10] = 1
        label[3:, 7:9, 1:4] = 2
        for name, array in ((f"i{n}", label * 40.0 + n), (f"l{n}", label)):
            file = nibabel.Nifti1Image(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), np.eye(4))
            nibabel.save(file, folder / f"{name}.nii.gz")
        rows.append(f"i{n}.nii.gz,l{n}.nii.gz")
    (folder / "t.csv").write_text("\n".join(rows))
    return folder / "t.csv"


@pytest.mark.parametrize(("mode", "prepared"), [("components", 3), ("slices", 7)])
def test_components_of_label_volumes_are_objects(tmp_path, mode, prepared):
    source = volumes(tmp_path)
    dataset = scan_source("table", str(source))
    options = Options(layout="table", instances=mode, chunk=8, chunk_overlap=3)
    manifest, _ = convert(dataset, tmp_path / "out", source=source, options=options)
    assert manifest["options"]["instances"] == mode
    assert manifest["instances"]["count"] == 6 * prepared
    assert manifest["instances"]["per_slice_max"] == 2
    for parts in chunks_of(tmp_path / "out", manifest).values():
        assert len(parts) > 1
        assert parts[0].source_instance.max() == 3
        assert all(part.source_instance is None for part in parts[1:])
        for part in parts:
            np.testing.assert_array_equal(part.instance > 0, part.label > 0)
        assert len(set().union(*(np.unique(part.instance) for part in parts)) - {0}) == prepared


def test_labels_without_objects_keep_their_records(tmp_path):
    source = volumes(tmp_path)
    dataset = scan_source("table", str(source))
    options = Options(layout="table")
    manifest, _ = convert(dataset, tmp_path / "out", source=source, options=options)
    assert "instances" not in manifest
    assert "instances" not in manifest["options"]
    assert all(part.instance is None for (part,) in chunks_of(tmp_path / "out", manifest).values())


def test_modes_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'slices'"):
        Options(layout="table", instances="slice")
    source = volumes(tmp_path)
    (tmp_path / "t.csv").write_text("image\ni0.nii.gz\n")
    dataset = scan_source("table", str(source))
    options = Options(layout="table", instances="components")
    with pytest.raises(DataError, match="objects are made of labels, which this data set lacks"):
        convert(dataset, tmp_path / "out", source=source, options=options)


def test_real_nuclei(shared_data, tmp_path):
    """Some of the Data Science Bowl's images: every mask is an object again."""
    source = shared_data / "dsb2018" / "stage1_train"
    if not source.is_dir():
        pytest.skip("no dsb2018 in the data folder")
    for folder in sorted(source.iterdir())[::40]:
        (tmp_path / folder.name).symlink_to(folder)
    dataset = scan_source("dsb2018", str(tmp_path))
    assert {"fluorescence", "stained"} <= {case.kind for case in dataset.cases}
    for case in dataset.cases:
        image, _, objects = dataset.read(case)
        assert image.array.dtype == np.uint8
        grey = (np.ptp(image.array, axis=-1) == 0).all()
        assert grey == (case.kind != "stained")
        masks = [
            np.asarray(Image.open(path)) > 0
            for path in sorted((source / case.id / "masks").iterdir())
        ]
        assert sum(map(np.count_nonzero, masks)) == np.count_nonzero(objects.ids) + objects.lost
        for index, mask in enumerate(masks, start=1):
            assert not (objects.ids[0][~mask] == index).any()

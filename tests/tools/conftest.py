"""A trained run without training: a closed-form network that thresholds intensities."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from segkit.io.nifti import write_nifti
from segkit.volume import Volume

# (k, j, i) to RAS+ mm: slices to Inferior, rows to Posterior, columns to Left.
AFFINE = np.array([[0, 0, -0.9, 40], [0, -1.1, 0, 30], [-2.5, 0, 0, 20], [0, 0, 0, 1.0]])
SHAPE = (9, 20, 22)


@pytest.fixture(scope="session")
def mr_run(tmp_path_factory):
    """Run on six MR-like volumes with a bright lesion of label value 7, in LPI axes.

    The lesion of case 5 is missing from its label. Attributes: `folder` of the run, `data`
    (prepared), `source` (raw, layout nnunet).
    """
    return make_mr_run(tmp_path_factory.mktemp("mr_run"), missing=(5,))


@pytest.fixture(scope="session")
def labelled_mr_run(tmp_path_factory):
    """As `mr_run`, every lesion in its label."""
    return make_mr_run(tmp_path_factory.mktemp("labelled_mr_run"), missing=())


def make_mr_run(root, missing):
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source
    from segkit.config import config_from_dict
    from segkit.training.run import create_run

    source = write_source(root / "raw", missing)
    options = Options(layout="nnunet", folds=3, spacing_mm=(2.0, 1.0, 1.0))
    dataset = scan_source("nnunet", str(source))
    manifest, _ = convert(dataset, root / "data", source=str(source), options=options)
    config = {
        "model": {"name": "unet3d"},
        "data": {"path": str(root / "data"), "patch_size": [8, 16, 16]},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    create_run(root / "run", config_from_dict(config), manifest)
    # A share p of lesion: half way up lies (1/2 - p) / sqrt(p (1 - p)) deviations above the mean,
    # 1.4 for p = 0.09.
    threshold_model((8, 16, 16), 1.4).save(root / "run" / "model.keras")
    return SimpleNamespace(folder=root / "run", data=root / "data", source=source)


def write_source(folder, missing):
    """Writes the raw data set; the lesions of some cases are missing from their labels."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rng, grid = np.random.default_rng(0), np.stack(np.indices(SHAPE), axis=-1)
    for number in range(6):
        centre = np.array([4, 9, 10]) + rng.integers(-1, 2, size=3)
        lesion = (((grid - centre) * (2.5, 1.1, 0.9)) ** 2).sum(-1) < 6**2
        image = np.where(lesion, 1000, 10) + rng.integers(0, 5, size=SHAPE)
        image[..., [0, -1]] = 0
        label = np.where(lesion & (number not in missing), 7, 0).astype(np.uint8)
        image = Volume(image.astype(np.int16), AFFINE)
        write_nifti(folder / "imagesTr" / f"case_{number}_0000.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"case_{number}.nii.gz", Volume(label, AFFINE))
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "lesion": 7},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def threshold_model(sides, threshold):
    """A 1x1 convolution whose class is 1 where the first channel exceeds `threshold`."""
    import keras

    inputs = keras.Input((*sides, 1), name="image")
    conv = keras.layers.Conv3D if len(sides) == 3 else keras.layers.Conv2D
    logits = conv(2, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    kernel = np.zeros(logits.kernel.shape, np.float32)
    kernel[..., 0, 1] = 4
    logits.set_weights([kernel, np.array([0, -4 * threshold], np.float32)])
    return model


@pytest.fixture(scope="session")
def make_threshold_model():
    return threshold_model


@pytest.fixture
def mistake(capsys):
    """Calls a tool that must end with code 2 and one line on stderr; returns that line."""

    def call(main, *argv):
        capsys.readouterr()
        assert main([str(a) for a in argv]) == 2
        lines = [x for x in capsys.readouterr().err.splitlines() if "cuda" not in x]
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0]

    return call


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory):
    """Folder of six prepared phantoms: one in each of five folds, one held back."""
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source

    folder = tmp_path_factory.mktemp("phantoms") / "phantom"
    options = Options(layout="phantom")
    convert(scan_source("phantom", "ct:6"), folder, source="ct:6", options=options)
    return folder


@pytest.fixture
def fake_tools(tmp_path):
    """Folder of a `train.py` and an `evaluate.py` that need no TensorFlow and no time.

    `plan` sets what runs do, by the name of their folder, as `tests/tools/fakes` describes;
    `calls` returns the arguments of each call so far.
    """
    folder = tmp_path / "fake_tools"
    shutil.copytree(Path(__file__).with_name("fakes"), folder)

    def plan(**runs):
        (folder / "plan.json").write_text(json.dumps(runs))

    def calls():
        lines = (folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    plan()
    return SimpleNamespace(folder=folder, plan=plan, calls=calls)


@pytest.fixture(scope="session")
def picture_run(tmp_path_factory):
    """Run of a network that finds spots on pictures of DSB2018's kind, see `spots.py`."""
    from tests.tools.spots import make_run
    from tests.tools.spots import write_nuclei

    root = tmp_path_factory.mktemp("picture_run")
    return make_run(root, write_nuclei(root / "raw"), "dsb2018", channels=3)


@pytest.fixture(scope="session")
def volume_run(tmp_path_factory):
    """The same on volumes in LPI axes, resampled in plane, of two classes."""
    from tests.tools.spots import make_run
    from tests.tools.spots import write_volumes

    root = tmp_path_factory.mktemp("volume_run")
    options = {"instances": "components", "spacing_mm": (2.5, 1.0, 1.0)}
    return make_run(root, write_volumes(root / "raw"), "nnunet", channels=1, **options)

import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from tools import predict
from tools.export import main

LOAD = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
data = np.load(sys.argv[2])
mask = model.signatures["mask"](
    image=tf.constant(data["image"]), spacing_mm=tf.constant(data["spacing_mm"])
)["mask"]
np.save(sys.argv[3], mask.numpy())
assert not any(name.startswith(("segkit", "data_prep")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(mr_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "lesion"
    assert main(["--run", str(mr_run.folder), "--out", str(out)]) == 0
    return out / "1"


def test_plain_tensorflow_gives_the_mask_of_the_predict_tool(mr_run, exported, tmp_path):
    source = mr_run.source / "imagesTr" / "case_3_0000.nii.gz"
    arguments = ["--run", mr_run.folder, "--input", source, "--output", tmp_path / "mask.nii.gz"]
    assert predict.main([str(a) for a in arguments]) == 0

    card = json.loads((exported / "assets" / "segkit.json").read_text())
    # nibabel alone: to RAS+, and from (i, j, k) to (k, j, i), which is "SAR".
    assert card["orientation"] == "SAR"
    image = nibabel.as_closest_canonical(nibabel.load(source))
    array = image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[..., None]
    spacing_mm = np.array(image.header.get_zooms()[::-1], np.float32)
    assert spacing_mm == pytest.approx([2.5, 1.1, 0.9])
    np.savez(tmp_path / "in.npz", image=array, spacing_mm=spacing_mm)
    command = [sys.executable, "-c", LOAD, exported, tmp_path / "in.npz", tmp_path / "out.npy"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    values = np.array([entry["value"] for entry in card["classes"]])
    served = values[np.load(tmp_path / "out.npy")].transpose(2, 1, 0)
    mask = nibabel.as_closest_canonical(nibabel.load(tmp_path / "mask.nii.gz"))
    assert (served == 7).sum() > 100
    np.testing.assert_array_equal(served, np.asarray(mask.dataobj))


def test_the_card_says_what_the_model_takes_and_gives(exported):
    card = json.loads((exported / "assets" / "segkit.json").read_text())
    assert card["channels"] == ["MRI"]
    assert card["classes"][1] == {"name": "lesion", "value": 7}
    assert card["spacing_mm"] == [2.0, 1.0, 1.0]
    assert card["parity"]["examples"] == 2


def test_without_its_data_the_run_is_checked_on_noise(mr_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(mr_run.folder, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(str(mr_run.data), str(tmp_path / "gone")))
    assert main(["--run", str(folder), "--check", "1"]) == 0
    shown = capsys.readouterr()
    assert "Checking on noise instead" in shown.err
    assert "Checked on 1 volume(s) of noise: same masks" in shown.out
    assert "tensorflow_model_server" in shown.out
    assert (folder / "saved_model" / "1" / "saved_model.pb").is_file()


def test_a_folder_that_is_no_run_is_refused(tmp_path, mistake):
    assert "is not a trained run" in mistake(main, "--run", tmp_path)

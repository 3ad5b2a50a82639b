import subprocess
import sys

import numpy as np
import pytest
import yaml

from segkit.errors import ConfigError
from segkit.losses import build_loss

YAML = """
- cross_entropy: {weight: 0.3}
- dice: {weight: 0.7, smooth: 0.5}
"""


def test_parts_add_up_with_their_weights_and_options(draw):
    labels, logits = draw()
    loss = build_loss("weighted_sum", parts=yaml.safe_load(YAML))
    expected = build_loss("ce_dice", alpha=0.3, smooth=0.5)
    np.testing.assert_allclose(loss(labels, logits), expected(labels, logits), rtol=1e-6)
    for name, part in loss.parts(labels, logits).items():
        np.testing.assert_allclose(part, expected.parts(labels, logits)[name], rtol=1e-6)


def test_a_part_without_options_has_weight_1_and_a_name_that_recurs_is_numbered(draw):
    labels, logits = draw()
    parts = [{"dice": None}, {"ce_dice": {}}, {"dice": {"group_size": 3}}]
    terms = build_loss("weighted_sum", parts=parts).parts(labels, logits)
    assert list(terms) == ["dice", "ce_dice", "dice 2"]
    np.testing.assert_array_equal(terms["dice"], build_loss("dice")(labels, logits))
    np.testing.assert_array_equal(terms["ce_dice"], build_loss("ce_dice")(labels, logits))
    np.testing.assert_array_equal(terms["dice 2"], build_loss("dice", group_size=3)(labels, logits))


def test_the_ignored_label_is_that_of_all_parts_which_set_none(draw):
    labels, logits = draw()
    parts = [{"cross_entropy": {}}, {"focal": {"ignore_label": 2}}]
    terms = build_loss("weighted_sum", parts=parts, ignore_label=1).parts(labels, logits)
    for name, ignored in (("cross_entropy", 1), ("focal", 2)):
        expected = build_loss(name, ignore_label=ignored)(labels, logits)
        np.testing.assert_array_equal(terms[name], expected)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"dise": {}}], "unknown entry of loss.parts 'dise'. Did you mean 'dice'"),
        ([{"dice": {"smoth": 1.0}}], "'dice' has no option 'smoth'. Did you mean 'smooth'"),
        ([{"dice": {"wieght": 1.0}}], "'dice' has no option 'wieght'. Did you mean 'weight'"),
        ([{"dice": {"smooth": "a"}}], r"loss.parts.dice.smooth must be float, got 'a' \(str\)"),
        ([{"dice": {"weight": "a"}}], "loss.parts.dice.weight must be float, got 'a'"),
        ([{"dice": {"weight": 0}}], "loss.parts.dice.weight must be above 0, got 0"),
        ([{"dice": {"weight": float("inf")}}], "weight must be above 0, got inf"),
        ([{"dice": 0.5}], "entry 1 must be 'name: {options}', got {'dice': 0.5}"),
        (["dice"], "entry 1 must be 'name: {options}', got 'dice'"),
        ([{"focal": {}}, {"dice": {}, "focal": {}}], "entry 2 must be 'name: {options}'"),
        ([{"region_ce_dice": {}}], "needs the option 'regions'"),
        ([], "loss.parts is empty; add a line such as '- cross_entropy: {}'"),
        ({"dice": 1}, r"loss.parts must be list\[dict\], got"),
        ([{"weighted_sum": {"parts": [{"dise": {}}]}}], "Did you mean 'dice'"),
    ],
)
def test_a_wrong_part_says_what_where_and_how(parts, message):
    with pytest.raises(ConfigError, match=message):
        build_loss("weighted_sum", parts=parts)


def test_sums_may_hold_sums(draw):
    labels, logits = draw()
    inner = {"weighted_sum": {"weight": 2.0, "parts": [{"dice": {"weight": 3.0}}]}}
    loss = build_loss("weighted_sum", parts=[inner])
    expected = 6 * build_loss("dice")(labels, logits)
    np.testing.assert_allclose(loss(labels, logits), expected, rtol=1e-6)


def test_a_wrong_part_of_a_config_is_answered_without_tensorflow(tmp_path):
    config = {
        "model": {"name": "unet"},
        "data": {"patch_size": [32, 32]},
        "loss": {"name": "weighted_sum", "parts": [{"dice": {"groupsize": 2}}]},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    (tmp_path / "sum.yaml").write_text(yaml.safe_dump(config))
    code = (
        "import sys\n"
        "from segkit.config import load_config\n"
        "from segkit.errors import ConfigError\n"
        "from segkit.losses import LOSSES\n"
        "try:\n"
        f"    load_config({str(tmp_path / 'sum.yaml')!r}, tables={{'loss': LOSSES}})\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "print('keras' in sys.modules, 'tensorflow' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        "loss.parts.dice 'dice' has no option 'groupsize'. Did you mean 'group_size'" in run.stdout
    )
    assert "False False" in run.stdout

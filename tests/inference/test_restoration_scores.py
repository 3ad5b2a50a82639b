import numpy as np
import pytest
from scipy import ndimage

from segkit.errors import DataError
from segkit.inference.restoration_scores import GIVEN
from segkit.inference.restoration_scores import NETWORK
from segkit.inference.restoration_scores import choose_options
from segkit.inference.restoration_scores import methods_for
from segkit.inference.restoration_scores import score_example
from segkit.inference.restoration_scores import summarise_restoration
from segkit.inference.restoration_scores import usable
from segkit.metrics.generation.psnr import psnr
from segkit.metrics.generation.ssim import multi_scale_ssim
from segkit.metrics.generation.ssim import ssim


def truths(number=4, side=24):
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.normal(size=(number, side, side, 1)), (0, 3, 3, 0))
    return (fields / fields.std()).astype(np.float32)


def noisy(images, std):
    return images + std * np.random.default_rng(1).normal(size=images.shape).astype(np.float32)


def test_scores_of_an_example_are_those_of_the_metrics():
    truth = truths()[0]
    image, width = noisy(truth, 0.3), float(truth.max() - truth.min())
    mask = np.zeros((24, 24, 1), np.float32)
    mask[4:9] = 1
    found = score_example(truth, image, mask)
    assert found == {
        "psnr": psnr(truth, image, data_range=width),
        "ssim": ssim(truth, image, data_range=width),
        "ms_ssim": multi_scale_ssim(truth, image, data_range=width, scales=2),
        "psnr_inside": psnr(truth[4:9], image[4:9], data_range=width),
    }
    assert np.isnan(score_example(truth, image)["psnr_inside"])


def test_images_too_small_for_a_window_have_a_psnr_only():
    truth = truths(side=8)[0]
    found = score_example(truth, noisy(truth, 0.3))
    assert np.isfinite(found["psnr"])
    assert np.isnan(found["ssim"])
    assert np.isnan(found["ms_ssim"])


def test_the_strength_that_is_chosen_grows_with_what_there_is_to_remove():
    methods, truth = methods_for(masks=False), truths()
    assert set(methods) == {"median", "non_local_means", "total_variation", "bicubic"}
    little, much = (choose_options(methods, truth, noisy(truth, s)) for s in (0.02, 1.0))
    assert little["median"]["size"] < much["median"]["size"]
    for name, options in much.items():
        scores = [
            psnr(t, methods[name](g, None, **options), data_range=1)
            for t, g in zip(truth, noisy(truth, 1.0), strict=True)
        ]
        other = [
            psnr(t, methods[name](g, None, **little[name]), data_range=1)
            for t, g in zip(truth, noisy(truth, 1.0), strict=True)
        ]
        assert np.mean(scores) >= np.mean(other)


def test_holes_are_filled_by_inpainters():
    methods, truth = methods_for(masks=True), truths()
    mask = np.zeros((4, 24, 24, 1), np.float32)
    mask[:, 5:10, 5:10] = 1
    assert choose_options(methods, truth, truth * (1 - mask), mask) == {"biharmonic": {}}
    filled = methods["biharmonic"](truth[0] * (1 - mask[0]), mask[0])
    assert psnr(truth[0], filled, data_range=1) > 20


def scores_of(*psnrs):
    return [{"psnr": p, "ssim": p / 100, "ms_ssim": np.nan, "psnr_inside": np.nan} for p in psnrs]


def test_means_are_over_cases_and_gains_on_the_same_cases():
    # Case a has two examples, b one: the network has (20 + 30) / 2 = 25 and 15, in the mean 20.
    scores = {
        GIVEN: scores_of(10, 10, 10),
        NETWORK: scores_of(20, 30, 15),
        "m": scores_of(21, 27, 9),
    }
    options = {"m": {"size": 3}}
    report = summarise_restoration(scores, ["a", "a", "b"], {"run": "r"}, options, (24, 24))
    assert (report["run"], report["examples"], report["cases"]) == ("r", 3, 2)
    assert report["scales"] == 2
    methods = report["methods"]
    assert methods[NETWORK]["psnr"] == 20
    assert methods[NETWORK]["ssim"] == pytest.approx(0.2)
    assert methods[NETWORK]["ms_ssim"] is None
    assert methods["m"]["psnr"] == (24 + 9) / 2
    assert methods["m"]["options"] == {"size": 3}
    # Gains 1 and 6: their mean is 3.5, and of 2 cases drawn anew it is 1, 3.5 or 6.
    assert methods["m"]["psnr_gain"] == 3.5
    assert methods["m"]["psnr_gain_interval"] == [1, 6]
    assert methods[GIVEN]["psnr_interval"] == [10, 10]
    assert methods[NETWORK]["psnr_gain"] == 0
    assert report["per_case"]["b"]["m"]["psnr"] == 9


def test_one_case_has_no_interval_and_a_perfect_image_no_psnr():
    scores = {GIVEN: scores_of(10, 10), NETWORK: scores_of(np.inf, 20)}
    report = summarise_restoration(scores, ["a", "a"], {}, {}, (24, 24))
    assert report["methods"][NETWORK]["psnr"] == 20
    assert report["methods"][NETWORK]["psnr_interval"] == [None, None]


def test_constant_images_are_left_out():
    images = truths()
    images[1] = 3
    assert usable(images).tolist() == [0, 2, 3]
    with pytest.raises(DataError, match="constant"):
        usable(images[1:2])

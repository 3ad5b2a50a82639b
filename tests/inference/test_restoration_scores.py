import numpy as np
import pytest
from scipy import ndimage

from segkit.errors import DataError
from segkit.inference.restoration_scores import GIVEN
from segkit.inference.restoration_scores import NETWORK
from segkit.inference.restoration_scores import choose_options
from segkit.inference.restoration_scores import compare_methods
from segkit.inference.restoration_scores import methods_for
from segkit.inference.restoration_scores import scorable
from segkit.inference.restoration_scores import score_example
from segkit.inference.restoration_scores import summarise_restoration
from segkit.metrics.generation.psnr import psnr
from segkit.metrics.generation.ssim import multi_scale_ssim
from segkit.metrics.generation.ssim import ssim
from segkit.training.adversarial.sampling import Sampled


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


def mean_psnr(method, truth, given):
    return np.mean(
        [psnr(t, method(g, None), data_range=1) for t, g in zip(truth, given, strict=True)]
    )


def test_the_strength_that_is_chosen_grows_with_what_there_is_to_remove():
    methods, truth = methods_for(masks=False), truths()
    names = {"median", "non_local_means", "total_variation", "bicubic"}
    little, much = (choose_options(methods, truth, noisy(truth, s)) for s in (0.02, 1.0))
    assert names <= set(much) <= names | {f"{name} for SSIM" for name in names}
    assert little["median"].keywords["size"] < much["median"].keywords["size"]
    for name in names:
        scores = (mean_psnr(one[name], truth, noisy(truth, 1.0)) for one in (much, little))
        assert next(scores) >= next(scores)


def test_a_method_stands_twice_where_other_options_have_the_best_ssim():
    truth = truths()

    def total_variation(image, mask, *, strength):
        """A chequered pattern has less error than more contrast, but less of the structure, too."""
        chequered = image + 0.55 * (-1) ** np.indices(image.shape).sum(axis=0)
        return {0.1: chequered, 0.2: 1.6 * image}.get(strength, 9 * image)

    methods = {"total_variation": total_variation}
    chosen = choose_options(methods, truth, truth)
    options = {name: method.keywords["strength"] for name, method in chosen.items()}
    assert options == {"total_variation": 0.1, "total_variation for SSIM": 0.2}
    small = truth[:, :8, :8]  # too small for SSIM
    assert list(choose_options(methods, small, small)) == ["total_variation"]


def sampled(truth, given, mask=None):
    return Sampled(list("aabb"), truth, np.zeros(truth.shape[:-1]), 0.5 * truth, given, mask)


def test_methods_are_tuned_on_training_examples_and_scored_on_the_others():
    truth = truths()
    found, tuning = sampled(truth, noisy(truth, 0.02)), sampled(truth, noisy(truth, 1.0))
    report, images, psnrs = compare_methods(found, tuning, {"run": "r"}, lambda items, *_: items)
    assert report["run"] == "r"
    chosen = choose_options(methods_for(masks=False), truth, tuning.given)
    assert list(report["methods"]) == list(images) == [GIVEN, NETWORK, *chosen]
    assert report["methods"]["median"]["options"] == chosen["median"].keywords
    made = chosen["median"](found.given[2], None)
    np.testing.assert_array_equal(images["median"][2], made)
    np.testing.assert_array_equal(images[NETWORK], found.made)
    expected = [psnr(t, t / 2, data_range=float(np.ptp(t))) for t in truth]
    assert psnrs == pytest.approx(expected)
    # Tuned for much noise, the median takes more away than the little noise that there is.
    assert report["methods"]["median"]["psnr"] < report["methods"][GIVEN]["psnr"]


def test_holes_are_filled_by_inpainters():
    methods, truth = methods_for(masks=True), truths()
    mask = np.zeros((4, 24, 24, 1), np.float32)
    mask[:, 5:10, 5:10] = 1
    (only,) = choose_options(methods, truth, truth * (1 - mask), mask).values()
    assert (only.func, only.keywords) == (methods["biharmonic"], {})
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
    assert report["best_others"] == {
        "psnr": "m",
        "ssim": "m",
        "ms_ssim": None,
        "psnr_inside": None,
    }
    assert report["per_case"]["b"]["m"]["psnr"] == 9


def test_one_case_has_no_interval_and_a_perfect_image_no_psnr():
    scores = {GIVEN: scores_of(10, 10), NETWORK: scores_of(np.inf, 20)}
    report = summarise_restoration(scores, ["a", "a"], {}, {}, (24, 24))
    assert report["methods"][NETWORK]["psnr"] == 20
    assert report["methods"][NETWORK]["psnr_interval"] == [None, None]


def test_constant_images_are_left_out():
    truth = truths()
    truth[1] = 3
    found = scorable(sampled(truth, noisy(truth, 0.1)))
    assert found.cases == ["a", "b", "b"]
    np.testing.assert_array_equal(found.real, truth[[0, 2, 3]])
    np.testing.assert_array_equal(found.given, noisy(truth, 0.1)[[0, 2, 3]])
    assert found.mask is None
    truth[:] = 3
    with pytest.raises(DataError, match="constant"):
        scorable(sampled(truth, truth))

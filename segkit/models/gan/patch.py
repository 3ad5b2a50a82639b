"""Multi-scale patch critic: judges every patch of an image, at several resolutions."""

import keras
from keras import layers

from segkit.errors import ShapeError
from segkit.models.axes import rank_of
from segkit.models.checks import check_range
from segkit.models.checks import check_sides
from segkit.models.gan.parts import conv
from segkit.models.gan.parts import critic_inputs
from segkit.models.gan.parts import critic_stage
from segkit.models.gan.parts import float32

AVERAGE_POOL = {2: layers.AveragePooling2D, 3: layers.AveragePooling3D}
KERNEL = 4


def patch(
    input_shape,
    condition_channels,
    *,
    filters: int = 64,
    max_filters: int = 512,
    downsamplings: int = 3,
    scales: int = 2,
    normalization: str = "instance",
    spectral_norm: bool = True,
):
    """Builds the multi-scale patch critic, in 2-D or 3-D.

    Each scale has weights of its own: strided convolutions, one without stride, and one that gives
    a logit per position; each logit judges a patch (70 voxels wide with three downsamplings).
    The image of a coarser scale is the mean over windows of 3 with stride 2, within the image.

    Departures from pix2pixHD: "same" padding, which puts the odd voxel behind; a convolution
    that is normalized has no bias, because the normalization removes it; spectral norm, as SPADE
    has.

    Args:
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides may
            be `None`.
        condition_channels: Channels of what is seen beside the image, or 0.
        filters: Filters of the first convolution; they double with each that follows.
        max_filters: Upper bound on the filters.
        downsamplings: Number of strided convolutions of each scale.
        scales: Number of scales.
        normalization: `"instance"` or `"none"`, after all convolutions but the first and the last
            of each scale.
        spectral_norm: Divide all kernels but the last of each scale by their largest singular
            value.

    Returns:
        `keras.Model` as `segkit.models.build_critic` says.

    Raises:
        ConfigError: A number is too small, or an unknown normalization.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or too small for the scales.

    Reference:
        Wang et al., "High-Resolution Image Synthesis with Conditional GANs", CVPR 2018,
        arXiv:1711.11585, section 3.2; `MultiscaleDiscriminator` of NVIDIA/pix2pixHD and, with
        spectral norm, of NVlabs/SPADE. Patches: Isola et al., CVPR 2017, arXiv:1611.07004.
    """
    rank = rank_of("patch", input_shape)
    check_sides("patch", input_shape, rank=rank, multiple=1)
    for option, value in {"filters": filters, "max_filters": max_filters, "scales": scales}.items():
        check_range("patch", option, value, low=1)
    check_range("patch", "downsamplings", downsamplings, low=1)
    _check_size(input_shape, downsamplings, scales)
    inputs, x = critic_inputs("patch", input_shape, condition_channels)
    logits, features = {}, {}
    for scale in range(scales):
        if scale:
            # In float32: TensorFlow does not pool float16 volumes on CPUs.
            pool = AVERAGE_POOL[rank](3, 2, "same", dtype="float32", name=f"scale{scale}")
            x = pool(x)
        maps, logits[f"logits_{scale}"] = _scale(
            x,
            [min(filters * 2**n, max_filters) for n in range(downsamplings + 1)],
            normalization=normalization,
            spectral_norm=spectral_norm,
            name=f"scale{scale}",
        )
        for number, found in enumerate(maps):
            features[f"features_{scale}_{number}"] = float32(found)
    return keras.Model(inputs, {**logits, **features}, name="patch")


def _scale(x, widths, *, normalization, spectral_norm, name):
    """The feature maps of one scale, and its logits."""
    maps, last = [], len(widths) - 1
    for number, filters in enumerate(widths):
        x = critic_stage(
            x,
            filters,
            kernel=KERNEL,
            stride=1 if number == last else 2,
            normalization=normalization,
            spectral_norm=spectral_norm,
            prefix=f"{name}_",
            number=number,
        )
        maps.append(x)
    return maps, conv(x, 1, kernel=KERNEL, name=f"{name}_logits", dtype="float32")


def _check_size(input_shape, downsamplings, scales):
    smallest = 2 ** (downsamplings + scales)  # two positions along each axis of the coarsest scale
    sides = [side for side in input_shape[:-1] if side is not None]
    if sides and min(sides) < smallest:
        raise ShapeError(
            f"patch needs sides of at least {smallest} for downsamplings {downsamplings} and "
            f"scales {scales}, got {input_shape}. Use a larger patch, or fewer of them."
        )

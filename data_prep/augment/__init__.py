"""Random changes of image and label together, with TensorFlow operations only.

The tables hold the transforms by name; a policy is an ordered list of them (`policy.py`).
`apply.py` runs a policy, in `tf.data` or inside the training step. 2-D and 3-D are one: a slice
is a volume of depth 1. All geometry of an example is composed into one sampling grid and one
interpolation. The same seed gives the same result eagerly, in a graph, under XLA and in
`tf.data`, and for an example alone or in a batch. Nothing is imported here.
"""

# `(draws, space, *, options) -> Motion`: where each voxel of the patch is read.
GEOMETRY = {
    "flip": "data_prep.augment.geometry:flip",
    "quarter_turns": "data_prep.augment.geometry:quarter_turns",
    "rotation": "data_prep.augment.geometry:rotation",
    "scaling": "data_prep.augment.geometry:scaling",
    "multi_scale": "data_prep.augment.geometry:multi_scale",
    "translation": "data_prep.augment.geometry:translation",
    "shear": "data_prep.augment.geometry:shear",
    "elastic": "data_prep.augment.elastic:elastic",
}

# `(draws, space, *, options) -> function image -> image`, image `(batch, c, d, h, w)`.
INTENSITY = {
    "brightness": "data_prep.augment.intensity:brightness",
    "contrast": "data_prep.augment.intensity:contrast",
    "gamma": "data_prep.augment.intensity:gamma",
    "histogram_shift": "data_prep.augment.intensity:histogram_shift",
    "saturation": "data_prep.augment.colour:saturation",
    "hue": "data_prep.augment.colour:hue",
    "stain": "data_prep.augment.colour:stain",
    "gaussian_noise": "data_prep.augment.noise:gaussian_noise",
    "rician_noise": "data_prep.augment.noise:rician_noise",
    "blur": "data_prep.augment.filters:blur",
    "sharpen": "data_prep.augment.filters:sharpen",
    "low_resolution": "data_prep.augment.filters:low_resolution",
    "bias_field": "data_prep.augment.artefacts:bias_field",
    "spike": "data_prep.augment.artefacts:spike",
    "ghosting": "data_prep.augment.artefacts:ghosting",
    "cutout": "data_prep.augment.artefacts:cutout",
}

# `(draws, space, *, options) -> function (image, label) -> (image, label)`, on whole batches.
MIXING = {
    "mixup": "data_prep.augment.mixing:mixup",
    "cutmix": "data_prep.augment.mixing:cutmix",
    "copy_paste": "data_prep.augment.mixing:copy_paste",
}

TRANSFORMS = {**GEOMETRY, **INTENSITY, **MIXING}
POLICIES = ("none", "light", "nnunet", "heavy")

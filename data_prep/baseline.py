"""Methods without learned weights on prepared cases, as networks see them."""

from data_prep.preprocess import denormalise
from data_prep.preprocess import prepared_affine
from segkit.classical import segment
from segkit.volume import Volume


def segment_prepared(image, case, normalization, num_classes, name, options):
    """Segments a prepared image by a method of `segkit.classical`.

    Args:
        image: float32, shape `(depth, height, width, channels)`, normalised.
        case: Dict of `data_prep.preprocess.geometry`, the manifest's entry of the case.
        normalization: The plan's dict per channel. The method sees what `denormalise` makes of
            the image: HU, values of a picture, or of MR deviations from the mean.
        num_classes: Number of classes, background included.
        name: Key of `segkit.classical.METHODS`.
        options: Its options.

    Returns:
        uint8 class indices, shape `(depth, height, width)`; `preprocess.undo` takes them.

    Raises:
        ConfigError, DataError: As `segkit.classical.segment`.
    """
    volume = Volume(denormalise(image, normalization), prepared_affine(case))
    return segment(name, volume, num_classes, **options).array

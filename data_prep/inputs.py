"""Whether an image that is to be predicted is like those of a run or of a data set."""

from segkit.errors import DataError


def check_channels(image, channels, what):
    """Refuses an image with another number of channels.

    Args:
        image: `Volume`.
        channels: Names of those that there should be.
        what: Whose they are, in words.

    Raises:
        DataError: The number differs.
    """
    if image.num_channels != len(channels):
        raise DataError(
            f"the {what} takes {len(channels)} channel(s) ({', '.join(channels)}), --input has "
            f"{image.num_channels}. Give --input once per channel, in this order."
        )


def check_range(image, preprocess, what):
    """Refuses a picture of more bits than all others have; says so of one of fewer.

    Only where intensities are divided by the largest that pictures of that depth can have, 255 or
    65535; elsewhere each image has its own scale, or a unit.

    Args:
        image: `Volume`, intensities as read.
        preprocess: The manifest's `"preprocess"` entry.
        what: Whose it is, in words.

    Returns:
        List of texts for the user.

    Raises:
        DataError: A value is larger than any in pictures of that depth.
    """
    array = image.array.reshape(*image.shape, -1)
    for channel, scheme in enumerate(preprocess["normalization"]):
        if scheme["scheme"] != "rescale":
            continue
        highest = array[..., channel].max()
        if highest > scheme["high"]:
            raise DataError(
                f"the {what} is of pictures from {scheme['low']} to {scheme['high']}, --input has "
                f"values up to {highest}. Convert it to {8 if scheme['high'] <= 255 else 16} bits."
            )
        if scheme["high"] > 255 and array.dtype.itemsize == 1:
            return [
                f"the {what} is of 16-bit pictures, --input has 8 bits: it is almost black beside "
                "them. Convert it, if it is of the same kind."
            ]
    return []

"""Exact Euclidean distance transform inside the graph."""

from keras import ops

FAR = 1e12  # stands for infinity, which would make NaN of 0 * infinity; in squared voxels


def squared_distance(sources):
    """Returns the squared Euclidean distance of every voxel to the nearest source voxel.

    The transform is separable: along one axis after the other, `d[i] = min_k d[k] + (i - k) ** 2`.
    The minimum is taken over all `k`, one at a time, which needs no more memory than a few copies
    of the result and `voxels * (sum of the sides)` operations. Exact as long as the squared
    diagonal is below 2**24, that is for sides up to 2364 in 3-D; rounded to float32 beyond.

    Args:
        sources: Booleans, shape `(batch, *spatial, channels)`; every example and channel is a
            picture of its own.

    Returns:
        float32 tensor of that shape, in voxels squared; `FAR` or more where a picture has no
        source. It has no gradient.

    Reference:
        Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", Theory of
        Computing 2012, doi:10.4086/toc.2012.v008a019, section 2; the minimum along an axis is
        found by trying all values and not by their lower envelope, which is sequential.
    """
    distance = ops.where(sources, 0.0, FAR)
    for axis in range(1, len(sources.shape) - 1):
        distance = _min_plus(distance, axis)
    return distance


def _min_plus(values, axis):
    side = values.shape[axis] or ops.shape(values)[axis]
    shape = [1] * len(values.shape)
    shape[axis] = -1
    places = ops.reshape(ops.arange(side, dtype="int32"), shape)

    def nearer(k, best):
        offset = ops.cast(places - k, "float32")
        return ops.minimum(best, ops.take(values, [k], axis=axis) + ops.square(offset))

    return ops.fori_loop(0, side, nearer, values)

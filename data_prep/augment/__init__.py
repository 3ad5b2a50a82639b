"""Augmentation of one example with TensorFlow operations: stateless, 2-D and 3-D alike.

A 2-D patch is a 3-D patch of depth 1. Image and label move together through one affine map:
the image is interpolated once (trilinear), the label is read at the nearest voxel and keeps its
values. The same seed gives the same result in eager code, in a `tf.function` and in `tf.data`.
"""

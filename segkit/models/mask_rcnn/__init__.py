"""Mask R-CNN: a network that finds objects one by one. TensorFlow only.

What has weights is in `backbones.py`, `pyramid.py` and `heads.py`; what has none in the other
modules, which call Model Garden's functions through `garden.py`. `network.py` joins all of it.
"""

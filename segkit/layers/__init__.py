"""Custom Keras objects. Importing this package registers them, so that `.keras` files load."""

from segkit.tables import load

LAYERS = {
    "instance_normalization": "segkit.layers.instance_norm:InstanceNormalization",
    "bilinear": "segkit.layers.bilinear:Bilinear",
}

for _name in LAYERS:
    load(LAYERS, _name, "layer")

"""Custom Keras objects. Importing this package registers them, so that `.keras` files load."""

from segkit.tables import load

LAYERS = {
    "instance_normalization": "segkit.layers.instance_norm:InstanceNormalization",
    "batch_normalization": "segkit.layers.batch_norm:BatchNormalization",
    "bilinear": "segkit.layers.bilinear:Bilinear",
    "dropout": "segkit.layers.dropout:Dropout",
    "stochastic_depth": "segkit.layers.stochastic_depth:StochasticDepth",
    "modality_presence": "segkit.layers.modality_presence:ModalityPresence",
    "modality_dropout": "segkit.layers.modality_dropout:ModalityDropout",
    "modality_fusion": "segkit.layers.modality_fusion:ModalityFusion",
    "film": "segkit.layers.film:FiLM",
    "mean_probabilities": "segkit.layers.mean_probabilities:MeanProbabilities",
}

for _name in LAYERS:
    load(LAYERS, _name, "layer")

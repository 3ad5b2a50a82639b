"""Custom Keras objects. Importing this package registers them, so that `.keras` files load."""

from segkit.tables import load

LAYERS = {
    "instance_normalization": "segkit.layers.instance_norm:InstanceNormalization",
    "batch_normalization": "segkit.layers.batch_norm:BatchNormalization",
    "depthwise_convolution": "segkit.layers.depthwise:DepthwiseConvolution",
    "depthwise_convolution_transpose": "segkit.layers.depthwise:DepthwiseConvolutionTranspose",
    "bilinear": "segkit.layers.bilinear:Bilinear",
    "conv_lstm": "segkit.layers.conv_lstm:ConvLSTM",
    "dropout": "segkit.layers.dropout:Dropout",
    "stochastic_depth": "segkit.layers.stochastic_depth:StochasticDepth",
    "linear_upsampling": "segkit.layers.linear_upsampling:LinearUpsampling",
    "mirror_padding": "segkit.layers.mirror_padding:MirrorPadding",
    "crop_like": "segkit.layers.mirror_padding:CropLike",
    "modality_presence": "segkit.layers.modality_presence:ModalityPresence",
    "modality_dropout": "segkit.layers.modality_dropout:ModalityDropout",
    "modality_fusion": "segkit.layers.modality_fusion:ModalityFusion",
    "film": "segkit.layers.film:FiLM",
    "mean_probabilities": "segkit.layers.mean_probabilities:MeanProbabilities",
    "spectral_convolution": "segkit.layers.spectral_norm:SpectralConvolution",
    "spectral_dense": "segkit.layers.spectral_norm:SpectralDense",
    "spade_normalization": "segkit.layers.spade_norm:SpadeNormalization",
    "minibatch_deviation": "segkit.layers.minibatch_deviation:MinibatchDeviation",
    "pixel_noise": "segkit.layers.pixel_noise:PixelNoise",
    "learned_map": "segkit.layers.learned_map:LearnedMap",
    "modulated_convolution": "segkit.layers.modulated:ModulatedConvolution",
    "partial_convolution": "segkit.layers.partial:PartialConvolution",
    "gating": "segkit.layers.gating:Gating",
    "per_frame": "segkit.layers.per_frame:PerFrame",
}

for _name in LAYERS:
    load(LAYERS, _name, "layer")

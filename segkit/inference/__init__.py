"""From a trained network to a label map on the source grid."""

"""Metrics, by name: `keras.metrics.Metric` classes that take `num_classes`."""

METRICS = {
    "dice": "segkit.metrics.overlap:Dice",
    "iou": "segkit.metrics.overlap:IoU",
    "mean_accuracy": "segkit.metrics.overlap:MeanAccuracy",
}

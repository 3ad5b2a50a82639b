"""From raw studies to sharded TFRecords, and from those to batches."""

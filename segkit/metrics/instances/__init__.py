"""Scores of objects found against true ones: pure NumPy and SciPy, COCO's through pycocotools."""

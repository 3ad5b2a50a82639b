"""Scores of made images: NumPy and SciPy, on features or on intensities."""

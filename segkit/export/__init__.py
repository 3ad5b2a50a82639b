"""From a predictor to files that run without segkit."""

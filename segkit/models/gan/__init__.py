"""Generators, which make images, and critics, which judge them."""

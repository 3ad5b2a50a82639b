"""Generative adversarial training: tasks, and what is done to images for them."""

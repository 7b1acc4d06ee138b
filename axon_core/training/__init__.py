"""Losses of each stage and the training loop."""

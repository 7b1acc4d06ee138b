"""Brownian bridge and Gaussian diffusion."""

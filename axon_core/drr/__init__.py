"""Differentiable X-ray simulation."""

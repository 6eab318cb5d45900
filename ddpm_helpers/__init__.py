"""Denoising diffusion models, from the first pixel to a finished sample."""

__version__ = "0.1.0"

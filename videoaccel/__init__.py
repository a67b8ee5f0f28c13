"""VideoAccel: fast, honest video generation with spatio-temporal diffusion transformers."""

__version__ = "0.1.0"

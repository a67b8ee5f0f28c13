"""Sections of :mod:`benchmarks.gpu_check`, by what they look at."""

"""Measurements, run by hand: ``python -m benchmarks.NAME``. Results are kept in ``benchmarks/results/``."""

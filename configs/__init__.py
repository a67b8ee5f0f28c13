"""Configurations found by name: models, acceleration, runs, suites."""

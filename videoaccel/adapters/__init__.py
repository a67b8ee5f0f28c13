"""Pipelines of diffusers that are not ours: methods attached to them from outside, and taken off without a trace.

Comes in: a pipeline and a method. Goes out: the same pipeline, whose denoiser rests in some steps, and a report. Uses
``policies``, ``planning``, ``session`` and the ground.
"""

"""Pipelines of diffusers that are not ours: methods attached to them from outside, and taken off without a trace.

Live denoisers, schedulers and the pipeline become instances of subclasses (``swap.py``, ``doors.py``) that report every
call; ``tracker.py`` makes evaluations of the calls, a rule (``rule.py``, ``methods``) says of each whether it is
computed, ``generation.py`` forecasts the others, and the scheduler gets one output an evaluation as ever. Comes in: a
pipeline and a method. Goes out: an ``Attachment``, its report. Uses ``policies``, ``planning``, ``session``, ground.
"""

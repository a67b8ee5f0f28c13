"""Ground that knows nothing of video: reading texts and sizes, wording, safe names, whole files, devices, stages.

Comes in: plain values. Goes out: plain values, or an error of one sentence. A helper that two rooms need and that
names no model, method or clip belongs here. Uses nothing of ours.
"""

"""The room calibration."""

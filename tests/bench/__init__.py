"""Twins, calibration, the demo guard, and `guardpass bench`."""

"""A small demo guard: generated data, training script and the trained checkpoint."""

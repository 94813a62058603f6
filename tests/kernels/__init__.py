"""guardpass-kernels, against numpy."""

"""The gate: the quantized guard judges texts beside the weights it was made of."""

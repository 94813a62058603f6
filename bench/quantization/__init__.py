"""What quantization costs and keeps: the variants that were measured, on real weights and on the demo guard."""

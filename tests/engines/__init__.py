"""Each engine, against transformers, numpy and the others."""

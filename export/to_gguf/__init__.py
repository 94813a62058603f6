"""The GGUF route: model.gguf, quantized by llama.cpp."""

"""Engine llamacpp: llama.cpp, through llama-cpp-python."""

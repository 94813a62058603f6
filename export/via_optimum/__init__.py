"""Architectures outside the table: optimum-onnx exports the graph, which is cut to a verdict."""

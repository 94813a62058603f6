"""The forward of a decoder: its operations, its reference in NumPy, and what a recipe says of its layers."""

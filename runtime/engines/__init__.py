"""Engines run passes. The manifest names the engine; `format.engines` has the table of them."""

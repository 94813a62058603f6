"""Engines run passes. The manifest names the engine; `format.engines` has their table."""

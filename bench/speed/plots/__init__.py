"""Plots of a report, as PNG and SVG."""

"""Measuring: what is opened, what it is asked, and the rows that come of it."""

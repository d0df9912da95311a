"""Readers of the published formats, and the built-in data set that is written in them."""

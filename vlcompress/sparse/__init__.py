"""Sparse formats and layers, and the compiler that picks the faster form of each layer."""

"""Pruning = Pattern × Criterion × Schedule × Allocation: frozen dataclasses and pure functions."""

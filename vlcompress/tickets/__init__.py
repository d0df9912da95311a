"""Iterative magnitude pruning, its controls, its verdict, and the ticket on disk."""

"""Endpoints that speak of questions and answers instead of tensors, one file a task."""

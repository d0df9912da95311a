"""Tasks: one file each, with the head, the loss and the benchmark's metric."""

"""UNITER: words and regions in one transformer."""

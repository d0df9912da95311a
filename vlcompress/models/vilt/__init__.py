"""ViLT: words and patches of the raw picture in one transformer."""

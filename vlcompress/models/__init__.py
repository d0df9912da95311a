"""Model families: one file each; base.py says what a family must tell."""

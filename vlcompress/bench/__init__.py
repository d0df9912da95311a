"""The measuring code behind `vlcompress bench`."""

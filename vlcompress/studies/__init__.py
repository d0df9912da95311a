"""The papers' experiments as commands over the ordinary run machinery, with statistics."""

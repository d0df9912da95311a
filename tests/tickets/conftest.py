"""A run small enough for tests: tiny model, tiny data, a few steps; its scores mean nothing."""

from pathlib import Path

import pytest

from vlcompress.recipe import Recipe, default_recipe


@pytest.fixture
def recipe(tiny_scenes: Path) -> Recipe:
    """Two rounds of unstructured pruning to 50 %, one seed, no controls."""
    return default_recipe("lxmert", "vqa", "tiny").override(
        data={"source": str(tiny_scenes)}, pruning={"controls": []}, training={"steps": 4}
    )

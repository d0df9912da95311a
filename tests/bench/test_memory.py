"""Memory is measured in a process of its own."""

from functools import partial

import pytest
import torch

from vlcompress.bench.memory import Make, peak_memory
from vlcompress.errors import VlcompressError

MEGABYTE = 250_000
"""float32 numbers in 10^6 bytes."""


def allocate(megabytes: int) -> Make:
    """Make a variant that needs so much memory while it runs; of importable parts, as `Make` asks."""
    return partial(partial, torch.ones, megabytes * MEGABYTE)


def test_what_a_variant_needs_is_counted_and_what_this_process_holds_is_not() -> None:
    small = peak_memory(allocate(0))
    held = torch.ones(150 * MEGABYTE)
    large = peak_memory(allocate(200))
    assert held.numel()
    assert 190 < large - small < 215


def test_a_failure_in_the_other_process_is_told() -> None:
    with pytest.raises(VlcompressError, match="cannot measure memory: ValueError"):
        peak_memory(partial(int, "no number"))

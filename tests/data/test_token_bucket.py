"""Batches by tokens: the official sampler's for the same lengths and seed."""

import json
from pathlib import Path
from random import Random

import pytest

from vlcompress.data.token_bucket import token_batches
from vlcompress.errors import VlcompressError

OFFICIAL = json.loads(
    (Path(__file__).parents[1] / "fixtures/data/uniter/expected_batches/token_bucket_sampler.json").read_text()
)


@pytest.mark.parametrize("bucket", [64, 8192])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_batches_are_the_official_ones(bucket: int, drop_last: bool) -> None:
    expected = OFFICIAL["batches"][f"batch1024_bucket{bucket}_mul8{'_droplast' if drop_last else ''}"]
    assert token_batches(OFFICIAL["lens"], 1024, Random(42), bucket=bucket, drop_last=drop_last) == expected


def test_a_length_that_no_batch_can_hold_is_refused() -> None:
    with pytest.raises(VlcompressError, match="8 examples of 200 tokens are more than max_tokens 1024: allow 1600"):
        token_batches([200] * 8, 1024, Random(0))

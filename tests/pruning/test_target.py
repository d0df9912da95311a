"""Targets as a recipe writes them."""

import pytest

from vlcompress.errors import VlcompressError
from vlcompress.pruning.target import Target, parse_target


@pytest.mark.parametrize(
    ("text", "limit"),
    [("speedup:2", 50.0), ("speedup:1.5,batch:1", 100 / 1.5), ("latency-ms:20,batch:1,threads:4", 20.0),
     ("size-mb:60.5", 60.5), ("flops:0.4", 40.0)],
)  # fmt: skip
def test_a_target_says_what_the_ticket_may_cost(text: str, limit: float) -> None:
    assert str(parse_target(text)) == text
    assert parse_target(text).limit(100.0) == pytest.approx(limit)


def test_nothing_is_asked_by_default() -> None:
    assert not Target()
    assert (str(Target()), parse_target("")) == ("", Target())


@pytest.mark.parametrize(
    "text",
    ["speedup:1", "speedup:0.5", "speedup:nan", "speedup:inf", "flops:1", "flops:0", "latency-ms:-3", "size-mb:0",
     "speed:2", "speedup", "speedup:2,batch:0", "speedup:2,batches:3", "speedup:2,threads:x", ":", "2"],
)  # fmt: skip
def test_other_texts_are_told_what_there_is(text: str) -> None:
    with pytest.raises(VlcompressError, match=f"target '{text}' is none: give 'speedup:N', times as fast as dense"):
        parse_target(text)

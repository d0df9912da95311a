"""Which axes may be padded, and to what."""

from vlcompress.models.padding import bucket, masked_axes


def test_an_axis_may_be_padded_where_a_mask_covers_it() -> None:
    words, regions = ("batch", "text"), ("batch", "regions", 16)
    assert masked_axes({"input_ids": words, "attention_mask": words, "visual_feats": regions}) == {"text"}
    pixels = {"pixel_values": ("batch", 3, "height", "width"), "pixel_mask": ("batch", "height", "width")}
    assert masked_axes(pixels) == {"height", "width"}
    assert masked_axes({"visual_mask": ("batch", 36)}) == frozenset()


def test_a_size_above_the_last_bucket_stays() -> None:
    assert [bucket(size, (4, 8)) for size in (1, 4, 5, 8, 9)] == [4, 4, 8, 8, 9]
    assert bucket(3, ()) == 3

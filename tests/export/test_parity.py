"""The bounds let pass rounding and nothing else."""

import numpy as np
import pytest

from vlcompress.errors import VerificationError
from vlcompress.export.parity import BOUNDS, Floats, Parity, Precision, compare_scores, repeated, require

SCORES = np.array([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]], dtype=np.float32)


def test_rounding_passes() -> None:
    result = compare_scores([SCORES], [SCORES + np.float32(1e-5)])
    assert result.passed
    assert result.samples == 2
    assert result.max_abs_error == pytest.approx(1e-5, rel=0.1)
    assert result.max_rel_error == pytest.approx(2e-6, rel=0.1)
    require(result, "it differs")


def test_a_large_error_does_not_pass() -> None:
    with pytest.raises(VerificationError, match=r"it differs: on 2 samples the relative error is 0\.01 "):
        require(compare_scores([SCORES], [SCORES * np.float32(1.01)]), "it differs")


def test_a_changed_answer_does_not_pass() -> None:
    result = compare_scores([SCORES], [SCORES[:, ::-1]])
    assert result.answer_agreement == 0.5  # the first answer is in the middle and stays
    assert not result.passed


def test_ties_may_go_either_way() -> None:
    tied = np.array([[3.0, 3.0, 1.0]], dtype=np.float32)
    result = compare_scores([tied], [tied + np.array([[0.0, 1e-6, 0.0]], dtype=np.float32)])
    assert result.answer_agreement == 1.0


def test_nan_scores_do_not_pass() -> None:
    assert not compare_scores([SCORES], [SCORES * np.nan]).passed


def test_a_model_that_scores_nothing_agrees_with_itself() -> None:
    zeros = np.zeros((2, 3), dtype=np.float32)
    assert compare_scores([zeros], [zeros]).passed


def test_batches_that_are_not_there_are_an_error_and_not_left_out() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare_scores([SCORES, SCORES], [SCORES])


@pytest.mark.parametrize(
    ("precision", "provider", "relative", "agreement"),
    [
        *(("fp32", "cpu", 1e-4, 1.0), ("fp32", "cuda", 1e-4, 1.0), ("fp32", "tensorrt", 0.02, 0.95)),
        *(("fp16", "cpu", 0.02, 0.98), ("fp16", "tensorrt", 0.02, 0.95), ("int8", "cpu", 0.05, 0.95)),
    ],
)
def test_what_a_file_may_differ_by_on_another_machine(
    precision: Precision, provider: str, relative: float, agreement: float
) -> None:
    bound = repeated(precision, provider)
    assert Parity(100, 0.0, 0.99 * relative, agreement, worst=0).within(bound)
    assert not Parity(100, 0.0, 1.01 * relative, agreement, worst=0).within(bound)
    assert not Parity(100, 0.0, 0.0, agreement - 0.01, worst=0).within(bound)


ALLOWED: list[tuple[Precision, float, int]] = [("fp32", 1e-4, 0), ("fp16", 0.02, 4), ("int8", 0.1, 20)]
"""Of each precision the largest error, relative to the largest score, and how many of 200 answers may change."""


def turned(count: int, gap: float) -> Parity:
    """Compare 200 examples, whose best score of 1 leads by `gap`, with the same of which `count` are reversed."""
    expected: Floats = np.tile(np.array([[1.0, 1 - gap]], dtype=np.float32), (200, 1))
    got = expected.copy()
    got[:count] = (1 - gap / 2 - gap / 100, 1 - gap / 2 + gap / 100)
    return compare_scores([expected], [got])


@pytest.mark.parametrize(("precision", "relative", "changed"), ALLOWED)
def test_each_precision_lets_pass_what_it_promises_and_nothing_beyond(
    precision: Precision, relative: float, changed: int
) -> None:
    bound = BOUNDS[precision]
    assert compare_scores([SCORES], [SCORES + np.float32(0.98 * relative * 5)]).within(bound)
    assert not compare_scores([SCORES], [SCORES + np.float32(1.02 * relative * 5)]).within(bound)
    assert turned(changed, 1.5 * relative).within(bound)
    assert not turned(changed + 1, 1.5 * relative).within(bound)

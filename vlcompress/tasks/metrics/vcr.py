"""VCR's three accuracies: the answer (Q→A), the rationale given the right answer (QA→R), and both (Q→AR).

Shapes: N examples.
"""

from dataclasses import dataclass

from torch import Tensor

CHOICES = 4


@dataclass(frozen=True)
class VcrCorrect:
    """Which examples are right, bool [N] each."""

    answer: Tensor
    rationale: Tensor

    @property
    def both(self) -> Tensor:
        """Answer and rationale right: what the leaderboard ranks by."""
        return self.answer & self.rationale


def vcr_correct(scores: Tensor, answers_N: Tensor, rationales_N: Tensor) -> VcrCorrect:
    """Judge the scores of the four answers and of the rationales.

    Args:
        scores: float [N, 8], rationales given the right answer; or [N, 20], rationales given each answer in turn (the
            submission's layout), of which the right answer's four are read, as in rowanz/r2c ``eval_q2ar.py``.
        answers_N: int64, the right answers.
        rationales_N: int64, the right rationales.
    """
    given_N4C = scores[:, CHOICES:].reshape(len(scores), -1, CHOICES)
    if given_N4C.shape[1] > 1:
        given_N4C = given_N4C[range(len(scores)), answers_N][:, None]
    return VcrCorrect(
        scores[:, :CHOICES].argmax(dim=1) == answers_N,
        given_N4C[:, 0].argmax(dim=1) == rationales_N,
    )

"""VQA v2's official accuracy, which differs from the soft score that training uses (`vlcompress.data.vqa_v2`).

Conventions of GT-Vision-Lab/VQA ``vqaEvaluation/vqaEval.py``.
"""

from collections.abc import Sequence
from statistics import fmean

from vlcompress.data.answer_text import normalised

NEEDED = 3
"""So many agreeing annotators make an answer fully right."""


def vqa_accuracy(answer: str, votes: Sequence[str]) -> float:
    """Compute an answer's accuracy in [0, 1]: min(1, n/3), n agreeing annotators, a mean over leaving each one out.

    Answers are normalised only where the annotators disagree, as officially.

    Args:
        answer: what the model says.
        votes: what each annotator said (ten of them in VQA v2), as published.
    """
    answer, *votes = (text.replace("\n", " ").replace("\t", " ").strip() for text in (answer, *votes))
    if len(set(votes)) > 1:
        answer, *votes = (normalised(text) for text in (answer, *votes))
    agreeing = [vote == answer for vote in votes]
    return fmean(min(1.0, (sum(agreeing) - own) / NEEDED) for own in agreeing)

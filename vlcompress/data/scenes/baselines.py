"""What can be scored without looking at a picture: the data set's own warning against language priors.

Three answers to "how good is a model that is blind?": the commonest answer, the commonest answer for the question's
first words, and a logistic regression on the words and word pairs of the question. Each is fitted on train and scored
on minival by the VQA soft score.

Shape legend: N questions, W words and word pairs, A answers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlcompress.artefacts import Json
from vlcompress.data.questions import Answers, Question, read_questions

_STEPS = 400
_BATCH = 200
_LEARNING_RATE = 0.02
_WEIGHT_DECAY = 0.01
_RARE = 3
"""Words and word pairs that fewer training questions have are left out."""


def report(folder: Path) -> Json:
    """Score the blind baselines on a folder's minival.

    Args:
        folder: a data folder in LXMERT's layout with vqa/train.json and vqa/minival.json.

    Returns:
        Scores in per cent (overall and by answer type), the best score that any model can reach given that the
        annotators disagree, and how often each answer is the best one.

    Raises:
        VlcompressError: a file is missing or damaged.
    """
    answers = Answers.read(folder / "vqa")
    train, minival = (read_questions(folder / "vqa" / f"{split}.json") for split in ("train", "minival"))
    targets_NA = torch.from_numpy(answers.targets(train))
    scores_NA = torch.from_numpy(answers.targets(minival))
    predictions = {
        "majority": targets_NA.sum(0).argmax().expand(len(minival)),
        "majority_by_question_type": _by_question_type(train, targets_NA, minival),
        "question_only": _question_only(train, targets_NA, minival),
        "best_possible": scores_NA.argmax(1),
    }
    best = Counter(answers.labels[int(label)] for label in scores_NA.argmax(1))
    return {
        "metric": "VQA soft score on minival, per cent",
        "questions": {"train": len(train), "minival": len(minival)},
        "scores": {name: _scores(minival, scores_NA, labels) for name, labels in predictions.items()},
        "answers": {answer: best[answer] for answer in answers.labels},
    }


def labels_report(train: Sequence[tuple[str, str]], scored: Sequence[tuple[str, str]]) -> Json:
    """Score the blind baselines on sentences that have one label each.

    Args:
        train: sentences with their labels, to fit on.
        scored: those to score.

    Returns:
        Accuracies in per cent.
    """
    answers = Answers(tuple(dict.fromkeys(label for _, label in [*train, *scored])))
    learn, ask = (
        [Question(number, "", text, {label: 1.0}) for number, (text, label) in enumerate(rows)]
        for rows in (train, scored)
    )
    targets_NA, scores_NA = torch.from_numpy(answers.targets(learn)), torch.from_numpy(answers.targets(ask))
    predictions = {
        "majority": targets_NA.sum(0).argmax().expand(len(ask)),
        "words_only": _question_only(learn, targets_NA, ask),
    }
    return {
        "metric": "accuracy, per cent",
        "examples": {"train": len(train), "scored": len(scored)},
        "scores": {
            name: _per_cent(scores_NA.gather(1, labels_N[:, None])[:, 0]) for name, labels_N in predictions.items()
        },
    }


def _scores(questions: Sequence[Question], scores_NA: Tensor, labels_N: Tensor) -> Json:
    scores_N = scores_NA.gather(1, labels_N[:, None])[:, 0]
    result = {"overall": _per_cent(scores_N)}
    for answer_type in sorted({question.answer_type for question in questions}):
        chosen = torch.tensor([question.answer_type == answer_type for question in questions])
        result[answer_type] = _per_cent(scores_N[chosen])
    return result


def _per_cent(scores_N: Tensor) -> float:
    return round(100 * float(scores_N.double().mean()), 2)


def _by_question_type(train: Sequence[Question], targets_NA: Tensor, minival: Sequence[Question]) -> Tensor:
    sums: dict[str, Tensor] = {}
    for question, target_A in zip(train, targets_NA, strict=True):
        sums[question.question_type] = sums.get(question.question_type, torch.zeros(())) + target_A
    total_A = targets_NA.sum(0)
    return torch.stack([sums.get(question.question_type, total_A).argmax() for question in minival])


def _question_only(train: Sequence[Question], targets_NA: Tensor, minival: Sequence[Question]) -> Tensor:
    """Predict with a logistic regression on words and word pairs."""
    counts = Counter(word for question in train for word in _words(question))
    index = {word: i for i, word in enumerate(sorted(word for word in counts if counts[word] >= _RARE))}
    with _one_thread():
        weight_WA = _fit(_bag(train, index), targets_NA)
        return (_bag(minival, index) @ weight_WA).argmax(1)


def _fit(words_NW: Tensor, targets_NA: Tensor) -> Tensor:
    """Fit the weights [W + 1, A] from zero, in the order of the file: no chance is involved."""
    weight_WA = torch.zeros(words_NW.shape[1], targets_NA.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weight_WA], lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    starts = range(0, len(words_NW), _BATCH)
    for step in range(_STEPS):
        start = starts[step % len(starts)]
        batch = slice(start, start + _BATCH)
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(words_NW[batch] @ weight_WA, targets_NA[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weight_WA.detach()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: the batches are too small for more, and the sums come out the same everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _words(question: Question) -> set[str]:
    words = question.sentence.lower().replace("?", " ?").replace(",", " ,").split()
    return {*words, *(f"{one} {two}" for one, two in pairwise(words))}


def _bag(questions: Sequence[Question], index: dict[str, int]) -> Tensor:
    """Mark the words that each question has, float32 [N, W + 1]; the last column is all ones."""
    bag_NW = np.zeros((len(questions), len(index) + 1), dtype=np.float32)
    bag_NW[:, -1] = 1
    for row_W, question in zip(bag_NW, questions, strict=True):
        row_W[[index[word] for word in _words(question) if word in index]] = 1
    return torch.from_numpy(bag_NW)

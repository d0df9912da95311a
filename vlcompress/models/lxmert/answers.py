"""Moving LXMERT's pre-trained answer head to a task with other answers (the official ``--loadLXMERTQA``).

The conventions are those of airsplay/lxmert ``pretrain/qa_answer_table.py``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlcompress.errors import VlcompressError
from vlcompress.models.base import LoadReport
from vlcompress.models.checkpoints import Tensors, listing, read_checkpoint, renamed
from vlcompress.models.lxmert.model import OFFICIAL_NAMES

_ARTICLES = ("a ", "an ", "the ")  # removed in this order, each at most once
_SAME = {"grey": "gray"} | {
    word: str(number)
    for number, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)
}
_HEAD = "answer_head.logit_fc."
_LAST = f"{_HEAD}3."


def table_answer(answer: str) -> str:
    """Bring an answer into the form that it has in LXMERT's answer table: "The Dog." is "dog", "two" is "2"."""
    answer = answer.lower()
    if answer.endswith("."):
        answer = answer[:-1].strip()
    for article in _ARTICLES:
        if answer.startswith(article):
            answer = answer.removeprefix(article).strip()
    return _SAME.get(answer, answer)


def load_answer_head(model: nn.Module, checkpoint: str, *, answers: Sequence[str], labels: Sequence[str]) -> LoadReport:
    """Load a pre-trained answer head, giving each of the task's labels the row of the same answer.

    The rows of labels that the checkpoint does not know become zero, as in the official code.

    Args:
        model: a model with an answer head; its backbone is left alone (see `LxmertFamily.load`).
        checkpoint: as for `LxmertFamily.load`.
        answers: the checkpoint's answers in the order of its rows ("ans" of LXMERT's ``all_ans.json``).
        labels: the model's answers in the order of its rows.

    Raises:
        VlcompressError: no answer head in the checkpoint, another width, or lists as long as neither head.
    """
    tensors = {
        name: tensor
        for name, tensor in renamed(read_checkpoint(checkpoint), OFFICIAL_NAMES).items()
        if name.startswith(_HEAD)
    }
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_HEAD)}
    _check(own, tensors, checkpoint, answers=answers, labels=labels)
    row_of = {answer: row for row, answer in enumerate(answers)}
    rows = [row_of.get(table_answer(label), -1) for label in labels]
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(_gather(tensor, rows) if name.startswith(_LAST) else tensor)
    unknown = [label for label, row in zip(labels, rows, strict=True) if row < 0]
    known = f"{len(labels) - len(unknown)} of {len(labels)} answers start from the checkpoint's rows"
    note = f"{known}; at zero: {listing(repr(label) for label in unknown)}" if unknown else known
    return LoadReport(checkpoint, len(tensors), "loaded", (note,))


def _gather(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    index = torch.tensor(rows)
    result = tensor[index.clamp(min=0)]
    result[index < 0] = 0
    return result


def _check(own: Tensors, given: Tensors, checkpoint: str, *, answers: Sequence[str], labels: Sequence[str]) -> None:
    if own.keys() != given.keys():
        raise VlcompressError(f"'{checkpoint}' has no whole answer head: give a pre-training file (model_LXRT.pth)")
    for name in own:
        free = 1 if name.startswith(_LAST) else 0  # the number of answers may differ, no width may
        if own[name].shape[free:] != given[name].shape[free:]:
            raise VlcompressError(
                f"'{checkpoint}' does not fit this model: {name} is {tuple(given[name].shape)} there, "
                f"{tuple(own[name].shape)} here; choose the size that the checkpoint was made with"
            )
    for what, names, head in (("checkpoint's answers", answers, given), ("labels", labels, own)):
        rows = head[f"{_LAST}bias"].shape[0]
        if len(names) != rows:
            raise VlcompressError(
                f"{len(names)} {what} for {rows} rows of the answer head: give the list it was made with"
            )

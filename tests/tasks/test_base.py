"""No score is made of numbers that are not finite: every task names the split and the example."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tasks.conftest import VOCABULARY, MemoryPictures, ShowingFamily, make_data, make_reader
from vlcompress.data.examples import (
    AnswerExample,
    CaptionExample,
    ChoiceExample,
    ClassExample,
    EntailmentExample,
    PairExample,
    ReferringExample,
    SentenceExample,
)
from vlcompress.data.scenes.located import located
from vlcompress.errors import VlcompressError
from vlcompress.models.registry import family_named
from vlcompress.models.resnet.adapter import ResnetFamily
from vlcompress.tasks.detection import DetectionTask
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.pretraining_task import PretrainingTask
from vlcompress.tasks.registry import TASKS
from vlcompress.tasks.segmentation import SegmentationTask

BOXES = {name: [[0, 0, 9, 9], [5, 5, 9, 9]] for name in "abc"}
PICTURES = MemoryPictures(BOXES, BOXES)
CHOICES = tuple(("he", word) for word in ("red", "blue", "cube", "ball"))
LABELS = ("red", "blue")
EXAMPLES: dict[str, Callable[[str], Any]] = {
    "vqa": lambda name: AnswerExample(name, name, "what color", {"red": 1.0}),
    "gqa": lambda name: AnswerExample(name, name, "what color", {"red": 1.0}),
    "nlvr2": lambda name: PairExample(name, (name, "a"), "the cube is red", 1, name),
    "snli_ve": lambda name: EntailmentExample(name, name, "the cube is red", 1),
    "vcr": lambda name: ChoiceExample(name, name, ("person",), ("who", "runs"), CHOICES, CHOICES, 0, 0),
    "refcoco": lambda name: ReferringExample(name, name, "the red cube", (0, 0, 9, 9), 0),
    "retrieval": lambda name: CaptionExample(name, name, "the red cube"),
    "classification": lambda name: ClassExample(name, name, 0),
    "sentences": lambda name: SentenceExample(name, "the cube is red", 1),
    "simclr": lambda name: ClassExample(name, name, 0),
    "moco": lambda name: ClassExample(name, name, 0),
}
"""An example of every task but "pretraining", which gives no logits."""


def spoilt(answer: Callable[[int], Tensor], number: float) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Answer with zeros, and with a number that is not finite for the last row."""

    def logits(inputs: Mapping[str, Tensor]) -> Tensor:
        scores = answer(len(next(iter(inputs.values()))))
        scores.view(len(scores), -1)[-1, 0] = number
        return scores

    return logits


def made(task: str, examples: Sequence[Any] = ()) -> Any:
    family: Any = ShowingFamily()
    if task in ("simclr", "moco"):
        family = ResnetFamily()
    elif task == "classification":
        family.reads = "pixels"
    data = make_data(task, examples or [EXAMPLES[task](name) for name in "abc"], PICTURES, LABELS)
    return TASKS[task].judge(data, make_reader(family, PICTURES))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("task", [name for name in TASKS if name != "pretraining"])
def test_a_score_that_is_not_finite_is_an_error(task: str, number: float) -> None:
    """Example b is the last of the first batch; its scores are spoilt in its last row, whatever the rows are."""
    shape = (lambda rows: torch.zeros(rows)) if task == "retrieval" else (lambda rows: torch.zeros(rows, 2))
    with pytest.raises(VlcompressError, match=f"example 'b' of {task} val are not finite"):
        made(task).measure(spoilt(shape, number), batch=2)
    assert 0 <= made(task).measure(lambda inputs: shape(len(next(iter(inputs.values())))), batch=2).mean <= 1


@pytest.mark.parametrize("task", [name for name, kind in TASKS.items() if kind.suffix])
def test_nothing_is_handed_in_of_it(task: str) -> None:
    shape = (lambda rows: torch.zeros(rows)) if task == "retrieval" else (lambda rows: torch.zeros(rows, 2))
    with pytest.raises(VlcompressError, match=f"of {task} val are not finite"):
        made(task).submission(spoilt(shape, float("nan")), batch=2)


@pytest.mark.parametrize(
    ("task", "answers", "best"),
    [
        ("vqa", [{"red": 1.0}, {"red": 0.3, "blue": 0.9}, {"blue": 0.6}], 0.5),
        ("gqa", [{"red": 1.0}, {"red": 1.0}, {"pink": 1.0}], 2 / 3),
        ("snli_ve", [1, 1, 2], 2 / 3),
        ("nlvr2", [1, 0, 0], 2 / 3),
        ("classification", [0, 1, 1], 2 / 3),
    ],
)
def test_the_best_single_answer(task: str, answers: list[Any], best: float) -> None:
    """What a model that does not look can reach: no answer given to all examples scores more."""
    field = "answers" if task in ("vqa", "gqa") else "label"
    examples = [replace(EXAMPLES[task](name), **{field: answer}) for name, answer in zip("abc", answers, strict=True)]
    ours = made(task, examples)
    assert ours.constant() == pytest.approx(best)
    labels = len(ours.head.labels)
    given = (torch.eye(labels)[[label]] for label in range(labels))
    found = [
        ours.measure(lambda inputs, one=one: one.repeat(len(next(iter(inputs.values()))), 1), batch=2) for one in given
    ]
    assert max(one.mean for one in found) == pytest.approx(best)


def test_of_vcr_answer_and_rationale_count_together() -> None:
    rows = [(0, 0), (0, 1), (0, 1), (1, 1)]
    one = EXAMPLES["vcr"]("a")
    assert made("vcr", [replace(one, answer=answer, rationale=why) for answer, why in rows]).constant() == 0.5


@pytest.mark.parametrize("kind", [DetectionTask, SegmentationTask])
def test_pictures_of_scenes(kind: type[DetectionTask | SegmentationTask]) -> None:
    family = ResnetFamily()
    task = kind(located("test", 2), family)
    model = family.build(family.config("mini"), task.head, seed=0).eval()
    nn.init.constant_(next(model.parameters()), float("nan"))
    with pytest.raises(VlcompressError, match="built-in picture 0 are not finite"), torch.no_grad():
        task.evaluate(model, batch=2)


def test_a_pretraining_loss() -> None:
    family = family_named("uniter")
    config = family.config("tiny", vocab_size=VOCABULARY.vocab_size, feature_dim=PICTURES.feature_dim)
    captions = [CaptionExample(name, name, "the red cube") for name in "abc"]
    task = PretrainingTask(make_data("pretraining", captions, PICTURES), Preprocessor(family, VOCABULARY, PICTURES, 20))
    model = family.build(config, task.head, seed=0).eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.raises(VlcompressError, match="example 'a' of pretraining val are not finite"), torch.no_grad():
        task.evaluate(model, batch=2)

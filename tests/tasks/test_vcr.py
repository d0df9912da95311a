"""VCR: sentences as UNITER builds them, both sub-tasks, the joint score, and the leaderboard's CSV."""

import dataclasses

import pytest
import torch
from torch import nn

from tests.tasks.conftest import VOCABULARY, MemoryPictures, ShowingFamily, make_data, make_reader, text
from vlcompress.data.examples import HIDDEN, ChoiceExample, Words
from vlcompress.models.base import Sample
from vlcompress.tasks.vcr import HEADER, VcrTask, VcrTraining

PICTURES = MemoryPictures(detected={"m": [[5, 5, 6, 6]]}, annotated={"m": [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]]})
PERSON = VOCABULARY.vocab_size


def choices(kind: str) -> tuple[Words, ...]:
    return tuple((kind, "the", word) for word in ("red", "blue", "cube", "ball"))


EXAMPLES = [
    ChoiceExample("val-0", "m", ("person", "cube", "person"), ("why", "is", (0, 2), "left", "of", (1,)),
                  choices("he"), choices("she"), answer=1, rationale=3),
    ChoiceExample("val-1", "m", ("person",), ("who", "runs"), choices("he"), choices("she"), answer=0, rationale=0),
]  # fmt: skip


def judging(said: dict[str, float]):
    """Score a sample by the words of its last part."""
    return lambda sample: [0.0, said[" ".join(text(sample).split()[-4:-1])]]


def order(kind: str, best: str) -> dict[str, float]:
    return {f"{kind} the {word}": float(word == best) for word in ("red", "blue", "cube", "ball")}


def task(score=lambda sample: [0.0, 0.0], examples=EXAMPLES) -> tuple[VcrTask, ShowingFamily]:
    shown = ShowingFamily(score=score)
    return VcrTask(make_data("vcr", examples, PICTURES), make_reader(shown, PICTURES)), shown


def test_sentences_segments_and_regions() -> None:
    ours, shown = task()
    ours.batch([0], torch.Generator())
    samples = shown.batches[0]
    question = f"[CLS] why is {PERSON} {PERSON + 2} left of cube"
    assert len(samples) == 8
    assert text(samples[2]) == f"{question} [SEP] he the cube [SEP]"
    assert text(samples[7]) == f"{question} [SEP] he the blue [SEP] she the ball [SEP]"
    assert samples[2].types.tolist() == [0] * 8 + [2] * 5
    assert samples[7].types.tolist() == [0] * 8 + [2] * 4 + [3] * 5
    assert samples[0].images[0].boxes[:, 0].tolist() == [0, 1, 2, 5]  # annotated, then detected


def test_training_sees_each_example_twice(model: nn.Module) -> None:
    shown = ShowingFamily(score=lambda sample: [0.0, float(len(sample.ids))])
    training = VcrTraining(make_data("vcr", EXAMPLES, PICTURES), make_reader(shown, PICTURES))
    assert len(training) == 4
    batch = training.batch([0, 2], torch.Generator())
    assert batch.targets["right"].tolist() == [0, 1, 0, 0, 0, 0, 0, 1]
    assert [text(sample).count("[SEP]") for sample in shown.batches[0]] == [2] * 4 + [3] * 4
    logits = shown.logits(model, batch.inputs)
    by_hand = -logits.log_softmax(1)[range(8), batch.targets["right"]].mean()
    assert training.loss(model, batch).item() == pytest.approx(by_hand.item())


def test_joint_score_and_both_parts(model: nn.Module) -> None:
    ours, _ = task(judging(order("he", "blue") | order("she", "ball")))
    found = ours.evaluate(model, batch=1)
    assert found.scores.tolist() == [1, 0]
    assert found.figures == {"Q→A": 0.5, "QA→R": 0.5}
    assert found.predictions.tolist() == [7, 7]


def test_submission_gives_rationales_for_every_answer(model: nn.Module) -> None:
    def score(sample: Sample) -> list[float]:
        return [0.0, float(len(sample.ids) + sample.ids[-2])]

    ours, shown = task(score)
    lines = ours.submission(lambda inputs: shown.logits(model, inputs), batch=8).decode().splitlines()
    assert lines[0].split(",") == list(HEADER)
    assert HEADER[5] == "rationale_conditioned_on_a0_0"
    assert [line.split(",")[0] for line in lines[1:]] == ["val-0", "val-1"]
    assert all(len(line.split(",")) == 21 for line in lines)
    said = [score(sample)[1] for sample in shown.batches[0]]
    assert [float(cell) for line in lines[1:] for cell in line.split(",")[1:]] == said
    given = [text(sample) for sample in shown.batches[0] if text(sample).count("[SEP]") == 3][:16]
    assert [sentence.split("[SEP]")[1].split()[-1] for sentence in given[::4]] == ["red", "blue", "cube", "ball"]


def test_test_split_has_rationales_of_its_own_for_each_answer() -> None:
    sixteen = tuple(("she", "the", word) for word in ("red", "blue", "cube", "ball") for _ in range(4))
    hidden = dataclasses.replace(EXAMPLES[0], rationales=sixteen, answer=HIDDEN, rationale=HIDDEN)
    ours, _ = task(examples=[hidden])
    assert ours.hidden
    assert text(ours._sentences.rationales(0, 2)[0]).endswith("[SEP] he the cube [SEP] she the cube [SEP]")


def test_long_sentences_are_cut_and_end_in_a_separator() -> None:
    shown = ShowingFamily()
    ours = VcrTask(make_data("vcr", EXAMPLES, PICTURES), make_reader(shown, PICTURES, most=6))
    ours.batch([0], torch.Generator())
    sample: Sample = shown.batches[0][0]
    assert text(sample) == f"[CLS] why is {PERSON} {PERSON + 2} [SEP]"
    assert len(sample.types) == 6

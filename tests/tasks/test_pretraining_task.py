"""Pre-training as a task: every family's objectives on captions, scored by the loss with the same chance for all."""

from collections.abc import Sequence

import pytest
import torch

from tests.tasks.conftest import VOCABULARY, MemoryPictures, make_data
from vlcompress.data.examples import AnswerExample, CaptionExample
from vlcompress.errors import VlcompressError
from vlcompress.models.registry import family_named
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.pretraining_task import UNIT, PretrainingTask, sentences

# Features differ by less than 1, where smooth L1 is a squared error and the mean the best answer.
PICTURES = MemoryPictures({str(image): [[image / 10, 0, 50, 50], [0, 0, 50.2, 50.2]] for image in range(6)}, {})
CAPTIONS = [CaptionExample(row, str(row % 6), "the red cube is left of a ball") for row in range(UNIT + 4)]


MIXED = [
    AnswerExample(row, str(row % 6), "what color is the ball", {("blue", "red")[row % 2]: 1.0})
    if row % 3
    else CaptionExample(row, str(row % 5), "two cubes run left of why")
    for row in range(10 * UNIT - 3)
]
"""Units enough for each of UNITER's objectives, and sentences that are questions or not."""


def made(name: str, examples: Sequence[AnswerExample | CaptionExample] = CAPTIONS):
    family = family_named(name)
    config = family.config("tiny", vocab_size=VOCABULARY.vocab_size, feature_dim=PICTURES.feature_dim)
    pictures = family.pictures(config, PICTURES)
    task = PretrainingTask(
        make_data("pretraining", examples, PICTURES, labels=("blue", "red")),
        Preprocessor(family, VOCABULARY, pictures, 20),
    )
    return task, family.build(config, task.head, seed=0).eval(), config


@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt"])
def test_every_family_is_scored_by_its_own_loss(name: str) -> None:
    task, model, _ = made(name)
    with torch.no_grad():
        found, again = task.evaluate(model, batch=64), task.evaluate(model, batch=3)
        first = task.batch(range(UNIT), torch.Generator().manual_seed(0))
        loss = task.loss(model, first)
    assert torch.equal(found.scores, again.scores)
    assert len(found.scores) == 2
    assert found.scores[0].item() == pytest.approx(1 / (1 + loss.item()))
    assert ((found.scores > 0) & (found.scores < 1)).all()


def test_a_question_comes_with_its_best_known_answer() -> None:
    examples = [
        AnswerExample(0, "0", "what color is the cube", {"blue": 0.3, "red": 1.0, "pink": 1.0}),
        AnswerExample(1, "1", "what color is the cube", {"pink": 1.0}),
        CaptionExample(2, "2", "a red ball"),
    ]
    data = make_data("pretraining", examples, PICTURES, labels=("blue", "red"))
    made = sentences(data, Preprocessor(family_named("lxmert"), VOCABULARY, PICTURES, 20))
    assert [one.answer for one in made] == [1, -1, -1]
    assert made[2].regions.img_id == "2"


def test_it_cannot_be_handed_in() -> None:
    task, *_ = made("uniter")
    with pytest.raises(VlcompressError, match="pre-training ticket answers nothing by itself"):
        task.submission(lambda inputs: inputs["x"], batch=1)


def least_losses(task: PretrainingTask, model: torch.nn.Module) -> torch.Tensor:
    """Train a model whose weights are all zero, so that it says the same of everything; give its loss of each unit."""
    for name, parameter in model.named_parameters():
        parameter.data.fill_(float("norm" in name.lower() and name.endswith("bias")))  # hidden states that are alike
        parameter.requires_grad_(name.endswith("bias"))
    units = [
        task.batch(range(at, min(at + UNIT, len(task))), torch.Generator().manual_seed(at))
        for at in range(0, len(task), UNIT)
    ]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([task.loss(model, unit) for unit in units]).mean()
        loss.backward()
        return loss

    optimizer.step(step)
    return torch.stack([task.loss(model, unit) for unit in units])


@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt"])
def test_the_constant_is_the_best_that_a_model_does_which_says_the_same_of_everything(name: str) -> None:
    task, model, config = made(name, MIXED if name == "uniter" else MIXED[: 2 * UNIT])
    least = least_losses(task, model)
    torch.testing.assert_close(task.constant(config), 1 / (1 + least.detach()), rtol=2e-3, atol=0)

"""Pre-training as a task: every family's objectives on captions, scored by the loss with the same chance for all."""

import pytest
import torch

from tests.tasks.conftest import VOCABULARY, MemoryPictures, make_data
from vlcompress.data.examples import AnswerExample, CaptionExample
from vlcompress.errors import VlcompressError
from vlcompress.models.registry import family_named
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.pretraining_task import UNIT, PretrainingTask, sentences

PICTURES = MemoryPictures({str(image): [[image, 0, 50, 50], [0, 0, 60, 60]] for image in range(6)}, {})
CAPTIONS = [CaptionExample(row, str(row % 6), "the red cube is left of a ball") for row in range(UNIT + 4)]


def made(name: str):
    family = family_named(name)
    config = family.config("tiny", vocab_size=VOCABULARY.vocab_size, feature_dim=PICTURES.feature_dim)
    pictures = family.pictures(config, PICTURES)
    task = PretrainingTask(make_data("pretraining", CAPTIONS, PICTURES), Preprocessor(family, VOCABULARY, pictures, 20))
    return task, family.build(config, task.head, seed=0).eval()


@pytest.mark.parametrize("name", ["lxmert", "uniter", "vilt"])
def test_every_family_is_scored_by_its_own_loss(name: str) -> None:
    task, model = made(name)
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
    task, _ = made("uniter")
    with pytest.raises(VlcompressError, match="pre-training ticket answers nothing by itself"):
        task.submission(lambda inputs: inputs["x"], batch=1)

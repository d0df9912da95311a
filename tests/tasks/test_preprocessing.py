"""From text and image names to samples: cutting, ids that data brings along, images read once."""

import numpy as np
import pytest

from tests.tasks.conftest import VOCABULARY, MemoryPictures, ShowingFamily, make_reader
from vlcompress.data.examples import token_ids
from vlcompress.errors import VlcompressError
from vlcompress.models.registry import family_named
from vlcompress.tasks.preprocessing import Preprocessor, max_words

PICTURES = MemoryPictures({"a": [[0, 0, 9, 9]]}, {"a": [[1, 1, 9, 9], [2, 2, 9, 9]]})


def words(*tokens: str) -> list[int]:
    return [VOCABULARY.tokens.index(token) for token in tokens]


def test_text_is_cut_and_keeps_its_end() -> None:
    (ids,) = make_reader(ShowingFamily(), PICTURES, most=4).ids(["the red cube is blue"])
    assert ids.tolist() == words("[CLS]", "the", "red", "[SEP]")


@pytest.mark.parametrize("vocabulary", ["", VOCABULARY.sha256])
def test_ids_of_the_data_take_the_place_of_its_text(vocabulary: str) -> None:
    given = token_ids([words("blue", "ball"), words("red", "red", "red")], vocabulary)
    preprocessor = Preprocessor(ShowingFamily(), VOCABULARY, PICTURES, 4, given)
    assert [row.tolist() for row in preprocessor.ids(["blue ball", "red red red"])] == [
        words("[CLS]", "blue", "ball", "[SEP]"),
        words("[CLS]", "red", "red", "[SEP]"),
    ]


def test_ids_of_another_vocabulary_are_not_used() -> None:
    preprocessor = Preprocessor(ShowingFamily(), VOCABULARY, PICTURES, 9, token_ids([words("ball")], "f" * 64))
    assert preprocessor.ids(["the cube"])[0].tolist() == words("[CLS]", "the", "cube", "[SEP]")
    with pytest.raises(VlcompressError, match="token ids go up to 999, the vocabulary has"):
        Preprocessor(ShowingFamily(), VOCABULARY, PICTURES, 9, token_ids([[999]]))


def test_ids_that_say_something_else_than_the_sentences_are_refused() -> None:
    """They are all in the vocabulary, which is longer than the one that they were made with."""
    given = token_ids([words("true"), words("is", "cube"), words("ball", "he", "a")])
    preprocessor = Preprocessor(ShowingFamily(), VOCABULARY, PICTURES, 9, given)
    with pytest.raises(VlcompressError, match=r"'the cube' would be read as 'is cube'; give the vocab.txt"):
        preprocessor.ids(["true", "the cube", "is he happy"])
    assert len(preprocessor.ids(["true", "is cube", "a word that the official code cuts otherwise"])) == 3


def test_images_are_read_once_and_annotated_ones_apart() -> None:
    preprocessor = make_reader(ShowingFamily(), PICTURES)
    assert preprocessor.image("a") is preprocessor.image("a")
    assert len(preprocessor.image("a", ground_truth=True).boxes) == 2
    assert preprocessor.sample(np.array([2, 3]), preprocessor.image("a")).types.tolist() == [0, 0]


def test_no_text_is_longer_than_the_models_positions() -> None:
    uniter = family_named("uniter")
    assert max_words(uniter, {"max_position_embeddings": 512}) == 512  # officially a trained model cuts nothing
    assert max_words(uniter, {"max_position_embeddings": 128}, 220) == 128
    assert max_words(family_named("lxmert"), {}) == 20

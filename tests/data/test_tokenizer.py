"""The WordPiece reader: official ids, and vocabularies that must be refused."""

from pathlib import Path

import pytest

from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError

FIXTURES = Path(__file__).parents[1] / "fixtures"

VOCABULARY = Path(__file__).parents[1] / "fixtures/vocab/bert-tiny-uncased"
SPECIALS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.fixture(scope="module")
def vocabulary() -> WordPiece:
    return WordPiece.load(VOCABULARY)


def test_a_folder_and_its_file_are_the_same(vocabulary: WordPiece) -> None:
    assert WordPiece.load(VOCABULARY / "vocab.txt") == vocabulary


def test_special_ids_are_positions_in_the_file(vocabulary: WordPiece) -> None:
    ids = (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
    assert ids == (0, 1, 2, 3, 4)


def test_long_sentences_are_cut_and_keep_their_separator(vocabulary: WordPiece) -> None:
    ids = vocabulary.encode(["is the dog sitting on the table near the tree", "is it"], max_length=6)
    assert ids.shape == (2, 6)
    assert ids[0, -1] == vocabulary.sep_id
    assert ids[1].tolist()[-2:] == [vocabulary.pad_id] * 2


def test_rows_are_as_long_as_the_longest_unless_fixed(vocabulary: WordPiece) -> None:
    assert vocabulary.encode(["is it", "is"]).shape == (2, 4)
    assert vocabulary.encode(["is it", "is"], fixed=True).shape == (2, 20)
    assert vocabulary.encode([]).shape == (0, 0)


def test_case_and_accents_do_not_matter(vocabulary: WordPiece) -> None:
    assert vocabulary.encode(["Thé DOG"]).tolist() == vocabulary.encode(["the dog"]).tolist()


def test_a_maximum_without_room_for_a_word_is_refused(vocabulary: WordPiece) -> None:
    with pytest.raises(VlcompressError, match="max_length 2"):
        vocabulary.encode(["is it"], max_length=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", r"no \[MASK\]"),
        (SPECIALS + "the\nthe\n", "'the' 2 times"),
        ("", r"no \[PAD\]"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(VlcompressError, match=message):
        WordPiece.load(tmp_path)


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlcompressError, match="no vocabulary at"):
        WordPiece.load(tmp_path)


def test_a_vocabulary_of_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(SPECIALS + "is\n")
    vocabulary = WordPiece.load(tmp_path)
    assert vocabulary.unknown_rate(["is zebra quagga"]) == pytest.approx(2 / 3)
    with pytest.raises(VlcompressError, match=r"67% of the words \('zebra'"):
        vocabulary.check_covers(["is zebra quagga"])
    vocabulary.check_covers(["is zebra"])


def test_a_cased_vocabulary_is_told_by_its_capitals_unless_the_case_is_stated(tmp_path: Path) -> None:
    path = FIXTURES / "vocab/bert-tiny-cased"
    cased = WordPiece.load(path)
    assert not cased.lowercase
    assert cased.encode(["The the"])[0, 1] != cased.encode(["The the"])[0, 2]
    stated = WordPiece.load(path, lowercase=True)
    assert stated.encode(["The the"])[0, 1] == stated.encode(["The the"])[0, 2]
    assert stated.sha256 != cased.sha256
    assert WordPiece.load(FIXTURES / "vocab/bert-tiny-uncased").lowercase


def test_accents_stay_in_a_cased_vocabulary(tmp_path: Path) -> None:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Café", "cafe")
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    assert WordPiece.load(tmp_path).pieces("Café cafe café") == [5, 6, 1]
    assert WordPiece.load(tmp_path, lowercase=True).pieces("Café") == [6]

"""A Hugging Face folder's own tokenizer: its ids, cut without losing the end, kept as text and read back."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from vlcompress.data.published_tokenizer import PublishedTokenizer, read_words, words_file
from vlcompress.data.tokenizer import SPECIAL_TOKENS, WordPiece
from vlcompress.errors import VlcompressError

START, END = "<|startoftext|>", "<|endoftext|>"


def bpe() -> Tokenizer:
    """Train CLIP's kind of tokenizer on three sentences."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=[], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["a red circle", "a blue square", "two red squares"], trainer)
    tokenizer.add_special_tokens([START, END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bpe().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": START}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_ids_are_those_of_the_tokenizer_and_a_long_text_keeps_its_end(folder: Path) -> None:
    found, official = PublishedTokenizer.find(folder), bpe()
    assert found is not None
    whole, cut = found.rows(["two red squares"], 99)[0], found.rows(["two red squares"], 4)[0]
    assert whole.tolist() == official.encode("two red squares").ids
    assert cut.tolist() == [*whole[:3], whole[-1]]
    assert (found.cls_id, found.sep_id) == tuple(official.token_to_id(token) for token in (START, END))
    assert found.vocab_size == official.get_vocab_size()
    assert found.pieces("two red squares") == whole[1:-1].tolist()
    assert found.unknown_rate(["ζ"]) == 0  # bytes spell every word


def test_it_is_kept_as_text_and_read_back(folder: Path) -> None:
    found = PublishedTokenizer.find(folder)
    assert found is not None
    again = read_words(found.text)
    assert again.sha256 == found.sha256
    assert again.rows(["a blue circle"], 9)[0].tolist() == found.rows(["a blue circle"], 9)[0].tolist()
    assert words_file(found.text) == "tokenizer.json"
    plain = WordPiece(SPECIAL_TOKENS)
    assert words_file(plain.text) == "vocab.txt"
    assert read_words(plain.text) == plain


def test_a_folder_without_one_has_none_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert PublishedTokenizer.find(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text('{"cut')
    with pytest.raises(VlcompressError, match=r"the tokenizer in '.*' is not readable"):
        PublishedTokenizer.find(tmp_path)
    with pytest.raises(VlcompressError, match=r"not the text of a tokenizer\.json"):
        read_words('{"cut')

"""The tokenizer that a Hugging Face folder brings along (BPE, Unigram, WordPiece), used as this project's own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.data.tokenizer import WordPiece
from vlcompress.errors import VlcompressError

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_UNKNOWN = ("[UNK]", "<unk>")
_NONE = -1


@dataclass(frozen=True)
class PublishedTokenizer(WordPiece):
    """A vocabulary with its own rules of splitting, as ``tokenizer.json`` spells them out.

    Attributes:
        document: the text of that file.
    """

    document: str = ""

    @classmethod
    def find(cls, folder: Path) -> "PublishedTokenizer | None":
        """Read a folder's tokenizer by transformers; None where it has none.

        Raises:
            VlcompressError: files that transformers cannot read, or that make no fast tokenizer.
        """
        if not any((folder / name).is_file() for name in _FILES):
            return None
        from transformers import AutoTokenizer

        try:
            backend = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        except (OSError, ValueError, AttributeError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise VlcompressError(
                f"the tokenizer in '{folder}' is not readable ({reason}): add its tokenizer.json"
            ) from error
        return cls.read(backend.to_str())

    @classmethod
    def read(cls, document: str) -> "PublishedTokenizer":
        """Take the text of a ``tokenizer.json``.

        Raises:
            VlcompressError: not such a text.
        """
        ids = _backend(document).get_vocab(with_added_tokens=True)
        tokens = [""] * (max(ids.values(), default=-1) + 1)
        for token, index in ids.items():
            tokens[index] = token
        return cls(tuple(tokens), False, document)

    @property
    def text(self) -> str:
        """The ``tokenizer.json``."""
        return self.document

    @cached_property
    def sha256(self) -> str:
        """The vocabulary's identity, 64 hex digits."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    @property
    def sep_id(self) -> int:
        """Id of the token that ends a text."""
        return self._closed("")[-1]

    @property
    def cls_id(self) -> int:
        """Id of the token that begins a text; where there is none, of the one that ends it."""
        return self._closed("")[0]

    @property
    def unk_id(self) -> int:
        """Id of what stands for unknown words; -1 where every word can be spelt."""
        return next((self._ids[token] for token in _UNKNOWN if token in self._ids), _NONE)

    def rows(self, sentences: Sequence[str], max_length: int) -> list[NDArray[np.int64]]:
        """See `WordPiece.rows`; with the tokens that the model wants before and after."""
        closed = (self._closed(sentence) for sentence in sentences)
        cut = (ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]] for ids in closed)
        return [np.array(ids, dtype=np.int64) for ids in cut]

    def pieces(self, sentence: str) -> list[int]:
        """Tokenise a sentence without what stands before and after it."""
        ids: list[int] = self._tokenizer.encode(sentence.strip(), add_special_tokens=False).ids
        return ids

    def to_json(self, longest: int) -> str:
        """See `WordPiece.to_json`."""
        tokenizer = _backend(self.document)
        tokenizer.enable_truncation(longest)
        text: str = tokenizer.to_str(pretty=False)
        return text

    def _closed(self, sentence: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(sentence.strip()).ids
        return ids or [_NONE]

    @cached_property
    def _tokenizer(self) -> Any:
        return _backend(self.document)


def read_words(text: str) -> WordPiece:
    """Read a vocabulary as `WordPiece.text` spelt it: a token a line, or a ``tokenizer.json``."""
    return PublishedTokenizer.read(text) if text.startswith("{") else WordPiece.parse(text)


def words_file(text: str) -> str:
    """Name the file that a vocabulary's text is kept in."""
    return "tokenizer.json" if text.startswith("{") else "vocab.txt"


def words_path(folder: Path) -> Path:
    """Find the file in which a folder keeps its vocabulary: a ``vocab.txt``, whatever else spells it out beside."""
    plain, published = folder / "vocab.txt", folder / "tokenizer.json"
    return published if published.is_file() and not plain.is_file() else plain


def _backend(document: str) -> Any:
    from tokenizers import Tokenizer

    try:
        json.loads(document)
        backend = Tokenizer.from_str(document)
    except Exception as error:  # the library raises bare exceptions
        raise VlcompressError(f"not the text of a tokenizer.json ({error}): save the tokenizer again") from error
    backend.no_padding()
    backend.no_truncation()
    return backend

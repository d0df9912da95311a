"""BERT's WordPiece, uncased (LXMERT, ViLT) or cased (UNITER): sentences to token ids, as the official code makes them.

Shape legend: N sentences, L tokens.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompress.errors import VlcompressError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 20
"""LXMERT's sentence length, [CLS] and [SEP] included (lxmert/src/lxrt/entry.py of the official code)."""


@dataclass(frozen=True)
class WordPiece:
    """A WordPiece vocabulary.

    Attributes:
        tokens: the vocabulary; a token's position is its id.
        lowercase: sentences are lower-cased and lose their accents first, as for BERT's uncased vocabularies.
    """

    tokens: tuple[str, ...]
    lowercase: bool = True

    @classmethod
    def load(cls, path: Path | str, *, lowercase: bool | None = None) -> "WordPiece":
        """Read a `vocab.txt`, or the one inside a folder.

        Args:
            path: the file or the folder.
            lowercase: as of the class; None tells it by the tokens: a vocabulary with a capital letter is cased.

        Raises:
            VlcompressError: no such file, a token listed twice, a special token missing.
        """
        file = Path(path)
        file = file / "vocab.txt" if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise VlcompressError(f"no vocabulary at '{file}': give a vocab.txt or a folder that holds one") from error
        except UnicodeDecodeError as error:
            raise VlcompressError(f"'{file}' is not UTF-8 text ({error}): give BERT's plain vocab.txt") from error
        return cls.parse(text, str(file), lowercase=lowercase)

    @classmethod
    def parse(cls, text: str, where: str = "vocabulary", *, lowercase: bool | None = None) -> "WordPiece":
        """Take the text of a `vocab.txt`; `where` names it in errors, the rest is as of `load`."""
        tokens = tuple(text.removesuffix("\n").split("\n"))  # splitlines() would also cut at Unicode separators
        _check_vocabulary(where, tokens)
        return cls(tokens, not _has_capitals(tokens) if lowercase is None else lowercase)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def text(self) -> str:
        """The vocabulary file, as `parse` takes it: a token a line."""
        return "\n".join(self.tokens) + "\n"

    @cached_property
    def sha256(self) -> str:
        """The vocabulary's identity, 64 hex digits: other tokens, another order or another case, another hash."""
        text = "\n".join(("lowercase" if self.lowercase else "cased", *self.tokens))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self._ids["[PAD]"]

    @property
    def unk_id(self) -> int:
        """Id of [UNK]."""
        return self._ids["[UNK]"]

    @property
    def cls_id(self) -> int:
        """Id of [CLS]."""
        return self._ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        """Id of [SEP]."""
        return self._ids["[SEP]"]

    @property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self._ids["[MASK]"]

    def encode(
        self, sentences: Sequence[str], max_length: int = MAX_LENGTH, *, fixed: bool = False
    ) -> NDArray[np.int64]:
        """Turn sentences into ``[CLS] pieces [SEP]``, cut to `max_length` and padded with [PAD].

        Args:
            sentences: N sentences.
            max_length: most tokens of a row, [CLS] and [SEP] included; at least 3.
            fixed: pad every row to `max_length` instead of to the longest row.

        Returns:
            int64 [N, L], L at most `max_length`.

        Raises:
            VlcompressError: `max_length` below 3.
        """
        if max_length < 3:
            raise VlcompressError(f"max_length {max_length} leaves no room for a word: give 3 or more")
        rows = self.rows(sentences, max_length)
        length = max_length if fixed else max((len(row) for row in rows), default=0)
        ids_NL = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        for ids_L, row in zip(ids_NL, rows, strict=True):
            ids_L[: len(row)] = row
        return ids_NL

    def rows(self, sentences: Sequence[str], max_length: int) -> list[NDArray[np.int64]]:
        """Turn each sentence into ``[CLS] pieces [SEP]`` of its own length, int64 [L], L at most `max_length`."""
        cut = (self.pieces(sentence)[: max_length - 2] for sentence in sentences)
        return [np.array([self.cls_id, *pieces, self.sep_id], dtype=np.int64) for pieces in cut]

    def joined(
        self, parts: Sequence[tuple[Sequence[int], int]], longest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Join pieces of several texts as UNITER's official code does for VCR: [CLS] part [SEP] part [SEP].

        Args:
            parts: token ids of each part, and its segment: the [SEP] before a part is of its segment.
            longest: most tokens, [CLS] and [SEP] included.

        Returns:
            ids and segments, int64 [L].
        """
        ids, types = [self.cls_id], [0]
        for number, (pieces, segment) in enumerate(parts):
            separator = [self.sep_id] if number else []
            ids += [*separator, *pieces]
            types += [segment] * (len(separator) + len(pieces))
        ids, types = ids[: longest - 1], types[: longest - 1]
        return np.array([*ids, self.sep_id], np.int64), np.array([*types, types[-1]], np.int64)

    def unknown_rate(self, sentences: Sequence[str]) -> float:
        """Measure the fraction (0 to 1) of the sentences' pieces that the vocabulary does not know."""
        pieces = [piece for sentence in sentences for piece in self.pieces(sentence)]
        return pieces.count(self.unk_id) / max(len(pieces), 1)

    def check_covers(self, sentences: Sequence[str]) -> None:
        """Refuse a vocabulary that belongs to other data.

        Raises:
            VlcompressError: more than half of the pieces are unknown; the commonest unknown words are named.
        """
        rate = self.unknown_rate(sentences)
        if rate <= 0.5:
            return
        unknown = Counter(
            word for line in sentences for word in self._cased(line).split() if self.unk_id in self.pieces(word)
        )
        words = ", ".join(f"'{word}'" for word, _ in unknown.most_common(3))
        raise VlcompressError(
            f"the vocabulary of {self.vocab_size} tokens does not know {rate:.0%} of the words ({words}, ...), 50% is "
            "allowed: give the vocab.txt that the model was trained with"
        )

    def _cased(self, sentence: str) -> str:
        return sentence.lower() if self.lowercase else sentence

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece as Model
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        tokenizer = Tokenizer(Model(vocab=self._ids, unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer(lowercase=self.lowercase)
        tokenizer.pre_tokenizer = BertPreTokenizer()
        return tokenizer

    def to_json(self, longest: int) -> str:
        """Write the tokenizer with [CLS], [SEP] and the cut of `encode`, as `tokenizers` and its like read it.

        Args:
            longest: most tokens of a text, [CLS] and [SEP] included.
        """
        from tokenizers import Tokenizer
        from tokenizers.processors import TemplateProcessing

        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        special = [("[CLS]", self.cls_id), ("[SEP]", self.sep_id)]
        tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
        tokenizer.enable_truncation(longest)
        text: str = tokenizer.to_str(pretty=False)
        return text

    def pieces(self, sentence: str) -> list[int]:
        """Tokenise a sentence without [CLS] and [SEP], however long it gets."""
        ids: list[int] = self._tokenizer.encode(sentence.strip()).ids
        return ids


def _check_vocabulary(file: str, tokens: Sequence[str]) -> None:
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise VlcompressError(f"'{file}' has no {', '.join(missing)}: a BERT vocabulary lists all of {SPECIAL_TOKENS}")
    token, count = Counter(tokens).most_common(1)[0]
    if count > 1:
        raise VlcompressError(f"'{file}' lists '{token}' {count} times: every token must appear once")


def _has_capitals(tokens: Sequence[str]) -> bool:
    return any(token != token.lower() for token in tokens if not (token.startswith("[") and token.endswith("]")))

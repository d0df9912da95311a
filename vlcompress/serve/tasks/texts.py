"""The words of a request: tokenised, cut, and what the model does not know of them.

Shapes: T words.
"""

from vlcompress.data.tokenizer import WordPiece
from vlcompress.serve.loaded import LoadedModel
from vlcompress.serve.preprocessing import Image, Text
from vlcompress.serve.schemas import TextFacts
from vlcompress.serve.tensors import Arrays


def longest_text(model: LoadedModel) -> int:
    """Look up the most word pieces of a text, [CLS] and [SEP] included."""
    assert model.preprocessing is not None  # every endpoint asks `accepts` first
    return min(model.preprocessing.longest_text, model.limits.axes.get("text", 1 << 30))


def read_text(model: LoadedModel, sentence: str) -> tuple[Text, TextFacts]:
    """Tokenise a sentence; tell whether it had to be cut, and which words the model reads as [UNK], each once."""
    vocabulary, longest = model.vocabulary, longest_text(model)
    assert vocabulary is not None  # likewise
    (ids_T,) = vocabulary.encode([sentence], longest)
    cut = vocabulary.encode([sentence], longest + 1).shape[1] > longest
    return Text(ids_T), TextFacts(question_cut=cut, unknown_words=unknown_words(vocabulary, sentence))


def unknown_words(vocabulary: WordPiece, sentence: str) -> list[str]:
    """List words that the model reads as [UNK], each once."""
    words = dict.fromkeys(sentence.lower().replace("?", " ").split())
    return [word for word in words if vocabulary.unk_id in vocabulary.encode([word])]


def row_of(model: LoadedModel, text: Text, image: Image | None, *, side: int = 0) -> Arrays:
    """Make the inputs of one row (see `Preprocessing.row`)."""
    assert model.preprocessing is not None  # likewise
    return model.preprocessing.row(model.engine.inputs, text, image, side=side)

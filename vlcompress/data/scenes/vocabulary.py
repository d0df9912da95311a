"""The words of the built-in data, each one whole: a vocabulary file that BERT's WordPiece reads."""

from vlcompress.data.scenes.phrases import NUMBER_WORDS, Description
from vlcompress.data.scenes.questions import ANSWERS
from vlcompress.data.scenes.world import SHAPES
from vlcompress.data.tokenizer import SPECIAL_TOKENS

_PUNCTUATION = (".", ",", "?")
_TEMPLATE_WORDS = """
    a above an and are as below bottom color do fewer half how in is left leftmost lowest many more not of number or
    picture right rightmost same see shape size than that texture the there thing things to top topmost what you
"""


def tokens() -> tuple[str, ...]:
    """List the vocabulary: special tokens first, in BERT's order, then every word that a sentence can hold."""
    plurals = (Description(shape=shape).plural for shape in SHAPES)
    words = (*_PUNCTUATION, *_TEMPLATE_WORDS.split(), *NUMBER_WORDS, *ANSWERS, *plurals)
    return tuple(dict.fromkeys((*SPECIAL_TOKENS, *words)))

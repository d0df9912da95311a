"""The form in which VQA compares answers: punctuation, number words, articles and contractions made alike.

Conventions of GT-Vision-Lab/VQA ``vqaEvaluation/vqaEval.py``, its slips included, since published figures have them.
"""

import re

_NUMBERS = {
    word: str(value)
    for value, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32
"""At most so many periods go: the official call passes ``re.UNICODE``, which is 32, where the count belongs."""

_CONTRACTED = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't "
    "shan't shouldn't wasn't weren't won't wouldn't could've might've must've not've should've they've we've what've "
    "where've who've would've you've he'd how'd it'd someone'd something'd there'd they'd where'd who'd you'd how'll "
    "it'll somebody'll someone'll something'll they'll what'll who'll why'll you'll there're they're what're why're "
    "you're he's how's somebody's someone's that's there's what's when's where's who's why's ma'am o'clock 'twas y'all"
)
_DOUBLE = (
    "couldn't hadn't mightn't shouldn't wouldn't he'd it'd she'd somebody'd someone'd something'd there'd they'd we'd "
    "who'd you'd"
)
_CONTRACTIONS = (
    {word.replace("'", ""): word for word in _CONTRACTED.split()}
    | {word.replace("'", "") + "'ve": f"{word}'ve" for word in _DOUBLE.split()}
    | {f"{word}ve": f"{word}'ve" for word in _DOUBLE.split()}
    | dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    | dict.fromkeys(("yall'll", "y'allll"), "y'all'll")
    | dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    | {"somebody'd": "somebodyd"}  # the wrong way round, as officially
)
"""What lacks an apostrophe, and the same with it. The official table's words in "I" never match lower-cased text."""


def normalised(answer: str) -> str:
    """Normalise an answer as the metric compares it: "The  dog!" is "dog", "ten" is "10", "dont" is "don't"."""
    return words_normalised(punctuation_normalised(answer))


def punctuation_normalised(answer: str) -> str:
    """Drop punctuation beside a space, turn other punctuation into a space, and drop periods not before a digit.

    A comma between two digits anywhere makes every sign drop ("1,000" is "1000").
    """
    drops_all = _COMMA_IN_NUMBER.search(answer) is not None
    result = answer
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in answer or f" {sign}" in answer
        result = result.replace(sign, "" if beside_space or drops_all else " ")
    return _PERIOD.sub("", result, count=_PERIODS)


def words_normalised(answer: str) -> str:
    """Lower-case, write number words in digits, leave out articles, put apostrophes in; words one space apart."""
    words = (_NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)

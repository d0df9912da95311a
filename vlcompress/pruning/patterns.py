"""The patterns that there are, and reading their names."""

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mixture import COUPLED, LAYER, Mixture, Units, units_named
from vlcompress.pruning.pattern import Block, LayerKind, NofM, Pattern, Unstructured, WeightPattern

PATTERNS: list[type[WeightPattern]] = [Unstructured, Block, NofM]
"""Every pattern of weights."""


def parse_pattern(text: str) -> Pattern:
    """Read the name of a pattern of weights, of units (``neuron+head``, ``layer``), or a mixture by layer.

    Units are ``head``, ``neuron`` and ``layer`` in any number with + between them. A mixture is
    KIND=PATTERN[,KIND=PATTERN] with the kinds ``attention`` (a pattern of weights, ``head``, ``layer``, ``head+layer``)
    and ``ffn`` (a pattern of weights, ``neuron``, ``layer``, ``neuron+layer``), as ``attention=head,ffn=block:192x16``.

    Raises:
        VlcompressError: anything else.
    """
    units = units_named(text.split("+"))
    if units:
        return Mixture(units)
    if "=" in text:
        return _mixture(text)
    return of_weights(text, text)


def _mixture(text: str) -> Mixture:
    parts: dict[LayerKind, Units | WeightPattern] = {}
    for part in text.split(","):
        name, _, pattern = part.partition("=")
        kind = next((kind for kind in COUPLED if kind == name), None)
        if kind is None or kind in parts:
            raise _unknown(text)
        words = pattern.split("+")
        of_units = {COUPLED[kind], LAYER}.issuperset(words)
        parts[kind] = dict(units_named(words))[kind] if of_units else of_weights(pattern, text)
    return Mixture(tuple(parts.items()))


def of_weights(text: str, whole: str = "") -> WeightPattern:
    """Read the name of a pattern of weights: ``unstructured``, ``block:RxC`` or ``n:m``.

    Args:
        text: what is read.
        whole: what it is a part of, for the error; "" where it stands alone.

    Raises:
        VlcompressError: anything else.
    """
    found = (pattern.read(text) for pattern in PATTERNS)
    for one in found:
        if one is not None:
            return one
    raise _unknown(whole or text)


def _unknown(text: str) -> VlcompressError:
    return VlcompressError(
        f"unknown pattern '{text}': allowed are {', '.join(pattern.form for pattern in PATTERNS)}, 'head', 'neuron', "
        "'layer', 'neuron+head', and mixtures such as 'attention=head,ffn=block:192x16'"
    )

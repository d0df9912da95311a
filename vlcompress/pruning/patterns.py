"""The patterns that there are, and reading their names."""

from collections.abc import Mapping

from vlcompress.errors import VlcompressError
from vlcompress.pruning.mixture import COUPLED, Mixture, Units
from vlcompress.pruning.pattern import Block, LayerKind, NofM, Pattern, Unstructured, WeightPattern

PATTERNS: list[type[WeightPattern]] = [Unstructured, Block, NofM]
"""Every pattern of weights."""

_UNITS: Mapping[LayerKind, Units] = {kind: Units(unit) for kind, unit in COUPLED.items()}
"""The units that each kind of layer has."""


def parse_pattern(text: str) -> Pattern:
    """Read the name of a pattern of weights, ``head``, ``neuron``, ``neuron+head``, or a mixture by layer.

    A mixture is KIND=PATTERN[,KIND=PATTERN] with the kinds ``attention`` (a pattern of weights, or ``head``) and
    ``ffn`` (a pattern of weights, or ``neuron``), for example ``attention=head,ffn=block:192x16``.

    Raises:
        VlcompressError: anything else.
    """
    units = [(kind, unit) for kind, unit in _UNITS.items() if unit.kind in text.split("+")]
    if len(units) == len(text.split("+")):
        return Mixture(tuple(units))
    if "=" in text:
        return _mixture(text)
    return of_weights(text, text)


def _mixture(text: str) -> Mixture:
    parts: dict[LayerKind, Units | WeightPattern] = {}
    for part in text.split(","):
        name, _, pattern = part.partition("=")
        kind = next((kind for kind in _UNITS if kind == name), None)
        if kind is None or kind in parts:
            raise _unknown(text)
        parts[kind] = _UNITS[kind] if pattern == _UNITS[kind].kind else of_weights(pattern, text)
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
        "'neuron+head', and mixtures such as 'attention=head,ffn=block:192x16'"
    )

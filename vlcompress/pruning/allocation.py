"""Allocations: how a sparsity is shared out between the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from vlcompress.errors import unknown
from vlcompress.models.registry import modality_of
from vlcompress.pruning.select import Source

Groups = list[list[Source]]


class Allocation(Protocol):
    """Which weights compete with which."""

    def groups(self, sources: list[Source]) -> Groups:
        """Split the sources into groups that each reach the sparsity by themselves."""


@dataclass(frozen=True)
class Global:
    """All weights compete ("globally throughout the network", Gan et al. 2022)."""

    def __str__(self) -> str:
        return "global"

    def groups(self, sources: list[Source]) -> Groups:
        return [sources]


@dataclass(frozen=True)
class Uniform:
    """Every weight matrix reaches the sparsity by itself."""

    def __str__(self) -> str:
        return "uniform"

    def groups(self, sources: list[Source]) -> Groups:
        return [[source] for source in sources]


@dataclass(frozen=True)
class Modality:
    """Weights compete within a modality (language, vision, cross, pooler), and each modality reaches the sparsity.

    Globally, LXMERT's modalities end far apart, since their weights differ in size for reasons of their own.
    """

    def __str__(self) -> str:
        return "modality"

    def groups(self, sources: list[Source]) -> Groups:
        groups: dict[str, list[Source]] = {}
        for source in sources:
            groups.setdefault(modality_of(source.name), []).append(source)
        return list(groups.values())


def parse_allocation(text: str) -> Allocation:
    """Read ``global``, ``uniform`` or ``modality``."""
    made: Mapping[str, Allocation] = {str(one): one for one in (Global(), Uniform(), Modality())}
    if text not in made:
        raise unknown("allocation", text, made)
    return made[text]

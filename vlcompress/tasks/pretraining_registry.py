"""The pre-training of each family. Adding one is a file in this folder and a line here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlcompress.errors import unknown
from vlcompress.models.lxmert.pretraining import VISUAL_WEIGHT, PretrainingObjective
from vlcompress.models.objective import Objective
from vlcompress.models.uniter.pretraining import UniterPretrainingObjective
from vlcompress.models.vilt.pretraining import ViltPretraining


@dataclass(frozen=True)
class Pretrainer:
    """How a family is pre-trained.

    Attributes:
        objective: made of examples, vocabulary and the settings by name.
        settings: what can be set, at the values that the built-in weights are made with.
        optimizer: see `vlcompress.training.loop.Hyperparameters`.
    """

    objective: Callable[..., Objective]
    settings: Mapping[str, float]
    optimizer: str


PRETRAINING: Mapping[str, Pretrainer] = {
    "lxmert": Pretrainer(
        PretrainingObjective,
        {"word_rate": 0.15, "region_rate": 0.15, "mismatch_rate": 0.2, "visual_weight": VISUAL_WEIGHT},
        "bertadam",
    ),
    "uniter": Pretrainer(
        UniterPretrainingObjective,
        {"word_rate": 0.15, "region_rate": 0.15, "mismatch_rate": 0.5, "transport_weight": 0.1},
        "adamw",
    ),
    "vilt": Pretrainer(ViltPretraining, {"word_rate": 0.15, "transport_weight": 0.1}, "adamw"),
}


def pretrainer_of(family: str) -> Pretrainer:
    """Return how a family is pre-trained.

    Raises:
        VlcompressError: the family has no pre-training here.
    """
    if family not in PRETRAINING:
        raise unknown("model to pre-train", family, PRETRAINING)
    return PRETRAINING[family]


def settings_of(family: str, given: Mapping[str, float | None]) -> dict[str, float]:
    """Return every setting of a family's pre-training, those that are given over its own; None is not given.

    Raises:
        VlcompressError: a setting that the family's pre-training does not have.
    """
    own = pretrainer_of(family).settings
    said = {name: value for name, value in given.items() if value is not None}
    for name in said:
        if name not in own:
            raise unknown(f"setting of {family}'s pre-training", name, own)
    return {**own, **said}
